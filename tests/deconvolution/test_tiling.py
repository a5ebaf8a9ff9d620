"""Geometry: every voxel once, whatever the numbers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigdecon.deconvolution.tiling import (
    BlockGrid,
    block_cuts,
    bundle_grid,
    grow,
    pyramid_weights,
    region_boxes,
    tile_boxes,
    tile_starts,
    trim,
)
from bigdecon.errors import OptionError

many = settings(deadline=None, max_examples=60)


@st.composite
def grids(draw: st.DrawFn) -> BlockGrid:
    ndim = draw(st.sampled_from([2, 3]))
    axes = []
    for _ in range(ndim):
        halo = draw(st.integers(0, 4))
        block = draw(st.integers(max(halo, 1), 9))
        axes.append((draw(st.integers(1, 24)), block, halo))
    return BlockGrid.plan(*zip(*axes, strict=True))


@pytest.mark.parametrize(
    ("extent", "block", "halo", "cuts"),
    [
        (10, 128, 32, (0, 10)),
        (256, 128, 32, (0, 128, 256)),
        (288, 128, 32, (0, 128, 256, 288)),
        (287, 128, 32, (0, 128, 287)),
        (140, 128, 32, (0, 140)),
        (129, 128, 0, (0, 128, 129)),
    ],
)
def test_block_cuts(extent: int, block: int, halo: int, cuts: tuple[int, ...]) -> None:
    assert block_cuts(extent, block, halo) == cuts


@many
@given(st.integers(1, 2000), st.integers(1, 200), st.integers(0, 64))
def test_cores_are_as_wide_as_the_halo_and_blocks_no_larger_than_inner_ones(
    extent: int, block: int, halo: int
) -> None:
    if extent > block < halo:
        with pytest.raises(OptionError, match=f"{block} voxels .* {halo}"):
            block_cuts(extent, block, halo)
        return
    cuts = block_cuts(extent, block, halo)
    assert cuts[0] == 0
    assert cuts[-1] == extent
    cores = [stop - start for start, stop in pairwise(cuts)]
    assert all(core == block for core in cores[:-1])
    assert len(cores) == 1 or cores[-1] >= halo
    assert cores[-1] < block + max(halo, 1)
    grid = BlockGrid((extent,), (cuts,), (halo,))
    assert grid.largest_block[0] <= block + 2 * halo


@many
@given(grids())
def test_blocks_cover_the_volume_once(grid: BlockGrid) -> None:
    hits = np.zeros(grid.shape, int)
    read = 0
    for core in grid:
        hits[core] += 1
        grown = grid.grow(core)
        read += np.empty(grid.shape)[grown].size
        np.testing.assert_array_equal(hits[grown][trim(core, grown)], hits[core])
    assert (hits == 1).all()
    assert len(list(grid)) == len(grid)
    assert grid.overhead == pytest.approx(read / hits.size)


def test_grow_stops_at_the_edge() -> None:
    assert grow((slice(0, 4), slice(4, 8)), (2, 3), (20, 9)) == (slice(0, 6), slice(1, 9))


@many
@given(grids(), st.data())
def test_regions_are_whole_blocks_and_whole_write_units(grid: BlockGrid, data: st.DataObject) -> None:
    blocks = [cuts[1] for cuts in grid.cuts]
    write = []
    for block in blocks:
        divisors = [d for d in range(1, block + 1) if block % d == 0]
        write.append(data.draw(st.sampled_from([*divisors, 2 * block, 3 * block])))
    target = data.draw(st.integers(1, 5000))
    regions = region_boxes(grid, write, target_voxels=target)
    hits = np.zeros(grid.shape, int)
    for region in regions:
        hits[region] += 1
        grid.cuts_within(region)  # raises unless the region is a union of blocks
        for part, unit, extent in zip(region, write, grid.shape, strict=True):
            assert part.start % unit == 0
            assert part.stop % unit == 0 or part.stop == extent
    assert (hits == 1).all()
    assert regions == region_boxes(grid, write, target_voxels=target)
    assert sum(len(list(pairwise(c))) > 0 for c in grid.cuts) == len(grid.shape)


@many
@given(grids(), st.data())
def test_bundles_are_the_smallest_boxes_of_whole_blocks_and_write_units(
    grid: BlockGrid, data: st.DataObject
) -> None:
    write = [data.draw(st.sampled_from([cuts[1], 2 * cuts[1], 3 * cuts[1]])) for cuts in grid.cuts]
    if data.draw(st.booleans()):  # blocks of several write units
        write = [next(d for d in (3, 2, 1) if cuts[1] % d == 0) for cuts in grid.cuts]
    hits = np.zeros(grid.shape, int)
    for region in region_boxes(grid, write, target_voxels=data.draw(st.integers(1, 5000))):
        for box in bundle_grid(grid, write).blocks_within(region):
            hits[box] += 1
            inner = grid.cuts_within(box)  # raises unless the box is a union of blocks
            for part, cuts, unit, extent in zip(box, inner, write, grid.shape, strict=True):
                assert part.start % unit == 0
                assert part.stop % unit == 0 or part.stop == extent
                assert not any(cut % unit == 0 for cut in cuts[1:-1])
    assert (hits == 1).all()


def test_a_larger_target_makes_fewer_regions_within_it() -> None:
    grid = BlockGrid.plan((512, 512, 512), 64, 16)
    for target in (128**3, 256**3, 512**3):
        regions = region_boxes(grid, (128, 128, 128), target_voxels=target)
        assert len(regions) == 512**3 // target


def test_the_last_region_absorbs_a_dropped_cut() -> None:
    grid = BlockGrid.plan((530, 128), 128, 32)
    assert grid.cuts[0] == (0, 128, 256, 384, 530)
    regions = region_boxes(grid, (256, 256), target_voxels=1)
    assert [r[0] for r in regions] == [slice(0, 256), slice(256, 530)]


def test_blocks_and_write_units_that_do_not_fit() -> None:
    with pytest.raises(OptionError, match=r"blocks of 128 voxels .* 96"):
        region_boxes(BlockGrid.plan((512, 512), 128, 16), (96, 128))


@many
@given(st.integers(1, 300), st.integers(1, 20), st.integers(0, 12), st.sampled_from([1, 2, 4, 8]))
def test_tiles_cover_overlap_and_align(extent: int, tiles: int, margin: int, alignment: int) -> None:
    tile = alignment * tiles
    overlap = 2 * margin + 1
    if extent > tile and tile < overlap + alignment:
        with pytest.raises(OptionError, match=f"{tile} voxels"):
            tile_starts(extent, tile, overlap, alignment)
        return
    starts = tile_starts(extent, tile, overlap, alignment)
    assert all(start % alignment == 0 for start in starts)
    ends = [min(start + tile, extent) for start in starts]
    assert ends[-1] == extent
    assert all(end == start + tile for start, end in zip(starts[:-1], ends[:-1], strict=True))
    assert all(ends[i] - starts[i + 1] >= overlap for i in range(len(starts) - 1))
    if len(starts) > 1:
        assert extent - starts[-1] > tile - alignment


def test_a_tile_off_the_alignment_is_refused() -> None:
    with pytest.raises(OptionError, match="multiple of 4; take 36"):
        tile_starts(100, 34, 8, 4)


@many
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(5, 12)), min_size=2, max_size=3), st.integers(0, 3))
def test_weights_are_a_partition_of_unity_and_zero_near_cuts(
    axes: list[tuple[int, int]], margin: int
) -> None:
    shape, half_tile = zip(*axes, strict=True)
    tiles = tile_boxes(shape, [2 * t for t in half_tile], margin, alignment=2)
    total = np.zeros(shape)
    for tile in tiles:
        weights = pyramid_weights(tile.shape, tile.cut, margin)
        assert weights.shape == tile.shape
        assert weights.dtype == np.float32
        assert weights.max() <= 1
        assert weights.min() >= 0
        total[tile.box] += weights
        for axis, (low, high) in enumerate(tile.cut):
            inner = np.moveaxis(weights, axis, 0)
            assert not low or not inner[:margin].any()
            assert not high or not inner[len(inner) - margin :].any()
            assert low == (tile.box[axis].start > 0)
            assert high == (tile.box[axis].stop < shape[axis])
    assert total.min() > 0
    normalised = np.zeros(shape)
    for tile in tiles:
        normalised[tile.box] += pyramid_weights(tile.shape, tile.cut, margin) / total[tile.box]
    np.testing.assert_allclose(normalised, 1, rtol=1e-6)


def test_weights_do_not_fall_at_the_blocks_own_edge() -> None:
    weights = pyramid_weights((8, 8), ((False, True), (False, False)), 2)
    np.testing.assert_allclose(weights[:, 0] * 8, [6, 5, 4, 3, 2, 1, 0, 0])
    np.testing.assert_array_equal(weights, weights[:, :1].repeat(8, axis=1))


def test_blended_tiles_equal_the_whole_block() -> None:
    """A filter of radius 3 by tiles, wrong near every cut, blends into exactly its whole-block result."""
    block = np.random.default_rng(0).random((40, 31))

    def smooth(x: np.ndarray) -> np.ndarray:
        for axis in (0, 1):
            x = sum(np.roll(np.pad(x, 3, mode="reflect"), s, axis)[3:-3, 3:-3] for s in range(-3, 4)) / 7
        return x

    total, weight = np.zeros(block.shape), np.zeros(block.shape)
    tiles = tile_boxes(block.shape, (16, 16), 3, alignment=4)
    assert len(tiles) > 4
    for tile in tiles:
        weights = pyramid_weights(tile.shape, tile.cut, 3)
        total[tile.box] += weights * smooth(block[tile.box])
        weight[tile.box] += weights
    np.testing.assert_allclose(total / weight, smooth(block), atol=1e-12)
