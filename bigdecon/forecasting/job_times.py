"""What jobs of a batch system are enough for, with a time limit each. Pure arithmetic.

    |------------ usable ------------|-- 1.25 x the longest task --|- margin -|
    start of the job                 no task is begun any more           its end

As distributed/walltime.py has it. What a worker has begun it finishes; the rest is done by the next job.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bigdecon.distributed.walltime import SAFETY, margin_seconds
from bigdecon.running.workforce import JobsPlanned

__all__ = ["JobTimes", "duration", "job_times"]

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


@dataclass(frozen=True)
class JobTimes:
    """What jobs are enough for, in seconds.

    Attributes
    ----------
    limit : of a job, without what is kept to hand over and leave; a task that takes longer never ends
    usable : in which tasks are begun
    block : the largest block, alone
    task : the same while the other tasks of its worker take their turns
    region : the blocks of the largest region on the workers of one job
    in_turn : jobs that follow one another, if as many as allowed are alive all the time
    """

    limit: float
    usable: float
    block: float
    task: float
    region: float
    in_turn: int


def job_times(jobs: JobsPlanned, at_once: int, block: float, region_blocks: int, total: float) -> JobTimes:
    """Work out how often jobs follow one another.

    Parameters
    ----------
    jobs : how many, and how long each may take
    at_once : blocks that a worker has begun at a time; they compute one after the other
    block : seconds that a worker takes for the largest block
    region_blocks : blocks of the largest region
    total : seconds of the run with all workers
    """
    limit = jobs.walltime_seconds - margin_seconds(jobs.walltime_seconds)
    task = at_once * block
    # A job whose first tasks fill it does those at least.
    usable = max(limit - SAFETY * task, min(task, limit))
    return JobTimes(
        limit=limit,
        usable=usable,
        block=block,
        task=task,
        region=region_blocks * block / jobs.workers,
        in_turn=max(1, math.ceil(total / usable)),
    )


def duration(seconds: float) -> str:
    """Give a time as a person would: "40 s", "12 min", "3.5 h", "9 days"."""
    if seconds < 2 * MINUTE:
        return f"{max(1, round(seconds))} s"
    if seconds < 2 * HOUR:
        return f"{round(seconds / MINUTE)} min"
    if seconds < 2 * DAY:
        return f"{seconds / HOUR:.1f} h"
    return f"{round(seconds / DAY)} days"
