"""SLURM: a scheduler in this process, and workers in jobs that are submitted for it.

    this process ── scheduler (chosen interface, TLS) ── dashboard (loopback only)
         │              ▲
         │ sbatch       │ tls://
         ▼              │
    job 1 ── job_worker ── nanny ── worker (GPU 0)
                       └── nanny ── worker (GPU 1)
    job 2 ── job_worker ── ...

`slurm_job` writes and submits a job, by dask-jobqueue; `job_replacement` says when.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from distributed import Client, Scheduler, SpecCluster
from distributed.core import Status
from distributed.utils import get_ip

from bigdecon.distributed.client import ConnectedClient
from bigdecon.distributed.job_replacement import JobKeeper
from bigdecon.distributed.slurm_job import DEFAULT_LOGS, JobShape, find_clusters, make_job
from bigdecon.distributed.slurm_queue import SlurmQueue
from bigdecon.distributed.surroundings import sigint_blocked
from bigdecon.distributed.transport_security import Certificates, temporary_certificates
from bigdecon.errors import ClusterError, OptionError, SchedulerLostError

__all__ = ["slurm_cluster"]

LOOPBACK = "127.0.0.1"
CLIENT_SECONDS = 30.0


@contextmanager
def slurm_cluster(
    shape: JobShape,
    *,
    dashboard: str | None,
    say: Callable[[str], None],
) -> Iterator[Client]:
    """Start a scheduler here and workers in jobs, replace jobs that end, and end all of it afterwards.

    Parameters
    ----------
    shape : of a job
    dashboard : host and port of Dask's dashboard; None for none
    say : gets sentences on the jobs, from another thread

    Raises
    ------
    ClusterError
        if jobs cannot be submitted, or end again and again before a worker has joined
    SchedulerLostError
        if they do so later
    """
    for program in ("sbatch", "squeue", "scancel"):
        if shutil.which(program) is None:
            raise ClusterError(
                f"--cluster slurm needs SLURM's {program}, which is not found here; run bigdecon where jobs "
                "are submitted (a login node), or use --cluster local within a job."
            )
    place = _listening_place(shape.interface)
    logs = Path(shape.settings.log_directory or DEFAULT_LOGS).absolute()
    _make_log_folder(logs)
    with ExitStack() as stack:
        certificates = stack.enter_context(temporary_certificates(logs)) if shape.tls else None
        with sigint_blocked():
            cluster = _start_scheduler(place, certificates, dashboard)
        stack.callback(_end, cluster)
        scheduler: Any = cluster.scheduler
        keeper = JobKeeper(
            scheduler,
            lambda name: make_job(shape, scheduler.contact_address or scheduler.address, certificates, name),
            shape.settings.jobs,
            workers_per_job=shape.n_workers,
            logs=logs,
            say=say,
            queue=SlurmQueue(find_clusters(shape)),
        )
        stack.callback(_cancel_jobs, cluster, keeper)
        at_work = False
        try:
            cluster.sync(keeper.start)
            client = stack.enter_context(ConnectedClient(cluster, timeout=CLIENT_SECONDS))
            _wait_for_a_worker(scheduler, keeper)
            at_work = True
            yield client
        except Exception as error:
            # The keeper ended the scheduler because it gave up: that is the reason, whatever came of it.
            if keeper.failure is None or error is keeper.failure:
                raise
            if at_work:  # another exit code: something may have been written by now
                raise SchedulerLostError(f"{keeper.failure}") from error
            raise keeper.failure from error


def _wait_for_a_worker(scheduler: Scheduler, keeper: JobKeeper) -> None:
    """Wait as long as SLURM lets the jobs wait."""
    while not scheduler.workers:
        if keeper.failure is not None:
            raise keeper.failure
        time.sleep(0.1)


def _listening_place(interface: str | None) -> dict[str, str]:
    """Say where the scheduler listens: on one address, never on all."""
    if interface is None:
        return {"host": get_ip()}
    known = psutil.net_if_addrs()
    if interface not in known:
        raise OptionError(
            f"the network interface {interface!r} is not on this machine; give one of: "
            f"{', '.join(sorted(known))}."
        )
    return {"interface": interface}


def _make_log_folder(logs: Path) -> None:
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(
            f"the folder for the jobs' logs, {logs}, cannot be made ({error.strerror}); "
            "give a --log-directory that can be written and that all nodes see."
        ) from error


def _start_scheduler(
    place: dict[str, str], certificates: Certificates | None, dashboard: str | None
) -> SpecCluster:
    security = certificates.security if certificates else None
    options: dict[str, Any] = {
        **place,
        "port": 0,
        "protocol": "tls://" if security else "tcp://",
        "security": security,
        "dashboard": dashboard is not None,
        # Dask serves its health pages even without a dashboard; unless told otherwise, to everybody
        "dashboard_address": dashboard or f"{LOOPBACK}:0",
    }
    try:
        return SpecCluster(
            workers={},
            scheduler={"cls": Scheduler, "options": options},
            security=security,
            name="bigdecon",
            silence_logs=logging.CRITICAL + 1,
        )
    except (OSError, RuntimeError, TimeoutError, ValueError) as error:
        raise ClusterError(f"the Dask scheduler could not be started here ({error}).") from error


def _cancel_jobs(cluster: SpecCluster, keeper: JobKeeper) -> None:
    """Leave no job behind; a second Ctrl-C has to wait for it."""
    with sigint_blocked():
        cluster.sync(keeper.stop)


def _end(cluster: SpecCluster) -> None:
    scheduler: Any = cluster.scheduler
    if scheduler.status is Status.closed:
        cluster.shutdown_scheduler = False  # nobody is left to be asked
    with sigint_blocked(), suppress(TimeoutError, OSError):
        cluster.close(timeout=20)
