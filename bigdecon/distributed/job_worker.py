"""The workers of one batch job, or of one machine: one process per GPU, watched by this one.

    python -m bigdecon.distributed.job_worker tls://HOST:PORT [options]
    python -m bigdecon.distributed.job_worker --scheduler-file FILE [options]

    this process ── nanny 0 ── worker process 0, sees GPU 0 only
                └── nanny 1 ── worker process 1, sees GPU 1 only

Cores and memory are those of the allocation. When the batch system ends the job, the scheduler is told
that the workers leave through no fault of their tasks.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import dask
from distributed import Nanny, Security
from distributed.comm.addressing import get_address_host
from distributed.utils import get_ip, get_ip_interface, json_load_robust

from bigdecon.distributed.allocation import allocated_cores, allocated_memory
from bigdecon.distributed.gpus import visible_gpus
from bigdecon.distributed.walltime import JOB_END, JOB_MARGIN, job_end, margin_seconds
from bigdecon.distributed.worker_setup import SHIELDED
from bigdecon.distributed.workers import Layout, plan_workers, worker_options, worker_settings
from bigdecon.errors import BigdeconError

__all__ = ["main", "plan_job"]

DEATH_SECONDS = 60.0
UNREGISTER_SECONDS = 5.0
STARTING_SECONDS = 3.0

logger = logging.getLogger("bigdecon.job")


@dataclass(frozen=True)
class _Request:
    """What the command line asked for; the names are those of `dask worker`."""

    scheduler: str | None
    scheduler_file: str | None
    name: str
    nworkers: int | None
    nthreads: int | None
    memory_limit: str | None
    gpus: int | None
    device: str
    interface: str | None
    protocol: str | None
    walltime: float | None
    death_timeout: float
    local_directory: str | None
    tls_ca_file: str | None
    tls_cert: str | None
    tls_key: str | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the workers until the scheduler, the job or a signal ends them; returns the exit code."""
    request = _Request(**vars(_parser().parse_args(arguments)))
    logging.basicConfig(
        level=logging.INFO, stream=sys.stdout, format="%(asctime)s - %(name)s - %(levelname)s - %(message)s"
    )
    try:
        layout = plan_job(
            request.nworkers,
            request.nthreads,
            request.memory_limit,
            device=request.device,
            gpus=request.gpus,
        )
        _set_end(request.walltime)
        asyncio.run(_run(request, layout))
    except (BigdeconError, OSError, RuntimeError, TimeoutError) as error:
        print(f"the workers could not be started: {_root(error)}", flush=True)
        return 1
    return 0


def plan_job(
    workers: int | None,
    threads: int | None,
    memory_limit: str | None,
    *,
    device: str = "auto",
    gpus: int | Sequence[str] | None = None,
) -> Layout:
    """Share out this job's GPUs, cores and memory among its workers.

    Parameters
    ----------
    workers : processes; one per GPU, or one, by default
    threads : tasks a worker runs at once; the job's cores are shared out by default
    memory_limit : of one worker; None or "auto" shares out the job's memory
    device : as for `bigdecon.distributed.cluster.connect`
    gpus : how many to use, or their names; all that the job sees by default
    """
    found = visible_gpus() if gpus is None or isinstance(gpus, int) else tuple(gpus)
    return plan_workers(
        workers,
        threads,
        memory_limit,
        device=device,
        gpus=found,
        gpu_count=gpus if isinstance(gpus, int) else None,
        cores=allocated_cores(),
        memory=allocated_memory(),
    )


