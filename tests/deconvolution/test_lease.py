"""The lease: one writer at a time, and no waiting after a crash."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from bigdecon.deconvolution.lease import Lease
from bigdecon.errors import OutputError

HOLD = """
import sys, time
from pathlib import Path
from bigdecon.deconvolution.lease import Lease
with Lease(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def check_for_seconds(lease: Lease, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        lease.check()
        time.sleep(0.01)


def edit(folder, **values) -> None:
    path = folder / "lease.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_lease_ends_with_its_block(tmp_path):
    for _ in range(2):
        with Lease(tmp_path / "new" / "folder") as lease:
            lease.check()
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_a_second_writer_is_refused_by_name(tmp_path):
    with (
        Lease(tmp_path),
        pytest.raises(OutputError, match=rf"process {os.getpid()} on .+ last seen \d+ s ago"),
        Lease(tmp_path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_after_sigkill_the_lease_is_free_at_once(tmp_path):
    with hold(tmp_path) as process:
        with pytest.raises(OutputError, match=f"process {process.pid} on"), Lease(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 5
        while True:  # not waited for: a zombie counts as dead
            try:
                with Lease(tmp_path) as lease:
                    lease.check()
                break
            except OutputError:
                assert time.monotonic() < deadline


def test_a_process_number_used_again_is_not_mistaken(tmp_path):
    with Lease(tmp_path), ExitStack() as second:
        edit(tmp_path, id="other", started="1")
        second.enter_context(Lease(tmp_path))


def test_another_machine_is_believed_until_it_is_silent(tmp_path):
    with Lease(tmp_path), ExitStack() as second:
        edit(tmp_path, id="other", host="node17", machine="elsewhere", pid=1)
        with pytest.raises(OutputError, match="process 1 on node17"):
            second.enter_context(Lease(tmp_path))
        silent = time.time() - 100
        os.utime(tmp_path / "lease.json", (silent, silent))
        second.enter_context(Lease(tmp_path))


def test_a_clock_that_is_wrong_on_the_other_machine_does_not_matter(tmp_path):
    with Lease(tmp_path), ExitStack() as second:
        edit(tmp_path, id="other", machine="elsewhere", renewed=0.0)
        with pytest.raises(OutputError, match="last seen 0 s ago"):
            second.enter_context(Lease(tmp_path))


@pytest.mark.parametrize("content", [b"", b"{"])
def test_a_damaged_lease_is_replaced(tmp_path, content):
    (tmp_path / "lease.json").write_bytes(content)
    with Lease(tmp_path) as lease:
        lease.check()


def test_the_holder_notices_that_it_was_replaced(tmp_path):
    with Lease(tmp_path, renew_seconds=0.02) as lease:
        edit(tmp_path, id="other", host="node17", machine="elsewhere", pid=1)
        with pytest.raises(OutputError, match="process 1 on node17 took over"):
            check_for_seconds(lease, 5)
    assert (tmp_path / "lease.json").exists(), "the other's lease must not be removed"


def test_the_holder_renews(tmp_path):
    with Lease(tmp_path, renew_seconds=0.02):
        os.utime(tmp_path / "lease.json", (0, 0))
        deadline = time.monotonic() + 5
        while (tmp_path / "lease.json").stat().st_mtime < 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize("abandoned", [False, True])
def test_of_many_that_try_at_once_one_wins(tmp_path, abandoned):
    if abandoned:
        (tmp_path / "lease.json").write_bytes(b"{")

    def attempt(_: int) -> Lease | None:
        try:
            return Lease(tmp_path).__enter__()
        except OutputError:
            return None

    with ThreadPoolExecutor(8) as pool:
        leases = [lease for lease in pool.map(attempt, range(8)) if lease is not None]
    for lease in leases:
        lease.__exit__(None, None, None)
    assert len(leases) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written"), Lease(tmp_path):
        pass


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be written"), Lease(tmp_path / "file"):
        pass
