"""The noise of a result, from two halves: how much there is, and how much smoothing would take away."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from bigdecon.evaluation.half_noise import noise_of_halves

SHAPES = pytest.mark.parametrize("shape", [(192, 192), (40, 56, 56)])


def images(shape, sigma, seed=0):
    """A signal of variance 1, and two times noise of variance 1."""
    random = np.random.default_rng(seed)
    signal = gaussian_filter(random.standard_normal(shape), sigma, mode="wrap")
    return signal / signal.std(), random.standard_normal(shape), random.standard_normal(shape)


@SHAPES
def test_the_share_is_that_of_the_whole(shape):
    """Halves with a noise variance of 1/2 each are those of a whole with 1/4."""
    signal, *noise = images(shape, 1.0)
    found = noise_of_halves(*(signal + 0.5**0.5 * n for n in noise))
    assert found.share == pytest.approx(0.25 / 1.25, abs=0.02)


@SHAPES
def test_noise_beside_the_structure_can_be_removed_and_noise_within_it_cannot(shape):
    signal, *noise = images(shape, 2.0)
    beside = noise_of_halves(*(signal + 0.3 * n for n in noise))
    assert beside.removable > 0.8
    among = [gaussian_filter(n, 2.0, mode="wrap") for n in noise]
    within = noise_of_halves(*(signal + 0.3 * n / n.std() for n in among))
    assert within.removable < 0.15
    assert within.share == pytest.approx(beside.share, abs=0.02)


def test_it_does_not_depend_on_brightness_or_offset():
    signal, *noise = images((96, 96), 2.0)
    halves = [signal + 0.3 * n for n in noise]
    plain, scaled = noise_of_halves(*halves), noise_of_halves(*(500 * half + 1000 for half in halves))
    assert scaled == pytest.approx(plain, rel=1e-9)


def test_the_ends():
    signal, *noise = images((64, 64), 2.0)
    assert noise_of_halves(signal, signal) == (0, 0)
    alone = noise_of_halves(*noise)
    assert alone.share == pytest.approx(1, abs=0.1)
    assert alone.removable > 0.85
    assert noise_of_halves(noise[0], -noise[0]) == (1, 1)


def test_a_box_that_is_too_small_tells_nothing():
    _, *noise = images((64, 16, 15), 1.0)
    assert all(math.isnan(value) for value in noise_of_halves(*noise))
    assert not math.isnan(noise_of_halves(*(n[:, :, :1].repeat(16, 2) for n in noise)).share)