def _root(error: BaseException) -> str:
    """Say in one line what was at the bottom of an error; Dask's own words are no help."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    return text if text and isinstance(error, BigdeconError) else f"{type(error).__name__}: {text}"


def _set_end(walltime: float | None) -> None:
    """Let the workers know when the job ends; SLURM's own answer is the better one.

    And what to keep free before that, which is a part of the whole job: a worker that is started again
    late in it would take it of what is left.
    """
    given = os.environ.get("SLURM_JOB_START_TIME", "")
    started = float(given) if given.isdigit() else time.time()
    end = job_end()
    if end is None and walltime is not None:
        end = started + walltime
    if end is not None:
        os.environ[JOB_END] = str(end)
        os.environ.setdefault(JOB_MARGIN, str(margin_seconds(end - started)))


async def _run(request: _Request, layout: Layout) -> None:
    os.environ[SHIELDED] = "1"
    with (
        tempfile.TemporaryDirectory(
            prefix="bigdecon-", dir=request.local_directory, ignore_cleanup_errors=True
        ) as folder,
        dask.config.set(worker_settings() | {"temporary-directory": folder}),
    ):
        host = await asyncio.to_thread(_listening_host, request)
        nannies = [_nanny(request, layout, index, Path(folder), host) for index in range(len(layout.gpus))]
        signalled = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, signalled.set)
        work = asyncio.create_task(_until_finished(nannies))
        stop = asyncio.create_task(signalled.wait())
        done, _ = await asyncio.wait([work, stop], return_when=asyncio.FIRST_COMPLETED)
        if work in done:
            stop.cancel()
            work.result()
            return
        await asyncio.gather(*(_leave(nanny) for nanny in nannies), return_exceptions=True)
        work.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await work


def _listening_host(request: _Request) -> str:
    """Say where the workers listen: on one address, from which they reach the scheduler, never on all."""
    if request.interface:
        return str(get_ip_interface(request.interface))
    address = request.scheduler
    if address is None:
        address = json_load_robust(request.scheduler_file, timeout=request.death_timeout)["address"]
    return str(get_ip(get_address_host(address)))


def _nanny(request: _Request, layout: Layout, index: int, folder: Path, host: str) -> Nanny:
    options = worker_options(layout, index, folder)
    security = Security(
        **{
            name: value
            for name, value in (
                ("tls_ca_file", request.tls_ca_file),
                ("tls_worker_cert", request.tls_cert),
                ("tls_worker_key", request.tls_key),
            )
            if value is not None
        }
    )
    return Nanny(
        request.scheduler,
        scheduler_file=request.scheduler_file,
        name=f"{request.name}-{index}",
        host=host,
        protocol=request.protocol,
        security=security,
        death_timeout=request.death_timeout,
        **options,
    )


async def _until_finished(nannies: list[Nanny]) -> None:
    await asyncio.gather(*nannies)
    logger.info("%d workers at work", len(nannies))
    await asyncio.gather(*(nanny.finished() for nanny in nannies))


async def _leave(nanny: Nanny) -> None:
    """Tell the scheduler that it is not the tasks' fault, and end the worker."""
    address = await _worker_address(nanny)
    if address:
        with suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(
                nanny.scheduler.unregister(
                    address=address, expected=True, close=False, stimulus_id=f"job-ends-{time.time()}"
                ),
                UNREGISTER_SECONDS,
            )
    await nanny.close(timeout=2, reason="the job was told to end")


async def _worker_address(nanny: Nanny) -> str:
    """Give the worker's address, which the scheduler may know a moment before the nanny does."""
    deadline = time.monotonic() + STARTING_SECONDS
    while not nanny.worker_address and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    return str(nanny.worker_address or "")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bigdecon.distributed.job_worker",
        description="Start workers of bigdecon here, one per GPU, for a scheduler that runs elsewhere.",
    )
    add = parser.add_argument
    add("scheduler", nargs="?", help="address of the scheduler")
    add("--scheduler-file", help="file that names the scheduler")
    add("--name", default=_default_name(), help="what the workers' names begin with")
    add("--nworkers", type=int, help="worker processes; default one per GPU, else one")
    add("--nthreads", type=int, help="tasks a worker runs at once; default: the job's cores shared out")
    add("--memory-limit", help="of one worker, as 4GiB; default: the job's memory shared out")
    add("--gpus", type=int, help="how many GPUs to use; default all that are visible")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--interface", help="network interface, as ib0")
    add("--protocol", help="tcp:// or tls://")
    add("--walltime", type=float, help="seconds that the job may take, where SLURM does not tell")
    add("--death-timeout", type=float, default=DEATH_SECONDS, help="seconds to wait for the scheduler")
    add("--local-directory", help="scratch; default TMPDIR")
    for name in ("ca-file", "cert", "key"):
        add(f"--tls-{name}", help="file in PEM format")
    return parser


def _default_name() -> str:
    job, task = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_PROCID")
    if job:
        return f"job-{job}" if task in (None, "0") else f"job-{job}-{task}"
    return f"{socket.gethostname()}-{os.getpid()}"


if __name__ == "__main__":
    sys.exit(main())
