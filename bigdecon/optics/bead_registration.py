"""Bring images of beads to one place between voxels, and average them.

Every bead is fitted as  s · m(x − d) + c  to the mean m of all: its brightness s, its place d and its
background c together, by least squares (to first order in d, repeated until it is at rest). The mean is
then Σ s² w (b − c) / s / Σ s² w, b the bead moved by −d, with weights w that fall where a bead differs from
the others by more than three standard deviations (Huber, Ann. Math. Statist. 35, 1964, 73).

Arrays are (z, y, x) or (y, x); positions are in voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from bigdecon.optics.psf_corrections import find_centre

__all__ = ["MARGIN", "BeadImage", "Registered", "average", "fourier_shift", "register"]

Array = NDArray[np.float32]
Real = NDArray[np.float64]

MARGIN = 6
"""Voxels around a bead that are read with it, so that what its shift takes from beyond the cut fades."""
TAPER = 4
"""Outermost voxels of the margin, in which an image falls to zero."""
ROUNDS = 6
AT_REST = 0.002
"""Voxels; beads that move less than this have found their place."""
ROBUST_FROM = 4
"""Beads; the spread of fewer is not known."""
HUBER = 3.0
FIT_WITHIN = 1.5
"""Widths (FWHM) on either side of the middle in which beads are compared."""


@dataclass(frozen=True, eq=False)
class BeadImage:
    """One bead, cut out with `MARGIN` voxels around it.

    Attributes
    ----------
    data : the voxels, without the background measured around the bead
    offset : where the bead lies, relative to the middle voxel
    scale : its brightness, relative to the mean of all beads
    noise : standard deviation of its background
    """

    data: Array
    offset: tuple[float, ...]
    noise: float
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Registered:
    """Beads in their place and their mean, which has its peak at 1 and its centre in its middle voxel.

    Attributes
    ----------
    mean : without the margin
    beads : with the places, brightnesses and backgrounds found
    residuals : for every bead, how far it differs from the mean beyond its own noise: the root of the sum
        of squares, over that of the mean
    """

    mean: Array
    beads: list[BeadImage]
    residuals: tuple[float, ...]


def fourier_shift(data: Array, shift: Sequence[float]) -> Array:
    """Move an image by fractions of a voxel: exact for what is sampled finely enough and dark at its border.

    Parameters
    ----------
    data : the image, with a margin that may fade
    shift : voxels towards higher indices, along every axis
    """
    for axis, n in enumerate(data.shape):
        window = np.ones(n, np.float32)
        rise = (0.5 - 0.5 * np.cos(np.pi * (np.arange(TAPER) + 0.5) / TAPER)).astype(np.float32)
        window[:TAPER], window[-TAPER:] = rise, rise[::-1]
        data = data * window.reshape([-1 if a == axis else 1 for a in range(data.ndim)])
    spectrum = scipy.fft.rfftn(data)
    for axis, (n, d) in enumerate(zip(data.shape, shift, strict=True)):
        frequency = scipy.fft.rfftfreq(n) if axis == data.ndim - 1 else scipy.fft.fftfreq(n)
        phase = np.exp(-2j * np.pi * frequency * d).astype(np.complex64)
        spectrum *= phase.reshape([-1 if a == axis else 1 for a in range(data.ndim)])
    return np.asarray(scipy.fft.irfftn(spectrum, data.shape), np.float32)


def register(beads: Sequence[BeadImage], width: Sequence[float]) -> Registered:
    """Find the places and brightnesses of beads, and their mean.

    Parameters
    ----------
    beads : of one shape, each with a first guess of its place
    width : FWHM of a bead's image along every axis
    """
    window = _window(beads[0].data.shape, width)
    peaks = [float(_moved(bead).max()) for bead in beads]
    current = [replace(b, scale=p) for b, p in zip(beads, peaks, strict=True)]
    mean = _centred_mean(current)
    for _ in range(ROUNDS):
        fitted = [_fit(bead, mean, window) for bead in current]
        moved = max(
            float(np.abs(np.subtract(a.offset, b.offset)).max()) for a, b in zip(fitted, current, strict=True)
        )
        current = fitted
        mean = _centred_mean(current)
        # All together may have moved against the middle: that is no concern of the single ones.
        middle = np.subtract(find_centre(mean), [n // 2 for n in mean.shape])
        current = [replace(b, offset=tuple(np.add(b.offset, middle).tolist())) for b in current]
        if moved < AT_REST:
            break
    mean = average(current)
    peak = float(mean.max())
    current = [replace(b, scale=b.scale * peak) for b in current]
    mean = mean / np.float32(peak)
    residuals = tuple(_residual(bead, mean, window) for bead in current)
    return Registered(mean, current, residuals)


def average(beads: Sequence[BeadImage]) -> Array:
    """Average beads in their places: brighter ones count more, and what differs from all others less."""
    stack = np.stack([_moved(bead) / np.float32(bead.scale) for bead in beads])
    weight = np.array([(b.scale / max(b.noise, 1e-6 * b.scale)) ** 2 for b in beads])
    root = np.sqrt(weight / weight.max()).astype(np.float32).reshape(-1, *[1] * (stack.ndim - 1))
    if len(beads) < ROBUST_FROM:
        return np.asarray((root**2 * stack).sum(axis=0) / (root**2).sum(axis=0))
    mean = np.median(stack, axis=0)
    for _ in range(3):
        away = np.abs(stack - mean) * root
        spread = 1.4826 * np.median(away, axis=0)
        limit = HUBER * np.maximum(spread, np.median(spread) + np.float32(1e-7))
        factor = root**2 * np.minimum(1, limit / np.maximum(away, np.float32(1e-30)))
        mean = (factor * stack).sum(axis=0) / factor.sum(axis=0)
    return np.asarray(mean, np.float32)


def _centred_mean(beads: Sequence[BeadImage]) -> Array:
    mean = average(beads)
    return mean / np.float32(mean.max())


def _moved(bead: BeadImage) -> Array:
    """Give the bead in the middle, without the margin."""
    inner = (slice(MARGIN, -MARGIN),) * bead.data.ndim
    return fourier_shift(bead.data, [-o for o in bead.offset])[inner]


def _window(shape: tuple[int, ...], width: Sequence[float]) -> tuple[slice, ...]:
    """Give the box, within a bead without its margin, in which beads are compared."""
    halves = [n // 2 - MARGIN for n in shape]
    reach = [min(h, max(2, round(FIT_WITHIN * w))) for h, w in zip(halves, width, strict=True)]
    return tuple(slice(h - r, h + r + 1) for h, r in zip(halves, reach, strict=True))


def _fit(bead: BeadImage, mean: Array, window: tuple[slice, ...]) -> BeadImage:
    """Fit brightness, shift and background of one bead to the mean, and apply them."""
    moved = _moved(bead)[window].astype(np.float64).ravel()
    slopes = [np.gradient(mean, axis=axis)[window].ravel() for axis in range(mean.ndim)]
    columns = np.stack([mean[window].ravel(), *slopes, np.ones(moved.size)], axis=1)
    solution = np.linalg.lstsq(columns, moved, rcond=None)[0]
    scale = max(float(solution[0]), 1e-3 * bead.scale)
    # b = s m(x − d) ≈ s m − s d·∇m; a step of more than half a voxel is outside of what this holds for.
    step = np.clip(-solution[1:-1] / scale, -0.5, 0.5)
    offset = tuple(float(o + d) for o, d in zip(bead.offset, step, strict=True))
    return replace(bead, data=bead.data - np.float32(solution[-1]), offset=offset, scale=scale)


def _residual(bead: BeadImage, mean: Array, window: tuple[slice, ...]) -> float:
    part = mean[window].astype(np.float64)
    difference = _moved(bead)[window] / bead.scale - part
    noise = (bead.noise / bead.scale) ** 2 * part.size
    return float(np.sqrt(max(float((difference**2).sum()) - noise, 0.0) / float((part**2).sum())))
