"""What this process was given of its machine, which a batch system or a container may have limited.

A limit of the operating system's control groups holds for a group and all below it:

    /sys/fs/cgroup/memory.max              max
    /sys/fs/cgroup/slurm/memory.max        256 GiB
    /sys/fs/cgroup/slurm/job_7/memory.max   64 GiB   <- what holds for /slurm/job_7/step_0
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

__all__ = ["allocated_cores", "allocated_memory"]

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def allocated_cores(
    environment: Mapping[str, str] | None = None,
    *,
    cgroups: Path = CGROUPS,
    membership: Path = MEMBERSHIP,
) -> int:
    """Count the cores that this process may use, at least 1.

    Parameters
    ----------
    environment : holds what SLURM says of the job; that of this process by default
    cgroups, membership : where the system tells of control groups (versions 1 and 2)
    """
    env = os.environ if environment is None else environment
    limits = [_cores_of_machine(), *_cpu_quotas(cgroups, membership), _cores_of_job(env)]
    return max(1, min(limit for limit in limits if limit))


def allocated_memory(
    environment: Mapping[str, str] | None = None,
    *,
    cgroups: Path = CGROUPS,
    membership: Path = MEMBERSHIP,
) -> int:
    """Count the bytes of memory that this process and its children may use.

    Parameters are those of `allocated_cores`.
    """
    env = os.environ if environment is None else environment
    limits = [psutil.virtual_memory().total, *_memory_limits(cgroups, membership), _memory_of_job(env)]
    return int(min(limit for limit in limits if limit))


# --- SLURM ---------------------------------------------------------------------------------------


def _cores_of_job(env: Mapping[str, str]) -> int:
    """Give this process's share of the job's cores on this node; 0 outside of SLURM."""
    each = _number(env.get("SLURM_CPUS_PER_TASK"))
    on_node = _number(env.get("SLURM_CPUS_ON_NODE"))
    if "SLURM_JOB_ID" not in env:
        return 0
    if each and ("SLURM_STEP_ID" in env or _number(env.get("SLURM_NTASKS")) == 1):
        return each
    return max(1, on_node // _tasks_here(env)) if on_node else each


def _memory_of_job(env: Mapping[str, str]) -> int:
    """Give this process's share of the job's memory on this node in bytes; 0 outside of SLURM."""
    if "SLURM_JOB_ID" not in env:
        return 0
    megabytes = _number(env.get("SLURM_MEM_PER_NODE"))  # 0 means all of it
    if not megabytes:
        megabytes = _number(env.get("SLURM_MEM_PER_CPU")) * _number(env.get("SLURM_CPUS_ON_NODE"))
    return megabytes * 2**20 // _tasks_here(env)


def _tasks_here(env: Mapping[str, str]) -> int:
    """Count the tasks of an `srun` that share this node; a batch script has the node to itself."""
    if "SLURM_STEP_ID" not in env:
        return 1
    # "4(x2),3" is one number a node; with uneven ones the largest share is the one to reckon with
    numbers = re.findall(r"(?:^|,)(\d+)", env.get("SLURM_STEP_TASKS_PER_NODE", ""))
    return max([1, *map(int, numbers)])


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0


# --- control groups ------------------------------------------------------------------------------


def _cores_of_machine() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_quotas(cgroups: Path, membership: Path) -> Iterator[int]:
    for group in _groups(cgroups, membership, "cpu"):
        with suppress(OSError, ValueError):
            quota, period = (group / "cpu.max").read_text().split()  # version 2: "max 100000"
            yield math.ceil(int(quota) / int(period))
        with suppress(OSError, ValueError):
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if int(quota) > 0:
                yield math.ceil(int(quota) / int(period))


def _memory_limits(cgroups: Path, membership: Path) -> Iterator[int]:
    for group in _groups(cgroups, membership, "memory"):
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # "max" is no number
                limit = int((group / name).read_text())
                if limit > 0:
                    yield limit


def _groups(cgroups: Path, membership: Path, controller: str) -> Iterator[Path]:
    """Give the folders of this process's group and of all above it.

    A container may show its own group as the root, under another name than membership has: both count.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        root = cgroups / controllers if controllers else cgroups
        roots = [root] if root.is_dir() or not controllers else [cgroups / controller]
        for folder in roots:
            own = folder / path.lstrip("/")
            yield from (place for place in (own, *own.parents) if place.is_relative_to(folder))
