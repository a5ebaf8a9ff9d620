"""Patches: from everywhere, of everything, within the memory allowed, and the same at the same step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bigdecon.intensity import IntensityStats
from bigdecon.learning.masking import held_out_voxels
from bigdecon.learning.patches import PatchPool, Turn, choose_turn, read_excerpts
from bigdecon.optics.psf import PSFSymmetries
from bigdecon.volume import Box, Stack, Volume

STATS = IntensityStats(mean=0, std=1, minimum=0, maximum=1, background=0)


def pool_of(
    array: NDArray[Any], patch: tuple[int, ...], axes: str | None = None, **options: Any
) -> PatchPool:
    volume = Volume.from_array(array, axes)
    settings = {"alignment": 4, "stats": STATS, "seed": 0, "held_out_fraction": 0.02} | options
    return PatchPool([volume.stack(timepoint=t) for t in range(volume.n_timepoints)], patch, **settings)


@dataclass
class Endless:
    """A volume far too large to hold, with light in one corner; counts the voxels that are read."""

    shape: tuple[int, ...] = (512, 4096, 4096)
    chunks: tuple[int, ...] = (64, 64, 64)
    dtype: Any = field(default_factory=lambda: np.dtype(np.uint8))
    reads: list[int] = field(default_factory=list)

    def __getitem__(self, selection: Box, /) -> NDArray[Any]:
        shape = [part.stop - part.start for part in selection]
        self.reads.append(int(np.prod(shape)))
        bright = selection[1].start < self.shape[1] // 4
        return np.full(shape, 200 if bright else 0, np.uint8)


def test_a_small_volume_is_held_whole() -> None:
    array = np.random.default_rng(0).random((20, 30, 40)).astype(np.float32)
    pool = pool_of(array, (16, 16, 16))
    assert len(pool.excerpts) == 1
    np.testing.assert_array_equal(pool.excerpts[0].data, array)


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [
        ((100, 1024, 1024), (1, 1024, 1024)),  # planes, as in a TIFF
        ((100, 1024, 1024), (128, 128, 128)),
        ((90, 90, 90), (64, 64, 64)),
        ((200, 2048, 2048), (64, 64, 64)),
    ],
)
def test_excerpts_come_from_everywhere_and_none_twice(
    shape: tuple[int, ...], chunks: tuple[int, ...]
) -> None:
    stack = Stack(Endless(shape, chunks), "zyx")
    found = [
        excerpt.origin
        for seed in range(8)
        for excerpt in read_excerpts([stack], [64] * 3, 0, seed=seed, pool_voxels=2 * 64**3)
    ]
    for axis, n in enumerate(shape):
        starts = [origin[axis] for origin in found]
        assert min(starts) <= (n - 64) / 2 <= max(starts)
        assert 0 <= min(starts) <= max(starts) <= n - 64
    once = read_excerpts([stack], [64] * 3, 0, seed=0, pool_voxels=700_000)
    assert len({excerpt.origin for excerpt in once}) == len(once) > 0


def test_patches_are_parts_of_the_volume_with_their_held_out_voxels() -> None:
    array = np.arange(30 * 40 * 50, dtype=np.float32).reshape(30, 40, 50)
    batch = pool_of(array, (8, 12, 16), seed=3).draw(5, 6)
    assert batch.x.shape == batch.held_out.shape == batch.exact.shape == (6, 1, 8, 12, 16)
    assert batch.x.dtype == np.float32
    assert batch.exact.all()
    for x, held in zip(batch.x[:, 0], batch.held_out[:, 0], strict=True):
        corner = np.unravel_index(int(x.flat[0]), array.shape)
        window = tuple(slice(int(c), int(c) + n) for c, n in zip(corner, x.shape, strict=True))
        np.testing.assert_array_equal(x, array[window])
        np.testing.assert_array_equal(held, held_out_voxels([int(c) for c in corner], x.shape, 0.02, 3))


def test_patches_are_standardised() -> None:
    array = np.full((20, 20), 30, np.uint16)
    stats = IntensityStats(mean=10, std=5, minimum=0, maximum=30, background=0)
    assert (pool_of(array, (8, 8), stats=stats).draw(0, 2).x == 4).all()


def test_the_same_step_draws_the_same_patches() -> None:
    array = np.random.default_rng(0).random((40, 50)).astype(np.float32)
    symmetries = PSFSymmetries((True, True), True)
    pool, again = (pool_of(array, (16, 16)) for _ in range(2))
    other = pool_of(array, (16, 16), seed=1)
    pool.draw(6, 3, symmetries)
    for first, second in zip(pool.draw(7, 3, symmetries), again.draw(7, 3, symmetries), strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(pool.draw(7, 3).x, pool.draw(8, 3).x)
    assert not np.array_equal(pool.draw(1, 3).x, pool.draw(-1, 3).x)
    assert not np.array_equal(pool.draw(7, 3).x, other.draw(7, 3).x)


@pytest.mark.parametrize(("shape", "patch"), [((10, 30), (12, 16)), ((5, 9, 30), (8, 12, 16))])
def test_a_volume_smaller_than_a_patch_is_extended_and_says_where(
    shape: tuple[int, ...], patch: tuple[int, ...]
) -> None:
    array = 1 + np.random.default_rng(0).random(shape).astype(np.float32)
    pool = pool_of(array, (64, *patch[1:]))
    assert pool.patch_shape == patch
    batch = pool.draw(0, 4)
    inside = np.zeros(patch, bool)
    inside[tuple(slice(0, n) for n in shape)] = True
    for x, within in zip(batch.x[:, 0], batch.exact[:, 0], strict=True):
        np.testing.assert_array_equal(within, inside)
        np.testing.assert_array_equal(x[shape[0] :], np.broadcast_to(x[shape[0] - 1], x[shape[0] :].shape))


def test_a_large_volume_is_never_held() -> None:
    source = Endless()
    pool = PatchPool(
        [Stack(source, "zyx")],
        (32, 32, 32),
        alignment=4,
        stats=STATS,
        seed=0,
        held_out_fraction=0.01,
        pool_voxels=2**23,
    )
    held = sum(excerpt.data.size for excerpt in pool.excerpts)
    assert 2**22 <= held <= 2**23
    assert sum(source.reads) <= 2 * 2**23
    assert max(source.reads) <= 128**3
    origins = np.array([excerpt.origin for excerpt in pool.excerpts])
    assert (origins % 64 == 0).all()
    assert pool.draw(0, 2).x.shape == (2, 1, 32, 32, 32)


@pytest.mark.parametrize("scale", [1e-4, 1, 1e4])
def test_boxes_with_signal_are_preferred_whatever_the_units(scale: float) -> None:
    rng = np.random.default_rng(0)
    array = (rng.random((1, 512, 2048)) * 0.05).astype(np.float32)
    array[:, :, :1024] += 1
    stack = Volume.from_array(array * np.float32(scale)).stack()
    excerpts = read_excerpts([stack], (1, 64, 64), 0.0, seed=1, pool_voxels=2**18)
    bright = np.mean([excerpt.origin[2] < 1024 for excerpt in excerpts])
    assert len(excerpts) == 64
    assert bright > 0.7
    assert len({excerpt.origin for excerpt in excerpts}) > 20


def test_patches_with_signal_are_preferred_but_empty_ones_are_seen() -> None:
    array = np.zeros((256, 256), np.float32)
    array[:64, :64] = 1
    pool = pool_of(array, (16, 16))
    seen = [float(pool.draw(step, 4).x.max()) for step in range(60)]
    singles = np.array([pool.draw(step, 1).x.mean() for step in range(300)])
    assert np.mean(singles > 0) > 0.12  # A fair draw would give 0.08.
    assert (singles == 0).any()
    assert max(seen) == 1


def test_all_of_a_dark_volume_is_still_drawn_from() -> None:
    batch = pool_of(np.zeros((32, 32), np.float32), (16, 16)).draw(0, 4)
    assert batch.x.shape == (4, 1, 16, 16)


def test_all_time_points_are_used() -> None:
    array = np.broadcast_to(np.arange(1, 6, dtype=np.float32)[:, None, None], (5, 24, 24))
    pool = pool_of(array, (16, 16), "tyx")
    assert len(pool.excerpts) == 5
    drawn = {float(value) for step in range(30) for value in pool.draw(step, 4).x[:, 0, 0, 0]}
    assert drawn == {1, 2, 3, 4, 5}


def test_time_points_hold_out_different_voxels() -> None:
    array = np.ones((2, 16, 16), np.float32)
    array[1] = 2
    batches = [pool_of(array, (16, 16), "tyx").draw(step, 1) for step in range(12)]
    held = {float(batch.x[0, 0, 0, 0]): batch.held_out.tobytes() for batch in batches}
    assert len(held) == len(set(held.values())) == 2


@pytest.mark.parametrize(
    "symmetries",
    [
        PSFSymmetries((False, False, False), False),
        PSFSymmetries((False, True, False), False),
        PSFSymmetries((True, False, True), False),
        PSFSymmetries((False, False, False), True),
        PSFSymmetries((False, True, True), True),
    ],
    ids=str,
)
def test_patches_are_turned_only_as_the_psf_allows(symmetries: PSFSymmetries) -> None:
    x = np.random.default_rng(0).random((3, 4, 4)).astype(np.float32)
    allowed = {x.tobytes()}
    for _ in range(4):
        for patch in [np.frombuffer(data, np.float32).reshape(x.shape) for data in allowed]:
            for axis in (a for a, flip in enumerate(symmetries.flips) if flip):
                allowed.add(np.flip(patch, axis).tobytes())
            if symmetries.rot90:
                allowed.add(np.rot90(patch, axes=(1, 2)).tobytes())
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(150):
        seen.add(choose_turn(x.shape, symmetries, rng).apply(x).tobytes())
    assert seen == allowed


def test_patches_that_are_not_square_are_not_turned() -> None:
    symmetries = PSFSymmetries((True, True), True)
    turns = {choose_turn((4, 6), symmetries, np.random.default_rng(i)).turns for i in range(20)}
    assert turns == {0}


def test_what_is_held_out_and_compared_turns_with_the_patch() -> None:
    """Voxels hold their own numbers, so a patch says where it was, and how it was turned."""
    array = np.arange(24 * 24 * 24, dtype=np.float32).reshape(24, 24, 24)
    pool = pool_of(array, (8, 8, 8), held_out_fraction=0.1)
    batch = pool.draw(0, 20, PSFSymmetries((True, True, True), True), margin=(2, 1, 0))
    assert (pool.choose(0, 20)[0].turn, len(batch.x)) == (Turn(), 20)
    held = held_out_voxels((0, 0, 0), array.shape, 0.1, 0)
    for x, held_out, exact in zip(*(part[:, 0] for part in batch), strict=True):
        places = x.astype(int)
        np.testing.assert_array_equal(held_out, held.ravel()[places])
        z, y, _ = np.unravel_index(places, array.shape)
        inside = np.ones(x.shape, bool)
        for place, margin, n in ((z, 2, 24), (y, 1, 24)):
            low, high = place.min(), place.max()
            inside &= (place >= low + margin * (low > 0)) & (place <= high - margin * (high < n - 1))
        np.testing.assert_array_equal(exact, inside)
