"""Cut single beads out of an image and judge each by itself: its background, noise, place and shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from bigdecon.errors import PSFError
from bigdecon.optics.bead_finding import Candidate, read_around
from bigdecon.optics.bead_registration import MARGIN, BeadImage
from bigdecon.optics.psf_corrections import find_centre, smoothed
from bigdecon.optics.trimmed_mean import trimmed_mean
from bigdecon.optics.widths import line_fwhm, profile
from bigdecon.volume import Stack

__all__ = [
    "BeadShape",
    "cut_out",
    "is_dim",
    "is_saturated",
    "odd_shapes",
    "odd_values",
    "shape_of",
    "typical_width",
]

Sizes = tuple[float, ...]

FLAT_TOP = 3
"""Voxels that share the image's highest value: a detector at its limit."""
DIM = 8.0
"""A bead's peak over the noise of its background, below which its shape is not known."""
WIDTH_WITHIN = 0.12
"""Part by which a bead's width may differ from the others' however alike these are: two beads at half of a
width from each other look wider by 16 %."""
BRIGHT = 0.2
"""Part of the brightest bead's height, above which a maximum is no ring around another."""
BRIGHTEST = 40
LARGEST_FIRST_LOOK = 24
"""Voxels to either side of the brightest beads in which their width is first measured."""


class BeadShape(NamedTuple):
    """Widths (FWHM) of a bead's profiles along every axis, in voxels; the extent where it is wider."""

    widths: Sizes


