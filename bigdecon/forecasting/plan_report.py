"""A forecast in words, and in numbers: what `bigdecon plan` prints."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from dask.utils import format_bytes

from bigdecon.addresses import shown_url
from bigdecon.forecasting.calibration import Calibration
from bigdecon.forecasting.estimating import Engines, Estimate, Memory, Times
from bigdecon.forecasting.forecast import Forecast
from bigdecon.forecasting.job_times import duration
from bigdecon.forecasting.stopwatch import BUSY
from bigdecon.running.plan_text import describe_blocks, describe_essentials
from bigdecon.running.planning import RunPlan
from bigdecon.running.workforce import WorkersPlanned

__all__ = ["describe_forecast", "forecast_numbers"]

Lines = list[tuple[str, str]]

LONG_SECONDS = 30 * 60
"""A training on a CPU beyond it is told how it could be shorter."""


def describe_forecast(found: Forecast) -> Lines:
    """Give the forecast as pairs of a heading and a short text; an empty heading continues the last."""
    estimate = found.estimate
    lines = describe_essentials(found.plan)
    if found.to_choose:
        lines = [line for head, text in lines for line in _to_be_chosen(head, text, found)]
    lines += _describe_times(found)
    lines += _describe_memory(estimate)
    lines += _describe_room(estimate)
    lines += _describe_jobs(estimate)
    headings = ("assumed", *[""] * len(found.assumptions))
    lines += list(zip(headings, found.assumptions, strict=False))
    lines.append(("in detail", "how the work is divided; for those who run clusters"))
    # The memory of a block is told as part of a worker's.
    lines += [line for line in describe_blocks(found.plan) if line[0] != "memory"]
    lines += _describe_memory_parts(estimate)
    lines += _describe_traffic(estimate)
    lines += _describe_scheduler(estimate.engines, estimate.workers.count, estimate.blocks_at_once)
    return lines


def _to_be_chosen(heading: str, text: str, found: Forecast) -> Lines:
    """Say of a method's settings that they are assumed, where the run will choose them."""
    name, comma, settings = text.partition(", ")
    if not heading.startswith("method") or not comma or not found.plan.tuned:
        return [(heading, text)]
    if name != found.plan.config.method or found.plan.training or found.plan.models:
        return [(heading, text)]
    return [
        (heading, f"{name}; {', '.join(found.to_choose)} chosen from the image when the run starts"),
        ("", f"planned for: {settings}, the most costly choice"),
    ]


def _describe_traffic(estimate: Estimate) -> Lines:
    traffic = estimate.traffic
    repeated = traffic.decoded_bytes / max(1, traffic.read_bytes)
    asked, written = format_bytes(traffic.read_bytes), format_bytes(traffic.written_bytes)
    shards, n_chunks = traffic.shards_written, traffic.chunks_read
    files = "1 file (shard)" if shards == 1 else f"{shards} files (shards)"
    chunks = "1 chunk" if n_chunks == 1 else f"{n_chunks} chunks"
    return [
        ("reads", f"{asked} of voxels, margins included, in {chunks}"),
        ("", f"of {format_bytes(traffic.decoded_bytes)}: {repeated:.1f} decoded for one that is used"),
        ("writes", f"{written} of voxels in {files}, all levels"),
    ]  # fmt: skip


def _describe_room(estimate: Estimate) -> Lines:
    traffic, room = estimate.traffic, estimate.room
    likely = "" if estimate.output_bytes is None else f"about {format_bytes(estimate.output_bytes)}, "
    free = "unknown" if room.disk_bytes is None else format_bytes(room.disk_bytes)
    inodes = "" if room.files is None else f"; the file system has room for {room.files} more"
    return [
        ("disk", f"{likely}at most {format_bytes(traffic.largest_output_bytes)}; free {free}"),
        ("files", f"{traffic.files} in {traffic.folders} folders{inodes}"),
    ]


def _describe_memory(estimate: Estimate) -> Lines:
    memory, workers = estimate.memory, estimate.workers
    threads = "1 thread" if workers.threads == 1 else f"{workers.threads} threads"
    limit = f"of {format_bytes(workers.memory_bytes)}" if workers.memory_bytes else "no limit"
    lines = [
        ("workers", f"{workers.count}{_in_jobs(workers)}, each with {threads}"),
        ("memory", f"about {format_bytes(memory.peak)} for a worker, {limit}"),
    ]
    if memory.gpu is not None:
        there = "" if workers.gpu_bytes is None else f", of {format_bytes(workers.gpu_bytes)}"
        lines.append(("GPU memory", f"about {format_bytes(memory.gpu)}{there}"))
    return lines


def _describe_memory_parts(estimate: Estimate) -> Lines:
    """Say what the memory of a worker is needed for."""
    memory = estimate.memory
    parts = [f"program {format_bytes(memory.program)}"]
    on_gpu = memory.gpu is not None
    if not on_gpu:
        parts.append(f"a block {format_bytes(memory.block)}")
    parts.append(f"blocks read and results to write {format_bytes(memory.waiting)}")
    if memory.pool:
        parts.append(f"training {format_bytes(memory.pool + (0 if on_gpu else memory.step))}")
    return [("memory for", ", ".join(parts))]


def _in_jobs(workers: WorkersPlanned) -> str:
    if workers.jobs is None:
        return ""
    jobs = workers.jobs
    most = f"{jobs.most} jobs" if jobs.most > 1 else "1 job"
    least = f", at least {jobs.least} of them alive" if jobs.least < jobs.most else ""
    return f" in {most} of {duration(jobs.walltime_seconds)}{least}"


