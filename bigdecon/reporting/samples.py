"""Which boxes of a volume a report looks at: all where they are few, else an even sample. Pure geometry.

volume   |======================================================|
boxes    |-- 0 --|-- 1 --|-- 2 --|-- 3 --|-- 4 --|-- 5 --|-- 6 --|     equal parts, no longer than `side`
looked at    x               x               x               x         every n-th, evenly along each axis
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

from bigdecon.volume import Box

__all__ = ["SIDES", "Sample", "even_positions", "sample_boxes"]

SIDES = {2: 256, 3: 64}
"""Longest side of a box, in voxels, by the number of axes."""


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


def sample_boxes(shape: Sequence[int], limit: int, side: int | None = None) -> Sample:
    """Cut a volume into equal boxes and choose some, evenly spread.

    Parameters
    ----------
    shape : extent of the spatial axes, in voxels
    limit : boxes to look at, at most; at least 1
    side : longest side of a box, in voxels; 64 in 3D and 256 in 2D if None
    """
    longest = side or SIDES[len(shape)]
    counts = [-(-n // longest) for n in shape]
    cuts = tuple((*(i * n // k for i in range(k)), n) for n, k in zip(shape, counts, strict=True))
    kept = list(counts)
    while math.prod(kept) > limit:
        most = max(range(len(kept)), key=lambda axis: kept[axis])
        kept[most] -= 1
    axes = [even_positions(n, k) for n, k in zip(counts, kept, strict=True)]
    return Sample(cuts, tuple(product(*axes)))


def even_positions(count: int, wanted: int) -> tuple[int, ...]:
    """Choose some of `count` positions, each from the middle of an equal share of them."""
    wanted = min(count, wanted)
    ends = [i * count / wanted for i in range(wanted + 1)]
    return tuple(math.floor((start + stop) / 2) for start, stop in pairwise(ends))
