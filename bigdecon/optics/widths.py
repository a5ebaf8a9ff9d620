"""Widths of a point spread function, finer than its voxels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from bigdecon.optics.psf_corrections import find_centre

__all__ = ["asymmetries", "fwhm", "line_fwhm", "profile"]

Real = NDArray[np.float64]

STEPS = 24
"""Points of a line to a voxel."""
AROUND = 8
"""Voxels beside a line that its interpolation looks at."""


def fwhm(data: NDArray[np.floating]) -> tuple[float | None, ...]:
    """Measure the full width at half maximum along every axis, in voxels.

    Along lines through the middle of the PSF, between voxels if it lies there; values between voxels are
    those of a quintic spline.

    Parameters
    ----------
    data : a PSF without background

    Returns
    -------
    tuple
        one width an axis; None where the PSF does not fall to half of its maximum within the array
    """
    peak = np.unravel_index(int(np.argmax(data)), data.shape)
    centre = find_centre(data)
    # A hollow PSF has nothing in its middle, and the centre of a comet lies beside its peak.
    at = [c if abs(c - p) <= 1 else float(p) for c, p in zip(centre, peak, strict=True)]
    return tuple(line_fwhm(_line(data, at, axis), STEPS, at[axis]) for axis in range(data.ndim))


def line_fwhm(line: NDArray[np.floating], steps: int, near: float) -> float | None:
    """Measure the width of the peak next to a point of a line, in voxels; None if an end is higher than half.

    Parameters
    ----------
    line : values at 0, 1 / steps, 2 / steps, … voxels
    steps : points to a voxel
    near : the point, in voxels; the peak is the highest value within a voxel and a half
    """
    low, high = (int(np.clip((near + d) * steps, 0, len(line) - 1)) for d in (-1.5, 1.5))
    peak = low + int(np.argmax(line[low : high + 1]))
    over = line / line[peak] - 0.5
    below = np.flatnonzero(over < 0)
    right, left = below[below > peak], below[below < peak]
    if not (len(right) and len(left)):
        return None
    a, b = int(left[-1]), int(right[0])
    ends = b - over[b] / (over[b] - over[b - 1]), a + over[a] / (over[a] - over[a + 1])
    return float(ends[0] - ends[1]) / steps


def _line(data: NDArray[np.floating], at: Sequence[float], axis: int) -> Real:
    """Values along an axis through a point, `STEPS` to a voxel."""
    low = [0 if a == axis else max(0, int(c) - AROUND) for a, c in enumerate(at)]
    part = data[
        tuple(
            slice(None) if a == axis else slice(start, int(at[a]) + AROUND + 2) for a, start in enumerate(low)
        )
    ]
    points = STEPS * (data.shape[axis] - 1) + 1
    places = [np.full(points, c - start) for c, start in zip(at, low, strict=True)]
    places[axis] = np.arange(points) / STEPS
    line = scipy.ndimage.map_coordinates(np.asarray(part, np.float64), places, order=5, mode="mirror")
    return np.asarray(line)


def profile(data: NDArray[np.floating], centre: Sequence[float], reach: Sequence[float], axis: int) -> Real:
    """Sum over the other axes within `reach` voxels of the centre: a line with little noise."""
    box = tuple(
        slice(None) if a == axis else slice(max(0, round(c - r)), round(c + r) + 1)
        for a, (c, r) in enumerate(zip(centre, reach, strict=True))
    )
    others = tuple(a for a in range(data.ndim) if a != axis)
    return np.asarray(data[box].sum(axis=others, dtype=np.float64))


def asymmetries(data: NDArray[np.floating], widths: Sequence[float]) -> tuple[float, ...]:
    """Measure along every axis how much a PSF differs from its mirror image.

    Parameters
    ----------
    data : a PSF of odd extents, centred
    widths : its FWHM along every axis, in voxels; the profile looked at reaches two and a half to either
        side, and sums up what lies within one beside the axis

    Returns
    -------
    tuple
        for every axis Σ |p − mirrored p| / Σ p of the profile p: 0 for a mirror image, near 1 for a tail as
        bright as its head
    """
    middle = [n // 2 for n in data.shape]
    result = []
    for axis, n in enumerate(data.shape):
        line = profile(data, middle, widths, axis)
        half = min(n // 2, max(1, round(2.5 * widths[axis])))
        line = line[n // 2 - half : n // 2 + half + 1]
        result.append(float(np.abs(line - line[::-1]).sum() / np.abs(line).sum()))
    return tuple(result)
