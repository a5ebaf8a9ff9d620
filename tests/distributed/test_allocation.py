"""Cores and memory are those of the job, not of the host."""

from __future__ import annotations

import os

import psutil
import pytest

from bigdecon.distributed.allocation import allocated_cores, allocated_memory

HOST_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
GIB = 2**30


@pytest.fixture
def system(tmp_path):
    """A system that tells of control groups; write into it, and ask it."""

    class System:
        def __init__(self) -> None:
            self.places = {"cgroups": tmp_path / "cgroup", "membership": tmp_path / "self"}

        def write(self, path: str, text: str) -> None:
            file = self.places["cgroups"] / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n")

        def member(self, *lines: str) -> None:
            self.places["membership"].write_text("\n".join(lines) + "\n")

        def cores(self, **env: str) -> int:
            return allocated_cores(env, **self.places)

        def memory(self, **env: str) -> int:
            return allocated_memory(env, **self.places)

    return System()


def test_without_limits_the_host_counts(system):
    assert system.cores() == HOST_CORES
    assert system.memory() == psutil.virtual_memory().total


def test_a_limit_holds_for_all_groups_below_it_version_2(system):
    system.member("0::/slurm/job_7/step_0")
    system.write("slurm/job_7/memory.max", str(GIB))
    system.write("slurm/job_7/step_0/memory.max", "max")
    system.write("slurm/memory.max", str(4 * GIB))
    system.write("slurm/job_7/cpu.max", "100000 100000")
    system.write("slurm/job_7/step_0/cpu.max", "max 100000")
    assert system.memory() == GIB
    assert system.cores() == 1


def test_a_container_shows_its_group_as_the_root(system):
    system.member("0::/docker/abc")
    system.write("memory.max", str(GIB))
    system.write("cpu.max", "50000 100000")
    assert (system.cores(), system.memory()) == (1, GIB)


def test_version_1(system):
    system.member("5:cpu,cpuacct:/slurm/job_7", "4:memory:/slurm/job_7")
    system.write("cpu,cpuacct/slurm/job_7/cpu.cfs_quota_us", "150000")
    system.write("cpu,cpuacct/slurm/job_7/cpu.cfs_period_us", "100000")
    system.write("memory/slurm/job_7/memory.limit_in_bytes", str(GIB))
    assert (system.cores(), system.memory()) == (min(2, HOST_CORES), GIB)


def test_version_1_without_limits(system):
    system.member("5:cpu,cpuacct:/", "4:memory:/")
    system.write("cpu,cpuacct/cpu.cfs_quota_us", "-1")
    system.write("cpu,cpuacct/cpu.cfs_period_us", "100000")
    system.write("memory/memory.limit_in_bytes", str(2**63 - 4096))
    assert (system.cores(), system.memory()) == (HOST_CORES, psutil.virtual_memory().total)


@pytest.mark.parametrize(
    ("env", "cores", "megabytes"),
    [
        ({"SLURM_CPUS_PER_TASK": "1", "SLURM_NTASKS": "1", "SLURM_MEM_PER_NODE": "512"}, 1, 512),
        ({"SLURM_CPUS_ON_NODE": "1", "SLURM_MEM_PER_CPU": "300"}, 1, 300),
        # 2 tasks of an srun share the node, and its memory
        (
            {
                "SLURM_STEP_ID": "0",
                "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
                "SLURM_CPUS_ON_NODE": "2",
                "SLURM_MEM_PER_NODE": "1000",
            },
            1,
            500,
        ),
        # a batch script has the cores of all tasks of its node
        (
            {"SLURM_NTASKS": "2", "SLURM_CPUS_ON_NODE": "2", "SLURM_MEM_PER_CPU": "100"},
            min(2, HOST_CORES),
            200,
        ),
        ({"SLURM_MEM_PER_NODE": "0"}, HOST_CORES, None),
    ],
)
def test_what_slurm_gave(system, env, cores, megabytes):
    total = psutil.virtual_memory().total
    assert system.cores(SLURM_JOB_ID="7", **env) == cores
    assert system.memory(SLURM_JOB_ID="7", **env) == (total if megabytes is None else megabytes * 2**20)


def test_what_slurm_set_outside_of_a_job_does_not_count(system):
    assert system.cores(SLURM_CPUS_PER_TASK="1", SLURM_NTASKS="1") == HOST_CORES
