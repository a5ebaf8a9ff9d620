"""What may not fit a run, each with its remedy: memory, disk, files, the scheduler, and the time of a job."""

from __future__ import annotations

from dataclasses import dataclass

from dask.utils import format_bytes

from bigdecon.errors import OptionError
from bigdecon.forecasting.estimating import Engines, Estimate, Memory, Room, estimate_memory
from bigdecon.forecasting.job_times import JobTimes, duration
from bigdecon.forecasting.traffic import Traffic
from bigdecon.running.planning import RunPlan
from bigdecon.running.workforce import WorkersPlanned

__all__ = ["Obstacle", "find_obstacles", "refuse_too_little_memory"]


@dataclass(frozen=True)
class Obstacle:
    """Something that may not fit, with the remedy.

    Attributes
    ----------
    what : "memory", "gpu", "disk", "files", "scheduler" or "walltime"
    certain : whether `run` refuses to begin
    sentence : what it is and what would help
    """

    what: str
    certain: bool
    sentence: str


def find_obstacles(estimate: Estimate) -> tuple[Obstacle, ...]:
    """Compare what a run takes with what there is."""
    workers, room, done = estimate.workers, estimate.room, estimate.done
    return (
        *_of_memory(estimate.memory, workers),
        *_of_gpu(estimate.memory, workers),
        *_of_disk(estimate.traffic, estimate.output_bytes, room, done),
        *_of_files(estimate.traffic, room, done),
        *_of_scheduler(estimate.engines, workers),
        *_of_walltime(estimate.jobs, workers),
    )


def refuse_too_little_memory(plan: RunPlan, workers: WorkersPlanned) -> None:
    """Refuse a run whose workers have less memory than they need.

    Raises
    ------
    OptionError
        if so, with the remedy
    """
    for obstacle in _of_memory(estimate_memory(plan, workers), workers):
        if obstacle.certain:
            raise OptionError(obstacle.sentence)


def _of_memory(memory: Memory, workers: WorkersPlanned) -> list[Obstacle]:
    if not workers.memory_bytes or memory.peak <= workers.memory_bytes:
        return []
    certain = memory.least > workers.memory_bytes
    amount = f"at least {format_bytes(memory.least)}" if certain else f"up to {format_bytes(memory.peak)}"
    by_training = memory.pool + memory.step > memory.block + memory.waiting
    smaller = "--preset fast" if by_training else "a smaller --block"
    together = workers.jobs.workers if workers.jobs else workers.count
    fewer = f", fewer --workers than {together}" if together > 1 else ""
    larger = "--mem or --memory-limit" if workers.jobs else "--memory-limit"
    sentence = (
        f"a worker needs {amount} but has {format_bytes(workers.memory_bytes)}; "
        f"give {smaller}{fewer}, or a larger {larger}."
    )
    return [Obstacle("memory", certain, sentence)]


def _of_gpu(memory: Memory, workers: WorkersPlanned) -> list[Obstacle]:
    if not memory.gpu or not workers.gpu_bytes or memory.gpu <= workers.gpu_bytes:
        return []
    needs = (
        f"about {format_bytes(memory.gpu)} of GPU memory are needed, "
        f"and {format_bytes(workers.gpu_bytes)} are there"
    )
    slower = "it will be computed in parts there, which takes longer"
    remedy = "a smaller --block" if memory.gpu == memory.block else "--preset fast"
    return [Obstacle("gpu", False, f"{needs}; {slower}: {remedy} avoids it.")]


def _of_disk(traffic: Traffic, expected: int | None, room: Room, done: float) -> list[Obstacle]:
    free = room.disk_bytes
    most = traffic.largest_output_bytes * (1 - done)
    if free is None or most <= free:
        return []
    likely = None if expected is None else expected * (1 - done)
    about = (
        ""
        if likely is None
        else f", about {format_bytes(round(likely))} as a piece of it could be compressed"
    )
    verdict = "whether it fits depends on how well it can be compressed"
    if likely is not None:
        verdict = "it may still fit" if likely <= free else "it is not likely to fit"
    sentence = (
        f"the output takes up to {format_bytes(round(most))}{about}, "
        f"and {format_bytes(free)} are free: {verdict}; "
        "free some, name another place with -o, or take less room with --dtype uint16. "
        "A run that fills the disk keeps what is finished and continues later."
    )
    return [Obstacle("disk", False, sentence)]


def _of_files(traffic: Traffic, room: Room, done: float) -> list[Obstacle]:
    needed = round((traffic.files + traffic.folders) * (1 - done))
    if room.files is None or needed <= room.files:
        return []
    sentence = (
        f"the output has {needed} files and folders, and the file system has room for {room.files}; "
        "name another place with -o, or take OME-Zarr 0.5, whose shards are fewer files."
    )
    return [Obstacle("files", False, sentence)]


def _of_scheduler(engines: Engines, workers: WorkersPlanned) -> list[Obstacle]:
    if engines.load is None or engines.workers_kept_busy is None or engines.load[engines.chosen] <= 1:
        return []
    other = "" if engines.chosen == "direct" else ", --engine direct"
    sentence = (
        f"one scheduler keeps about {engines.workers_kept_busy[engines.chosen]:.0f} workers busy with these "
        f"blocks, and there are {workers.count}; give a larger --block{other}, or fewer workers."
    )
    return [Obstacle("scheduler", False, sentence)]


def _of_walltime(times: JobTimes | None, workers: WorkersPlanned) -> list[Obstacle]:
    """Find what could not end within a job, and would be begun again and again."""
    if times is None or workers.jobs is None:
        return []
    limit = f"a job of {duration(workers.jobs.walltime_seconds)} has {duration(times.limit)} for it"
    if times.task > times.limit:
        crowded = times.block <= times.limit
        turns = f" while {workers.threads} take turns" if crowded else ""
        fewer = ", fewer --threads" if crowded else ""
        taken = duration(times.task if crowded else times.block)
        sentence = f"a block takes about {taken}{turns}, and {limit}"
        remedy = f"give a longer --walltime{fewer}, or a smaller --block"
    elif times.region > times.limit and workers.jobs.most == 1:
        sentence = (
            f"a region, which is written as a whole, takes about {duration(times.region)}, and {limit}; "
            "what a job has not written is lost where no other job takes it over"
        )
        remedy = "give a longer --walltime, or --jobs 2 or more"
    else:
        return []
    return [Obstacle("walltime", False, f"{sentence}; {remedy}.")]
