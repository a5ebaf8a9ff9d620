"""What was measured of a channel, and what follows from it over all boxes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bigdecon.diagnosis.findings import Finding
from bigdecon.evaluation.detail import DetailCurve
from bigdecon.evaluation.noise import NoiseModel
from bigdecon.reporting.box_tasks import Look, Measured, ResidualPlanes
from bigdecon.reporting.samples import Sample

__all__ = ["Agreement", "StackMeasures"]


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
    notes : what the budget did not allow, one sentence each
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
    notes: tuple[str, ...] = ()

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
