"""The workers of a job, started by hand on loopback: GPUs, cores, memory, scratch, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client, Security

from bigdecon.distributed.job_worker import main, plan_job
from bigdecon.distributed.local_cluster import local_cluster
from bigdecon.distributed.surroundings import quiet_logging
from bigdecon.distributed.workers import Layout
from bigdecon.errors import OptionError


@pytest.fixture(scope="module")
def client():
    with quiet_logging(), local_cluster(Layout((), 1, 0), None) as opened:
        yield opened


@pytest.fixture
def start(client, tmp_path):
    """Start the workers of a job in an environment that looks like one."""
    started: list[subprocess.Popen[Any]] = []
    fake = tmp_path / "bin" / "nvidia-smi"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nfor i in 0 1 2 3; do echo "GPU $i: Test (UUID: GPU-$i)"; done\n')
    fake.chmod(0o755)
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    def begin(*arguments: str, **environment: str) -> subprocess.Popen[Any]:
        path = f"{fake.parent}{os.pathsep}{os.environ['PATH']}"
        env = os.environ | {"PATH": path, "TMPDIR": str(scratch)} | environment
        command = [sys.executable, "-m", "bigdecon.distributed.job_worker", client.scheduler.address]
        with open(tmp_path / "log", "wb") as log:
            process = subprocess.Popen([*command, *arguments], env=env, stdout=log, stderr=log)
        started.append(process)
        return process

    begin.log, begin.scratch = tmp_path / "log", scratch
    yield begin
    for process in started:
        process.terminate()
        process.wait(20)
    while client.nthreads():
        time.sleep(0.05)


def look(dask_worker: Any = None) -> tuple[Any, ...]:
    memory = dask_worker.memory_manager.memory_limit
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    spills = dask_worker.memory_manager.memory_spill_fraction
    return (
        seen,
        dask_worker.state.nthreads,
        memory,
        spills,
        tempfile.gettempdir(),
        dask_worker.local_directory,
    )


def listening() -> set[str]:
    """Addresses on which a worker's process and its parent listen."""
    own = psutil.Process()
    found = [link for process in (own, own.parent()) for link in process.net_connections("tcp")]
    return {link.laddr.ip for link in found if link.status == psutil.CONN_LISTEN}


def blamed(dask_scheduler: Any = None) -> int:
    return sum(prefix.suspicious for prefix in dask_scheduler.task_prefixes.values())


def test_a_process_per_gpu_within_what_the_job_was_given(client, start):
    start(
        CUDA_VISIBLE_DEVICES="1,3",
        SLURM_JOB_ID="7",
        SLURM_JOB_END_TIME=str(int(time.time()) + 3600),
        SLURM_CPUS_PER_TASK="2",
        SLURM_NTASKS="1",
        SLURM_MEM_PER_NODE="1000",
    )
    client.wait_for_workers(2, timeout=30)
    found = client.run(look)
    assert sorted(one[0] for one in found.values()) == ["1", "3"]
    assert all(name.startswith("tcp://127.0.0.1:") for name in client.nthreads())
    assert {address for heard in client.run(listening).values() for address in heard} == {"127.0.0.1"}
    names = sorted(worker["name"] for worker in client.scheduler_info(n_workers=-1)["workers"].values())
    assert names == ["job-7-0", "job-7-1"]
    for _, threads, memory, spills, temporary, local in found.values():
        assert (threads, memory, spills) == (1, 500 * 2**20, False)
        assert temporary == str(start.scratch)
        assert Path(local).is_relative_to(start.scratch)


def test_a_signal_ends_the_job_without_blaming_its_tasks(client, start, tmp_path):
    process = start("--name", "first", "--device", "cpu")
    client.wait_for_workers(1, timeout=30)
    future = client.submit(time.sleep, 3, key="region-0")
    while not any(client.processing().values()):
        time.sleep(0.01)
    worker = next(iter(client.run(os.getpid).values()))
    # As SLURM does it: every process of the job, the workers' own included
    for number in (worker, process.pid):
        os.kill(number, signal.SIGTERM)
    assert process.wait(20) == 0
    assert client.run_on_scheduler(blamed) == 0
    assert list(start.scratch.iterdir()) == []
    start("--name", "second", "--device", "cpu")
    assert future.result(timeout=30) is None
    said = start.log.read_text()
    assert "second-0 - distributed.worker - INFO" in said, "each line says whose it is"


def test_a_worker_without_the_certificate_is_refused(tmp_path, capfd):
    from distributed import Scheduler, SpecCluster

    ours = Security.temporary()
    options = {
        "host": "127.0.0.1",
        "protocol": "tls://",
        "port": 0,
        "security": ours,
        "dashboard": False,
        "dashboard_address": "127.0.0.1:0",
    }
    other = Security.temporary().get_tls_config_for_role("worker")
    files = []
    for name, flag in (("ca_file", "--tls-ca-file"), ("cert", "--tls-cert"), ("key", "--tls-key")):
        (tmp_path / name).write_text(other[name])
        files += [flag, str(tmp_path / name)]
    with (
        quiet_logging(),
        SpecCluster(scheduler={"cls": Scheduler, "options": options}, security=ours) as cluster,
        Client(cluster, set_as_default=False) as connected,
    ):
        # Another cluster's certificate, and none at all
        for arguments in (files, []):
            command = [cluster.scheduler_address, "--device", "cpu", "--death-timeout", "2", *arguments]
            process = subprocess.run(
                [sys.executable, "-m", "bigdecon.distributed.job_worker", *command],
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert process.returncode == 1
            assert "the workers could not be started: " in process.stdout.splitlines()[-1]
            assert connected.nthreads() == {}


def test_what_cannot_be_is_said_in_a_line(capsys):
    assert main(["tcp://127.0.0.1:1", "--gpus", "3", "--device", "cpu"]) == 1
    assert "--gpus is 3, but the device 'cpu' is none" in capsys.readouterr().out
    assert main(["tcp://127.0.0.1:1", "--memory-limit", "lots"]) == 1
    assert "memory limit 'lots'" in capsys.readouterr().out


def test_gpus_are_counted_within_those_that_the_job_sees():
    assert plan_job(None, None, "1GiB", gpus=("4", "6")).gpus == ("4", "6")
    assert plan_job(3, None, "1GiB", gpus=("4", "6")).gpus == ("4", "6", "4")
    with pytest.raises(OptionError, match="--gpus is 2, but 0 NVIDIA GPUs can be used here"):
        plan_job(None, None, "1GiB", gpus=2)
