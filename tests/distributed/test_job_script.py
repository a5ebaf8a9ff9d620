"""The script of a job, which needs no SLURM to be written."""

from __future__ import annotations

import subprocess
import sys

import dask
import pytest

from bigdecon.cluster_settings import SlurmSettings
from bigdecon.distributed import slurm_job
from bigdecon.distributed.cluster import connect, slurm_device, slurm_job_script
from bigdecon.distributed.slurm_job import JobShape, find_clusters, foreign_names
from bigdecon.errors import ClusterError, OptionError

EVERYTHING = SlurmSettings(
    partition="gpu",
    account="imaging",
    walltime="1-12",
    mem="64G",
    directives=("--constraint=a100", "--qos=long"),
    prologue=("module load cuda", "ulimit -n 4096"),
    log_directory="/data/50% logs",
)


def test_what_is_asked_for_stands_in_the_script():
    lines = slurm_job_script(gpus=2, threads=3, memory_limit="30GiB", slurm=EVERYTHING).splitlines()
    assert lines[0].startswith("#!")
    directives = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}
    assert directives == {
        *("-J bigdecon", "-n 1", "-p gpu", "-A imaging", "-t 1-12", "--mem=64G"),
        *("--cpus-per-task=6", "--gres=gpu:2", "--constraint=a100", "--qos=long"),
        '--output="/data/50%% logs/bigdecon-%j.out"',
    }
    prologue, command = (
        lines.index("module load cuda"),
        next(i for i, x in enumerate(lines) if "job_worker" in x),
    )
    assert lines[prologue + 1] == "ulimit -n 4096"
    assert prologue < command
    text = "\n".join(lines[command:])
    for part in (
        "tls://SCHEDULER:PORT",
        "--gpus 2",
        "--nthreads 3",
        "--memory-limit 30GiB",
        "--walltime 129600",
    ):
        assert part in text
    assert subprocess.run(["bash", "-n"], input="\n".join(lines), text=True).returncode == 0


def test_nothing_is_asked_for_that_nobody_chose():
    script = slurm_job_script()
    for part in ("--mem=", "-p ", "-A ", "--gres", "--gpus", "--interface", "--nworkers"):
        assert part not in script
    assert "#SBATCH -t 4:00:00" in script
    assert "--memory-limit auto" in script


def test_memory_follows_from_the_workers_limit_and_tls_can_be_left_out():
    script = slurm_job_script(workers=2, memory_limit="1.5GiB", tls=False)
    assert "#SBATCH --mem=3072M" in script
    assert "tcp://SCHEDULER:PORT" in script
    assert "--tls" not in script


@pytest.mark.parametrize(
    ("gres", "gpus"), [(None, 1), ("gpu", 1), ("gpu:2", 2), ("gpu:a100:4,nvme:1", 4), ("shard:8", 1)]
)
def test_workers_in_a_job_follow_from_its_gpus(gres, gpus):
    assert JobShape(SlurmSettings(gres=gres)).n_workers == gpus


@pytest.mark.parametrize(
    ("device", "gpus", "gres", "expected"),
    [
        ("auto", None, None, "cpu"),
        ("auto", 1, None, "cuda"),
        ("auto", None, "gpu:a100:2", "cuda"),
        ("cpu", None, "gpu:2", "cpu"),
        ("cuda:0", None, None, "cuda"),
    ],
)
def test_the_device_is_known_before_there_are_workers(device, gpus, gres, expected):
    assert slurm_device(device, gpus, SlurmSettings(gres=gres)) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "--workers is 0"),
        ({"gpus": 0}, "--gpus is 0"),
        ({"threads": -1}, "--threads is -1"),
        ({"memory_limit": "lots"}, "memory limit 'lots'"),
    ],
)
def test_numbers_that_cannot_be(options, message):
    with pytest.raises(OptionError, match=message):
        slurm_job_script(**options)


def test_what_the_site_has_set_for_dask_jobqueue_is_honoured(tmp_path):
    site = {
        "job-script-prologue": ["source /site/profile"],
        "job-directives-skip": ["-n 1"],
        "job-extra-directives": None,
        "log-directory": str(tmp_path),
        "walltime": 5400,
        "job-mem": 4096,
        "worker-extra-args": None,
        "interface": "ib0",
    }
    with dask.config.set({f"jobqueue.slurm.{name}": value for name, value in site.items()}):
        script = slurm_job_script(slurm=SlurmSettings(prologue=("module load cuda",)))
    assert "source /site/profile\nmodule load cuda\n" in script
    directives = {line for line in script.splitlines() if line.startswith("#SBATCH")}
    assert {"#SBATCH -t 1:30:00", "#SBATCH --mem=4096"} < directives
    assert not [line for line in directives if line.startswith(("#SBATCH -e", "#SBATCH -o", "#SBATCH -n"))]
    assert len([line for line in directives if "--output=" in line]) == 1


def test_another_dask_jobqueue_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setattr(slurm_job.SLURMJob, "job_script", lambda self: "exec dask worker")
    with pytest.raises(ClusterError, match=r"dask-jobqueue .*constraints\.txt"):
        slurm_job_script()


def test_a_job_does_not_hand_on_what_it_was_given(monkeypatch):
    own = ("TMPDIR", "OMP_NUM_THREADS", "SRUN_CPUS_PER_TASK", "SLURM_MEM_PER_NODE", "BIGDECON_JOB_END")
    for name in own:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/slurm.conf")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert not {"TMPDIR", "OMP_NUM_THREADS", "SLURM_CONF"} & set(foreign_names())
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert {*own, "SLURM_JOB_ID"} <= set(foreign_names())
    assert "SLURM_CONF" not in foreign_names()


@pytest.mark.parametrize(
    ("directives", "clusters"),
    [((), None), (("--qos=a", "--clusters=b,c"), "b,c"), (("-M other",), "other"), (("--mail=me",), None)],
)
def test_jobs_are_looked_for_on_the_cluster_they_are_sent_to(directives, clusters):
    assert find_clusters(JobShape(SlurmSettings(directives=directives))) == clusters


def test_ctrl_c_means_what_it_meant_before():
    code = """
import signal
before = signal.getsignal(signal.SIGINT)
import bigdecon.distributed.slurm
assert signal.getsignal(signal.SIGINT) is before
"""
    assert subprocess.run([sys.executable, "-W", "error", "-c", code]).returncode == 0


def test_without_slurm_a_sentence_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="needs SLURM's sbatch, which is not found here"), connect("slurm"):
        pass


def test_an_unknown_interface_is_refused_with_those_there_are(monkeypatch, tmp_path):
    for name in ("sbatch", "squeue", "scancel"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OptionError, match=r"interface 'ib7' is not on this machine; give one of: .*lo"):
        connect("slurm", interface="ib7").__enter__()
