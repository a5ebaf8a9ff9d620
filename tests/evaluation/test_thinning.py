"""Halves of an image: they add up to it, and their noise is independent."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bigdecon.evaluation.noise import NoiseModel, estimate_noise
from bigdecon.evaluation.thinning import thin
from tests.evaluation.images import Camera, simulate

NOISE = NoiseModel(2.0, 9.0, 100.0)


@settings(max_examples=50, deadline=None)
@given(arrays(np.uint16, (5, 6, 7)), st.integers(0, 99))
def test_halves_of_whole_numbers_add_up_exactly(image, seed):
    first, second = thin(image, NOISE, np.random.default_rng(seed))
    assert (first + second == image).all()


def test_halves_of_fractions_add_up_to_rounding():
    image = np.random.default_rng(0).normal(3, 2, (20, 20)).astype(np.float32)
    first, second = thin(image, NoiseModel(0.0, 1e-2), np.random.default_rng(1))
    np.testing.assert_allclose(first + second, image, rtol=0, atol=1e-10)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("specimen", ["filaments", "points", "nuclei"])
def test_the_noise_of_the_halves_is_independent_and_half_as_large(ndim, specimen):
    camera = Camera()
    got = simulate(specimen, ndim, 0, camera)
    noise = estimate_noise(got.image, camera.offset)
    halves = thin(got.image, noise, np.random.default_rng(5))
    deviation = np.sqrt(camera.variance_at(got.expected))
    first, second = ((half - got.expected / 2) / deviation for half in halves)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.06
    for part in (first, second):
        assert part.mean() == pytest.approx(0, abs=0.02)
        assert part.var() == pytest.approx(0.5, rel=0.1)


def test_one_seed_gives_one_pair():
    image = simulate("points", 2, 0).image
    pairs = [thin(image, NOISE, np.random.default_rng(s)) for s in (3, 3, 4)]
    assert (pairs[0][0] == pairs[1][0]).all()
    assert (pairs[0][0] != pairs[2][0]).any()
