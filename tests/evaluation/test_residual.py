"""Residuals: nothing but noise is left of a true result, and what is wrong with a wrong one."""

from __future__ import annotations

import numpy as np
import pytest

from bigdecon.errors import OptionError
from bigdecon.evaluation.noise import NoiseModel, estimate_noise
from bigdecon.evaluation.residual import residual_of
from tests.evaluation.images import Camera, simulate

CAMERA = Camera()
TRUE_NOISE = NoiseModel(CAMERA.gain, CAMERA.read_out**2 + 1 / 12, CAMERA.offset)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("specimen", ["filaments", "nuclei"])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_truth_leaves_white_noise_of_the_right_size(ndim, specimen, seed):
    got = simulate(specimen, ndim, seed, CAMERA)
    left = residual_of(got.image, got.truth, got.psf, estimate_noise(got.image, CAMERA.offset))
    assert left.chi_square == pytest.approx(1, abs=0.12)
    assert np.abs(left.correlation).max() < 0.05
    assert left.spectrum[4:] == pytest.approx(1, abs=0.25)
    assert left.kept == pytest.approx(1, abs=0.06)
    assert left.normalised.shape == tuple(part.stop - part.start for part in left.box)


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_small_psf_is_known_exactly_inside(ndim):
    psf = np.zeros((5,) * ndim, np.float32)
    psf[(2,) * ndim] = 0.5
    psf[(0,) * ndim] = 0.5
    got = simulate("nuclei", ndim, 0, CAMERA, psf=psf)
    left = residual_of(got.image, got.truth, psf, TRUE_NOISE)
    inner = tuple(slice(2, n - 2) for n in got.image.shape)
    assert left.box == inner
    assert left.coverage == pytest.approx(1, abs=1e-5)
    by_hand = (got.image - got.expected) / TRUE_NOISE.deviation_at(got.expected)
    np.testing.assert_allclose(left.normalised, by_hand[inner], atol=1e-3)


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_image_itself_as_result_leaves_structure(ndim):
    got = simulate("filaments", ndim, 0, CAMERA)
    left = residual_of(got.image, got.image, got.psf, TRUE_NOISE)
    assert left.chi_square > 1.5
    assert max(left.correlation) > 0.2
    assert left.spectrum[1] > 3


def test_half_the_light_is_half_the_intensity_kept():
    got = simulate("nuclei", 3, 0, CAMERA)
    half = CAMERA.offset + (got.truth - CAMERA.offset) / 2
    assert residual_of(got.image, half, got.psf, TRUE_NOISE).kept == pytest.approx(0.5, abs=0.03)


def test_a_psf_larger_than_the_box_leaves_the_middle_half_and_says_so():
    got = simulate("nuclei", 3, 0, CAMERA)
    few = tuple(slice(0, n) for n in (12, 72, 72))
    left = residual_of(got.image[few], got.truth[few], got.psf, TRUE_NOISE)
    assert left.box[0] == slice(3, 9)
    assert left.coverage < 0.9


def test_boxes_that_differ_are_refused():
    with pytest.raises(OptionError, match="one box"):
        residual_of(np.zeros((9, 9)), np.zeros((9, 8)), np.ones((3, 3)) / 9, TRUE_NOISE)
