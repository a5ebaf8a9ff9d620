"""SLURM: a scheduler in this process, and workers in jobs that are submitted for it.

    this process ── scheduler (chosen interface, TLS) ── dashboard (loopback only)
         │              ▲
         │ sbatch       │ tls://
         ▼              │
    job 1 ── job_worker ── nanny ── worker (GPU 0)
                       └── nanny ── worker (GPU 1)
    job 2 ── job_worker ── ...

dask-jobqueue writes the script of a job, submits and cancels it; `job_replacement` says when.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
import psutil
from distributed import Client, Scheduler, Security, SpecCluster
from distributed.core import Status
from distributed.utils import get_ip

from bigdecon.cluster_settings import SlurmSettings, parse_memory, parse_walltime
from bigdecon.distributed.job_replacement import JobKeeper
from bigdecon.distributed.slurm_queue import SlurmQueue
from bigdecon.distributed.surroundings import sigint_blocked, sigint_kept
from bigdecon.distributed.transport_security import Certificates, temporary_certificates
from bigdecon.distributed.walltime import JOB_END
from bigdecon.distributed.workers import GPU_THREADS, check_counts, memory_bytes
from bigdecon.errors import ClusterError, OptionError, SchedulerLostError

with sigint_kept():
    from dask_jobqueue.slurm import SLURMJob

__all__ = ["JobShape", "job_script", "slurm_cluster"]

LOOPBACK = "127.0.0.1"
CLIENT_SECONDS = 30.0
PLACEHOLDER = "SCHEDULER:PORT"
DEFAULT_LOGS = "bigdecon-logs"
DEFAULT_WALLTIME = "4:00:00"
FOREIGN = ("SLURM_", "SLURMD_", "CUDA_VISIBLE_DEVICES", JOB_END)
OURS = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT")


@dataclass(frozen=True)
class JobShape:
    """What one job is to hold.

    Attributes
    ----------
    settings : what is asked of SLURM
    workers : worker processes in a job; one per GPU, or one, by default
    threads : tasks a worker runs at once; 4 by default
    gpus : in a job; None takes whatever SLURM gives for `settings.gres`
    memory_limit : of one worker, as "4GiB"; None shares out the job's memory
    device : "auto", "cpu" or "cuda"
    interface : network interface of scheduler and workers, as "ib0"; None for the one that leads outwards
    tls : whether they encrypt what they send and accept nobody without a certificate
    """

    settings: SlurmSettings = field(default_factory=SlurmSettings)
    workers: int | None = None
    threads: int | None = None
    gpus: int | None = None
    memory_limit: str | None = None
    device: str = "auto"
    interface: str | None = None
    tls: bool = True

    def __post_init__(self) -> None:
        check_counts(self.workers, self.threads, self.gpus)
        memory_bytes(self.memory_limit)

    @property
    def n_workers(self) -> int:
        """Worker processes in a job, as far as they are known beforehand."""
        return self.workers or self.n_gpus or 1

    @property
    def n_gpus(self) -> int:
        """GPUs that a job asks for."""
        return self.gpus or _count_gpus(self.settings.gres)

    @property
    def n_threads(self) -> int:
        """Tasks that a worker runs at once."""
        return self.threads or GPU_THREADS

    @property
    def worker_memory_bytes(self) -> int:
        """Memory of one worker; 0 where the site decides."""
        asked = memory_bytes(self.memory_limit)
        if asked is not None:
            return asked
        memory = _job_memory(self)
        return parse_memory(memory) // self.n_workers if memory else 0

    @property
    def walltime(self) -> str:
        """Time limit in SLURM's words: as asked for, else the site's, else four hours."""
        site = dask.config.get("jobqueue.slurm.walltime", None)
        # dask-jobqueue brings a default of its own, half an hour, which nobody has chosen
        return self.settings.walltime or (site if site and site != "00:30:00" else DEFAULT_WALLTIME)


def job_script(
    shape: JobShape,
    *,
    scheduler: str | None = None,
    certificates: Certificates | None = None,
    name: str = "bigdecon",
) -> str:
    """Write the script of a job, without submitting anything.

    Parameters
    ----------
    shape : what the job is to hold
    scheduler : its address; a placeholder by default
    certificates : of the cluster; placeholders by default where `shape.tls` asks for some
    name : what its workers' names begin with
    """
    script: str = _make_job(shape, scheduler, certificates, name).job_script()  # type: ignore[no-untyped-call]
    return script


class _Job(SLURMJob):
    """A job of dask-jobqueue that runs our command rather than `dask worker`."""

    def __init__(self, shape: JobShape, command: str, name: str) -> None:
        settings = shape.settings
        memory = _job_memory(shape)
        super().__init__(  # type: ignore[no-untyped-call]
            name=name,
            queue=settings.partition,
            account=settings.account,
            walltime=shape.walltime,
            cores=shape.n_workers * shape.n_threads,
            processes=1,
            # It must be told; where nobody asks for memory its line is left out again.
            memory="1GiB",
            job_mem=memory,
            job_directives_skip=[] if memory else ["--mem="],
            job_extra_directives=_directives(shape),
            job_script_prologue=list(settings.prologue),
            job_name="bigdecon",
            shebang="#!/usr/bin/env bash",
        )
        self._command_template = command
        # A run that is itself a job must not pass on what SLURM told it about its own allocation.
        strange = sorted(name for name in os.environ if name.startswith(FOREIGN) and name not in OURS)
        self.submit_command = shlex.join(["env", *(f"--unset={name}" for name in strange), "sbatch"])


def _make_job(shape: JobShape, scheduler: str | None, certificates: Certificates | None, name: str) -> _Job:
    python = dask.config.get("jobqueue.slurm.python", None) or shlex.quote(sys.executable)
    address = scheduler or f"{_protocol(shape)}{PLACEHOLDER}"
    command = [f"exec {python} -m bigdecon.distributed.job_worker {address} --name {name}"]
    return _Job(shape, " \\\n  ".join([*command, *_worker_arguments(shape, certificates)]), name)


def _protocol(shape: JobShape) -> str:
    return "tls://" if shape.tls else "tcp://"


def _job_memory(shape: JobShape) -> str | None:
    """Say how much memory a job asks for, in SLURM's units; None leaves it to the site."""
    memory: str | None = shape.settings.mem or dask.config.get("jobqueue.slurm.job-mem", None)
    if memory is None and shape.memory_limit and (limit := memory_bytes(shape.memory_limit)):
        return f"{-(-limit * shape.n_workers // 2**20)}M"
    return memory


