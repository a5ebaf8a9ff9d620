"""Neighbouring blocks read together are the blocks read one by one; so are those around damage."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import bigdecon.deconvolution.block as blocks_of_deconvolution
from bigdecon.deconvolution.block import BlockRules, RestoredBlock
from bigdecon.deconvolution.packed_blocks import (
    Block,
    MethodOnWorkers,
    attempt_bundle,
    attempt_packed,
    pack_blocks,
)
from bigdecon.deconvolution.tiling import BlockGrid
from bigdecon.errors import ReadError
from bigdecon.volume import Box, Stack, Volume

HALO = 2
AS_IS = BlockRules()


@dataclass(frozen=True)
class Spoiling:
    """Looks as far as its halo reaches, and then writes on what it was given."""

    halo: tuple[int, ...] = (HALO, HALO)
    alignment: int = 1
    name: str = "spoiling"

    def __call__(self, block: NDArray[Any]) -> NDArray[np.float32]:
        result = block.astype(np.float32)
        for axis in (0, 1):
            for shift in range(1, HALO + 1):
                result += np.roll(block, shift, axis) * np.float32(shift)
        block[...] = 0
        return result


_reads: list[Box] = []


@dataclass(frozen=True)
class Store:
    """Notes what is read of it; a damaged voxel cannot be read."""

    voxels: NDArray[Any]
    damaged: tuple[int, int] | None = None
    chunks: tuple[int, ...] = field(default=(4, 4))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.voxels.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.voxels.dtype

    def __getitem__(self, box: Box) -> NDArray[Any]:
        _reads.append(box)
        if self.damaged and all(p.start <= i < p.stop for p, i in zip(box, self.damaged, strict=True)):
            raise ReadError("a chunk is damaged")
        return self.voxels[box].copy()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_of_deconvolution, "PAUSES_SECONDS", ())


def noise(shape: tuple[int, ...], dtype: Any = np.uint16) -> NDArray[Any]:
    return np.random.default_rng(3).integers(0, 1000, shape).astype(dtype)


def restored(store: Store, grid: BlockGrid, rules: BlockRules = AS_IS) -> tuple[Any, Any]:
    """Restore all blocks, one by one and in a bundle."""
    stack = Stack(store, "yx")
    packed = pack_blocks(stack, MethodOnWorkers(partial(Spoiling)), rules)
    assert not packed.needs
    places = [Block(core, grid.grow(core)) for core in grid]
    single = [attempt_packed(packed.common, place) for place in places]
    _reads.clear()
    return single, list(attempt_bundle(packed.common, places))


def same(one: RestoredBlock, other: RestoredBlock) -> bool:
    return one._replace(voxels=0) == other._replace(voxels=0) and np.array_equal(one.voxels, other.voxels)


@settings(deadline=None, max_examples=30)
@given(st.tuples(st.integers(1, 20), st.integers(1, 20)), st.integers(2, 9), st.booleans())
def test_a_bundle_is_its_blocks_and_is_read_once(shape: tuple[int, int], block: int, rules: bool) -> None:
    voxels = noise(shape)
    voxels[: shape[0] // 2] = 7  # some blocks hold one value, some are dim
    grid = BlockGrid.plan(shape, block, HALO)
    chosen = BlockRules(f"{shape} {block}", dim_below=100) if rules else AS_IS
    single, bundle = restored(Store(voxels), grid, chosen)
    assert len(single) == len(bundle) == len(grid)
    assert all(map(same, single, bundle))
    assert _reads == [grid.whole]


def test_only_blocks_that_touch_damage_are_missing() -> None:
    single, bundle = restored(Store(noise((20, 20)), damaged=(3, 9)), BlockGrid.plan((20, 20), 5, HALO))
    assert all(map(same, single, bundle))
    missing = [tuple(part.start for part in block.core) for block in bundle if block.fault]
    assert missing == [(0, 5), (0, 10), (5, 5), (5, 10)]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_none_spoils_the_blocks_that_see_it(bad: float) -> None:
    voxels = noise((20, 20), np.float32)
    voxels[9, 9] = bad
    single, bundle = restored(Store(voxels), BlockGrid.plan((20, 20), 10, HALO))
    assert all(map(same, single, bundle))
    assert [bool(block.fault) for block in bundle] == [True] * 4
    assert _reads == [(slice(0, 20), slice(0, 20))]


def test_the_image_may_be_in_memory() -> None:
    image = noise((20, 20))
    grid = BlockGrid.plan((20, 20), 5, HALO)
    stack = Volume.from_array(image).stack()
    packed = pack_blocks(stack, MethodOnWorkers(Spoiling), BlockRules())
    places = [Block(core, grid.grow(core)) for core in grid]
    (node,) = packed.needs
    bundle = list(attempt_bundle(packed.common, places, node.compute()))
    assert all(map(same, restored(Store(image), grid)[0], bundle))
    assert len(packed.common) < 1000
