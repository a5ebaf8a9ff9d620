"""The measures of a report: a few boxes of every channel, on the workers of the run or here.

    boxes, in groups that share chunks ──examine──> noise, contrast, residual of each ──> quality, the worst
                                           └──repeat──> two halves, in the boxes with most contrast

Memory is bounded by the boxes, never by the volume; what is decoded, and the time, by a budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from dask.utils import format_bytes

from bigdecon.deconvolution.tiling import grow, overlap
from bigdecon.diagnosis.findings import Finding
from bigdecon.diagnosis.shared_reads import ReadingBudget, decoded_bytes, decoded_unit
from bigdecon.distributed.cluster import Connection
from bigdecon.distributed.scheduling import Call, Task, run_tasks
from bigdecon.evaluation.cutoffs import psf_cutoff_per_um
from bigdecon.evaluation.detail import DetailCurve, detail_curves
from bigdecon.evaluation.fourier_shell import FourierShellCorrelation, ShellCurve
from bigdecon.evaluation.noise import NoiseModel
from bigdecon.reporting.box_groups import (
    Examined,
    GroupTask,
    cost_of,
    examine_group,
    group_boxes,
)
from bigdecon.reporting.box_tasks import (
    Halves,
    Measured,
    Pairing,
    repeat_box,
)
from bigdecon.reporting.measures import Agreement, StackMeasures
from bigdecon.reporting.samples import MOST_BOXES, Sample, affordable_sample, repeated_boxes, sample_boxes
from bigdecon.reporting.subject import Subject
from bigdecon.volume import Box, Stack

__all__ = [
    "BUDGET_BYTES",
    "BUDGET_SECONDS",
    "Runner",
    "measure_stack",
    "on_workers",
    "run_here",
]

Runner = Callable[[Sequence[Call], str], list[Any]]
"""Does calls and gives their results, in order; the text names them on the dashboard."""

BUDGET_BYTES = 2**33
"""Voxels decoded for a report, and"""
BUDGET_SECONDS = 600.0
"""how long it begins to measure further boxes. Both are little beside a run that needs such a limit."""
BOXES_PART = 0.5
"""Of the budget, for the boxes; the rest is for halves, planes and overview."""
ROUND = 16
"""Groups of boxes between looks at the clock."""


def run_here(calls: Sequence[Call], name: str) -> list[Any]:
    """Do calls one after the other, in this process."""
    return [call.function(*call.arguments) for call in calls]


def on_workers(connection: Connection, workers: tuple[str, ...] = ()) -> Runner:
    """Do calls on the workers of a cluster, a few at a time."""

    def run(calls: Sequence[Call], name: str) -> list[Any]:
        found: dict[int, Any] = {}
        tasks = [Task(i, partial(_given, call), name, workers=workers) for i, call in enumerate(calls)]
        run_tasks(
            connection.client,
            tasks,
            in_flight=2 * (len(workers) or connection.n_workers),
            on_done=found.__setitem__,
            patience_seconds=connection.patience_seconds,
        )
        return [found[i] for i in range(len(calls))]

    return run


def _given(call: Call) -> Call:
    return call


def measure_stack(
    subject: Subject,
    channel: int,
    timepoint: int,
    run: Runner,
    *,
    limit: int = MOST_BOXES,
    repeat: bool = True,
    budget: ReadingBudget | None = None,
) -> StackMeasures:
    """Measure one channel at one time point.

    Parameters
    ----------
    subject : what the report is about
    channel, timepoint : which
    run : does the work, here or on workers
    limit : boxes looked at, at most
    repeat : whether the method is applied to two halves of the data
    budget : what may be decoded; `BUDGET_BYTES` if None
    """
    shape = subject.result.spatial_shape
    gone = subject.missing.get((timepoint, channel), ())
    pair = _pairing(subject, channel, timepoint)
    if pair is None:
        sample = sample_boxes(shape, limit)
        return StackMeasures(channel, timepoint, sample, lost=_lost(sample, gone))
    budget = budget or ReadingBudget(BUDGET_BYTES)
    allowed = int(BOXES_PART * budget.left)
    sample = _affordable(pair, shape, limit, budget)
    notes = _notes_on(sample, shape, limit, pair, allowed)
    lost = _lost(sample, gone)
    # The residual of a box needs the result around it, too.
    whole = [
        i for i in sample.chosen if not any(overlap(pair.pair.around(sample.box(i)), box) for box in gone)
    ]
    examined, in_time = _examine(subject, pair, sample, whole, run, budget)
    if not in_time:
        notes = (
            *notes,
            f"Time was up after {len(examined)} of {len(whole)} boxes: the rest was not measured.",
        )
    if not examined:
        return StackMeasures(channel, timepoint, sample, lost=lost, notes=notes)
    ranked = sorted(examined, key=lambda i: examined[i].look.contrast, reverse=True)
    measured = {
        i: e.measured for i, e in examined.items() if e.measured is not None and _is_positive(e.measured)
    }
    best, worst = ranked[0], max(measured, key=lambda i: abs(math.log(measured[i].chi_square)), default=None)
    bright = [(sample.box(i), examined[i].look.noise) for i in ranked]
    halves = _halves(subject, pair, bright, run, budget) if repeat else []
    return StackMeasures(
        channel=channel,
        timepoint=timepoint,
        sample=sample,
        looks={i: e.look for i, e in examined.items()},
        measured=measured,
        lost=lost,
        noise=examined[best].look.noise,
        interesting=best,
        worst=worst,
        interesting_planes=examined[best].planes,
        worst_planes=None if worst is None else examined[worst].planes,
        agreements=_agreements(halves),
        detail=_detail(measured.values(), pair.pair, subject.result.voxel_size_um),
        findings=_better(examined[best].findings, halves),
        notes=notes,
    )


class _Paired(NamedTuple):
    """Image and result, and what makes one comparable with the other."""

    image: Stack
    result: Stack
    pair: Pairing


def _pairing(subject: Subject, channel: int, timepoint: int) -> _Paired | None:
    psf = subject.psfs[channel]
    if subject.image is None or psf is None:
        return None
    image, result = (v.stack(timepoint=timepoint, channel=channel) for v in (subject.image, subject.result))
    pair = Pairing(image, result, psf.array, subject.background(channel), subject.offset(channel))
    return _Paired(image, result, pair)


def _lost(sample: Sample, gone: Sequence[Box]) -> tuple[tuple[int, ...], ...]:
    return tuple(i for i in sample.chosen if any(overlap(sample.box(i), box) for box in gone))


def _is_positive(measured: Measured) -> bool:
    return math.isfinite(measured.chi_square) and measured.chi_square > 0


# --- within the budget ---------------------------------------------------------------------------


def _affordable(pair: _Paired, shape: Sequence[int], limit: int, budget: ReadingBudget) -> Sample:
    """Choose boxes, and take what they cost."""

    def cost(boxes: Sequence[Box]) -> int:
        return cost_of(pair.pair, pair.image, pair.result, boxes)

    sample = affordable_sample(shape, limit, cost, int(BOXES_PART * budget.left))
    return sample if budget.spend(cost(sample.boxes)) else replace(sample, chosen=())


def _notes_on(
    sample: Sample, shape: Sequence[int], limit: int, pair: _Paired, allowed: int
) -> tuple[str, ...]:
    """Say if there are fewer boxes than there would be, and why: the chunks, and what may be read."""
    usual = len(sample_boxes(shape, limit).chosen)
    if len(sample.chosen) >= usual:
        return ()
    of_image, of_result = (format_bytes(_chunk_bytes(stack)) for stack in (pair.image, pair.result))
    count = len(sample.chosen)
    judged = (
        f"Judged on {count} {'box' if count == 1 else 'boxes'} instead of {usual}"
        if count
        else "Nothing measured"
    )
    return (
        f"{judged}: a chunk of the image takes {of_image} once decoded, one of the result {of_result}, and "
        f"of the {format_bytes(BUDGET_BYTES)} that a report reads at most, {format_bytes(allowed)} are for "
        "these boxes. With smaller chunks of the image (bigdecon convert) it may see more.",
    )


def _chunk_bytes(stack: Stack) -> int:
    source, _ = stack.locate(tuple(slice(0, 1) for _ in stack.shape))
    return math.prod(decoded_unit(source)) * source.dtype.itemsize


def _examine(
    subject: Subject,
    pair: _Paired,
    sample: Sample,
    wanted: Sequence[tuple[int, ...]],
    run: Runner,
    budget: ReadingBudget,
) -> tuple[dict[tuple[int, ...], Examined], bool]:
    """Measure boxes round by round, evenly over the volume; those left when the time is up are left out."""

    def task(group: Sequence[tuple[int, ...]]) -> Call:
        boxes = tuple(sample.box(i) for i in group)
        size, partial = subject.result.voxel_size_um, subject.config.mask is not None
        work = GroupTask(pair.image, pair.result, pair.pair, boxes, size, not subject.findings, partial)
        return Call(examine_group, (work,))

    positions = group_boxes(pair.pair, pair.image, [sample.box(i) for i in wanted])
    groups = [[wanted[p] for p in group] for group in positions]
    rounds = -(-len(groups) // ROUND)
    ordered = [group for first in range(rounds) for group in groups[first::rounds]]
    found: dict[tuple[int, ...], Examined] = {}
    for start in range(0, len(ordered), ROUND):
        if start and budget.late:
            return found, False
        some = ordered[start : start + ROUND]
        answers = run([task(group) for group in some], "report-examine")
        for group, answer in zip(some, answers, strict=True):
            found.update({i: e for i, e in zip(group, answer, strict=True) if e is not None})
    return found, True


# --- two halves ----------------------------------------------------------------------------------


def _halves(
    subject: Subject,
    pair: _Paired,
    boxes: Sequence[tuple[Box, NoiseModel]],
    run: Runner,
    budget: ReadingBudget,
) -> list[Halves]:
    """Have the method do two halves of the boxes with most contrast."""
    recipe = subject.recipes[pair.image.channel]
    if recipe is None:
        return []
    halo = recipe.build().halo
    chosen = []
    for box, noise in boxes[: repeated_boxes(subject.result.spatial_shape, halo, boxes[0][0])]:
        around = grow(box, halo, pair.image.shape)
        if budget.spend(decoded_bytes([(pair.image, around), (pair.image, box), (pair.result, box)])):
            chosen.append((box, noise))
    size = subject.result.voxel_size_um or (1.0,) * len(subject.result.spatial_shape)
    seed = subject.config.seed
    calls = [
        Call(repeat_box, (pair.pair, box, noise, recipe, size, seed + i))
        for i, (box, noise) in enumerate(chosen)
    ]
    return [h for h in run(calls, "report-repeat") if h is not None]


def _detail(
    measured: Iterable[Measured], pair: Pairing, voxel_size_um: Sequence[float] | None
) -> tuple[DetailCurve, ...]:
    size = tuple(voxel_size_um or (1.0,) * pair.psf.ndim)
    sums = [m.detail for m in measured if m.detail is not None]
    return detail_curves(sums, size, psf_cutoff_per_um(pair.psf, size)) if sums else ()


def _agreements(halves: Sequence[Halves]) -> tuple[Agreement, ...]:
    lateral = _agreement("lateral", halves, lambda f: f.lateral)
    axial = _agreement("axial", halves, lambda f: f.axial)
    return tuple(one for one in (lateral, axial) if one is not None)


def _better(found: Sequence[Finding], halves: Sequence[Halves]) -> tuple[Finding, ...]:
    """Take what two halves tell of the noise, where there are any: it needs no dark places."""
    if not halves:
        return tuple(found)
    told = halves[0].amplification
    return (told, *(finding for finding in found if finding.name != told.name))


def _agreement(
    direction: str,
    halves: Sequence[Halves],
    take: Callable[[FourierShellCorrelation], ShellCurve | None],
) -> Agreement | None:
    pairs = [(take(h.before), take(h.after)) for h in halves]
    curves = [(b, a) for b, a in pairs if b is not None and a is not None]
    if not curves:
        return None
    grid = curves[0][0].frequency_per_um
    mean = [np.mean([np.interp(grid, c.frequency_per_um, c.correlation) for c in some], axis=0)
            for some in zip(*curves, strict=True)]  # fmt: skip
    return Agreement(
        direction,
        grid,
        mean[0],
        mean[1],
        curves[0][1].bound_per_um,
        _median([b.resolution_um for b, _ in curves]),
        _median([a.resolution_um for _, a in curves]),
        sum(a.bounded for _, a in curves) * 2 > len(curves),
        len(curves),
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.median(known)) if 2 * len(known) > len(values) else None