def _directives(shape: JobShape) -> list[str]:
    settings = shape.settings
    gres = settings.gres or (f"gpu:{shape.gpus}" if shape.gpus else None)
    # SLURM puts the job's number for %j; a % of the folder's own is written twice
    logs = str(Path(settings.log_directory or DEFAULT_LOGS).absolute()).replace("%", "%%")
    return [
        f'--output="{logs}/bigdecon-%j.out"',
        *([f"--gres={gres}"] if gres else []),
        *dask.config.get("jobqueue.slurm.job-extra-directives", []),
        *settings.directives,
    ]


def _worker_arguments(shape: JobShape, certificates: Certificates | None) -> list[str]:
    """Give the options of `job_worker`, a line each."""
    arguments = [
        f"--nthreads {shape.n_threads}",
        f"--memory-limit {shlex.quote(shape.memory_limit or 'auto')}",
        f"--device {shape.device}",
        f"--walltime {parse_walltime(shape.walltime)}",
        f"--protocol {_protocol(shape)}",
    ]
    if shape.workers:
        arguments.append(f"--nworkers {shape.workers}")
    if shape.gpus:
        arguments.append(f"--gpus {shape.gpus}")
    if shape.interface:
        arguments.append(f"--interface {shlex.quote(shape.interface)}")
    if shape.tls:
        files = (certificates or Certificates(Security(), Path("CERTIFICATES"))).worker_arguments
        arguments += [f"{flag} {shlex.quote(path)}" for flag, path in files]
    return arguments


def _count_gpus(gres: str | None) -> int:
    """Count the GPUs in "gpu:a100:2,nvme:1"."""
    count = 0
    for part in (gres or "").split(","):
        kind, *rest = part.strip().removeprefix("gres/").split(":")
        if kind == "gpu":
            number = rest[-1].split("(")[0] if rest else "1"
            count += int(number) if number.isdigit() else 1
    return count


# --- the cluster ---------------------------------------------------------------------------------


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
            lambda name: _make_job(shape, scheduler.contact_address or scheduler.address, certificates, name),
            shape.settings.jobs,
            workers_per_job=shape.n_workers,
            logs=logs,
            say=say,
            queue=SlurmQueue(_clusters(shape)),
        )
        stack.callback(_cancel_jobs, cluster, keeper)
        at_work = False
        try:
            cluster.sync(keeper.start)
            client = stack.enter_context(Client(cluster, timeout=CLIENT_SECONDS, set_as_default=False))
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


def _clusters(shape: JobShape) -> str | None:
    """Find what `--clusters=other` or `-M other` among the directives sends the jobs to."""
    found = re.findall(r"^(?:--clusters?[= ]|-M ?)(\S+)", "\n".join(_directives(shape)), flags=re.MULTILINE)
    return found[-1] if found else None


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
