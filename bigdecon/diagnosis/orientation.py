"""Which axis of a PSF is the optical axis: the one that it is turned around without a change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

__all__ = ["optical_axis"]

UNLIKE = 0.2
"""Of the energy; a PSF that differs less from its own quarter turn in the plane is taken for in order."""
MUCH_LIKER = 0.5
REACH = 24
"""Voxels on either side of the centre that are looked at."""


def optical_axis(psf_array: NDArray[Any], voxel_size_um: Sequence[float] | None = None) -> int:
    """Find the axis around which a PSF is alike: 0, z, unless another one is plainly it.

    A microscope's PSF stays nearly the same if y and x are exchanged. One that does not, but does so if z is
    exchanged with one of them, has its axes in another order. The extents of voxels count as they are
    given, and as equal, since sizes may stand in the right order where the axes do not.

    Parameters
    ----------
    psf_array : (z, y, x), as it should be
    voxel_size_um : along these axes

    Returns
    -------
    int
        0, 1 or 2
    """
    core = _core(np.asarray(psf_array, np.float64))
    steps = np.asarray(voxel_size_um or (1.0,) * 3)
    versions = [core]
    if steps.max() > 1.02 * steps.min():
        even = scipy.ndimage.zoom(core, np.clip(steps / steps.min(), 1, 5), order=1, grid_mode=False)
        versions = [_core(even), core]
    found = [_axis(version) for version in versions]
    # Voxels that are not square make a PSF in order look as if it were not: both must say so then.
    square = abs(np.log(steps[1] / steps[2])) < 0.02
    return next((axis for axis in found if axis), 0) if square or all(found) else 0


def _axis(array: NDArray[np.float64]) -> int:
    in_order = _unlikeness(array, 1, 2)
    if in_order < UNLIKE:
        return 0
    around = {1: _unlikeness(array, 0, 2), 2: _unlikeness(array, 0, 1)}
    axis = min(around, key=around.__getitem__)
    return axis if around[axis] < MUCH_LIKER * in_order else 0


def _unlikeness(array: NDArray[np.float64], a: int, b: int) -> float:
    """Part of the energy that changes its place if two axes are exchanged."""
    half = min(array.shape[a] // 2, array.shape[b] // 2)
    box = tuple(
        slice(n // 2 - half, n // 2 + half + 1) if axis in (a, b) else slice(None)
        for axis, n in enumerate(array.shape)
    )
    part = array[box]
    return float(np.abs(part - part.swapaxes(a, b)).sum() / np.abs(part).sum())


def _core(array: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cut to odd extents around the peak, the same number of voxels to either side."""
    peak = np.unravel_index(int(np.argmax(array)), array.shape)
    halves = [min(REACH, int(p), n - 1 - int(p)) for p, n in zip(peak, array.shape, strict=True)]
    return array[tuple(slice(int(p) - h, int(p) + h + 1) for p, h in zip(peak, halves, strict=True))]
