"""The noise of one image, measured without a second one: its variance over brightness, and its whiteness.

Structure is kept out by differences: a microscope passes no detail at the corners of the spectrum, where the
second difference along all axes at once has its gain. What is left of structure there is kept out by medians.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from bigdecon.errors import OptionError

__all__ = ["NoiseModel", "estimate_noise", "high_pass", "noise_correlation"]

Image = NDArray[Any]
Floats = NDArray[np.float64]

SECOND_DIFFERENCE = (1.0, -2.0, 1.0)
FOURTH_DIFFERENCE = (1.0, -4.0, 6.0, -4.0, 1.0)
LEAST_EXTENT = 5  # shorter axes are not differenced
NORMAL_MEDIAN = 0.6744897501960817  # median of |x| where x is normal with standard deviation 1
LEAST_IN_BIN = 60
ROUNDING_VARIANCE = 1 / 12  # of values rounded to whole numbers

# Bright places are few: the bins are narrower there, by shares of the voxels.
BIN_EDGES = (*np.linspace(0, 0.9, 16), *(1 - 0.1 * 0.5 ** np.arange(1, 8)), 1.0)


@dataclass(frozen=True)
class NoiseModel:
    """Variance of a camera's noise over brightness: gain * (mean - background) + variance.

    Attributes
    ----------
    gain : variance per brightness, in data units (for one photon electron: the units it counts)
    variance : at the background and below, in squared data units; above 0
    background : the camera's offset, in data units
    """

    gain: float
    variance: float
    background: float = 0.0

    def variance_at(self, mean: Image | float) -> Floats:
        """Give the variance where the noise-free image has these values."""
        signal = np.maximum(np.asarray(mean, np.float64) - self.background, 0.0)
        return np.asarray(self.gain * signal + self.variance)

    def deviation_at(self, mean: Image | float) -> Floats:
        """Give the standard deviation where the noise-free image has these values."""
        return np.sqrt(self.variance_at(mean))


def high_pass(image: Image, axes: Sequence[int], kernel: Sequence[float] = SECOND_DIFFERENCE) -> Floats:
    """Take differences along some axes, scaled so that white noise keeps its variance.

    Parameters
    ----------
    image : of any shape
    axes : to take them along; these axes become shorter by the kernel's length less one
    kernel : symmetric, of odd length, summing to 0
    """
    reach = len(kernel) // 2
    scaled = np.asarray(kernel) / math.sqrt(sum(k * k for k in kernel))
    result = np.asarray(image, np.float64)
    for axis in axes:
        result = scipy.ndimage.correlate1d(result, scaled, axis=axis)
        result = result[_inside(result.ndim, [axis], reach)]
    return result


def estimate_noise(image: Image, background: float = 0.0) -> NoiseModel:
    """Estimate the noise of an image by photon transfer: the variance of differences over the local mean.

    Differences are second ones along all axes of at least 5 voxels (Immerkær 1996 for 2D); their variance
    is taken by the median in bins of brightness, and a line is fitted that follows the lower ones where
    some stick out. Voxels of clipped or constant surroundings are left out.
    Noise that is correlated between voxels is underestimated, see `noise_correlation`.

    Parameters
    ----------
    image : (z, y, x) or (y, x), in data units
    background : the camera's offset, in data units

    Returns
    -------
    NoiseModel
        its variance at the background is at least that of rounding, for images of whole numbers

    Raises
    ------
    OptionError
        if every axis is shorter than 5 voxels
    """
    axes = [axis for axis, n in enumerate(image.shape) if n >= LEAST_EXTENT]
    if not axes:
        raise OptionError(
            f"the noise of {image.shape} voxels cannot be told; an axis needs at least {LEAST_EXTENT}."
        )
    floor = _least_variance(image)
    means, differences = _photon_transfer(image, axes)
    if differences.size < LEAST_IN_BIN:
        return NoiseModel(0.0, floor, background)
    levels, variances, counts = _binned(means, differences)
    gain, variance = _line_below(np.maximum(levels - background, 0), variances, counts)
    return NoiseModel(gain, max(variance, floor), background)


def noise_correlation(image: Image) -> tuple[float, ...]:
    """Correlation of the noise of neighbouring voxels, along every axis: 0 for a camera's raw data.

    Structure is suppressed by differences along the other axes, which leave white noise white along this
    one; then the quietest quarter of the voxels counts, by the signs of their values (quadrant correlation),
    which neither brightness nor outliers disturb. Interpolated (deskewed, rotated), smoothed and compressed
    images have values of 0.2 and more.

    Parameters
    ----------
    image : (z, y, x) or (y, x)

    Returns
    -------
    tuple
        one value from -1 to 1 for every axis; NaN where the image is too small, or has no noise
    """
    return tuple(_correlation_along(image, axis) for axis in range(image.ndim))


# --- photon transfer -----------------------------------------------------------------------------


def _photon_transfer(image: Image, axes: Sequence[int]) -> tuple[Floats, Floats]:
    """Give local means and differences that are independent of them: sum(1, -2, 1) is 0."""
    size = [3 if axis in axes else 1 for axis in range(image.ndim)]
    core = _inside(image.ndim, axes, 1)
    high = scipy.ndimage.maximum_filter(image, size)[core]
    low = scipy.ndimage.minimum_filter(image, size)[core]
    usable = high > low
    top = image.max()
    if np.count_nonzero(image == top) >= 3:
        usable &= high < top
    means = scipy.ndimage.uniform_filter(np.asarray(image, np.float64), size)[core]
    return means[usable], high_pass(image, axes)[usable]


def _binned(means: Floats, differences: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean level, variance and number of voxels of every bin of brightness."""
    order = np.argsort(means, kind="stable")
    edges = np.unique(np.rint(np.asarray(BIN_EDGES) * len(order)).astype(int))
    parts = [part for part in np.split(order, edges[1:-1]) if len(part) >= LEAST_IN_BIN]
    parts = parts or [order]
    levels = [means[part].mean() for part in parts]
    variances = [(np.median(np.abs(differences[part])) / NORMAL_MEDIAN) ** 2 for part in parts]
    return np.array(levels), np.array(variances), np.array([float(len(part)) for part in parts])


