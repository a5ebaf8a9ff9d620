"""Brightness of a volume: the same as numpy's over all voxels, and honest about what it read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigdecon.errors import VolumeError
from bigdecon.intensity import IntensityStats, measure_intensity
from bigdecon.volume import Volume


def stacks_of(volume: Volume) -> list[Any]:
    return [volume.stack(timepoint=t) for t in range(volume.n_timepoints)]


@settings(deadline=None, max_examples=25)
@given(
    shape=st.lists(st.integers(1, 70), min_size=2, max_size=3).filter(lambda s: np.prod(s) > 1),
    times=st.integers(1, 3),
    dtype=st.sampled_from(["u1", "u2", "i2", "f4", ">u2"]),
    seed=st.integers(0, 99),
)
def test_statistics_are_those_of_all_voxels(shape: list[int], times: int, dtype: str, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 120, (times, *shape)).astype(dtype)
    values.flat[:2] = 3, 7
    stats = measure_intensity(stacks_of(Volume.from_array(values, "t" + "zyx"[-len(shape) :])))
    exact = values.astype(np.float64)
    assert stats.mean == pytest.approx(exact.mean())
    assert stats.std == pytest.approx(exact.std())
    assert (stats.minimum, stats.maximum) == (exact.min(), exact.max())
    assert stats.minimum <= stats.background <= stats.maximum
    assert stats.sampled == 1


def test_a_large_offset_does_not_spoil_the_spread() -> None:
    values = 1e6 + np.random.default_rng(0).normal(0, 2, (40, 50, 60))
    assert measure_intensity(stacks_of(Volume.from_array(values))).std == pytest.approx(
        values.std(), rel=1e-9
    )


def test_standardize_gives_mean_0_and_variance_1_and_is_undone_by_restore() -> None:
    values = np.random.default_rng(0).normal(300, 50, (30, 30, 30)).astype(np.float32)
    stats = measure_intensity(stacks_of(Volume.from_array(values)))
    standard = stats.standardize(values)
    assert standard.dtype == np.float32
    assert standard.mean() == pytest.approx(0, abs=1e-4)
    assert standard.std() == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(stats.restore(standard), values, rtol=1e-5)


def test_the_background_is_the_level_of_the_dark_parts() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(100, 10, (32, 64, 64))
    values[:, 20:40, 20:40] += 500
    stats = measure_intensity(stacks_of(Volume.from_array(values)))
    assert stats.background == pytest.approx(100, abs=4)
    assert stats.minimum < 70


def test_a_large_volume_is_sampled_evenly_over_space_and_time() -> None:
    values = np.zeros((2, 4, 1024, 512), np.float32)
    values[1] += np.linspace(0, 1, 512, dtype=np.float32)
    volume = Volume.from_array(values, "tzyx")
    stats = measure_intensity(stacks_of(volume), sample_voxels=2**21)
    assert 0.25 <= stats.sampled <= 0.5
    assert stats.mean == pytest.approx(values.mean(), abs=0.15)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_voxel_that_is_no_number_is_named(bad: float) -> None:
    values = np.zeros((2, 10, 300, 40), np.float32)
    values[1, 3, 290, 7] = bad
    with pytest.raises(
        VolumeError, match=r"cells holds NaN or infinity, first at z=3, y=290, x=7 of time point 1"
    ):
        measure_intensity(stacks_of(Volume.from_array(values, "tzyx")), name="cells")


@pytest.mark.parametrize("corner", [(0, 0, 0), (3, 1, 2), (3, 3, 3)])
def test_a_volume_that_is_empty_where_it_was_sampled(corner: tuple[int, ...]) -> None:
    data = np.full((100, 100, 100), 7, np.uint16)
    data[tuple(33 * c for c in corner)] = 1000
    stats = measure_intensity([Volume.from_array(data).stack()], sample_voxels=32**3)
    assert (stats.minimum, stats.maximum) == (7, 1000)
    assert stats.std > 0
    assert stats.background == 7


def test_a_constant_image_is_refused_with_its_value() -> None:
    with pytest.raises(VolumeError, match="has the value 7; there is nothing to restore"):
        measure_intensity(stacks_of(Volume.from_array(np.full((5, 5), 7, np.uint8))))


def test_stats_are_in_data_units() -> None:
    stats = IntensityStats(mean=10, std=2, minimum=4, maximum=20, background=8)
    np.testing.assert_array_equal(stats.standardize(np.array([10, 12, 8])), [0, 1, -1])
    np.testing.assert_array_equal(stats.restore(np.array([0, 1, -1])), [10, 12, 8])


def test_the_unit_range_runs_from_the_minimum_to_the_maximum_and_no_further() -> None:
    stats = IntensityStats(mean=100, std=20, minimum=50, maximum=250, background=60)
    scaling = stats.unit_range
    values = np.array([50, 150, 250], np.uint16)
    np.testing.assert_array_equal(scaling.apply(values), np.array([0, 0.5, 1], np.float32))
    np.testing.assert_array_equal(scaling.restore(np.array([-1, 0.5, 3])), [50, 150, 250])
    # Standardised values have no bounds.
    np.testing.assert_array_equal(stats.standard.restore(np.array([-10.0, 10])), [-100, 300])
    assert scaling.restore(np.zeros(2)).dtype == scaling.apply(values).dtype == np.float32
