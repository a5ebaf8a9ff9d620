"""What a run will take: memory, disk, time, and how many workers one scheduler keeps busy. Pure arithmetic.

A worker computes one block at a time. With t seconds a block, and s seconds that the scheduler spends on one
(less where quick blocks are restored a shard at a time, `running/bundles.py`),

    load of the scheduler = workers · s / t          workers it keeps busy = t / s

The engine "auto" is direct for an image in a store, as it costs the scheduler less for any number of workers;
where map-overlap would hold workers back for more than `HELD_BACK` of the time, the plan says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from bigdecon.deconvolution.block import MEMORY_OF_CONSTANTS
from bigdecon.deconvolution.tiling import bundle_grid
from bigdecon.forecasting.calibration import Calibration
from bigdecon.forecasting.choosing_time import LIKELY
from bigdecon.forecasting.job_times import JobTimes, job_times
from bigdecon.forecasting.traffic import Traffic, count_traffic
from bigdecon.io.image_file import decoded_chunk_bytes
from bigdecon.running.bundles import blocks_in_bundle, bundle_bytes, most_are_bundled
from bigdecon.running.planning import RunPlan
from bigdecon.running.sizing import PROGRAM_BYTES, memory_of_pool, memory_of_step, memory_of_waiting
from bigdecon.running.workforce import WorkersPlanned

__all__ = [
    "HELD_BACK",
    "SCHEDULER_SECONDS",
    "SCHEDULER_SECONDS_OF_BUNDLE",
    "Engines",
    "Estimate",
    "Memory",
    "Room",
    "Times",
    "estimate",
    "estimate_memory",
]

SCHEDULER_SECONDS = {"direct": 0.00137, "map-overlap": 0.019}
"""CPU time that scheduler and client spend on one block (benchmarks/engine_overhead.py)."""
SCHEDULER_SECONDS_OF_BUNDLE = 0.0058
"""The same for all blocks of a shard in one task, with the engine direct."""
HELD_BACK = 0.05
"""Part of the time that workers may wait for the scheduler."""


@dataclass(frozen=True)
class Room:
    """What is free where the output goes; None where that is not known.

    Attributes
    ----------
    disk_bytes : for this user
    files : inodes
    """

    disk_bytes: int | None
    files: int | None


@dataclass(frozen=True)
class Memory:
    """Memory of one worker process, in bytes.

    Attributes
    ----------
    program : without any work
    block : computing one block; on a GPU, of the GPU's memory
    waiting : blocks read, and results that wait to be written
    pool : voxels that patches are drawn from; 0 where nothing is trained
    step : one training step, likewise; on a GPU, of the GPU's memory
    least : the program and whichever is most of a training step with its pool, one block, and one decoded
        chunk of the image, in host memory
    peak : the same, with all that waits at the worst of times
    gpu : the most that a block or a training step takes of a GPU; None on a CPU
    """

    program: int
    block: int
    waiting: int
    pool: int
    step: int
    least: int
    peak: int
    gpu: int | None


@dataclass(frozen=True)
class Times:
    """Seconds of a run with all of its workers.

    Attributes
    ----------
    block : one worker's for a block of mean size, reading and writing included
    largest_block : the same for a block that no edge cuts
    training, deconvolution, pyramid : of all channels and time points
    choosing : settings that are "auto", for all channels, as long as it likely takes
    choosing_at_most : the same if no setting is given up early
    report : on how the result came out; 0 where none is asked for
    """

    block: float
    largest_block: float
    training: float
    deconvolution: float
    pyramid: float
    choosing: float = 0.0
    choosing_at_most: float = 0.0
    report: float = 0.0

    @property
    def total(self) -> float:
        """All stages, one after the other."""
        return self.choosing + self.training + self.deconvolution + self.pyramid + self.report


@dataclass(frozen=True)
class Engines:
    """How busy the scheduler is; by engine, None where it is not known how long a block takes.

    Attributes
    ----------
    chosen : the engine of the plan
    why : in words
    seconds_per_block : of the scheduler
    workers_kept_busy : with blocks of this plan
    load : of the scheduler with the workers of this plan; above 1 they wait for it
    """

    chosen: Literal["map-overlap", "direct"]
    why: str
    seconds_per_block: dict[str, float]
    workers_kept_busy: dict[str, float] | None
    load: dict[str, float] | None


@dataclass(frozen=True)
class Estimate:
    """All of it.

    Attributes
    ----------
    blocks, regions : of all channels and time points
    done : part of the regions that an earlier run has finished
    halo_overhead : voxels computed for one written
    blocks_at_once : that a worker restores and writes in one task
    output_bytes : disk space expected; None without calibration on real voxels
    jobs : what jobs with a time limit are enough for; None without jobs, or without times
    """

    blocks: int
    regions: int
    done: float
    halo_overhead: float
    blocks_at_once: int
    traffic: Traffic
    output_bytes: int | None
    memory: Memory
    times: Times | None
    engines: Engines
    workers: WorkersPlanned
    room: Room
    jobs: JobTimes | None = None


def estimate(
    plan: RunPlan,
    workers: WorkersPlanned,
    room: Room,
    calibration: Calibration | None,
    done: float = 0.0,
    wanted: float = 1.0,
    report_seconds: float = 0.0,
) -> Estimate:
    """Work out what a run will take.

    Parameters
    ----------
    plan : what is to be done
    workers : who will do it
    room : what is free where the output goes
    calibration : speeds that were measured; without it there are no times
    done : part of the regions that an earlier run has finished, in [0, 1]
    wanted : part of the blocks that a mask leaves, in [0, 1]
    report_seconds : what the report at the end takes
    """
    stacks = plan.volume.n_timepoints * plan.volume.n_channels
    traffic = count_traffic(plan)
    memory = estimate_memory(plan, workers)
    at_once = _blocks_at_once(plan, workers, calibration)
    times = _times(plan, workers, calibration, wanted, done, report_seconds) if calibration else None
    share = calibration.stored_share if calibration else None
    expected = (
        None
        if share is None
        else round(share * traffic.written_bytes) + traffic.largest_output_bytes - traffic.written_bytes
    )
    engines = _engines(plan, workers, times, at_once)
    return Estimate(
        blocks=stacks * len(plan.grid),
        regions=stacks * len(plan.regions),
        done=done,
        halo_overhead=plan.grid.overhead,
        blocks_at_once=at_once,
        traffic=traffic,
        output_bytes=expected,
        memory=memory,
        times=times,
        engines=engines,
        workers=workers,
        room=room,
        jobs=_jobs(plan, workers, times, at_once),
    )


def _blocks_at_once(plan: RunPlan, workers: WorkersPlanned, measured: Calibration | None) -> int:
    """Count the blocks of most tasks; block by block is what is known to be possible."""
    bundled = measured is not None and most_are_bundled(plan, workers, measured.block_seconds)
    return blocks_in_bundle(plan) if bundled else 1


# --- memory ---------------------------------------------------------------------------------------


def estimate_memory(plan: RunPlan, workers: WorkersPlanned) -> Memory:
    """Work out the memory of one worker, program and training included."""
    on_gpu = plan.device != "cpu"
    program = PROGRAM_BYTES["cuda" if on_gpu else "cpu"]
    voxels = math.prod(plan.volume.spatial_shape) * plan.volume.n_timepoints
    pool = memory_of_pool(voxels, plan.volume.dtype.itemsize) if plan.training else 0
    step = memory_of_step(plan.training, plan.device) if plan.training else 0
    # What patches are cut from lies on the GPU, too, in float32 (learning/device_patches.py).
    held = memory_of_pool(voxels, 4) if plan.training else 0
    block, waiting = plan.bytes_per_worker, _waiting_bytes(plan, workers)
    here, training = (0, pool) if on_gpu else (block, pool + step)
    chunk = decoded_chunk_bytes(plan.volume.source)
    return Memory(
        program=program,
        block=block,
        waiting=waiting,
        pool=pool,
        step=step,
        least=program + max(here, training, chunk),
        peak=program + max(here + max(waiting, chunk), training),
        gpu=max(block, step + held) if on_gpu else None,
    )


def _waiting_bytes(plan: RunPlan, workers: WorkersPlanned) -> int:
    """Add up what is read ahead and waits to be written, block by block or in bundles.

    How long blocks take, nobody has measured here: it may be either.
    """
    itemsize = plan.volume.dtype.itemsize
    waiting = memory_of_waiting(plan.grid, plan.regions, plan.layout, itemsize, workers.threads)
    bundles = workers.threads * bundle_bytes(plan) if most_are_bundled(plan, workers) else 0
    return max(waiting, bundles + MEMORY_OF_CONSTANTS if bundles else 0)


# --- time -----------------------------------------------------------------------------------------


def _times(
    plan: RunPlan, workers: WorkersPlanned, measured: Calibration, wanted: float, done: float, report: float
) -> Times:
    """Scale what was measured up to the whole run."""
    # A block at the volume's edge is smaller than the largest, which was measured.
    voxels = plan.grid.overhead * math.prod(plan.volume.spatial_shape)
    mean = voxels / (len(plan.grid) * math.prod(plan.grid.largest_block))
    at_once = _blocks_at_once(plan, workers, measured)
    scheduler = _scheduler_seconds(at_once)[plan.engine]
    beside = _share_read(plan, at_once) * measured.read_seconds + measured.write_seconds
    if plan.device == "cpu":  # reading and writing take the same cores
        largest = measured.block_seconds + beside
    else:
        largest = max(measured.block_seconds, beside / max(1, workers.threads - 1))
    block = mean * largest
    stacks = plan.volume.n_timepoints * plan.volume.n_channels
    blocks = stacks * len(plan.grid) * wanted * (1 - done)
    coarse = sum(math.prod(level.shape) for level in plan.layout.levels[1:])
    return Times(
        block=block,
        largest_block=largest,
        training=_training_seconds(plan, measured, done),
        deconvolution=blocks * max(block / workers.count, scheduler),
        pyramid=coarse * measured.coarse_seconds / (workers.count * max(1, workers.threads // 2)),
        choosing=LIKELY * measured.choosing_seconds,
        choosing_at_most=measured.choosing_seconds,
        report=report,
    )


def _share_read(plan: RunPlan, at_once: int) -> float:
    """Say how much of what blocks would read one by one is read where the blocks of a shard share it."""
    if at_once == 1:
        return 1.0
    together = math.prod(bundle_grid(plan.grid, plan.layout.write_shape).largest_block)
    return together / (at_once * math.prod(plan.grid.largest_block))


def _training_seconds(plan: RunPlan, measured: Calibration, done: float) -> float:
    """Add up the trainings of all channels, one after the other; they are over once regions are finished."""
    if plan.training is None or measured.step_seconds is None or done:
        return 0.0
    one = plan.training.steps * measured.step_seconds
    if plan.training.minutes is not None:
        one = min(one, 60 * plan.training.minutes)
    return plan.volume.n_channels * one


def _jobs(plan: RunPlan, workers: WorkersPlanned, times: Times | None, at_once: int) -> JobTimes | None:
    if workers.jobs is None or times is None:
        return None
    # The first region is as large as any.
    blocks = math.prod(len(cuts) - 1 for cuts in plan.grid.cuts_within(plan.regions[0]))
    begun = min(workers.threads * at_once, plan.volume.n_timepoints * plan.volume.n_channels * len(plan.grid))
    return job_times(workers.jobs, begun, times.largest_block, blocks, times.total)


# --- the scheduler --------------------------------------------------------------------------------


def _engines(plan: RunPlan, workers: WorkersPlanned, times: Times | None, at_once: int) -> Engines:
    kept = load = None
    seconds = _scheduler_seconds(at_once)
    if times and times.block > 0:
        kept = {name: times.block / s for name, s in seconds.items()}
        load = {name: workers.count * s / times.block for name, s in seconds.items()}
    return Engines(plan.engine, _why(plan, load), seconds, kept, load)


def _scheduler_seconds(at_once: int) -> dict[str, float]:
    """Give what a block costs the scheduler, by engine."""
    if at_once == 1:
        return dict(SCHEDULER_SECONDS)
    return {**SCHEDULER_SECONDS, "direct": SCHEDULER_SECONDS_OF_BUNDLE / at_once}


def _why(plan: RunPlan, load: dict[str, float] | None) -> str:
    """Say in words why blocks get their halo as they do."""
    if plan.config.tiling.engine != "auto":
        return "as asked for"
    if plan.engine == "map-overlap":
        return "the image is no store that blocks could read by themselves"
    if load is None:
        return "the image lies in a store, from which a block is read in one task"
    if load["map-overlap"] > HELD_BACK:
        return (
            f"map-overlap would keep the scheduler busy {load['map-overlap']:.0%} of the time, "
            f"direct {load['direct']:.0%}"
        )
    return "the image lies in a store; either engine would keep the workers busy"
