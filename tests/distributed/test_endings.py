"""How a client ends, in processes of their own: Ctrl-C, SIGKILL, and a scheduler that vanishes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

pytestmark = pytest.mark.slow

CLIENT = """
import sys, time
from bigdecon.distributed.cluster import connect
from bigdecon.distributed.scheduling import Call, Task, run_tasks
from bigdecon.errors import BigdeconError

def main():
    tasks = (Task(i, lambda: Call(time.sleep, (float(sys.argv[1]),)), f"sleep-{i}") for i in range(10**6))
    with connect(sys.argv[2], dashboard_address="none", device="cpu") as opened:
        print("ready", flush=True)
        run_tasks(opened.client, tasks, in_flight=4)

if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except BigdeconError as error:
        print(type(error).__name__, error)
        sys.exit(error.exit_code)
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "client.py"
    path.write_text(CLIENT)
    return path


def start(script, seconds: float, cluster: str = "local") -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", str(script), str(seconds), cluster],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"TMPDIR": str(script.parent)},
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    return process


def alive(group: int) -> list[psutil.Process]:
    """Processes of a group that run still; zombies do not."""

    def runs(process: psutil.Process) -> bool:
        try:
            return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False

    return [process for process in psutil.process_iter() if runs(process)]


def ends_within(group: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while alive(group):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("seconds", [0.05, 60])
@pytest.mark.parametrize("to_group", [True, False])
def test_ctrl_c_ends_everything_at_once_and_in_silence(script, seconds, to_group):
    process = start(script, seconds)
    (os.killpg if to_group else os.kill)(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=10)
    assert (process.returncode, output) == (130, "")
    assert ends_within(process.pid, 2)
    assert [path.name for path in script.parent.iterdir()] == ["client.py"]


@pytest.mark.parametrize("seconds", [0.05, 60])
def test_sigkill_leaves_no_worker_behind(script, seconds):
    process = start(script, seconds)
    assert len(alive(process.pid)) >= 2
    process.kill()
    output, _ = process.communicate(timeout=10)
    assert output == ""
    assert ends_within(process.pid, 5)


def test_a_scheduler_that_vanishes_is_reported_in_a_sentence(script, tmp_path):
    code = """
import sys, time
from bigdecon.distributed.cluster import connect
if __name__ == "__main__":
    with connect(workers=1, threads=1, dashboard_address="none", device="cpu") as opened:
        print(opened.client.scheduler.address, flush=True)
        time.sleep(100)
"""
    host = tmp_path / "host.py"
    host.write_text(code)
    scheduler = subprocess.Popen(
        [sys.executable, str(host)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # Python itself counts the semaphores that SIGKILL left
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    with scheduler:
        client = start(script, 60, scheduler.stdout.readline().strip())
        scheduler.kill()
    began = time.monotonic()
    output, _ = client.communicate(timeout=30)
    assert client.returncode == 3
    assert output.startswith("SchedulerLostError the connection to the Dask scheduler was lost")
    assert output.count("\n") == 1
    assert time.monotonic() - began < 15
