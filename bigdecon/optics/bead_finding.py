"""Find beads in an image of any size: piece by piece, and which of them stand alone.

Positions and lengths are in voxels, along (z, y, x) or (y, x).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage
import scipy.spatial
from numpy.typing import NDArray

from bigdecon.errors import VolumeError
from bigdecon.volume import Box, Stack

__all__ = ["Candidate", "Candidates", "Standing", "find_candidates", "judge_places", "read_around"]

BOX_VOXELS = 2**23
"""Voxels read at a time; the filters hold about six copies of them as float32."""
MAX_CANDIDATES = 5000
"""The brightest are kept; more beads than that cannot stand alone, or are not needed."""
NOISE = 6.0
"""Standard deviations of the filtered image above which a maximum is looked at."""
LOBE = 0.15
"""A maximum this much dimmer than a neighbour is a part of its light, such as a ring."""
FAR_LOBE = 0.02
"""The same for one up to three times as far away, where a bright bead's cone of light has its rim."""
AXIAL_LOBE = 0.6
"""The same for one right above or below, where spherical aberration puts its light."""


class Candidate(NamedTuple):
    """A local maximum: its voxel, and how far the filtered image rises there."""

    place: tuple[int, ...]
    height: float


class Candidates(NamedTuple):
    """All maxima found, brightest first, and the highest value of the image."""

    found: list[Candidate]
    highest: float


class Standing(NamedTuple):
    """How the maxima stand to each other and to the border; lists of maxima, brightest first."""

    alone: list[Candidate]
    crowded: list[Candidate]
    cut: list[Candidate]


def find_candidates(stack: Stack, sigma: Sequence[float]) -> Candidates:
    """Find local maxima above the noise, reading the image piece by piece.

    The image is filtered by the difference of two Gaussians, which takes out noise between voxels and
    background that changes slowly; its noise is the median absolute deviation in every piece.

    Parameters
    ----------
    stack : the image; a few pieces of `BOX_VOXELS` are in memory at a time
    sigma : standard deviation of a bead's image along every axis

    Raises
    ------
    VolumeError
        if a voxel is NaN or infinite
    """
    found: list[Candidate] = []
    highest = -np.inf
    halo = [int(np.ceil(9 * s)) + 2 for s in sigma]
    for core in _boxes(stack.shape, stack.chunks):
        box = tuple(
            slice(max(0, c.start - h), min(n, c.stop + h))
            for c, h, n in zip(core, halo, stack.shape, strict=True)
        )
        data = np.asarray(stack[box], np.float32)
        if not np.isfinite(data).all():
            raise VolumeError(
                "the image holds NaN or infinity; replace such voxels before looking for beads."
            )
        highest = max(highest, float(data.max()))
        found += _maxima(data, sigma, box, core)
        found = sorted(found, key=lambda c: (-c.height, c.place))[:MAX_CANDIDATES]
    return Candidates(found, highest)


def _boxes(shape: tuple[int, ...], chunks: tuple[int, ...]) -> Iterator[Box]:
    """Cut the image into boxes of whole chunks, as cubic as they allow."""
    side = max(1, round(BOX_VOXELS ** (1 / len(shape))))
    steps = [min(n, max(c, side // c * c)) for n, c in zip(shape, chunks, strict=True)]
    while np.prod(steps, dtype=float) > 4 * BOX_VOXELS:  # chunks of whole planes, or one chunk for all
        steps[int(np.argmax(steps))] //= 2
    starts = (range(0, n, step) for n, step in zip(shape, steps, strict=True))
    for corner in itertools.product(*starts):
        yield tuple(slice(a, min(a + s, n)) for a, s, n in zip(corner, steps, shape, strict=True))


def _maxima(data: NDArray[np.float32], sigma: Sequence[float], box: Box, core: Box) -> list[Candidate]:
    """Find the maxima of one piece that lie in its core."""
    filtered = scipy.ndimage.gaussian_filter(data, sigma, truncate=3)
    filtered -= scipy.ndimage.gaussian_filter(data, [3 * s for s in sigma], truncate=3)
    level = float(np.median(filtered))
    noise = 1.4826 * float(np.median(np.abs(filtered - level)))
    limit = level + max(NOISE * noise, 0.01 * (float(filtered.max()) - level))
    size = [2 * max(1, int(np.ceil(s))) + 1 for s in sigma]
    is_peak = (filtered > limit) & (scipy.ndimage.maximum_filter(filtered, size) == filtered)
    places = np.argwhere(is_peak) + [b.start for b in box]
    inside = np.all((places >= [c.start for c in core]) & (places < [c.stop for c in core]), axis=1)
    heights = filtered[is_peak] - level
    return [
        Candidate(tuple(int(i) for i in place), float(height))
        for place, height in zip(places[inside], heights[inside], strict=True)
    ]


def judge_places(
    found: Sequence[Candidate], shape: Sequence[int], half: Sequence[int], width: Sequence[float]
) -> Standing:
    """Sort maxima into beads that stand alone, those too near to others, and those cut by the border.

    Parameters
    ----------
    found : maxima, brightest first
    shape : of the image
    half : voxels on either side of a bead that must be its own
    width : FWHM of a bead's image; maxima nearer than that are one bead

    Returns
    -------
    Standing
        maxima that are part of a brighter bead's light are in none of the lists
    """
    if not found:
        return Standing([], [], [])
    places = np.array([c.place for c in found], float)
    heights = np.array([c.height for c in found])
    reach = np.array(half) + np.array(width)
    pairs = scipy.spatial.cKDTree(places / reach).query_pairs(1.0, p=np.inf, output_type="ndarray")
    part, crowded = np.zeros(len(found), bool), np.zeros(len(found), bool)
    far = scipy.spatial.cKDTree(places / reach).query_pairs(3.0, p=np.inf, output_type="ndarray")
    bright_of, dim_of = far.min(axis=1), far.max(axis=1)
    part[dim_of[heights[dim_of] < FAR_LOBE * heights[bright_of]]] = True
    for bright, dim in sorted((min(p), max(p)) for p in pairs.tolist()):
        if part[bright] or part[dim]:
            continue
        away = np.abs(places[bright] - places[dim]) / width
        ratio, beside = heights[dim] / heights[bright], float(away[-2:].max())
        if away.max() < 1 or ratio < LOBE or (beside < 1 and ratio < AXIAL_LOBE):
            part[dim] = True
        else:
            crowded[[bright, dim]] = True
    fits = np.all((places >= half) & (places < np.subtract(shape, half)), axis=1)

    def choose(mask: NDArray[np.bool_]) -> list[Candidate]:
        return [c for c, yes in zip(found, mask, strict=True) if yes]

    return Standing(
        choose(~part & ~crowded & fits), choose(~part & crowded), choose(~part & ~crowded & ~fits)
    )


def read_around(stack: Stack, place: Sequence[int], half: Sequence[int], margin: int) -> NDArray[Any]:
    """Read a bead and a margin around it; beyond the image's border its edge is repeated.

    Returns
    -------
    array
        extents 2 (half + margin) + 1, the bead's voxel in the middle
    """
    box, pads = [], []
    for p, h, n in zip(place, half, stack.shape, strict=True):
        start, stop = p - h - margin, p + h + margin + 1
        box.append(slice(max(0, start), min(n, stop)))
        pads.append((max(0, -start), max(0, stop - n)))
    return np.pad(stack[tuple(box)], pads, mode="edge")