def _describe_jobs(estimate: Estimate) -> Lines:
    """Say how often jobs follow one another."""
    jobs, times = estimate.workers.jobs, estimate.jobs
    if jobs is None or times is None:
        return []
    whole = duration(jobs.walltime_seconds)
    spent = f"{duration(times.usable)} of {whole} for blocks, the rest to leave in time"
    turns = "no job needs a successor" if times.in_turn == 1 else f"about {times.in_turn} one after the other"
    return [("jobs", f"{jobs.most} at a time, {turns}"), ("", spent)]


def _describe_times(found: Forecast) -> Lines:
    times, measured = found.estimate.times, found.calibration
    if times is None or measured is None:
        return [("time", "not estimated, as nothing was calibrated")]
    piece = " x ".join(map(str, measured.piece))
    on = "voxels of the image" if measured.on_real_voxels else "voxels of noise"
    done = f" ({found.estimate.done:.0%} is done)" if found.estimate.done else ""
    stages = {
        "choosing settings": times.choosing,
        "training": times.training,
        "deconvolution": times.deconvolution,
        "coarser levels": times.pyramid,
        "report": times.report,
    }
    return [
        ("time", f"about {duration(times.total)}{done}"),
        ("", ", ".join(f"{name} {duration(spent)}" for name, spent in stages.items() if spent > 0)),
        *_describe_choosing(times),
        *_describe_long_training(found.plan, times),
        ("", f"calibrated on {piece} {on} in {measured.seconds:.0f} s; {_seconds(times.block)} a block"),
        ("", _machine_assumed(found.plan, measured)),
    ]


def _machine_assumed(plan: RunPlan, measured: Calibration) -> str:
    """Say of what machine the times are."""
    if plan.device != "cpu":
        return "on a machine as busy with other work as it was just now"
    busy = measured.load is not None and measured.load > BUSY
    now = (
        f"; it is busy now (load {measured.load:.0%} of its cores), and shared it takes longer"
        if busy
        else ""
    )
    return f"on a machine that does nothing else{now}"


def _describe_long_training(plan: RunPlan, times: Times) -> Lines:
    """Say what can be done where a CPU trains for long."""
    if plan.device != "cpu" or times.training < LONG_SECONDS:
        return []
    remedy = "--train-minutes limits it, and --method richardson-lucy needs none"
    return [("", f"training is long without a GPU; {remedy}")]


def _describe_choosing(times: Times) -> Lines:
    if not times.choosing:
        return []
    most = duration(times.choosing_at_most)
    return [("", f"settings are chosen in at most {most}; the image decides how soon bad ones are given up")]


def _seconds(spent: float) -> str:
    return f"{spent:.3g} s" if spent < 100 else duration(spent)


def _describe_scheduler(engines: Engines, count: int, at_once: int) -> Lines:
    together = f"; blocks are quick, and restored {at_once} at a time with their shard" if at_once > 1 else ""
    lines = [("engine", f"{engines.chosen}: {engines.why}{together}")]
    for name, seconds in engines.seconds_per_block.items():
        text = f"{name} costs the scheduler {1000 * seconds:.3g} ms a block"
        if engines.workers_kept_busy and engines.load:
            busy = max(1, math.floor(engines.workers_kept_busy[name]))
            text += f": busy {engines.load[name]:.1%} of the time with {count}, enough for {busy} workers"
        lines.append(("scheduler" if name == next(iter(engines.seconds_per_block)) else "", text))
    return lines


# --- numbers --------------------------------------------------------------------------------------


def forecast_numbers(found: Forecast) -> dict[str, Any]:
    """Give the forecast as plain JSON values; bytes, seconds and voxels by name."""
    estimate, plan = found.estimate, found.plan
    numbers = asdict(estimate)
    numbers["times"] = _times(estimate.times)
    numbers["memory"] = _memory(estimate.memory)
    return {
        "plan": _plan_numbers(plan),
        "estimate": numbers,
        "calibration": None if found.calibration is None else asdict(found.calibration),
        "assumptions": list(found.assumptions),
        "warnings": list(plan.warnings),
        "findings": [finding.as_json() for finding in plan.findings],
        "obstacles": [asdict(obstacle) for obstacle in found.obstacles],
        "fits": not found.obstacles,
    }


def _times(times: Times | None) -> dict[str, float] | None:
    return None if times is None else {**asdict(times), "total": times.total}


def _memory(memory: Memory) -> dict[str, int | None]:
    return {f"{name}_bytes": value for name, value in asdict(memory).items()}


def _plan_numbers(plan: RunPlan) -> dict[str, Any]:
    return {
        "input": shown_url(plan.volume.location),
        "axes": plan.volume.axes,
        "shape": list(plan.volume.shape),
        "dtype": str(plan.volume.dtype),
        "method": plan.config.method,
        "settings": [asdict(tuned.settings) for tuned in plan.tuned],
        "training_steps": plan.training.steps if plan.training else 0,
        "device": plan.device,
        "engine": plan.engine,
        "block": plan.block,
        "block_choice": plan.block_choice and asdict(plan.block_choice),
        "halo": list(plan.grid.halo),
        "largest_block": list(plan.grid.largest_block),
        "tile": plan.tile,
        "output": str(plan.output),
        "state": plan.state,
        "levels": [
            {"shape": list(level.shape), "chunks": list(level.chunks), "stored": list(level.stored_shape)}
            for level in plan.layout.levels
        ],
    }
