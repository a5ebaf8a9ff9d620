"""How much of a result is noise, and how much of that could go without harm, by two halves of the data.

A result is brighter and finer than its image, and so is its noise: how often it is larger says little. What
tells is where it lies. With the powers of signal S and noise N of a result at each frequency, the best
linear smoothing takes N / (S + N) of the noise away. Iterations that are stopped well leave noise where
there is structure; those that go on fill frequencies that hold little else.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bigdecon.evaluation.bands import BANDS, LEAST_EXTENT, bands_of, faded_spectrum

__all__ = ["HalfNoise", "noise_of_halves"]

TOGETHER = 2  # bands, so that each holds frequencies enough for signal and noise to be told apart


class HalfNoise(NamedTuple):
    """The noise of a result.

    Attributes
    ----------
    share : part of the result's variance that is noise, 0 to 1; NaN where the box is too small
    removable : part of the noise that the best linear smoothing of the result would take away, 0 to 1 or NaN
    """

    share: float
    removable: float


def noise_of_halves(first: NDArray[Any], second: NDArray[Any]) -> HalfNoise:
    """Measure the noise of a result by those of two halves of the data.

    A half has twice the noise variance of the whole, relative to its light; that is taken into account, as
    if the method were linear in it.

    Parameters
    ----------
    first, second : results of the two doubled halves (`thinning.thin`), (z, y, x) or (y, x)

    Returns
    -------
    HalfNoise
        zeros where both are the same, ones where they have nothing in common; NaN for fewer than 16 pixels
        along y or x, as in `detail_sums`: a band then holds so few frequencies that the signal in it cannot
        be told from chance, which biases `removable` low. That holds a little in small boxes as well.
    """
    if min(np.shape(first)[-2:]) < LEAST_EXTENT:
        return HalfNoise(math.nan, math.nan)
    images = [np.asarray(half, np.float64) for half in (first, second)]
    noise = float(((images[0] - images[1]) ** 2).mean()) / 4
    whole = sum(float(image.var()) for image in images) / 2 - noise
    if noise == 0:
        return HalfNoise(0.0, 0.0)
    if whole <= 0:
        return HalfNoise(1.0, 1.0)
    return HalfNoise(min(1.0, noise / whole), _removable(*images))


def _removable(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    spectra = [faded_spectrum(image) for image in (first, second)]
    axial, lateral = bands_of(first.shape, (1.0,) * first.ndim)
    index = axial // TOGETHER * BANDS + np.minimum(lateral, BANDS - 1) // TOGETHER
    difference = np.abs(spectra[0] - spectra[1]) ** 2 / 2
    power = (np.abs(spectra[0]) ** 2 + np.abs(spectra[1]) ** 2) / 2
    of_halves, total = (np.bincount(index.ravel(), p.ravel()) for p in (difference, power))
    noise, signal = of_halves / 2, np.maximum(total - of_halves, 0)
    there = noise > 0
    return float((noise[there] ** 2 / (signal[there] + noise[there])).sum() / noise[there].sum())
