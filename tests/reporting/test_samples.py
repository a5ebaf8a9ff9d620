"""Which boxes are looked at."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigdecon.reporting.samples import SIDES, even_positions, sample_boxes

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
