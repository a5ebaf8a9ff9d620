"""Who will work: the workers of a cluster that is there, or those that are started here or by SLURM."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bigdecon.cluster_settings import SlurmSettings, parse_walltime
from bigdecon.config import RunConfig
from bigdecon.distributed.cluster import (
    Connection,
    connect,
    plan_local_workers,
    slurm_device,
    slurm_job_script,
)
from bigdecon.distributed.devices import choose_device
from bigdecon.distributed.progress import Listener, Message
from bigdecon.io.output_folder import default_output
from bigdecon.storage.places import as_place

__all__ = [
    "OWN_CLUSTERS",
    "JobsPlanned",
    "WorkersPlanned",
    "Workforce",
    "device_planned",
    "job_script",
    "workers_planned",
]

OWN_CLUSTERS = ("local", "slurm")
"""Values of --cluster that name no scheduler which is there already."""


class Workforce:
    """The workers of a run, which are not called before they are needed.

    Parameters
    ----------
    config : says where they are
    stack : gives them back at its end
    listener : is told of the dashboard, and what SLURM does
    """

    def __init__(self, config: RunConfig, stack: ExitStack, listener: Listener) -> None:
        self._config, self._stack, self._listener = config, stack, listener
        self._connection: Connection | None = None
        if config.cluster not in OWN_CLUSTERS:
            self._connection = self._enter("auto")
            self._announce(self._connection, of_dask=False)
        self.device = device_planned(config, self._connection)

    @property
    def running(self) -> Connection | None:
        """The workers, where there are any yet."""
        return self._connection

    @property
    def choosers(self) -> Callable[[], Connection] | None:
        """Call those who choose settings; None where they are chosen in this process."""
        elsewhere = self._config.cluster != "local" and not (
            self._config.cluster == "slurm" and self._config.dry_run
        )
        return self.call if elsewhere else None

    def call(self) -> Connection:
        """Have the workers started, if they are not there yet."""
        if self._connection is None:
            self._connection = self._enter(self.device)
            self._announce(self._connection)
        return self._connection

    def _announce(self, connection: Connection, *, of_dask: bool = True) -> None:
        if connection.page_link:
            self._listener(Message(f"Progress page: {connection.page_link}"))
        if of_dask and connection.dashboard_link:
            self._listener(Message(f"Dask dashboard: {connection.dashboard_link}"))

    def _enter(self, device: str) -> Connection:
        return self._stack.enter_context(_connect(self._config, device, self._listener))


@dataclass(frozen=True)
class JobsPlanned:
    """Jobs of a batch system that hold the workers.

    Attributes
    ----------
    least, most : jobs kept alive
    workers : worker processes of each
    walltime_seconds : time limit of each
    """

    least: int
    most: int
    workers: int
    walltime_seconds: int


@dataclass(frozen=True)
class WorkersPlanned:
    """Who will work.

    Attributes
    ----------
    count : worker processes; on a batch system, of as many jobs as are allowed
    threads : tasks that one runs at once
    memory_bytes : of one; 0 for no limit
    gpu_bytes : memory of one's GPU, or of its share where several take turns on one; None without a GPU, or
        where it is not known
    jobs : that hold them; None where there are no jobs of ours
    """

    count: int
    threads: int
    memory_bytes: int
    gpu_bytes: int | None = None
    jobs: JobsPlanned | None = None


def device_planned(config: RunConfig, remote: Connection | None = None) -> str:
    """Tell on what the workers of a cluster that is there will compute, else those that would be started."""
    if config.cluster == "slurm":
        return slurm_device(config.device, config.gpus, config.slurm)
    return choose_device(config.device, remote.client if remote else None)


def workers_planned(config: RunConfig, device: str, remote: Connection | None = None) -> WorkersPlanned:
    """Tell who will work: the workers of a cluster that is there, else those that would be started."""
    if remote is not None:
        limits = remote.client.run(_memory_limit)
        least = min((limit for limit in limits.values() if limit), default=0)
        gpus = remote.client.run(_gpu_bytes, device, on_error="ignore")
        smallest = min((n for n in gpus.values() if n), default=None)
        return WorkersPlanned(remote.n_workers, remote.threads_per_worker, least, smallest)
    if config.cluster == "slurm":
        from bigdecon.distributed.slurm_job import JobShape

        settings = config.slurm
        shape = JobShape(settings, config.workers, config.threads, config.gpus, config.memory_limit)
        jobs = JobsPlanned(*settings.jobs, shape.n_workers, parse_walltime(shape.walltime))
        count = jobs.most * jobs.workers
        return WorkersPlanned(count, shape.n_threads, shape.worker_memory_bytes, jobs=jobs)
    layout = plan_local_workers(
        config.workers,
        config.threads,
        config.memory_limit,
        "cpu" if device == "cpu" else config.device,
        config.gpus,
    )
    gpu = _gpu_bytes(device)
    if gpu is not None:
        gpu //= max(Counter(layout.gpus).values())
    return WorkersPlanned(len(layout.gpus), layout.threads, layout.memory_bytes, gpu)


def job_script(config: RunConfig) -> str:
    """Write the script of the jobs that a run on SLURM would submit; "" for other clusters."""
    if config.cluster != "slurm":
        return ""
    return slurm_job_script(
        workers=config.workers,
        threads=config.threads,
        memory_limit=config.memory_limit,
        device=config.device,
        gpus=config.gpus,
        interface=config.interface,
        tls=config.tls,
        slurm=_with_logs(config),
    )


def _connect(config: RunConfig, device: str, listener: Listener) -> AbstractContextManager[Connection]:
    return connect(
        config.cluster,
        workers=config.workers,
        threads=config.threads,
        memory_limit=config.memory_limit,
        dashboard_address=config.dashboard_address,
        device="cpu" if device == "cpu" else config.device,
        gpus=config.gpus,
        interface=config.interface,
        tls=config.tls,
        slurm=_with_logs(config),
        say=lambda sentence: listener(Message(sentence)),
    )


def _with_logs(config: RunConfig) -> SlurmSettings:
    """Let jobs write their logs beside the output, unless told otherwise."""
    output = as_place(config.output) if config.output else default_output(config.input)
    if config.slurm.log_directory or not isinstance(output, Path):
        return config.slurm
    name = output.name.removesuffix(".zarr").removesuffix(".ome")
    return replace(config.slurm, log_directory=str(output.absolute().with_name(f"{name}.logs")))


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
