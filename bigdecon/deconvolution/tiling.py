"""Pure geometry: how a volume is cut into blocks and regions, and a block into tiles.

                 volume, one axis
    |<------------------- extent -------------------->|
    |  core   |  core   |  core   |  core   |  core   |     blocks: what each one writes
    |       |h|  core   |h|                           |     a block as read: core and halo, clipped at
    |  core   |h|                                     |     the volume's edge, where nothing is padded
    |            shard            |       shard       |     shard: what one write replaces
    |           region            |       region      |     region: whole shards and whole blocks

                 block as read, one axis
    |<-------------- core and halo -------------->|
    |          tile         |m|                   |         m, the margin: weighs nothing at a cut face,
    |                 |m|          tile           |         for what lies beyond it was not seen there
     -------------------. .----------------------         normalised weights: they sum to 1 everywhere
                         X

All lengths are in voxels. A `Box` has one slice with explicit bounds for every spatial axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bigdecon.errors import OptionError
from bigdecon.volume import Box

__all__ = [
    "BlockGrid",
    "CutFaces",
    "Tile",
    "block_cuts",
    "bundle_grid",
    "grow",
    "hull",
    "overlap",
    "pyramid_weights",
    "region_boxes",
    "tile_boxes",
    "tile_starts",
    "trim",
]

CutFaces = tuple[tuple[bool, bool], ...]
"""For every axis, whether the low and the high face of a tile lie inside the block."""


def block_cuts(extent: int, block: int, halo: int) -> tuple[int, ...]:
    """Cut one axis into cores: 0, block, 2 block, ..., extent.

    A last core smaller than the halo joins the one before it: a block reaches for its halo into its
    neighbour and no further. Even so it is read no larger than an inner block, having no halo at its end.
    The cuts depend on these three numbers alone, never on the part of the volume that is computed.

    Raises
    ------
    OptionError
        if the block is smaller than the halo and does not hold the whole axis
    """
    if extent < 1 or block < 1 or halo < 0:
        raise OptionError(
            f"blocks of {block} voxels with a halo of {halo} cannot cover {extent} voxels; "
            "extent and block are at least 1, a halo at least 0."
        )
    if extent > block < halo:
        raise OptionError(
            f"a block of {block} voxels is smaller than its halo of {halo}; "
            f"take blocks of at least {halo} voxels."
        )
    cuts = [*range(0, extent, block), extent]
    if len(cuts) > 2 and cuts[-1] - cuts[-2] < halo:
        del cuts[-2]
    return tuple(cuts)


def grow(core: Box, halo: Sequence[int], shape: Sequence[int]) -> Box:
    """Add the halo on every side of a box, as far as the volume of this shape reaches."""
    return tuple(
        slice(max(0, part.start - h), min(n, part.stop + h))
        for part, h, n in zip(core, halo, shape, strict=True)
    )


def overlap(one: Box, other: Box) -> Box | None:
    """Give what two boxes have in common; None if that is nothing."""
    common = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
    return common if all(part.start < part.stop for part in common) else None


def hull(boxes: Sequence[Box]) -> Box:
    """Give the smallest box that holds all of some boxes."""
    axes = zip(*boxes, strict=True)
    return tuple(slice(min(p.start for p in axis), max(p.stop for p in axis)) for axis in axes)


def trim(core: Box, grown: Box) -> Box:
    """Say where the core lies within its grown box: the slices that cut the halo off."""
    return tuple(
        slice(inner.start - outer.start, inner.stop - outer.start)
        for inner, outer in zip(core, grown, strict=True)
    )


@dataclass(frozen=True)
class BlockGrid:
    """All blocks of a volume; iterating gives their cores, last axis fastest.

    Attributes
    ----------
    shape : extent of the volume along its spatial axes
    cuts : for every axis, where cores start, and the extent
    halo : for every axis, the voxels read on each side of a core
    """

    shape: tuple[int, ...]
    cuts: tuple[tuple[int, ...], ...]
    halo: tuple[int, ...]

    @classmethod
    def plan(cls, shape: Sequence[int], block: int | Sequence[int], halo: int | Sequence[int]) -> BlockGrid:
        """Cut a volume into blocks; one number for `block` or `halo` serves every axis.

        Raises
        ------
        OptionError
            if a block is smaller than its halo
        """
        blocks = (block,) * len(shape) if isinstance(block, int) else tuple(block)
        halos = (halo,) * len(shape) if isinstance(halo, int) else tuple(halo)
        cuts = tuple(block_cuts(n, b, h) for n, b, h in zip(shape, blocks, halos, strict=True))
        return cls(tuple(shape), cuts, halos)

    def __len__(self) -> int:
        """Count the blocks."""
        return math.prod(len(cuts) - 1 for cuts in self.cuts)

    def __iter__(self) -> Iterator[Box]:
        """Give the cores, last axis fastest."""
        yield from _boxes_between(self.cuts)

    def grow(self, core: Box) -> Box:
        """Add the halo to a core, as far as the volume reaches."""
        return grow(core, self.halo, self.shape)

    def blocks_within(self, box: Box) -> list[Box]:
        """Give the cores of the blocks that make up a box, last axis fastest.

        Raises
        ------
        ValueError
            if the box is no union of blocks
        """
        return list(_boxes_between(self.cuts_within(box)))

    def cuts_within(self, box: Box) -> tuple[tuple[int, ...], ...]:
        """Give the cuts of the blocks that make up a box, its two faces included.

        Raises
        ------
        ValueError
            if the box is no union of blocks
        """
        for part, cuts in zip(box, self.cuts, strict=True):
            if part.start not in cuts or part.stop not in cuts:
                raise ValueError(f"the box {box} is no union of blocks: an axis is cut at {cuts}")
        return tuple(
            tuple(cut for cut in cuts if part.start <= cut <= part.stop)
            for part, cuts in zip(box, self.cuts, strict=True)
        )

    @property
    def whole(self) -> Box:
        """The box of the whole volume."""
        return tuple(slice(0, n) for n in self.shape)

    @property
    def largest_block(self) -> tuple[int, ...]:
        """Extent, halo included, of the largest block that is read."""
        return tuple(
            max(min(n, stop + h) - max(0, start - h) for start, stop in pairwise(cuts))
            for n, cuts, h in zip(self.shape, self.cuts, self.halo, strict=True)
        )

    @property
    def overhead(self) -> float:
        """Voxels read, halos included, for every voxel written; 1 without halo."""
        # A sum of products over a grid is the product of the sums.
        read = math.prod(
            sum(min(n, stop + h) - max(0, start - h) for start, stop in pairwise(cuts))
            for n, cuts, h in zip(self.shape, self.cuts, self.halo, strict=True)
        )
        return read / math.prod(self.shape)


def region_boxes(grid: BlockGrid, write_shape: Sequence[int], *, target_voxels: int = 2**27) -> list[Box]:
    """Group blocks into regions: boxes of whole write units and whole blocks that cover the volume once.

    A face of a region is a face of blocks and of write units (shards, or chunks where there are none),
    or the volume's edge. Where the last cut of blocks was dropped, the last region is the larger for it.
    Regions are grown, shortest side first, up to `target_voxels`: one is never smaller than a
    write unit, however large that is. The order is fixed: last axis fastest.

    Parameters
    ----------
    grid : the volume's blocks
    write_shape : extent of a write unit along the spatial axes
    target_voxels : size to stay below; 2**27 are 64 blocks of 128³, some 2300 tasks with map_overlap

    Raises
    ------
    OptionError
        if along an axis neither of block and write unit is a multiple of the other
    """
    units = [_common_cuts(cuts, unit) for cuts, unit in zip(grid.cuts, write_shape, strict=True)]
    counts = _units_a_region(units, target_voxels)
    faces = [(*cuts[:-1:count], cuts[-1]) for cuts, count in zip(units, counts, strict=True)]
    return list(_boxes_between(faces))


def bundle_grid(grid: BlockGrid, write_shape: Sequence[int]) -> BlockGrid:
    """Join blocks to the smallest boxes of whole blocks and whole write units; a region holds whole ones."""
    cuts = (_common_cuts(along, unit) for along, unit in zip(grid.cuts, write_shape, strict=True))
    return BlockGrid(grid.shape, tuple(map(tuple, cuts)), grid.halo)


class Tile(NamedTuple):
    """One network pass within a block.

    Attributes
    ----------
    box : where the tile lies in the block
    cut : which of its faces lie inside the block
    """

    box: Box
    cut: CutFaces

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent along every axis."""
        return tuple(part.stop - part.start for part in self.box)


