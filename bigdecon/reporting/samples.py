"""Which boxes of a volume a report looks at: all where they are few, else an even sample. Pure geometry.

volume   |======================================================|
boxes    |-- 0 --|-- 1 --|-- 2 --|-- 3 --|-- 4 --|-- 5 --|-- 6 --|     equal parts, no longer than `side`
looked at    x               x               x               x         every n-th, evenly along each axis
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

from bigdecon.deconvolution.tiling import grow
from bigdecon.volume import Box

__all__ = [
    "MOST_BOXES",
    "SIDES",
    "Sample",
    "affordable_sample",
    "boxes_of_place",
    "even_positions",
    "repeated_boxes",
    "report_places",
    "sample_boxes",
]

SIDES = {2: 256, 3: 64}
"""Longest side of a box, in voxels, by the number of axes."""
MOST_SECTIONS = 12
MOST_TIMES = 3
"""Of each channel."""
MOST_BOXES = 48
"""In all sections together."""
MOST_REPEATED = 3
REPEATED_PART = 0.5
"""What is deconvolved again, as a part of the run's voxels, if more than one box is repeated."""


@dataclass(frozen=True)
class Sample:
    """Boxes of a volume, and those of them that are looked at.

    Attributes
    ----------
    cuts : along every axis where boxes begin, and the extent
    chosen : index of each box that is looked at, one number an axis, last axis fastest
    """

    cuts: tuple[tuple[int, ...], ...]
    chosen: tuple[tuple[int, ...], ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """How many boxes there are along every axis."""
        return tuple(len(cuts) - 1 for cuts in self.cuts)

    @property
    def complete(self) -> bool:
        """Whether all boxes are looked at."""
        return len(self.chosen) == math.prod(self.counts)

    def box(self, index: Sequence[int]) -> Box:
        """Give a box by its index, in voxels."""
        return tuple(slice(cuts[i], cuts[i + 1]) for cuts, i in zip(self.cuts, index, strict=True))

    @property
    def boxes(self) -> list[Box]:
        """The boxes that are looked at."""
        return [self.box(index) for index in self.chosen]


def report_places(n_channels: int, n_timepoints: int) -> list[tuple[int, int]]:
    """Choose channels and time points: all channels, as far as a page holds them, and a few times."""
    channels = range(min(n_channels, MOST_SECTIONS))
    times = max(1, min(MOST_TIMES, MOST_SECTIONS // len(channels)))
    chosen = even_positions(n_timepoints, times)
    return [(c, t) for c in channels for t in chosen]


def boxes_of_place(n_places: int) -> int:
    """Say how many boxes of each place are looked at, at most."""
    return max(8, MOST_BOXES // n_places)


def repeated_boxes(shape: Sequence[int], halo: Sequence[int], box: Box) -> int:
    """Say how many boxes are deconvolved again: a report takes a part of the time of its run."""
    grown = math.prod(part.stop - part.start for part in grow(box, halo, shape))
    return max(1, min(MOST_REPEATED, int(REPEATED_PART * math.prod(shape) / (2 * grown))))


def sample_boxes(shape: Sequence[int], limit: int, side: int | Sequence[int] | None = None) -> Sample:
    """Cut a volume into equal boxes and choose some, evenly spread.

    Parameters
    ----------
    shape : extent of the spatial axes, in voxels
    limit : boxes to look at, at most; at least 1
    side : longest side of a box, in voxels, or one for every axis; 64 in 3D and 256 in 2D if None
    """
    longest = side or SIDES[len(shape)]
    sides = [longest] * len(shape) if isinstance(longest, int) else list(longest)
    counts = [-(-n // s) for n, s in zip(shape, sides, strict=True)]
    cuts = tuple((*(i * n // k for i in range(k)), n) for n, k in zip(shape, counts, strict=True))
    kept = list(counts)
    while math.prod(kept) > limit:
        most = max(range(len(kept)), key=lambda axis: kept[axis])
        kept[most] -= 1
    return _spread(cuts, kept)


def _spread(cuts: tuple[tuple[int, ...], ...], kept: Sequence[int]) -> Sample:
    axes = [even_positions(len(edges) - 1, k) for edges, k in zip(cuts, kept, strict=True)]
    return Sample(cuts, tuple(product(*axes)))


def affordable_sample(
    shape: Sequence[int], limit: int, cost: Callable[[Sequence[Box]], int], allowed: int
) -> Sample:
    """Cut a volume into boxes and choose as many as may be read, first fewer of them and then thinner ones.

    Boxes are given up along the axis that saves most: where planes are decoded whole, those of one plane
    cost no more than one of them.

    Parameters
    ----------
    shape : extent of the spatial axes, in voxels
    limit : boxes to look at, at most
    cost : what it takes to read boxes, in bytes
    allowed : bytes

    Returns
    -------
    a sample of no boxes if even a thin one costs too much
    """
    longest = SIDES[len(shape)]
    sample = sample_boxes(shape, limit)
    for first in (longest, longest // 2, longest // 4):
        sample = sample_boxes(shape, limit, [first, *(longest,) * (len(shape) - 1)])
        fewer = _fewer(sample, cost, allowed)
        if cost(fewer.boxes) <= allowed:
            return fewer
    return replace(sample, chosen=())


def _fewer(sample: Sample, cost: Callable[[Sequence[Box]], int], allowed: int) -> Sample:
    kept = [len({index[axis] for index in sample.chosen}) for axis in range(len(sample.cuts))]
    while cost(sample.boxes) > allowed and max(kept) > 1:
        options = []
        for axis, k in enumerate(kept):
            if k > 1:
                changed = [*kept[:axis], k * 3 // 4, *kept[axis + 1 :]]
                tried = _spread(sample.cuts, changed)
                options.append((cost(tried.boxes), -k, changed, tried))
        _, _, kept, sample = min(options, key=lambda option: option[:2])
    return sample


def even_positions(count: int, wanted: int) -> tuple[int, ...]:
    """Choose some of `count` positions, each from the middle of an equal share of them."""
    wanted = min(count, wanted)
    ends = [i * count / wanted for i in range(wanted + 1)]
    return tuple(math.floor((start + stop) / 2) for start, stop in pairwise(ends))
