"""What a result carries of the image's detail: identities, and results that are too smooth or not."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from bigdecon.config import ClassicalSettings
from bigdecon.deconvolution.methods import classical_method
from bigdecon.deconvolution.tuning import Tuning, tune_channel
from bigdecon.diagnosis.result_checks import check_detail, check_noise_amplification
from bigdecon.evaluation.cutoffs import psf_cutoff_per_um
from bigdecon.evaluation.detail import detail_curves, detail_sums
from bigdecon.evaluation.noise import NoiseModel, estimate_noise
from bigdecon.evaluation.residual import residual_of
from bigdecon.evaluation.thinning import thin
from bigdecon.volume import Volume
from tests.evaluation.images import VOXEL_UM, Camera, microscope_psf, simulate

WHITE = NoiseModel(0.0, 1.0)


@lru_cache
def image_of(specimen, electrons, ndim=2):
    return simulate(specimen, ndim, 0, Camera(electrons=electrons), microscope_psf(ndim))


def curves_of(got, result):
    noise = estimate_noise(got.image, 100.0)
    left = residual_of(got.image, result, got.psf, noise)
    size = VOXEL_UM[-got.image.ndim :]
    sums = detail_sums(got.image[left.box], left.expected, noise, size)
    return detail_curves([sums], size, psf_cutoff_per_um(got.psf, size))


def lucy(image, psf, iterations, sieve=0.0):
    settings = ClassicalSettings(iterations=iterations, background=100.0, sieve=sieve)
    return classical_method("richardson-lucy", psf, settings, threads=1)(np.asarray(image, np.float32))


# --- identities ----------------------------------------------------------------------------------


def correlated(seed, sigma=1.5, gain=8.0, shape=(192, 192)):
    random = np.random.default_rng(seed)
    return gain * gaussian_filter(random.standard_normal(shape), sigma, mode="wrap"), random


@pytest.mark.parametrize("strength", [1.0, 0.4, 0.0])
def test_what_is_kept_is_what_was_passed_on(strength):
    signal, random = correlated(0)
    sums = detail_sums(signal + random.standard_normal(signal.shape), strength * signal, WHITE, (1, 1))
    (curve,) = detail_curves([sums], (1, 1))
    told = np.isfinite(curve.kept)
    assert told.sum() > 5
    assert np.all(np.abs(curve.kept - strength)[told] < 4 * curve.error[told] + 0.01)


def test_the_best_linear_estimate_keeps_all_that_noise_allows():
    """Wiener: the result is fainter where there is noise, and shares the image's noise; both cancel."""
    signal, random = correlated(1)
    image = signal + random.standard_normal(signal.shape)
    lines = np.ix_(*(np.fft.fftfreq(n) for n in signal.shape))
    power = (8.0 * np.exp(-2 * (np.pi * 1.5) ** 2 * (lines[0] ** 2 + lines[1] ** 2))) ** 2
    estimate = np.fft.ifft2(np.fft.fft2(image) * power / (power + 1)).real
    (curve,) = detail_curves([detail_sums(image, estimate, WHITE, (1, 1))], (1, 1))
    told = np.isfinite(curve.kept)
    assert np.all(np.abs(curve.kept - 1)[told] < 4 * curve.error[told] + 0.01)
    assert curve.result_reach == curve.image_reach


def test_noise_alone_tells_nothing():
    noise = np.random.default_rng(2).standard_normal((48, 48, 48))
    curves = detail_curves([detail_sums(noise, np.zeros(noise.shape), WHITE, (1, 1, 1))], (1, 1, 1))
    assert all(curve.image_reach is None for curve in curves)
    finding = check_detail(curves)
    assert finding.severity == "note"
    assert "too little detail" in finding.sentence


