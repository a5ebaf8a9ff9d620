"""The cluster on this machine: scheduler and nannies live in this process, so that nothing survives it.

    this process ── scheduler (loopback only) ── dashboard (loopback only)
        ├── nanny 0 ── worker process 0, sees GPU 0 only
        └── nanny 1 ── worker process 1, sees GPU 1 only

In a job of SLURM, whose node others may share, they encrypt what they send and accept nobody without this
run's certificate: whoever reaches a scheduler can have it run anything.

Ctrl-C is for this process alone: workers are started with SIGINT blocked, and are told to end by their
nanny. They also end by themselves when this process dies, whatever kills it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import dask
from distributed import Client, Nanny, Scheduler, Security, SpecCluster
from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin

from bigdecon.distributed.client import ConnectedClient
from bigdecon.distributed.surroundings import environment_kept, script_left_out, sigint_blocked
from bigdecon.distributed.walltime import job_end
from bigdecon.distributed.worker_setup import QUIET
from bigdecon.distributed.workers import Layout, worker_options, worker_settings
from bigdecon.errors import ClusterError, SchedulerLostError

__all__ = ["local_cluster"]

LOOPBACK = "127.0.0.1"
SCHEDULER_SECONDS = 10.0
START_SECONDS = 120.0
LEFT = (Status.closing_gracefully, Status.closing, Status.closed)


@contextmanager
def local_cluster(layout: Layout, dashboard: str | None) -> Iterator[Client]:
    """Start a cluster on this machine, and end all of it afterwards.

    Parameters
    ----------
    layout : of the workers
    dashboard : host and port of Dask's dashboard; None for none

    Raises
    ------
    ClusterError
        if the workers cannot be started
    SchedulerLostError
        if the batch job around this process ends, and the workers had to leave
    """
    with ExitStack() as stack:
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="bigdecon-", ignore_cleanup_errors=True)
        )
        stack.enter_context(dask.config.set(worker_settings() | {"temporary-directory": folder}))
        stack.enter_context(script_left_out())  # to the end: a nanny may start another worker at any time
        stack.enter_context(environment_kept())  # after the settings, which add names to keep
        with sigint_blocked(), environment_kept():
            cluster = _start(layout, dashboard, folder)
        stack.callback(_end, cluster)
        last = _LastOneOut(cluster)
        if job_end() is not None:
            scheduler: Any = cluster.scheduler
            scheduler.add_plugin(last, name=last.name)
        client = stack.enter_context(ConnectedClient(cluster, timeout=SCHEDULER_SECONDS))
        try:
            yield client
        except BaseException as error:
            _abandon(cluster)
            if last.noticed and isinstance(error, Exception):
                raise SchedulerLostError(
                    "the batch job in which this runs is about to end, and its workers have stopped in time; "
                    "what is finished is kept: submit the same script again and it continues."
                ) from error
            raise


class _LastOneOut(SchedulerPlugin):
    """Ends the scheduler when its workers have left because the batch job around this process ends."""

    name = "bigdecon-last-one-out"

    def __init__(self, cluster: SpecCluster) -> None:
        self.noticed = False
        self._cluster = cluster

    async def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        if scheduler.workers or self.noticed:
            return
        for _ in range(50):
            await asyncio.sleep(0.1)
            nannies = list(self._cluster.workers.values())
            if self._cluster.status is not Status.running:
                return  # it is being closed, and will ask the scheduler itself
            if all(nanny.status in LEFT for nanny in nannies):
                self.noticed = True
                asyncio.get_running_loop().create_task(scheduler.close(reason="the job ends"))
                return


def _start(layout: Layout, dashboard: str | None, folder: str) -> SpecCluster:
    security = Security.temporary() if "SLURM_JOB_ID" in os.environ else None
    network = {"host": LOOPBACK, "protocol": "tls://" if security else "tcp://", "security": security}
    scheduler = {
        "cls": Scheduler,
        "options": {
            **network,
            "port": 0,
            "dashboard": dashboard is not None,
            # Dask serves its health pages even without a dashboard; unless told otherwise, to everybody
            "dashboard_address": dashboard or f"{LOOPBACK}:0",
        },
    }
    workers = {
        index: {"cls": Nanny, "options": network | _worker_options(layout, index, folder)}
        for index in range(len(layout.gpus))
    }
    try:
        return SpecCluster(
            workers=workers,
            scheduler=scheduler,
            security=security,
            name="bigdecon",
            silence_logs=logging.CRITICAL + 1,
        )
    except (OSError, RuntimeError, TimeoutError) as error:
        raise ClusterError(f"the workers on this machine could not be started ({error}).") from error


def _worker_options(layout: Layout, index: int, folder: str) -> dict[str, Any]:
    options = worker_options(layout, index, Path(folder))
    return options | {
        "env": options["env"] | {QUIET: "1"},
        "death_timeout": START_SECONDS,
        "silence_logs": logging.CRITICAL + 1,
    }


def _abandon(cluster: SpecCluster) -> None:
    """End the workers in the middle of what they do: after an error or Ctrl-C nobody waits for it."""
    for nanny in cluster.workers.values():
        nanny.close_gracefully("abandoned")  # only says that the worker is not to be started again
        if nanny.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(nanny.pid, getattr(signal, "SIGKILL", signal.SIGTERM))


def _end(cluster: SpecCluster) -> None:
    """Stop workers and scheduler; a second Ctrl-C has to wait for it."""
    scheduler: Any = cluster.scheduler
    if scheduler.status is Status.closed:
        cluster.shutdown_scheduler = False  # nobody is left to be asked
    with sigint_blocked(), suppress(TimeoutError, OSError):
        cluster.close(timeout=20)
