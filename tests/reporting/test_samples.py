"""Which boxes are looked at."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigdecon.reporting.box_groups import cost_of
from bigdecon.reporting.box_tasks import Pairing
from bigdecon.reporting.samples import SIDES, affordable_sample, even_positions, sample_boxes
from bigdecon.volume import Stack


@dataclass(frozen=True)
class Unread:
    """A source of any size, of which nothing is read."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype = field(default_factory=lambda: np.dtype("uint16"))

    def __getitem__(self, box):
        raise AssertionError("read")


shapes = st.one_of(
    st.tuples(*[st.integers(1, 3000)] * 2),
    st.tuples(*[st.integers(1, 900)] * 3),
)


@given(shapes, st.integers(1, 60))
def test_boxes_lie_within_the_volume_and_are_no_more_than_asked_for(shape, limit):
    sample = sample_boxes(shape, limit)
    assert 1 <= len(sample.boxes) <= limit
    assert len(set(sample.chosen)) == len(sample.chosen)
    for box in sample.boxes:
        assert all(
            0 <= part.start < part.stop <= n <= n + SIDES[len(shape)]
            and part.stop - part.start <= SIDES[len(shape)]
            for part, n in zip(box, shape, strict=True)
        )


@given(shapes)
def test_all_boxes_together_are_the_volume(shape):
    sample = sample_boxes(shape, limit=10**6)
    assert sample.complete
    voxels = sum(math.prod(part.stop - part.start for part in box) for box in sample.boxes)
    assert voxels == math.prod(shape)


@given(st.integers(1, 500), st.integers(1, 500))
def test_positions_are_spread_evenly(count, wanted):
    chosen = even_positions(count, wanted)
    assert len(chosen) == len(set(chosen)) == min(count, wanted)
    gaps = [chosen[0], *(b - a - 1 for a, b in pairwise(chosen)), count - 1 - chosen[-1]]
    assert max(gaps) <= count / len(chosen) + 1


@pytest.mark.parametrize(("shape", "counts"), [((64, 64, 64), (1, 1, 1)), ((40, 201, 101), (1, 4, 2))])
def test_small_volumes_are_cut_into_equal_parts(shape, counts):
    assert sample_boxes(shape, 48).counts == counts


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [
        ((10**4,) * 3, (128,) * 3),
        ((1200, 4096, 4096), (1, 4096, 4096)),
        ((512, 1024, 1024), (512, 1024, 1024)),
        ((10**6, 10**6), (1024, 1024)),
    ],
)
def test_boxes_of_a_large_volume_are_affordable(shape, chunks):
    image = Stack(Unread(shape, chunks), "zyx"[-len(shape) :])
    result = Stack(Unread(shape, (128,) * len(shape)), "zyx"[-len(shape) :])
    pair = Pairing(image, result, np.zeros((17,) * len(shape)), 0.0)

    def cost(boxes):
        return cost_of(pair, image, result, boxes)

    sample = affordable_sample(shape, 48, cost, 2**32)
    assert 1 <= len(sample.chosen) <= 48
    assert cost(sample.boxes) <= 2**32
    assert len(sample.chosen) == 1 or len({index[1:] for index in sample.chosen}) > 1


def test_boxes_of_whole_planes_share_them():
    image = Stack(Unread((1200, 4096, 4096), (1, 4096, 4096)), "zyx")
    pair = Pairing(image, image, np.zeros((17,) * 3), 0.0)
    sample = affordable_sample(image.shape, 48, lambda boxes: cost_of(pair, image, image, boxes), 2**32)
    assert len({index[0] for index in sample.chosen}) == 1
    assert len(sample.chosen) >= 8


def test_where_nothing_is_affordable_nothing_is_chosen():
    assert affordable_sample((100, 100, 100), 48, lambda boxes: 10 * len(boxes), 9).chosen == ()
    whole = affordable_sample((100, 100, 100), 48, lambda boxes: 10 * len(boxes), 80)
    assert whole == sample_boxes((100, 100, 100), 48)
