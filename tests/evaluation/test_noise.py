"""The noise of one image: its variance over brightness, and its whiteness."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from bigdecon.errors import OptionError
from bigdecon.evaluation.noise import NoiseModel, estimate_noise, high_pass, noise_correlation
from tests.evaluation.images import Camera, simulate

SPECIMENS = ["filaments", "points", "nuclei", "bars"]


def test_variance_is_a_line_from_the_background_on():
    noise = NoiseModel(gain=2.0, variance=9.0, background=100.0)
    assert noise.variance_at(np.array([0.0, 100.0, 150.0])).tolist() == [9, 9, 109]
    assert noise.deviation_at(108.0) == 5.0


@pytest.mark.parametrize("shape", [(400, 300), (30, 60, 70)])
def test_differences_keep_the_variance_of_white_noise_and_remove_planes(shape):
    axes = range(len(shape))
    white = np.random.default_rng(0).standard_normal(shape)
    assert high_pass(white, axes).std() == pytest.approx(1, abs=0.03)
    plane = sum(np.indices(shape).astype(float))
    assert np.abs(high_pass(plane, axes)).max() < 1e-9


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("specimen", SPECIMENS)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_camera_is_found_through_any_specimen(ndim, specimen, seed):
    camera = Camera()
    got = simulate(specimen, ndim, seed, camera)
    noise = estimate_noise(got.image, camera.offset)
    ratio = noise.variance_at(got.expected) / camera.variance_at(got.expected)
    assert 0.85 < np.median(ratio) < 1.15
    assert 0.8 < np.percentile(ratio, 99) < 1.25


def test_noise_scales_with_the_units_and_ignores_the_offset():
    got = simulate("nuclei", 3, 0)
    image = got.image.astype(float)
    plain, scaled = estimate_noise(image, 100), estimate_noise(10 * image + 7, 1007)
    assert scaled.gain == pytest.approx(10 * plain.gain, rel=0.01)
    assert scaled.variance == pytest.approx(100 * plain.variance, rel=0.01)


def test_empty_borders_and_hot_pixels_leave_the_noise_as_it_is():
    camera = Camera()
    got = simulate("nuclei", 3, 0, camera)
    image = np.pad(got.image, 12)
    hot = np.random.default_rng(0).random(image.shape) < 0.001
    noise = estimate_noise(np.where(hot, 30000, image), camera.offset)
    assert noise.gain == pytest.approx(camera.gain, rel=0.15)
    assert noise.variance == pytest.approx(camera.read_out**2, rel=0.35)


def test_an_image_without_noise_has_that_of_rounding_or_next_to_none():
    ramp = np.add.outer(np.arange(40), np.arange(50))
    assert estimate_noise(ramp).variance == pytest.approx(1 / 12)
    assert 0 < estimate_noise(ramp.astype(float)).variance < 1e-6
    assert estimate_noise(np.zeros((9, 9))).variance > 0


def test_too_small_an_image_is_refused():
    with pytest.raises(OptionError, match="at least 5"):
        estimate_noise(np.zeros((4, 4)))


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("specimen", SPECIMENS)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_raw_noise_is_white_whatever_the_specimen(ndim, specimen, seed):
    got = simulate(specimen, ndim, seed)
    assert np.abs(noise_correlation(got.image)).max() < 0.08


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("axis", [-1, -2])
def test_interpolation_along_an_axis_is_seen_there_and_not_elsewhere(ndim, axis):
    got = simulate("nuclei", ndim, 0)
    shift = np.zeros(ndim)
    shift[axis] = 0.5
    moved = ndimage.shift(got.image.astype(float), shift, order=1, mode="nearest")
    correlation = np.array(noise_correlation(moved))
    assert correlation[axis] == pytest.approx(0.5, abs=0.06)
    assert np.abs(np.delete(correlation, axis % ndim)).max() < 0.06


def test_no_noise_has_no_correlation():
    assert all(math.isnan(value) for value in noise_correlation(np.ones((20, 20))))
    assert math.isnan(noise_correlation(np.random.default_rng(0).random((1, 64, 64)))[0])
