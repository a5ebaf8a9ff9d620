"""Masks: how many voxels, spread how, and always the same ones where they must be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bigdecon.learning.masking import held_out_voxels, replace_masked, stratified_mask, stratum


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("fraction", "ndim", "side"), [(0.005, 3, 6), (0.005, 2, 14), (0.04, 2, 5), (0.9, 3, 1)]
)
def test_the_side_of_a_box(fraction: float, ndim: int, side: int) -> None:
    assert stratum(fraction, ndim) == side


@pytest.mark.parametrize(("shape", "fraction"), [((24, 36, 30), 0.005), ((28, 42), 0.005), ((20, 20), 0.04)])
def test_every_box_has_exactly_one_masked_voxel(shape: tuple[int, ...], fraction: float) -> None:
    side = stratum(fraction, len(shape))
    mask = stratified_mask(3, shape, fraction, generator())
    assert mask.shape == (3, 1, *shape)
    assert mask.dtype == torch.bool
    split = [part for n in shape for part in (n // side, side)]
    counts = mask.reshape(3, *split).sum(dim=tuple(range(2, 2 + 2 * len(shape), 2)))
    assert torch.equal(counts, torch.ones_like(counts))
    assert not torch.equal(mask[0], mask[1])


@settings(deadline=None, max_examples=30)
@given(
    shape=st.lists(st.integers(1, 40), min_size=2, max_size=3),
    fraction=st.floats(0.002, 0.5),
    seed=st.integers(0, 99),
)
def test_no_box_has_more_than_one(shape: list[int], fraction: float, seed: int) -> None:
    side = stratum(fraction, len(shape))
    mask = stratified_mask(1, shape, fraction, generator(seed))[0, 0]
    assert mask.shape == tuple(shape)
    boxes = mask.nonzero() // side
    assert len(boxes.unique(dim=0)) == len(boxes)


def test_every_place_in_a_box_is_masked_equally_often() -> None:
    mask = stratified_mask(400, (10, 10), 0.04, generator()).float().mean(0)[0]
    assert float(mask.mean()) == pytest.approx(0.04)
    assert float(mask.max()) < 0.1
    assert float(mask.min()) > 0


def test_the_same_seed_masks_the_same_voxels() -> None:
    first, again = (stratified_mask(2, (30, 30), 0.01, generator(5)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, stratified_mask(2, (30, 30), 0.01, generator(6)))


def test_masked_voxels_are_replaced_by_noise_and_others_stay() -> None:
    x = torch.full((2, 1, 100, 100), 7.0)
    mask = stratified_mask(2, (100, 100), 0.25, generator())
    replaced = replace_masked(x, mask, 0.2, generator(1))
    assert torch.equal(replaced[~mask], x[~mask])
    assert float(replaced[mask].std()) == pytest.approx(0.2, rel=0.1)
    assert float(replaced[mask].mean()) == pytest.approx(0, abs=0.02)


@settings(deadline=None, max_examples=60)
@given(
    data=st.data(),
    ndim=st.integers(2, 3),
    fraction=st.sampled_from([0.003, 0.005, 0.02, 0.3]),
    seed=st.integers(0, 2**40),
)
def test_patches_that_overlap_agree_on_what_is_held_out(
    data: st.DataObject, ndim: int, fraction: float, seed: int
) -> None:
    numbers = st.lists(st.integers(0, 60), min_size=ndim, max_size=ndim)
    sizes = st.lists(st.integers(1, 30), min_size=ndim, max_size=ndim)
    first, first_shape = data.draw(numbers), data.draw(sizes)
    second, second_shape = data.draw(numbers), data.draw(sizes)
    whole = held_out_voxels([0] * ndim, [90] * ndim, fraction, seed)
    for origin, shape in ((first, first_shape), (second, second_shape)):
        window = tuple(slice(o, o + n) for o, n in zip(origin, shape, strict=True))
        np.testing.assert_array_equal(held_out_voxels(origin, shape, fraction, seed), whole[window])


@pytest.mark.parametrize("ndim", [2, 3])
def test_one_voxel_a_box_is_held_out(ndim: int) -> None:
    side = stratum(0.005, ndim)
    held = held_out_voxels([0] * ndim, [side * 8] * ndim, 0.005, 3)
    boxes = np.argwhere(held) // side
    assert len(np.unique(boxes, axis=0)) == len(boxes) == 8**ndim


def test_held_out_voxels_lie_everywhere_in_their_boxes() -> None:
    places = np.argwhere(held_out_voxels((0, 0), (1400, 1400), 0.005, 1)) % 14
    counts = np.histogram2d(*places.T, bins=14, range=[(0, 14), (0, 14)])[0]
    assert counts.min() > 20
    assert counts.max() < 100
    assert abs(np.corrcoef(places.T)[0, 1]) < 0.05


def test_another_seed_holds_out_others_and_no_fraction_none() -> None:
    first, second = (held_out_voxels((0, 0), (140, 140), 0.005, seed) for seed in (1, 2))
    assert first.sum() == second.sum() == 100
    assert (first & second).sum() < 10
    assert not held_out_voxels((0, 0), (140, 140), 0, 1).any()
