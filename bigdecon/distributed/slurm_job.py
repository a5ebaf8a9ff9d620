"""A job of ours on SLURM: what it holds, and its script, which dask-jobqueue writes and submits.

What a site has set for dask-jobqueue holds where the user asks for nothing else.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

import dask
from distributed import Security

from bigdecon.cluster_settings import SlurmSettings, parse_memory, parse_walltime
from bigdecon.distributed.surroundings import sigint_kept
from bigdecon.distributed.transport_security import Certificates
from bigdecon.distributed.workers import GPU_THREADS, check_counts, memory_bytes
from bigdecon.errors import ClusterError

with sigint_kept():
    from dask_jobqueue.slurm import SLURMJob

__all__ = ["DEFAULT_LOGS", "JobShape", "find_clusters", "foreign_names", "job_script", "make_job"]

PLACEHOLDER = "SCHEDULER:PORT"
DEFAULT_LOGS = "bigdecon-logs"
DEFAULT_WALLTIME = "4:00:00"
DASK_WALLTIME = "00:30:00"
FOREIGN = ("SLURM_", "SLURMD_", "SRUN_", "CUDA_VISIBLE_DEVICES", "BIGDECON_JOB_")
FOREIGN_IN_A_JOB = (
    "GPU_DEVICE_ORDINAL",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "ROCR_VISIBLE_DEVICES",
    "TMPDIR",
    "ZE_AFFINITY_MASK",
)
"""What SLURM, or a site's scripts, set for the job that submits others; outside of one the user did."""
WORKERS = "bigdecon.distributed.job_worker"
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
        if isinstance(site, int):  # YAML takes 4:00:00 without quotes for a number of seconds
            site = f"{site // 3600}:{site // 60 % 60:02}:{site % 60:02}"
        # dask-jobqueue brings a default of its own, half an hour, which nobody has chosen
        return self.settings.walltime or (site if site and site != DASK_WALLTIME else DEFAULT_WALLTIME)


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
    script: str = make_job(shape, scheduler, certificates, name).job_script()  # type: ignore[no-untyped-call]
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
            # The last words of a job are looked for in the one file that we name.
            job_directives_skip=[
                *_site_list("job-directives-skip", "header-skip"),
                *("#SBATCH -e ", "#SBATCH -o "),
                *([] if memory else ["--mem="]),
            ],
            job_extra_directives=_directives(shape),
            job_script_prologue=[*_site_list("job-script-prologue", "env-extra"), *settings.prologue],
            worker_extra_args=[],
            job_name="bigdecon",
            shebang="#!/usr/bin/env bash",
        )
        self._command_template = command
        # A run that is itself a job must not pass on what SLURM told it about its own allocation.
        strange = foreign_names()
        self.submit_command = shlex.join(["env", *(f"--unset={name}" for name in strange), "sbatch"])


def foreign_names() -> list[str]:
    """Name the variables that tell of the job around this process, and would mislead others."""
    names = {name for name in os.environ if name.startswith(FOREIGN) and name not in OURS}
    if "SLURM_JOB_ID" in os.environ:
        names.update(name for name in FOREIGN_IN_A_JOB if name in os.environ)
    return sorted(names)


def _site_list(name: str, old_name: str) -> list[str]:
    """Read a list that the site has set for dask-jobqueue, by its name of today or the one before."""
    for key in (name, old_name):
        found = dask.config.get(f"jobqueue.slurm.{key}", None)
        if found:
            return [found] if isinstance(found, str) else list(map(str, found))
    return []


def make_job(shape: JobShape, scheduler: str | None, certificates: Certificates | None, name: str) -> _Job:
    """Make a job to be submitted; parameters are those of `job_script`.

    Raises
    ------
    ClusterError
        if dask-jobqueue is none that we know
    """
    python = dask.config.get("jobqueue.slurm.python", None) or shlex.quote(sys.executable)
    address = scheduler or f"{_protocol(shape)}{PLACEHOLDER}"
    command = [f"exec {python} -m {WORKERS} {address} --name {name}"]
    job = _Job(shape, " \\\n  ".join([*command, *_worker_arguments(shape, certificates)]), name)
    if WORKERS not in job.job_script():  # type: ignore[no-untyped-call]
        raise ClusterError(
            "this version of dask-jobqueue writes scripts of jobs that do not start bigdecon's workers; "
            "install the one that bigdecon's constraints.txt names."
        )
    return job


def _protocol(shape: JobShape) -> str:
    return "tls://" if shape.tls else "tcp://"


def _job_memory(shape: JobShape) -> str | None:
    """Say how much memory a job asks for, in SLURM's units; None leaves it to the site."""
    site = dask.config.get("jobqueue.slurm.job-mem", None)
    memory = shape.settings.mem or (None if site is None else str(site))
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
        *_site_list("job-extra-directives", "job-extra"),
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


def find_clusters(shape: JobShape) -> str | None:
    """Find to which other clusters `--clusters=other` or `-M other` sends the jobs; None for none."""
    found = re.findall(r"^(?:--clusters?[= ]|-M ?)(\S+)", "\n".join(_directives(shape)), flags=re.MULTILINE)
    return found[-1] if found else None