def _line_below(signal: Floats, variances: Floats, counts: Floats) -> tuple[float, float]:
    """Fit variance = gain * signal + constant, neither negative; what sticks out above counts for little."""
    from scipy.optimize import nnls  # takes 0.1 s, which every worker would wait for

    positive = variances[variances > 0]
    if positive.size == 0:
        return 0.0, 0.0
    columns = np.stack([signal, np.ones_like(signal)], axis=1)
    scale = np.maximum(columns.max(axis=0), np.finfo(float).tiny)
    fitted = np.full_like(variances, np.median(positive))
    least = 1e-3 * float(np.median(positive))
    line = np.zeros(2)
    for _ in range(12):
        weights = np.sqrt(counts) / np.maximum(fitted, least)
        weights *= np.minimum(1, 1.3 * fitted / np.maximum(variances, least)) ** 2
        line = nnls(columns / scale * weights[:, None], variances * weights)[0] / scale
        fitted = np.maximum(columns @ line, least)
    return float(line[0]), float(line[1])


def _least_variance(image: Image) -> float:
    if np.issubdtype(image.dtype, np.integer):
        return ROUNDING_VARIANCE
    spread = float(image.max()) - float(image.min())
    return max((1e-6 * spread) ** 2, float(np.finfo(np.float64).tiny))


# --- correlation ---------------------------------------------------------------------------------


def _correlation_along(image: Image, axis: int) -> float:
    others = [a for a, n in enumerate(image.shape) if a != axis and n >= LEAST_EXTENT]
    if not others or image.shape[axis] < 2:
        return math.nan
    kernel = FOURTH_DIFFERENCE if len(others) == 1 else SECOND_DIFFERENCE
    signs, quiet = _signs_and_quiet(high_pass(image, others, kernel))
    length = signs.shape[axis]
    first, second = (np.take(signs, range(*span), axis) for span in ((0, length - 1), (1, length)))
    chosen = np.take(quiet, range(length - 1), axis) & (first != 0) & (second != 0)
    if np.count_nonzero(chosen) < LEAST_IN_BIN:
        return math.nan
    a, b = first[chosen].astype(np.float64), second[chosen].astype(np.float64)
    agreement = float((a * b).mean() - a.mean() * b.mean())
    return math.sin(math.pi / 2 * min(1.0, max(-1.0, agreement)))


def _signs_and_quiet(noise: Floats) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """Signs, and the quarter of the voxels around which squares are least; signs know nothing of squares."""
    power = scipy.ndimage.uniform_filter(noise**2, 7)
    signs = np.sign(noise).astype(np.int8)
    alive = power[signs != 0]
    limit = np.percentile(alive, 25) if alive.size else 0.0
    return signs, power <= limit


def _inside(ndim: int, axes: Sequence[int], reach: int) -> tuple[slice, ...]:
    return tuple(slice(reach, -reach) if axis in axes and reach else slice(None) for axis in range(ndim))
