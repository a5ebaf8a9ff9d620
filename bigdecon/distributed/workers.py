"""Worker processes on one machine: how many, with which GPUs, cores and memory, and Dask's settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.config
from dask.utils import parse_bytes

from bigdecon.distributed.devices import choose_gpus
from bigdecon.distributed.walltime import LONGEST_TASK
from bigdecon.errors import OptionError

__all__ = [
    "GPU_THREADS",
    "Layout",
    "check_counts",
    "memory_bytes",
    "plan_workers",
    "worker_options",
    "worker_settings",
]

LOOPBACK = "127.0.0.1"

GPU_THREADS = 4
"""Threads beside one GPU: one computes while the others read and write."""


@dataclass(frozen=True)
class Layout:
    """Workers to start on a machine.

    Attributes
    ----------
    gpus : for each worker the GPUs that it sees, as CUDA_VISIBLE_DEVICES; "" for none
    threads : tasks that each runs at once
    memory_bytes : limit of each; 0 for none
    """

    gpus: tuple[str, ...]
    threads: int
    memory_bytes: int


def plan_workers(
    workers: int | None,
    threads: int | None,
    memory_limit: str | None,
    *,
    device: str,
    gpus: Sequence[str] | None,
    gpu_count: int | None = None,
    cores: int,
    memory: int,
) -> Layout:
    """Share out a machine, or what a job was given of it.

    Parameters
    ----------
    workers : processes; one per GPU, or one, by default
    threads : tasks a worker runs at once; the cores are shared out by default, at most 4 beside a GPU
    memory_limit : of one worker, as "4GiB"; None or "auto" shares out `memory`
    device : as for `choose_gpus`
    gpus : that are visible; found out by default
    gpu_count : how many of them to use; all by default
    cores, memory : what there is, in bytes

    Raises
    ------
    OptionError
        if a number, the memory limit or the device cannot be
    """
    check_counts(workers, threads, gpu_count)
    devices = choose_gpus(device, gpus, gpu_count)
    count = workers or max(1, len(devices))
    share = max(1, cores // count)
    each = threads or (min(share, GPU_THREADS) if devices else share)
    # More workers than GPUs take turns: the user asked for it.
    seen = tuple(devices[index % len(devices)] if devices else "" for index in range(count))
    limit = memory_bytes(memory_limit)
    return Layout(seen, each, memory // count if limit is None else limit)


def check_counts(workers: int | None, threads: int | None, gpus: int | None) -> None:
    """Refuse numbers below one.

    Raises
    ------
    OptionError
        that names the option
    """
    for name, number in (("workers", workers), ("threads", threads), ("gpus", gpus)):
        if number is not None and number < 1:
            raise OptionError(f"--{name} is {number}; it must be at least 1.")


def memory_bytes(text: str | None) -> int | None:
    """Read the memory limit of a worker: bytes, 0 for none, None for a share of what there is.

    Raises
    ------
    OptionError
        if it is no size
    """
    if text is None or text.strip().lower() == "auto":
        return None
    try:
        limit = int(parse_bytes(text))
    except (ValueError, KeyError):
        limit = -1
    if limit < 0:
        raise OptionError(f"the memory limit {text!r} is not understood; give a size such as 4GiB, or auto.")
    return limit


def worker_settings() -> dict[str, Any]:
    """Give the settings of Dask that our workers run under."""
    return {
        # Results stay on the workers for moments only. To spill them to disk would fill somebody's /tmp.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": 0.85,
        "distributed.worker.memory.terminate": 0.95,
        # One heap for all threads: large pieces of memory that one task frees serve the next
        # (learning/heap.py).
        "distributed.nanny.pre-spawn-environ.MALLOC_ARENA_MAX": "1",
        # Torch asks for large pages: the system then hands over 2 MiB where it gave 4 KiB at a time.
        "distributed.nanny.pre-spawn-environ.THP_MEM_ALLOC_ENABLE": "1",
    }


def worker_options(layout: Layout, index: int, folder: Path) -> dict[str, Any]:
    """Give what all nannies have in common: how their worker looks, and nothing about the network.

    Parameters
    ----------
    layout : of all workers
    index : of this one
    folder : for its temporary files
    """
    return {
        "nthreads": layout.threads,
        "memory_limit": layout.memory_bytes,
        "local_directory": str(folder),
        "dashboard_address": f"{LOOPBACK}:0",
        "env": {
            "CUDA_VISIBLE_DEVICES": layout.gpus[index],
            LONGEST_TASK: str(folder / f"longest-task-{index}"),
        },
        # What is given here would otherwise replace the preloads of the site's own configuration.
        "preload": [*dask.config.get("distributed.worker.preload", []), "bigdecon.distributed.worker_setup"],
    }
