"""Settings of the jobs on a batch system, checked before anything is submitted; knows no dask."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from bigdecon.errors import OptionError

__all__ = ["SlurmSettings", "parse_jobs", "parse_memory", "parse_walltime"]

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class SlurmSettings:
    """What is asked of SLURM for every job; whatever is None is left to the site's defaults.

    Site defaults are those of SLURM and, where there is one, of the section `jobqueue.slurm` in Dask's
    configuration.

    Attributes
    ----------
    partition, account : names, as for sbatch
    walltime : a job's time limit in one of SLURM's forms, as "4:00:00" or "1-12"
    gres : as "gpu:2"; follows from the number of GPUs by default
    mem : memory of a job in SLURM's units, as "64G"
    jobs : how many jobs to keep alive: at least, and at most while there is work for more
    directives : further options of sbatch, as "--constraint=a100"
    prologue : lines of shell to run in a job before the workers start, as "module load cuda"
    log_directory : where jobs write what their workers say, each into bigdecon-JOB.out; a folder that all
        nodes see. `connect` names a default.

    Raises
    ------
    OptionError
        if one of them cannot work
    """

    partition: str | None = None
    account: str | None = None
    walltime: str | None = None
    gres: str | None = None
    mem: str | None = None
    jobs: tuple[int, int] = (1, 1)
    directives: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    log_directory: str | None = None

    def __post_init__(self) -> None:
        least, most = self.jobs
        if least < 1 or most < least:
            raise OptionError(
                f"--jobs is {least}:{most}; give MIN:MAX with a MIN of at least 1 and a MAX not below it."
            )
        if self.walltime is not None:
            parse_walltime(self.walltime)
        if self.mem is not None:
            parse_memory(self.mem)
        for directive in self.directives:
            if not directive.startswith("-"):
                raise OptionError(
                    f"--job-directive is {directive!r}; give an option of sbatch, as --constraint=a100."
                )
        for field in fields(self):
            value = getattr(self, field.name)
            texts = value if isinstance(value, tuple) else (value,)
            if any(isinstance(text, str) and re.search(r"[\n\r\0]", text) for text in texts):
                raise OptionError(f"the SLURM setting {field.name} is {value!r}; it must be a single line.")


def parse_jobs(text: str) -> tuple[int, int]:
    """Read "MIN:MAX", or one number for both.

    Raises
    ------
    OptionError
        if it is neither
    """
    match = re.fullmatch(r"(\d+)(?::(\d+))?", text.strip())
    if match is None:
        raise OptionError(f"--jobs is {text!r}; give MIN:MAX as in 2:10, or one number.")
    return int(match[1]), int(match[2] or match[1])


def parse_walltime(text: str) -> int:
    """Give the seconds of a time limit in SLURM's forms.

    M, M:S, H:M:S, D-H, D-H:M and D-H:M:S (days, hours, minutes, seconds), as in `man sbatch`. Like
    SLURM, it does not mind 90 minutes or 36 hours.

    Raises
    ------
    OptionError
        if it is none of these, or no time at all
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if match is not None:
        days, first, second, third = (int(part) if part else None for part in match.groups())
        if days is not None:
            parts = (days, first, second, third)
        elif third is not None:
            parts = (0, first, second, third)
        else:
            parts = (0, 0, first, second)
        scales = (86400, 3600, 60, 1)
        seconds = sum((part or 0) * scale for part, scale in zip(parts, scales, strict=True))
        if seconds > 0:
            return seconds
    raise OptionError(
        f"the walltime {text!r} is not understood; give minutes, hours:minutes:seconds as in 4:00:00, "
        "or days-hours as in 1-12."
    )


def parse_memory(text: str) -> int:
    """Give the bytes of a size in SLURM's units: K, M, G or T, and megabytes without one.

    Raises
    ------
    OptionError
        if it is no size
    """
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", text.strip().upper())
    if match is None:
        raise OptionError(f"the memory {text!r} is not in SLURM's units; give a size such as 64G.")
    return int(match[1]) * _UNITS[match[2] or "M"]
