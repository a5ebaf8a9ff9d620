"""The measures of a report: a few boxes of every channel, on the workers of the run or here.

    boxes ──look──> noise, contrast ──┬──measure──> residual of every box ──> quality, the worst
                                      └──repeat───> two halves, in the boxes with most contrast

Memory is bounded by the boxes, never by the volume.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bigdecon.deconvolution.tiling import grow, overlap
from bigdecon.diagnosis.findings import Finding
from bigdecon.distributed.cluster import Connection
from bigdecon.distributed.scheduling import Call, Task, run_tasks
from bigdecon.evaluation.cutoffs import psf_cutoff_per_um
from bigdecon.evaluation.detail import DetailCurve, detail_curves
from bigdecon.evaluation.fourier_shell import FourierShellCorrelation, ShellCurve
from bigdecon.evaluation.noise import NoiseModel
from bigdecon.reporting.box_checks import check_box
from bigdecon.reporting.box_tasks import (
    Halves,
    Look,
    Measured,
    Pairing,
    ResidualPlanes,
    cut_residual,
    look_at_box,
    measure_box,
    repeat_box,
)
from bigdecon.reporting.method_recipe import MethodRecipe
from bigdecon.reporting.samples import Sample, sample_boxes
from bigdecon.reporting.subject import Subject
from bigdecon.volume import Box

__all__ = ["Agreement", "Runner", "StackMeasures", "measure_stack", "on_workers", "run_here"]

Runner = Callable[[Sequence[Call], str], list[Any]]
"""Does calls and gives their results, in order; the text names them on the dashboard."""

MOST_BOXES = 48
MOST_REPEATED = 3
REPEATED_PART = 0.5
"""What is deconvolved again, as a part of the run's voxels, if more than one box is repeated."""


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


class Agreement(NamedTuple):
    """Fourier shell correlation along one direction, the mean over some boxes.

    Attributes
    ----------
    direction : "lateral" or "axial"
    frequency : per micrometre, or per voxel where the size is unknown
    before, after : correlation of the halves as they are, and deconvolved
    bound : where optics or sampling end
    before_um, after_um : resolution by the 1/7 criterion, median over the boxes; None where nothing agrees
    bounded : whether the deconvolved halves agree up to the bound
    boxes : how many
    """

    direction: str
    frequency: NDArray[Any]
    before: NDArray[Any]
    after: NDArray[Any]
    bound: float
    before_um: float | None
    after_um: float | None
    bounded: bool
    boxes: int


