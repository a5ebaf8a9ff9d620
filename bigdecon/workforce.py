"""Who will work: the workers of a cluster that is there, or those that would be started here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bigdecon.config import RunConfig
from bigdecon.distributed.cluster import Connection, plan_workers

__all__ = ["WorkersPlanned", "workers_planned"]


@dataclass(frozen=True)
class WorkersPlanned:
    """Who will work.

    Attributes
    ----------
    count : worker processes
    threads : tasks that one runs at once
    memory_bytes : of one; 0 for no limit
    gpu_bytes : memory of one's GPU; None without one, or where it is not known
    """

    count: int
    threads: int
    memory_bytes: int
    gpu_bytes: int | None = None


def workers_planned(config: RunConfig, device: str, remote: Connection | None = None) -> WorkersPlanned:
    """Tell who will work: the workers of a cluster that is there, else those that would be started here."""
    if remote is not None:
        limits = remote.client.run(_memory_limit)
        least = min((limit for limit in limits.values() if limit), default=0)
        gpus = remote.client.run(_gpu_bytes, device, on_error="ignore")
        smallest = min((n for n in gpus.values() if n), default=None)
        return WorkersPlanned(remote.n_workers, remote.threads_per_worker, least, smallest)
    layout = plan_workers(
        config.workers,
        config.threads,
        config.memory_limit,
        "cpu" if device == "cpu" else config.device,
        None,
    )
    return WorkersPlanned(len(layout.gpus), layout.threads, layout.memory_bytes, _gpu_bytes(device))


def _memory_limit(dask_worker: Any) -> int:
    return int(dask_worker.memory_manager.memory_limit or 0)


def _gpu_bytes(device: str) -> int | None:
    """Give the memory of the GPU, where this process sees one."""
    if not device.startswith("cuda"):
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    return int(torch.cuda.get_device_properties(device).total_memory)
