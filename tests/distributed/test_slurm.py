"""A real SLURM: jobs that run, get lost, expire, cannot start, and are gone at the end."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Security

from bigdecon.cluster_settings import SlurmSettings
from bigdecon.distributed import job_worker
from bigdecon.distributed.client import ConnectedClient
from bigdecon.distributed.cluster import connect
from bigdecon.distributed.scheduling import Call, Task, run_tasks
from bigdecon.errors import ClusterError, SchedulerLostError
from tests.slurm import jobs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("slurm_node")]

OPTIONS: dict[str, Any] = {"threads": 1, "interface": "lo", "dashboard_address": "127.0.0.1:0"}


def settings(tmp_path: Path, **more: Any) -> SlurmSettings:
    return SlurmSettings(**{"walltime": "10", "mem": "900M", "log_directory": str(tmp_path / "logs")} | more)


def work(number: int, seconds: float) -> tuple[int, str]:
    time.sleep(seconds)
    return number, os.environ["SLURM_JOB_ID"]


def run_all(
    connection: Any, count: int, seconds: float, on_result=lambda number, job: None
) -> dict[int, str]:
    """Run so many tasks; gives the job that did each."""
    jobs_of: dict[int, str] = {}

    def done(key: int, result: tuple[int, str]) -> None:
        assert key == result[0]
        assert key not in jobs_of
        jobs_of[key] = result[1]
        on_result(*result)

    tasks = (Task(i, lambda i=i: Call(work, (i, seconds)), "region") for i in range(count))
    patience = connection.patience_seconds
    run_tasks(connection.client, tasks, in_flight=4, retries=0, on_done=done, patience_seconds=patience)
    assert sorted(jobs_of) == list(range(count))
    return jobs_of


def blamed(dask_scheduler: Any = None) -> int:
    return sum(prefix.suspicious for prefix in dask_scheduler.task_prefixes.values())


def wait_until(condition, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_cancelled_job_is_replaced_and_nothing_is_lost_or_blamed(slurm_node, tmp_path):
    said: list[str] = []
    cancelled: list[str] = []

    def cancel_one(number: int, job: str) -> None:
        if number == 8:
            subprocess.run(["scancel", job], check=True)
            cancelled.append(job)

    chosen = settings(tmp_path, jobs=(1, 2))
    with connect("slurm", slurm=chosen, say=said.append, **OPTIONS) as connection:
        assert connection.n_workers == 2, "what the most jobs hold"
        did = run_all(connection, 50, 0.3, cancel_one)
        assert connection.client.run_on_scheduler(blamed) == 0
    used = set(did.values())
    assert len(used) == 3, "one job at first, another for the work, a third for the one that was cancelled"
    assert cancelled[0] in used
    assert any(f"Job {cancelled[0]} has ended" in sentence for sentence in said)
    wait_until(lambda: not jobs(slurm_node))
    logs = {path.name for path in (tmp_path / "logs").iterdir()}
    assert logs == {f"bigdecon-{job}.out" for job in used}, "a log for each job, and no certificates"


def test_a_job_leaves_before_its_time_is_up_and_is_replaced(tmp_path):
    # SLURM's own clock knows minutes only; the workers believe what stands in the environment.
    short = 'export BIGDECON_JOB_END="$(($(date +%s) + 20))"'
    with connect("slurm", slurm=settings(tmp_path, prologue=(short,)), **OPTIONS) as connection:
        did = run_all(connection, 70, 0.3)
        assert connection.client.run_on_scheduler(blamed) == 0
    assert len(set(did.values())) >= 2
    first = (tmp_path / "logs" / f"bigdecon-{did[0]}.out").read_text()
    assert "takes no more tasks: its job ends in" in first
    assert "CANCELLED" not in first, "it ended by itself"


def test_jobs_that_cannot_start_end_in_a_sentence_with_their_last_words(slurm_node, tmp_path):
    broken = settings(tmp_path, prologue=("echo no module named cuda/99", "exit 3"))
    with (
        pytest.raises(ClusterError, match=r"3 jobs in a row ended .*bigdecon-.*no module named cuda/99$"),
        connect("slurm", slurm=broken, **OPTIONS),
    ):
        pass
    wait_until(lambda: not jobs(slurm_node))


def lose_the_job(connection: Any, slurm_node: Path) -> None:
    """Have the jobs cancelled in the middle of endless work."""
    threading.Timer(1, lambda: subprocess.run(["scancel", *jobs(slurm_node)])).start()
    run_all(connection, 10**6, 0.1)


def test_jobs_that_die_later_end_what_waits_for_them(slurm_node, tmp_path):
    first_only = (
        f'[ -e "{tmp_path}/once" ] && echo the scratch disk is full && exit 1; touch "{tmp_path}/once"'
    )
    with (
        pytest.raises(SchedulerLostError, match=r"3 jobs in a row ended .*the scratch disk is full"),
        connect("slurm", slurm=settings(tmp_path, prologue=(first_only,)), **OPTIONS) as connection,
    ):
        lose_the_job(connection, slurm_node)
    wait_until(lambda: not jobs(slurm_node))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"partition": "nosuch"}, "SLURM did not take the job: Invalid partition"),
        ({"walltime": "2-0"}, r"will never start it, for the reason PartitionTimeLimit; .*--walltime"),
    ],
)
def test_a_job_that_slurm_refuses_is_a_sentence(tmp_path, more, message):
    with (
        pytest.raises(ClusterError, match=message) as caught,
        connect("slurm", slurm=settings(tmp_path, **more), **OPTIONS),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_only_who_has_the_certificate_gets_in(tmp_path, monkeypatch, capfd):
    logs = tmp_path / "logs"
    with connect("slurm", slurm=settings(tmp_path), **OPTIONS) as connection:
        address = connection.client.scheduler.address
        assert address.startswith("tls://127.0.0.1:")
        (folder,) = logs.glob(".bigdecon-tls-*")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
        here = {link.laddr.ip for link in psutil.Process().net_connections("tcp") if link.status == "LISTEN"}
        assert here == {"127.0.0.1"}
        for security in (None, Security.temporary()):
            with pytest.raises((OSError, TypeError)):
                ConnectedClient(address, security=security, timeout=1)
        arguments = [address, "--interface", "lo", "--death-timeout", "3", "--device", "cpu"]
        assert job_worker.main(arguments) == 1
        assert "the workers could not be started: " in capfd.readouterr().out
        assert len(connection.client.nthreads()) == 1
        assert run_all(connection, 4, 0)
    assert not folder.exists()


def test_without_tls_if_told_so(tmp_path):
    with connect("slurm", slurm=settings(tmp_path), tls=False, **OPTIONS) as connection:
        assert connection.client.scheduler.address.startswith("tcp://127.0.0.1:")
        assert run_all(connection, 4, 0)
        assert not list((tmp_path / "logs").glob(".bigdecon-tls-*"))


def seen_gpus() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def test_each_gpu_of_a_job_gets_a_process_that_sees_no_other(tmp_path):
    fake = tmp_path / "bin" / "nvidia-smi"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nfor i in 0 1 2 3; do echo "GPU $i: Test (UUID: GPU-$i)"; done\n')
    fake.chmod(0o755)
    chosen = settings(tmp_path, prologue=(f'export PATH="{fake.parent}:$PATH"',))
    with connect("slurm", gpus=2, slurm=chosen, **OPTIONS) as connection:
        assert connection.n_workers == 2
        connection.client.wait_for_workers(2, timeout=30)
        # SLURM gave the job two of the node's, as CUDA_VISIBLE_DEVICES=0,1
        assert sorted(connection.client.run(seen_gpus).values()) == ["0", "1"]


def test_a_folder_with_spaces_and_percent_signs_holds_the_logs(tmp_path):
    odd = tmp_path / "50% of 'logs'"
    with connect("slurm", slurm=settings(tmp_path, log_directory=str(odd)), **OPTIONS) as connection:
        did = run_all(connection, 2, 0)
    assert (odd / f"bigdecon-{did[0]}.out").exists()


CLIENT = """
import sys, time
from bigdecon.cluster_settings import SlurmSettings
from bigdecon.distributed.client import ConnectedClient
from bigdecon.distributed.cluster import connect
if __name__ == "__main__":
    settings = SlurmSettings(walltime="10", mem="900M", log_directory="logs")
    try:
        with connect("slurm", threads=1, interface="lo", dashboard_address="none", slurm=settings) as opened:
            opened.client.submit(time.sleep, 100)
            print("ready", flush=True)
            time.sleep(100)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_job_outlives_its_client(slurm_node, tmp_path, number):
    (tmp_path / "client.py").write_text(CLIENT)
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "client.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        rest, _ = process.communicate(timeout=20)
    assert (process.returncode, rest) == (130 if number == signal.SIGINT else -number, "")
    wait_until(lambda: not jobs(slurm_node), 60)
