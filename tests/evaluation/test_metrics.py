from __future__ import annotations

import math

import numpy as np
import pytest
from skimage import metrics as reference

from bigdecon.errors import OptionError, VolumeError
from bigdecon.evaluation.metrics import (
    affine_fit,
    evaluate,
    mutual_information,
    psnr,
    rmse,
    spectral_mutual_information,
    ssim,
)

SHAPES = [(33, 40), (12, 17, 20)]


def pair(shape):
    rng = np.random.default_rng(3)
    truth = rng.random(shape)
    return np.clip(truth + 0.2 * rng.standard_normal(shape), 0, 1).astype(np.float32), truth.astype(
        np.float32
    )


def test_values_worked_out_by_hand():
    truth = np.array([[0.0, 1.0], [2.0, 3.0]])
    result = truth + np.array([[1.0, -1.0], [1.0, -1.0]])
    assert rmse(result, truth) == 1.0
    assert psnr(result, truth, data_range=10) == pytest.approx(20.0)
    assert psnr(truth, truth) == math.inf


@pytest.mark.parametrize("shape", SHAPES)
def test_psnr_and_ssim_are_those_of_scikit_image(shape):
    result, truth = pair(shape)
    for peak in (1.0, 0.7):
        expected = reference.peak_signal_noise_ratio(truth, result, data_range=peak)
        assert psnr(result, truth, data_range=peak) == pytest.approx(expected, abs=1e-4)
        expected = reference.structural_similarity(truth, result, data_range=peak)
        assert ssim(result, truth, data_range=peak) == pytest.approx(expected, abs=1e-6)


def test_unsigned_integers_do_not_wrap_around():
    truth = np.array([[5, 0], [0, 5]], np.uint16)
    assert rmse(truth[::-1], truth) == 5.0


def test_ssim_of_thin_images():
    result, truth = pair((5, 30, 30))
    assert 0 < ssim(result, truth) < 1
    assert ssim(result[:1], truth[:1]) == pytest.approx(ssim(result[0], truth[0]))
    with pytest.raises(VolumeError, match="at least 3 voxels"):
        ssim(result[:2], truth[:2])


def test_mutual_information_by_hand():
    # Four equally likely values. Equal images: H(x) = H(x, x). Independent: H(x, y) = H(x) + H(y).
    x, y = np.meshgrid(np.arange(4), np.arange(4))
    assert mutual_information(x, x) == pytest.approx(1)
    assert mutual_information(x, 10 - 3 * x) == pytest.approx(1)
    assert mutual_information(x, y) == pytest.approx(0, abs=1e-12)
    # y known to half: I = ln 2, H(x, y) = ln 4.
    assert mutual_information(x, x // 2) == pytest.approx(0.5)
    assert mutual_information(np.ones((3, 3)), np.zeros((3, 3))) == 0


def test_spectral_mutual_information_forgets_the_scale_and_sees_the_noise():
    result, truth = pair((64, 64))
    assert spectral_mutual_information(3 * truth, truth) == pytest.approx(1, abs=0.01)
    assert spectral_mutual_information(result, truth) < 0.9
    assert spectral_mutual_information(np.zeros((8, 8)), truth[:8, :8]) == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_affine_fit_finds_scale_and_offset(shape):
    _, truth = pair(shape)
    fit = affine_fit((truth - 0.3) / 2.5, truth)
    assert fit.scale == pytest.approx(2.5, rel=1e-4)
    assert fit.offset == pytest.approx(0.3, abs=1e-4)


def test_affine_fit_is_the_best_line():
    result, truth = pair((20, 20))
    slope, intercept = np.polyfit(result.ravel().astype(float), truth.ravel().astype(float), 1)
    fit = affine_fit(result, truth)
    assert (fit.scale, fit.offset) == pytest.approx((slope, intercept))


def test_affine_fit_of_a_constant_is_the_mean():
    _, truth = pair((20, 20))
    fit = affine_fit(np.full((20, 20), 7), truth)
    assert fit.scale == 0
    assert fit.offset == pytest.approx(truth.mean())


@pytest.mark.parametrize("shape", SHAPES)
def test_affine_scores_do_not_see_gain_and_offset(shape):
    result, truth = pair(shape)
    one, other = evaluate(result, truth), evaluate(100 + 50 * result, truth)
    assert one.affine.psnr == pytest.approx(other.affine.psnr, abs=1e-3)
    assert one.affine.ssim == pytest.approx(other.affine.ssim, abs=1e-4)
    assert other.plain.psnr < 0 < one.plain.psnr <= one.affine.psnr


def test_the_data_range_is_that_of_the_truth_unless_given():
    result, truth = pair((20, 20))
    assert evaluate(result, 4 * truth).data_range == pytest.approx(np.ptp(4 * truth))
    assert evaluate(result, truth, data_range=2).plain.psnr == pytest.approx(
        psnr(result, truth, data_range=2)
    )


def test_what_cannot_be_scored_is_refused():
    result, truth = pair((20, 20))
    with pytest.raises(VolumeError, match=r"\(20, 19\).*\(20, 20\)"):
        evaluate(result[:, 1:], truth)
    with pytest.raises(VolumeError, match="everywhere"):
        evaluate(result, np.ones((20, 20)))
    with pytest.raises(OptionError, match="above 0"):
        evaluate(result, truth, data_range=0)
    result[3, 4] = np.nan
    with pytest.raises(VolumeError, match=r"result is not finite at the voxel \(3, 4\)"):
        evaluate(result, truth)
