"""Two independent images out of one: its noise is divided, not its voxels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from bigdecon.evaluation.noise import NoiseModel

__all__ = ["thin"]

EXACT_BITS = 40  # of the brightest voxel: halves and their sum are then exact in double precision


def thin(
    image: NDArray[Any], noise: NoiseModel, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Divide an image into two halves whose noise is independent: y/2 + n and y/2 - n.

    n is normal with a quarter of the noise's variance, which makes the covariance of the halves zero
    (Gaussian data thinning, Neufeld et al. 2024, "Data thinning for convolution-closed distributions").
    Where the variance depends on brightness, it is taken at the local mean. Each half has half the
    brightness, background included; twice a half is in the image's units, with twice the variance.
    Noise that is correlated between voxels is not divided: the halves would share it.

    Parameters
    ----------
    image : (z, y, x) or (y, x), in data units
    noise : of this image, see `estimate_noise`
    rng : random numbers for n

    Returns
    -------
    two arrays of double precision that add up to the image; exactly, if its values are whole numbers
    """
    values = np.asarray(image, np.float64)
    share = np.sqrt(_local_variance(values, noise)) / 2 * rng.standard_normal(values.shape)
    share = _rounded(share, float(np.abs(values).max(initial=0.0)))
    first = values / 2 + share
    return first, values - first


def _local_variance(values: NDArray[np.float64], noise: NoiseModel) -> NDArray[np.float64]:
    """Variance at the mean of the nearest voxels, weighted 1, 2, 1 along every axis.

    It is a line in the mean, so that noise in the mean does no harm on average, also below the background;
    only a wider mean would, which mixes bright and dark places.
    """
    mean = values
    for axis, n in enumerate(values.shape):
        if n > 1:
            mean = scipy.ndimage.correlate1d(mean, [0.25, 0.5, 0.25], axis=axis, mode="nearest")
    return np.maximum(noise.gain * (mean - noise.background) + noise.variance, noise.variance / 4)


def _rounded(share: NDArray[np.float64], largest: float) -> NDArray[np.float64]:
    """Round to a small power of two, so that nothing is lost in adding up."""
    if largest == 0:
        return share
    step = 2.0 ** (math.frexp(largest)[1] - EXACT_BITS)
    return np.rint(share / step) * step
