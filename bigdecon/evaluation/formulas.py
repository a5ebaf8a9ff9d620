"""The formulas of the scores, cut so that they serve whole images and boxes of large ones.

Sums that can be merged, local values that can be averaged, histograms that can be added up. Arrays are
(z, y, x) or (y, x), result and truth of one shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from bigdecon.errors import OptionError, VolumeError

__all__ = [
    "BINS",
    "SAME",
    "AffineFit",
    "Moments",
    "check_data_range",
    "check_finite",
    "check_shapes",
    "constant_coefficient",
    "decibels",
    "extremes",
    "information",
    "joint_histogram",
    "squared_error",
    "ssim_values",
    "ssim_window",
]

Image = NDArray[Any]

SSIM_WINDOW = 7
BINS = 256
# Bins much wider than the rounding of the values can be found by division, others by search.
NARROW_RANGE = 1e-9


@dataclass(frozen=True)
class AffineFit:
    """The line scale * result + offset that comes closest to the truth."""

    scale: float
    offset: float

    def apply(self, result: Image) -> Image:
        """Put a result, of any shape, on the truth's scale; float64."""
        fitted: Image = self.scale * result.astype(np.float64) + self.offset
        return fitted


SAME = AffineFit(1.0, 0.0)
"""The line that changes nothing."""


@dataclass(frozen=True)
class Moments:
    """What one reading of two images, or of a part of them, tells; parts are merged by `+`.

    Sums of products are taken about the means and merged as Chan et al. 1983 do: unlike raw sums of
    squares they keep their digits where the means are large against the spread.

    Attributes
    ----------
    count : number of voxels
    result_mean, truth_mean : means
    spread : sum of (result - result_mean)^2
    joint_spread : sum of (result - result_mean) (truth - truth_mean)
    squared_error : sum of (result - truth)^2
    result_range, truth_range : minimum and maximum
    """

    count: int
    result_mean: float
    truth_mean: float
    spread: float
    joint_spread: float
    squared_error: float
    result_range: tuple[float, float]
    truth_range: tuple[float, float]

    @classmethod
    def of(cls, result: Image, truth: Image) -> Moments:
        """Measure two arrays of one shape, which hold at least one voxel; values are finite."""
        x, y = result.astype(np.float64), truth.astype(np.float64)
        x_mean, y_mean = float(x.mean()), float(y.mean())
        x_range, y_range, error = extremes(x), extremes(y), squared_error(x, y)
        if x_range[0] == x_range[1]:  # a mean of equal values may be off in its last digit
            x_mean = x_range[0]
        x -= x_mean
        y -= y_mean
        y *= x
        joint = float(y.sum())
        x *= x
        return cls(x.size, x_mean, y_mean, float(x.sum()), joint, error, x_range, y_range)

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        x_step, y_step = other.result_mean - self.result_mean, other.truth_mean - self.truth_mean
        share, between = other.count / count, self.count * other.count / count
        return Moments(
            count,
            self.result_mean + x_step * share,
            self.truth_mean + y_step * share,
            self.spread + other.spread + between * x_step * x_step,
            self.joint_spread + other.joint_spread + between * x_step * y_step,
            self.squared_error + other.squared_error,
            _union(self.result_range, other.result_range),
            _union(self.truth_range, other.truth_range),
        )

    @property
    def fit(self) -> AffineFit:
        """The line that brings the result closest to the truth; of scale 0 for a constant result."""
        scale = self.joint_spread / self.spread if self.spread > 0 else 0.0
        return AffineFit(scale, self.truth_mean - scale * self.result_mean)


def check_shapes(result: Sequence[int], truth: Sequence[int]) -> None:
    """Refuse images of different shapes, by `VolumeError`."""
    if tuple(result) != tuple(truth):
        raise VolumeError(
            f"the result has the shape {tuple(result)} and the truth {tuple(truth)}; they must agree."
        )


def check_data_range(data_range: float | None) -> None:
    """Refuse a range that is not above 0, by `OptionError`; None means the truth's."""
    if data_range is not None and not 0 < data_range < math.inf:
        raise OptionError(f"the data range is {data_range:g}; it must be finite and above 0.")


def check_finite(image: Image, name: str, corner: Sequence[int] | None = None) -> None:
    """Refuse NaN and infinity, by `VolumeError`; `corner` is where the image's first voxel lies."""
    finite = np.isfinite(image)
    if not finite.all():
        place = np.argwhere(~finite)[0] + (0 if corner is None else np.asarray(corner))
        raise VolumeError(f"the {name} is not finite at the voxel {tuple(int(i) for i in place)}.")