def test_boxes_without_light_do_not_hide_those_with_it():
    signal, random = correlated(3)
    lit = detail_sums(signal + random.standard_normal(signal.shape), signal, WHITE, (1, 1))
    dark = [detail_sums(random.standard_normal(signal.shape), 0 * signal, WHITE, (1, 1)) for _ in range(30)]
    (alone,), (among,) = (detail_curves(boxes, (1, 1)) for boxes in ([lit], [*dark, lit]))
    assert among.image_reach == alone.image_reach
    np.testing.assert_array_equal(among.kept, alone.kept)


def test_boxes_that_are_too_small_or_of_noise_that_voxels_share_claim_nothing():
    assert detail_sums(np.zeros((8, 8, 64)), np.zeros((8, 8, 64)), WHITE, (1, 1, 1)) is None
    assert detail_curves([], (1, 1, 1)) == ()
    got = image_of("filaments", 400.0)
    curves = curves_of(got, gaussian_filter(got.truth, 3))
    assert check_detail(curves, (0.02, 0.01)).severity == "warning"
    assert check_detail(curves, (0.4, 0.1)).severity == "note"
    remedies = [check_detail(curves, origin=origin).remedy for origin in ("network", "chosen", "given")]
    for remedy, word in zip(
        remedies, ("--steps", "predict hidden voxels best", "more iterations"), strict=True
    ):
        assert word in remedy


# --- results --------------------------------------------------------------------------------------


SPECIMENS = pytest.mark.parametrize("specimen", ["filaments", "points", "nuclei"])


@SPECIMENS
@pytest.mark.parametrize("electrons", [30.0, 400.0, 4000.0])
def test_the_truth_and_a_good_result_lose_nothing(specimen, electrons):
    got = image_of(specimen, electrons)
    for result in (got.truth, lucy(got.image, got.psf, 40)):
        assert check_detail(curves_of(got, result)).severity in ("good", "note")


@pytest.mark.parametrize(
    ("specimen", "electrons"), [("filaments", 400.0), ("filaments", 4000.0), ("points", 4000.0)]
)
def test_results_that_are_too_smooth(specimen, electrons):
    """Blurred, stopped early, or not deconvolved at all."""
    got = image_of(specimen, electrons)
    for result in (gaussian_filter(got.truth, 2.5), lucy(got.image, got.psf, 2), got.image):
        finding = check_detail(curves_of(got, result))
        assert (finding.name, finding.severity) == ("detail-lost", "warning")
        assert "smoother than the data" in finding.sentence
        assert "µm in the plane (the image's data reach to" in finding.sentence


@pytest.mark.slow
@pytest.mark.parametrize("electrons", [1000.0])
def test_axial_detail_that_is_lost(electrons):
    got = image_of("filaments", electrons, 3)
    curves = curves_of(got, gaussian_filter(got.truth, (2, 0, 0)))
    assert [curve.direction for curve in curves] == ["lateral", "axial"]
    assert curves[1].lost > 0.25
    assert "along z (the image's data" in check_detail(curves).sentence
    assert max(curve.lost for curve in curves_of(got, got.truth)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("specimen", ["filaments", "nuclei"])
def test_settings_that_were_chosen_are_neither_too_smooth_nor_too_noisy(specimen):
    """The choice by hidden voxels and the warnings agree."""
    for electrons in (400.0, 4000.0):
        got = image_of(specimen, electrons)
        stack = Volume.from_array(np.asarray(got.image, np.float32)).stack()
        guess = ClassicalSettings(iterations=20, background=100.0, sieve=1.0, accelerate=True)
        tuning = Tuning("richardson-lucy", guess, ("sieve", "iterations"), threads=1)
        chosen = tune_channel([stack], got.psf, tuning).settings
        method = classical_method("richardson-lucy", got.psf, chosen, threads=1)
        result = method(np.asarray(got.image, np.float32))
        assert not check_detail(curves_of(got, result)).needs_attention
        noise = estimate_noise(got.image, 100.0)
        halves = thin(got.image, noise, np.random.default_rng(0))
        results = tuple(method((2 * half).astype(np.float32)) for half in halves)
        assert not check_noise_amplification(got.image, result, noise, results).needs_attention