def tile_starts(extent: int, tile: int, overlap: int, alignment: int = 1) -> tuple[int, ...]:
    """Place tiles along one axis of a block: where each starts; each ends at min(start + tile, extent).

    Starts are multiples of `alignment`, neighbours share at least `overlap` voxels, and tiles are spread
    evenly. Only the last tile may be shorter than the others, by less than `alignment`, where the block
    ends at the volume's edge off the alignment.

    Raises
    ------
    OptionError
        if several tiles are needed and the tile is no multiple of the alignment, or smaller than
        overlap + alignment
    """
    if extent <= tile:
        return (0,)
    if tile % alignment:
        raise OptionError(
            f"a tile of {tile} voxels is no multiple of {alignment}; take {_align_up(tile, alignment)}."
        )
    step = (tile - overlap) // alignment * alignment
    if step <= 0:
        least = _align_up(overlap + alignment, alignment)
        raise OptionError(
            f"tiles of {tile} voxels cannot overlap by {overlap} and still advance; "
            f"take tiles of at least {least} voxels."
        )
    last = _align_up(extent - tile, alignment)
    gaps = math.ceil(last / step)
    # Both last and step are multiples of the alignment, so rounding down never widens a gap beyond step.
    return tuple(i * last // gaps // alignment * alignment for i in range(gaps + 1))


def tile_boxes(
    shape: Sequence[int], tile_shape: Sequence[int], margin: int | Sequence[int], alignment: int = 1
) -> list[Tile]:
    """Cover a block with tiles that overlap by more than twice the margin, last axis fastest.

    Parameters
    ----------
    shape : extent of the block as read, halo included
    tile_shape : extent of a tile; an axis where it holds the whole block is not cut
    margin : radius of the receptive field, one for all axes or one an axis
    alignment : tiles start at multiples of it

    Raises
    ------
    OptionError
        if a tile that cuts the block is no larger than 2 margin + alignment
    """
    axes = []
    for n, tile, m in zip(shape, tile_shape, _for_each_axis(margin, len(shape)), strict=True):
        starts = tile_starts(n, tile, 2 * m + 1, alignment)
        axes.append([(slice(s, min(s + tile, n)), (s > 0, s + tile < n)) for s in starts])
    return [Tile(*(tuple(parts) for parts in zip(*choice, strict=True))) for choice in product(*axes)]


def pyramid_weights(
    tile_shape: Sequence[int], margins_cut: CutFaces, margin: int | Sequence[int]
) -> NDArray[np.float32]:
    """Weigh the voxels of a tile for blending: 0 within `margin` of a cut face, rising linearly from there.

    A face that is the block's own edge lowers nothing. The weights are the product of one ramp an axis,
    so that their sum over a grid of tiles is a product of sums and never 0 where tiles overlap by
    more than twice the margin; divided by that sum they are a partition of unity.

    Parameters
    ----------
    tile_shape : extent of the tile
    margins_cut : for every axis, whether the low and the high face lie inside the block
    margin : radius of the receptive field, one for all axes or one an axis

    Returns
    -------
    array of `tile_shape`, values in [0, 1], float32
    """
    weights = np.ones(tuple(tile_shape), dtype=np.float32)
    margins = _for_each_axis(margin, weights.ndim)
    for axis, (n, (low, high), m) in enumerate(zip(tile_shape, margins_cut, margins, strict=True)):
        ramp = _ramp(n, low, high, m)
        weights *= ramp.reshape([-1 if a == axis else 1 for a in range(weights.ndim)])
    return weights


def _ramp(n: int, low_is_cut: bool, high_is_cut: bool, margin: int) -> NDArray[np.float32]:
    """Give the distance from what a cut face may have spoilt, in units of the tile's extent; 1 at most."""
    position = np.arange(n)
    ramp = np.full(n, n)
    if low_is_cut:
        ramp = np.minimum(ramp, position + 1 - margin)
    if high_is_cut:
        ramp = np.minimum(ramp, n - position - margin)
    return np.asarray(np.maximum(ramp, 0) / n, dtype=np.float32)


def _boxes_between(cuts: Sequence[Sequence[int]]) -> Iterator[Box]:
    return product(*([slice(*pair) for pair in pairwise(axis)] for axis in cuts))


def _common_cuts(cuts: Sequence[int], unit: int) -> list[int]:
    """Find where blocks and write units are both cut along an axis, its two ends included."""
    extent = cuts[-1]
    if len(cuts) > 2 and unit < extent and cuts[1] % unit and unit % cuts[1]:
        raise OptionError(
            f"blocks of {cuts[1]} voxels do not fit write units (shards or chunks) of {unit} voxels; "
            "one must be a multiple of the other."
        )
    return [*(cut for cut in cuts[:-1] if cut % unit == 0), extent]


def _units_a_region(units: Sequence[Sequence[int]], target_voxels: int) -> list[int]:
    """Choose how many units a region spans along every axis: the shortest side grows while it may."""
    counts = [1] * len(units)

    def side(axis: int, count: int) -> int:
        cuts = units[axis]
        return cuts[min(count, len(cuts) - 1)]

    while True:
        growable = [axis for axis, cuts in enumerate(units) if counts[axis] < len(cuts) - 1]
        growable.sort(key=lambda axis: side(axis, counts[axis]))
        for axis in growable:
            wider = [count + (a == axis) for a, count in enumerate(counts)]
            if math.prod(side(a, count) for a, count in enumerate(wider)) <= target_voxels:
                counts = wider
                break
        else:
            return counts


def _for_each_axis(value: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    return (value,) * ndim if isinstance(value, int) else tuple(value)


def _align_up(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment
