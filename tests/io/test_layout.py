import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from bigdecon.errors import OptionError
from bigdecon.io.layout import plan_output, write_boxes
from bigdecon.volume import Volume


class Shaped:
    """A source without voxels: planning must not read any."""

    dtype = np.dtype("uint16")

    def __init__(self, shape):
        self.shape = shape
        self.chunks = shape

    def __getitem__(self, selection):
        raise AssertionError("planning read voxels")


def volume(spatial, size=None, lead=(), shift=()):
    axes = {0: "", 1: "c", 2: "tc"}[len(lead)] + "zyx"[-len(spatial) :]
    return Volume(Shaped((*lead, *spatial)), axes, size, shift)


shapes = st.lists(st.integers(1, 3000), min_size=2, max_size=3).map(tuple)


@settings(deadline=None, max_examples=150)
@given(
    shapes,
    st.sampled_from(["0.4", "0.5"]),
    st.sampled_from([32, 48, 64, 96, 100, 128, 131, 160, 192, 256]),
    st.sampled_from([None, 64, 128]),
    st.sampled_from([None, 256, 512]),
)
def test_write_units_are_whole_files_and_multiples_of_the_unit(spatial, version, unit, chunk, shard):
    layout = plan_output(volume(spatial, lead=(2,)), ome_version=version, unit=unit, chunk=chunk, shard=shard)
    for level in layout.levels:
        for size, write, stored, inner in zip(
            level.spatial_shape, level.write_shape, level.stored_shape[1:], level.chunks[1:], strict=True
        ):
            assert write % stored == 0
            assert stored % inner == 0
            assert write % unit == 0 or write >= size
            assert inner <= max(size, unit)
        assert (level.shards is None) == (version == "0.4")
        assert level.chunks[0] == 1
        assert sum(math.prod(p.stop - p.start for p in b) for b in write_boxes(level)) == math.prod(
            level.spatial_shape
        )


sizes = st.one_of(st.none(), st.tuples(st.floats(0.05, 5), st.just(0.2), st.just(0.2)))


@settings(deadline=None, max_examples=100)
@given(st.tuples(*[st.integers(1, 5000)] * 3), sizes)
def test_pyramid_halves_towards_isotropy(spatial, size):
    layout = plan_output(volume(spatial, size))
    assert layout.levels[0].factors == (1, 1, 1)
    assert max(layout.levels[-1].spatial_shape) <= 256
    for finer, level in zip(layout.levels, layout.levels[1:], strict=False):
        assert max(finer.spatial_shape) > 256
        ratio = [b // a for a, b in zip(finer.factors, level.factors, strict=True)]
        assert set(ratio) <= {1, 2}
        assert 2 in ratio
        assert level.spatial_shape == tuple(
            -(-n // r) for n, r in zip(finer.spatial_shape, ratio, strict=True)
        )
        z, y, x = (s * f for s, f in zip(size or (1, 1, 1), finer.factors, strict=True))
        if z <= 1.5 * max(y, x) and finer.spatial_shape[0] > 1:
            assert ratio[0] == 2


def test_levels_lie_where_their_voxels_lie():
    levels = plan_output(volume((100, 600, 600), (1.0, 0.5, 0.5), shift=(10.0, 0.0, 5.0))).levels
    assert [level.factors for level in levels] == [(1, 1, 1), (1, 2, 2), (2, 4, 4)]
    assert levels[1].voxel_size_um == (1, 1, 1)
    assert levels[1].translation_um == (10, 0.25, 5.25)
    assert levels[2].voxel_size_um == (2, 2, 2)
    assert levels[2].translation_um == (10.5, 0.75, 5.75)


def test_defaults():
    layout = plan_output(volume((300, 1000, 1000), lead=(3, 2)))
    assert layout.levels[0].chunks == (1, 1, 128, 128, 128)
    assert layout.levels[0].shards == (1, 1, 256, 256, 256)
    assert layout.write_shape == (256, 256, 256)
    small = plan_output(volume((20, 90, 200))).levels[0]
    assert (small.chunks, small.shards) == ((20, 90, 128), (20, 90, 256))
    assert plan_output(volume((300, 1000, 1000)), ome_version="0.4").write_shape == (128, 128, 128)


@pytest.mark.parametrize(
    "bad", [{"dtype": "complex64"}, {"dtype": "text"}, {"ome_version": "0.3"}, {"unit": 0}]
)
def test_what_cannot_be_written(bad):
    with pytest.raises(OptionError):
        plan_output(volume((4, 4, 4)), **bad)
