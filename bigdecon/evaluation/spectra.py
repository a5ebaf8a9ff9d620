"""Mutual information of spectra that are larger than memory.

The type-2 cosine transform is separable. An image is transformed in place, along all axes but the first;
the last step, along the first axis, is taken anew whenever coefficients are needed: once to find the
extremes, once to count. That saves writing them, which costs more.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from bigdecon.evaluation.boxes import PIECE_VOXELS, Work, cut, pencils, whole
from bigdecon.evaluation.formulas import (
    BINS,
    SAME,
    AffineFit,
    Moments,
    constant_coefficient,
    information,
    joint_histogram,
)
from bigdecon.volume import Box

__all__ = ["spectral_scores"]

Image = NDArray[Any]


class _SpectralLine(NamedTuple):
    """A spectrum after a line was put on the image: all is scaled, and the first coefficient is known.

    Attributes
    ----------
    scale : factor for all coefficients but the first
    first : the first coefficient
    low, high : extremes of all coefficients
    """

    scale: float
    first: float
    low: float
    high: float

    @classmethod
    def of(
        cls, line: AffineFit, mean: float, others: tuple[float, float], shape: Sequence[int]
    ) -> _SpectralLine:
        """Derive it from the image's mean and the extremes of all coefficients but the first."""
        first = constant_coefficient(line.scale * mean + line.offset, shape)
        ends = [line.scale * end for end in others]
        return cls(line.scale, first, min(first, *ends), max(first, *ends))

    def coefficients(self, spectrum: Image, *, from_first: bool) -> Image:
        """Put part of a spectrum, in one row, on the line; `from_first` says that it begins the spectrum."""
        values = self.scale * spectrum
        if from_first:
            values.flat[0] = self.first
        return values


def spectral_scores(work: Work, copies: list[Image], moments: Moments) -> tuple[float, float]:
    """Give SMI plain and after the fit.

    Parameters
    ----------
    work : how to share it out
    copies : result and truth, floating point; they are overwritten
    moments : of result and truth
    """
    means = (moments.result_mean, moments.truth_mean)
    for copy, mean in zip(copies, means, strict=True):
        _transform_all_but_first(work, copy, mean)
    extremes = [_spectral_extremes(work, copy) for copy in copies]
    lines = [_SpectralLine.of(fit, means[0], extremes[0], work.shape) for fit in (SAME, moments.fit)]
    true_line = _SpectralLine.of(SAME, means[1], extremes[1], work.shape)

    def count(box: Box) -> NDArray[np.int64]:
        spectra = [_spectrum(copy, box) for copy in copies]
        return _count_slab(lines, true_line, *spectra, has_first=_has_first(box))

    plain, affine = reduce(operator.add, work.each(count, _slabs(work)))
    return information(plain), information(affine)


def _count_slab(
    lines: list[_SpectralLine], true_line: _SpectralLine, spectrum: Image, true: Image, *, has_first: bool
) -> NDArray[np.int64]:
    """Joint histograms of part of the spectra, one for each line, stacked."""
    total = np.zeros((len(lines), BINS, BINS), np.int64)
    for (part,) in cut(whole((spectrum.size,)), (PIECE_VOXELS,)):
        first = has_first and part.start == 0
        truth = true_line.coefficients(true.ravel()[part], from_first=first)
        for counts, line in zip(total, lines, strict=True):
            values = line.coefficients(spectrum.ravel()[part], from_first=first)
            counts += joint_histogram(values, truth, (line.low, line.high), (true_line.low, true_line.high))
    return total


def _spectral_extremes(work: Work, copy: Image) -> tuple[float, float]:
    """Extremes of all coefficients but the first."""

    def extremes(box: Box) -> tuple[float, float]:
        values = _spectrum(copy, box).ravel()[int(_has_first(box)) :]
        return float(values.min(initial=math.inf)), float(values.max(initial=-math.inf))

    lows, highs = zip(*work.each(extremes, _slabs(work)), strict=True)
    return min(lows), max(highs)


def _slabs(work: Work) -> Iterator[Box]:
    """Parts of a copy that reach through it along the first axis."""
    return pencils(work.shape, (0,), work.slab_voxels)


def _has_first(box: Box) -> bool:
    return all(part.start == 0 for part in box)


def _spectrum(copy: Image, box: Box) -> Image:
    """Finish the transform: along the first axis, which the box holds whole."""
    spectrum: Image = scipy.fft.dct(copy[box].astype(np.float64), axis=0, overwrite_x=True)
    return spectrum


def _transform_all_but_first(work: Work, copy: Image, mean: float) -> None:
    """Transform an image less its mean in place, plane by plane, or line by line where planes are large."""
    rest = tuple(range(1, copy.ndim))
    if math.prod(copy.shape[1:]) <= work.slab_voxels:
        _transform(work, copy, rest, mean)
        return
    for axis in rest:
        _transform(work, copy, (axis,), mean if axis == rest[0] else 0.0)


def _transform(work: Work, copy: Image, axes: tuple[int, ...], shift: float) -> None:
    """Take `shift` off an image and transform it along some axes, in place."""

    def transform(box: Box) -> None:
        copy[box] = scipy.fft.dctn(copy[box].astype(np.float64) - shift, axes=axes, overwrite_x=True)

    for _ in work.each(transform, pencils(copy.shape, axes, work.slab_voxels)):
        pass
