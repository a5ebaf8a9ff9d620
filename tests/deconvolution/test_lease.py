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
from bigdecon.storage import places
from bigdecon.storage.places import Place, as_place
from tests.servers import FaultyProxy

HOLD = """
import sys, time
from bigdecon.deconvolution.lease import Lease
with Lease(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture(autouse=True)
def short_settling(monkeypatch):
    monkeypatch.setattr("bigdecon.deconvolution.lease.SETTLE_SECONDS_REMOTE", 1.0)


def take_over_and_over(lease: Lease, folder: Place, seconds: float = 60, **values) -> None:
    """Write another holder's lease until `lease` notices: it may just be renewing, and write after us."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        edit(folder, **values)
        time.sleep(0.2)
        lease.check()


def edit(folder: Place, **values) -> None:
    path = folder / "lease.json"
    places.write(path, json.dumps(json.loads(places.read(path)) | values).encode())


def test_a_lease_ends_with_its_block(place):
    for _ in range(2):
        with Lease(place / "new" / "folder") as lease:
            lease.check()
    assert places.names(place / "new" / "folder") == []


def test_a_second_writer_is_refused_by_name(place):
    with (
        Lease(place),
        pytest.raises(OutputError, match=rf"process {os.getpid()} on .+ last seen \d+ s ago"),
        Lease(place),
    ):
        pass
    assert places.names(place) == []


def test_after_sigkill_the_lease_is_free_at_once(place):
    with hold(place) as process:
        with pytest.raises(OutputError, match=f"process {process.pid} on"), Lease(place):
            pass
        process.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 60
        while True:  # not waited for: a zombie counts as dead
            try:
                with Lease(place) as lease:
                    lease.check()
                break
            except OutputError:
                assert time.monotonic() < deadline


def test_a_process_number_used_again_is_not_mistaken(place):
    with Lease(place), ExitStack() as second:
        edit(place, id="other", started="1")
        second.enter_context(Lease(place))


def test_another_machine_is_believed_until_it_is_silent(place):
    with Lease(place), ExitStack() as second:
        edit(place, id="other", host="node17", machine="elsewhere", pid=1)
        with pytest.raises(OutputError, match="process 1 on node17"):
            second.enter_context(Lease(place))
        time.sleep(1.1)  # some stores tell the time in whole seconds
        second.enter_context(Lease(place, expire_seconds=0.9))


def test_a_clock_that_is_wrong_on_the_other_machine_does_not_matter(place):
    with Lease(place), ExitStack() as second:
        edit(place, id="other", machine="elsewhere", renewed=0.0)
        with pytest.raises(OutputError, match="last seen 0 s ago"):
            second.enter_context(Lease(place))


@pytest.mark.parametrize("content", [b"", b"{"])
def test_a_damaged_lease_is_replaced(place, content):
    places.write(place / "lease.json", content)
    with Lease(place) as lease:
        lease.check()


def test_the_holder_notices_that_it_was_replaced(place):
    with (
        Lease(place, renew_seconds=0.02) as lease,
        pytest.raises(OutputError, match="process 1 on node17 took over"),
    ):
        take_over_and_over(lease, place, id="other", host="node17", machine="elsewhere", pid=1)
    assert places.exists(place / "lease.json"), "the other's lease must not be removed"


def test_the_holder_renews(place):
    with Lease(place, renew_seconds=0.02):
        first = places.read(place / "lease.json")
        deadline = time.monotonic() + 60
        while places.read(place / "lease.json") == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize("abandoned", [False, True])
def test_of_many_that_try_at_once_one_wins(place, abandoned):
    if abandoned:
        places.write(place / "lease.json", b"{")

    def attempt(_: int) -> Lease | None:
        try:
            return Lease(place).__enter__()
        except OutputError:
            return None

    with ThreadPoolExecutor(8) as pool:
        leases = [lease for lease in pool.map(attempt, range(8)) if lease is not None]
    for lease in leases:
        lease.__exit__(None, None, None)
    assert len(leases) == 1


@pytest.mark.parametrize("abandoned", [False, True])
def test_one_wins_where_the_store_knows_no_conditions(s3, s3_server, monkeypatch, abandoned):
    with FaultyProxy(s3_server) as proxy:
        proxy.forgets = {"if-none-match"}
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        test_of_many_that_try_at_once_one_wins(as_place(f"{s3}/a"), abandoned)


def test_a_living_holder_is_not_robbed_where_the_store_knows_no_conditions(s3, s3_server, monkeypatch):
    place = as_place(f"{s3}/a")
    with FaultyProxy(s3_server) as proxy:
        proxy.forgets = {"if-none-match"}
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        with Lease(place, renew_seconds=0.1) as lease:
            held = json.loads(places.read(place / "lease.json"))["id"]
            time.sleep(1.5)  # longer than a taker waits
            with pytest.raises(OutputError, match="is writing to"), Lease(place):
                pass
            assert json.loads(places.read(place / "lease.json"))["id"] == held
            time.sleep(0.3)  # time enough to renew
            lease.check()
        with Lease(place, renew_seconds=60) as lease:
            edit(place, id="dead", started="1")
            with Lease(place):
                pass


def test_a_lease_whose_creation_was_answered_by_silence_is_held(s3, s3_server, monkeypatch):
    place = as_place(f"{s3}/a")
    with FaultyProxy(s3_server) as proxy:
        proxy.every(2, "lose")
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        with Lease(place) as lease:
            lease.check()
            with pytest.raises(OutputError, match="is writing to"), Lease(place):
                pass
        assert places.names(place) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written"), Lease(tmp_path):
        pass


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be written"), Lease(tmp_path / "file"):
        pass