def ssim_window(shape: Sequence[int]) -> tuple[int, ...]:
    """Give the extent of SSIM's window along every axis, for images of this shape.

    Raises
    ------
    VolumeError
        if an axis has two voxels, or all have one
    """
    thick = tuple(n for n in shape if n > 1)
    smallest = min(thick, default=0)
    if smallest < 3:
        raise VolumeError(f"SSIM needs at least 3 voxels along every axis; the image has the shape {thick}.")
    side = min(SSIM_WINDOW, smallest - 1 + smallest % 2)
    return tuple(side if n > 1 else 1 for n in shape)


def ssim_values(
    result: Image,
    truth: Image,
    window: Sequence[int],
    data_range: float,
    lines: Sequence[AffineFit] = (SAME,),
) -> list[Image]:
    """Structural similarity at all voxels whose window lies within the images.

    Parameters
    ----------
    result, truth : images of one shape
    window : odd extent of the uniform window along every axis
    data_range : the range that the constants 0.01^2 and 0.03^2 refer to
    lines : what to put the result on before; one array of the inner voxels is given for each
    """
    # Variances do not depend on where zero is, and are sharpest near the mean.
    x_mean, y_mean = float(np.mean(result, dtype=np.float64)), float(np.mean(truth, dtype=np.float64))
    x, y = result.astype(np.float64) - x_mean, truth.astype(np.float64) - y_mean
    ux, uy = _local_mean(x, window), _local_mean(y, window)
    unbiased = math.prod(window) / (math.prod(window) - 1)
    vx = unbiased * (_local_mean(x * x, window) - ux * ux)
    vy = unbiased * (_local_mean(y * y, window) - uy * uy)
    vxy = unbiased * (_local_mean(x * y, window) - ux * uy)
    ux += x_mean
    uy += y_mean
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for line in lines:
        u, v, covariance = line.scale * ux + line.offset, line.scale**2 * vx, line.scale * vxy
        values.append(
            (2 * u * uy + c1) * (2 * covariance + c2) / ((u * u + uy * uy + c1) * (v + vy + c2))
        )  # Eq. 13 of Wang et al. 2004
    return values


def joint_histogram(
    result: Image, truth: Image, result_range: tuple[float, float], truth_range: tuple[float, float]
) -> NDArray[np.int64]:
    """Count voxels in 256 x 256 equal bins between the minima and maxima given, rows for the result."""
    rows, columns = _bins(result, *result_range), _bins(truth, *truth_range)
    rows *= BINS
    rows += columns
    return np.bincount(rows, minlength=BINS * BINS).reshape(BINS, BINS).astype(np.int64, copy=False)


def information(counts: NDArray[np.int64]) -> float:
    """Mutual information over joint entropy, from a joint histogram; 0 where all voxels share a bin."""
    joint = _entropy(counts)
    if joint == 0:
        return 0.0
    return (_entropy(counts.sum(axis=0)) + _entropy(counts.sum(axis=1)) - joint) / joint


def constant_coefficient(mean: float, shape: Sequence[int]) -> float:
    """First coefficient of the unnormalised DCT along all axes: that of the image's mean."""
    return mean * float(2 ** len(shape) * math.prod(shape))


def squared_error(result: Image, truth: Image) -> float:
    """Sum of squared differences, in double precision."""
    difference = np.subtract(result, truth, dtype=np.float64)
    difference *= difference
    return float(difference.sum())


def decibels(error: float, data_range: float) -> float:
    """Peak signal-to-noise ratio of a root mean square error; infinite for none."""
    return math.inf if error == 0 else 20 * math.log10(data_range / error)


def extremes(image: Image) -> tuple[float, float]:
    """Minimum and maximum."""
    return float(image.min()), float(image.max())


def _union(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return min(one[0], other[0]), max(one[1], other[1])


def _local_mean(image: Image, window: Sequence[int]) -> Image:
    """Mean in the window around every voxel whose window lies within the image."""
    inner = tuple(slice(side // 2, n - side // 2) for side, n in zip(window, image.shape, strict=True))
    mean: Image = scipy.ndimage.uniform_filter(image, size=tuple(window))[inner]
    return mean


def _bins(image: Image, low: float, high: float) -> NDArray[np.intp]:
    """Bin of every voxel, in one row; a bin holds its lower edge, the last one both of its edges."""
    values = np.ravel(image).astype(np.float64, copy=False)
    if low == high:  # all voxels lie in the middle of one unit
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    if high - low <= NARROW_RANGE * max(abs(low), abs(high), 1e-290):
        found = np.searchsorted(edges, values, side="right") - 1
        return np.minimum(found, BINS - 1)
    index = ((values - low) * (BINS / (high - low))).astype(np.intp)
    np.minimum(index, BINS - 1, out=index)
    # Rounding may have put a value next to an edge on its wrong side.
    index -= values < edges[index]
    index += (values >= edges[index + 1]) & (index < BINS - 1)
    return index


def _entropy(counts: NDArray[np.int64]) -> float:
    """Shannon entropy of a histogram, in nats."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())