def typical_width(stack: Stack, found: Sequence[Candidate], highest: float) -> Sizes:
    """Measure how wide the image of a bead is, as the median of the brightest that are not saturated.

    Raises
    ------
    PSFError
        if nothing in the image looks like a bead
    """
    half = [min(LARGEST_FIRST_LOOK, (n - 1) // 2) for n in stack.shape]
    widths = []
    least = 0.0
    for candidate in found:
        if candidate.height < least:  # may be a ring around another
            break
        raw = read_around(stack, candidate.place, half, 0)
        if is_saturated(raw, highest) and len(found) > 1:
            continue
        least = max(least, BRIGHT * candidate.height)
        data = raw - np.float32(np.median(raw))
        lines = [_line(data, half, axis) for axis in range(data.ndim)]
        width = [line_fwhm(line, 1, h) for line, h in zip(lines, half, strict=True)]
        if all(w is not None for w in width):
            widths.append([float(w or 0) for w in width])
        if len(widths) == BRIGHTEST:
            break
    if not widths:
        raise PSFError(
            "no bead was found that falls to half of its brightness within the image along every axis; "
            "beads must be smaller than the image, and not saturated."
        )
    return tuple(float(max(1.0, w)) for w in np.median(widths, axis=0))


def _line(data: NDArray[np.float32], half: Sequence[int], axis: int) -> NDArray[np.float32]:
    """Voxels through the bead along one axis, three by three averaged beside it."""
    middle = tuple(slice(None) if a == axis else slice(max(0, h - 1), h + 2) for a, h in enumerate(half))
    line = data[middle].mean(axis=tuple(a for a in range(data.ndim) if a != axis))
    return np.asarray(line, np.float32)


def is_saturated(data: NDArray[Any], highest: float) -> bool:
    """Whether the middle of a bead has reached a limit: that of its type, or a highest value that repeats."""
    core = data[tuple(slice(n // 4, n - n // 4) for n in data.shape)]
    top = float(core.max())
    if core.dtype.kind in "ui" and top >= np.iinfo(core.dtype).max:
        return True
    # Without noise, a bead right between voxels has 2 equal ones along every axis.
    equal = FLAT_TOP if core.dtype.kind in "ui" else 2**core.ndim + 1
    return top >= highest and int(np.count_nonzero(core == core.max())) >= equal


def cut_out(
    stack: Stack, place: tuple[int, ...], half: tuple[int, ...], width: Sizes
) -> tuple[tuple[int, ...], BeadImage]:
    """Cut out a bead around the voxel nearest to its centre, without its local background."""
    for _ in range(2):
        data = read_around(stack, place, half, MARGIN).astype(np.float32)
        level, noise = _background(data, width)
        data -= np.float32(level)
        offset = _offset(data, width)
        whole = [round(o) for o in offset]
        if not any(whole):
            break
        place = tuple(
            int(np.clip(p + w, h, n - 1 - h))
            for p, w, h, n in zip(place, whole, half, stack.shape, strict=True)
        )
    return place, BeadImage(data, offset, noise)


def _background(data: NDArray[np.float32], width: Sizes) -> tuple[float, float]:
    """Give level and noise around a bead: at the sides, near the focal plane, where its light is faint."""
    focal = data
    if data.ndim == 3:
        reach = max(1, round(width[0]))
        middle = data.shape[0] // 2
        focal = data[middle - reach : middle + reach + 1]
    y, x = (np.abs(np.arange(n) - n // 2) for n in data.shape[-2:])
    outside = [n // 2 - MARGIN for n in data.shape[-2:]]
    ring = focal[..., (y[:, None] >= outside[0]) | (x >= outside[1])].ravel().astype(np.float64)
    level = trimmed_mean(ring, 0.25)
    noise = 1.4826 * float(np.median(np.abs(ring - level)))
    # Grey values are whole numbers, and a step of one hides a smaller noise.
    return level, max(noise, trimmed_mean(np.abs(ring - level), 0.1))


def _offset(data: NDArray[np.float32], width: Sizes) -> Sizes:
    """Give the bead's centre relative to the middle voxel, looking no further than its own light."""
    box = []
    for n, w in zip(data.shape, width, strict=True):
        reach = min(n // 2, max(2, round(2 * w)))
        box.append(slice(n // 2 - reach, n // 2 + reach + 1))
    part = data[tuple(box)]
    return tuple(float(c - n // 2) for c, n in zip(find_centre(part), part.shape, strict=True))


def is_dim(image: BeadImage, width: Sizes) -> bool:
    """Whether a bead's peak, smoothed lightly, is too near to its noise, or not in its middle."""
    peak = float(smoothed(image.data).max())
    return peak < DIM * image.noise or any(
        abs(o) > max(2, w) for o, w in zip(image.offset, width, strict=True)
    )


def shape_of(image: BeadImage, width: Sizes) -> BeadShape:
    """Measure a bead's widths on profiles that sum up what lies within half of a width beside the axis."""
    centre = [n // 2 + o for n, o in zip(image.data.shape, image.offset, strict=True)]
    beside = [max(1.0, 0.5 * w) for w in width]
    widths = []
    for axis, n in enumerate(image.data.shape):
        line = profile(image.data, centre, beside, axis)
        fine = scipy.ndimage.zoom(line, (8 * (n - 1) + 1) / n, order=3, mode="nearest")
        measured = line_fwhm(fine, 8, centre[axis])
        widths.append(float(n) if measured is None else measured)
    return BeadShape(tuple(widths))


def odd_shapes(shapes: Sequence[BeadShape], brightness: Sequence[float]) -> list[bool]:
    """Tell which beads are much wider or narrower than most: two in one, dirt, or a hot pixel."""
    widths = np.log([shape.widths for shape in shapes])
    away = widths - np.median(widths, axis=0)
    odd = [odd_values(line, brightness, WIDTH_WITHIN) for line in np.abs(away).T]
    return list(np.any(odd, axis=0))


def odd_values(
    away: Sequence[float] | NDArray[np.float64], brightness: Sequence[float], allowed: float
) -> NDArray[np.bool_]:
    """Tell which deviations are larger than allowed, and larger than the noise of most beads explains.

    The noise of light falls with the root of a bead's brightness, so that dim ones may deviate more.
    """
    deviation = np.asarray(away, np.float64)
    scaled = deviation * np.sqrt(np.asarray(brightness, np.float64))
    middle = float(np.median(scaled))
    spread = 1.4826 * float(np.median(np.abs(scaled - middle)))
    return np.asarray((deviation > allowed) & (scaled > middle + 5 * spread))