@dataclass(frozen=True, eq=False)
class StackMeasures:
    """What was measured of one channel at one time point.

    Attributes
    ----------
    channel, timepoint : which
    sample : the boxes
    looks, measured : by box index, what was found; boxes that are missing or cannot be read are absent
    lost : boxes, of those looked at, that the result lacks in whole or in part
    noise : of the image, where the result has most contrast; None where nothing could be measured
    interesting, worst : box index with the most contrast, and with the largest misfit
    interesting_planes, worst_planes : residual there
    agreements : lateral and axial
    detail : which of the image's detail the result carries, lateral and axial
    findings : of checks on the interesting box
    """

    channel: int
    timepoint: int
    sample: Sample
    looks: Mapping[tuple[int, ...], Look] = field(default_factory=dict)
    measured: Mapping[tuple[int, ...], Measured] = field(default_factory=dict)
    lost: tuple[tuple[int, ...], ...] = ()
    noise: NoiseModel | None = None
    interesting: tuple[int, ...] | None = None
    worst: tuple[int, ...] | None = None
    interesting_planes: ResidualPlanes | None = None
    worst_planes: ResidualPlanes | None = None
    agreements: tuple[Agreement, ...] = ()
    detail: tuple[DetailCurve, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def chi_square(self) -> float | None:
        """Mean over the voxels of all boxes; None where nothing was measured."""
        return self._mean([m.chi_square for m in self.measured.values()])

    @property
    def kept(self) -> float | None:
        """Part of the intensity above the background that the result kept, over all boxes."""
        lit = [m for m in self.measured.values() if math.isfinite(m.kept)]
        signal = sum(m.signal for m in lit)
        kept = sum(m.kept * m.signal for m in lit)
        return kept / signal if signal > 0 else None

    @property
    def unexplained(self) -> float:
        """Part of the image's structure that the result leaves over, over all boxes."""
        return self._mean([m.unexplained for m in self.measured.values()]) or 0.0

    @property
    def correlation(self) -> tuple[float, ...]:
        """Correlation of neighbouring residuals along every axis, over all boxes."""
        axes = zip(*(m.correlation for m in self.measured.values()), strict=True)
        return tuple(self._mean(list(values)) or 0.0 for values in axes)

    @property
    def spectrum(self) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Frequency in cycles a voxel, and power of the residual over that of white noise."""
        if not self.measured:
            return None
        curves = np.array([m.spectrum for m in self.measured.values()])
        weights = np.array(self._weights)[:, None] * np.isfinite(curves)
        total = weights.sum(axis=0)
        power = np.divide((np.nan_to_num(curves) * weights).sum(axis=0), total, where=total > 0,
                          out=np.full(total.shape, np.nan))  # fmt: skip
        return next(iter(self.measured.values())).frequency, power

    @property
    def _weights(self) -> list[int]:
        return [m.voxels for m in self.measured.values()]

    def _mean(self, values: Sequence[float]) -> float | None:
        pairs = [(v, w) for v, w in zip(values, self._weights, strict=True) if math.isfinite(v)]
        if not pairs:
            return None
        return sum(v * w for v, w in pairs) / sum(w for _, w in pairs)


def measure_stack(
    subject: Subject,
    channel: int,
    timepoint: int,
    run: Runner,
    *,
    limit: int = MOST_BOXES,
    repeat: bool = True,
) -> StackMeasures:
    """Measure one channel at one time point.

    Parameters
    ----------
    subject : what the report is about
    channel, timepoint : which
    run : does the work, here or on workers
    limit : boxes looked at, at most
    repeat : whether the method is applied to two halves of the data
    """
    sample = sample_boxes(subject.result.spatial_shape, limit)
    gone = subject.missing.get((timepoint, channel), ())
    lost = tuple(i for i in sample.chosen if any(overlap(sample.box(i), box) for box in gone))
    empty = StackMeasures(channel, timepoint, sample, lost=lost)
    pair = _pairing(subject, channel, timepoint)
    if pair is None:
        return empty
    # The residual of a box needs the result around it, too.
    wanted = [i for i in sample.chosen if not any(overlap(pair.around(sample.box(i)), box) for box in gone)]
    looked = run([Call(look_at_box, (pair, sample.box(i))) for i in wanted], "report-look")
    found = {i: look for i, look in zip(wanted, looked, strict=True) if look is not None}
    partial = subject.config.mask is not None
    looks = {i: look for i, look in found.items() if not (partial and look.empty)}
    if not looks:
        return empty
    noise = _noise_of_each(looks, pair.background)
    size = subject.result.voxel_size_um
    boxes = [Call(measure_box, (pair, sample.box(i), noise[i], size)) for i in looks]
    answers = zip(looks, run(boxes, "report-measure"), strict=True)
    measured = {
        i: m for i, m in answers if m is not None and math.isfinite(m.chi_square) and m.chi_square > 0
    }
    ranked = sorted(looks, key=lambda i: looks[i].contrast, reverse=True)
    best, worst = ranked[0], max(measured, key=lambda i: abs(math.log(measured[i].chi_square)), default=None)
    shown = [best] if worst is None else [best, worst]
    cut = run([Call(cut_residual, (pair, sample.box(i), noise[i])) for i in shown], "report-cut")
    bright = [(sample.box(i), noise[i]) for i in ranked]
    halves = _halves(subject, pair, bright, run) if repeat else []
    checks = Call(check_box, (pair, sample.box(best), noise[best], looks[best].correlation,
                              size, not subject.findings))  # fmt: skip
    return StackMeasures(
        channel=channel,
        timepoint=timepoint,
        sample=sample,
        looks=looks,
        measured=measured,
        lost=lost,
        noise=noise[best],
        interesting=best,
        worst=worst,
        interesting_planes=cut[0],
        worst_planes=None if worst is None else cut[1],
        agreements=_agreements(halves),
        detail=_detail(measured.values(), pair, size),
        findings=_better(run([checks], "report-check")[0], halves),
    )


def _pairing(subject: Subject, channel: int, timepoint: int) -> Pairing | None:
    psf = subject.psfs[channel]
    if subject.image is None or psf is None:
        return None
    place = {"timepoint": timepoint, "channel": channel}
    stacks = subject.image.stack(**place), subject.result.stack(**place)
    return Pairing(*stacks, psf.array, subject.background(channel), subject.offset(channel))


def _noise_of_each(
    looks: Mapping[tuple[int, ...], Look], background: float
) -> dict[tuple[int, ...], NoiseModel]:
    """Judge every box by the noise of its own brightness; the typical one stands in where that is unknown.

    A box without light tells nothing of the gain, and dark boxes are the majority in many images.
    """
    known = [m.noise for m in looks.values() if math.isfinite(m.noise.gain + m.noise.variance)]
    typical = NoiseModel(
        float(np.median([m.gain for m in known] or [0.0])),
        float(np.median([m.variance for m in known] or [0.0])),
        background,
    )
    return {i: look.noise if look.noise in known else typical for i, look in looks.items()}


def _halves(
    subject: Subject, pair: Pairing, boxes: Sequence[tuple[Box, NoiseModel]], run: Runner
) -> list[Halves]:
    """Have the method do two halves of the boxes with most contrast."""
    recipe = subject.recipes[pair.image.channel]
    if recipe is None:
        return []
    boxes = boxes[: _how_many(subject, recipe, boxes[0][0])]
    size = subject.result.voxel_size_um or (1.0,) * len(subject.result.spatial_shape)
    seed = subject.config.seed
    calls = [
        Call(repeat_box, (pair, box, noise, recipe, size, seed + i)) for i, (box, noise) in enumerate(boxes)
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


def _how_many(subject: Subject, recipe: MethodRecipe, box: Box) -> int:
    """Choose how many boxes are repeated: a report takes a part of the time of its run."""
    shape = subject.result.spatial_shape
    halo = recipe.build().halo
    grown = math.prod(part.stop - part.start for part in grow(box, halo, shape))
    return max(1, min(MOST_REPEATED, int(REPEATED_PART * math.prod(shape) / (2 * grown))))


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
