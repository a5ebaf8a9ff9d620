"""Checks of a result: explained or not, noise, light, training, and the sum of it all."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from bigdecon.config import ClassicalSettings
from bigdecon.deconvolution.methods import classical_method
from bigdecon.diagnosis.findings import Finding
from bigdecon.diagnosis.result_checks import (
    check_clipping,
    check_explanation,
    check_intensity,
    check_noise_amplification,
    check_psf_by_residual,
    check_training,
    check_trust,
)
from bigdecon.evaluation.noise import NoiseModel
from bigdecon.evaluation.residual import residual_of
from bigdecon.evaluation.thinning import thin
from bigdecon.optics.psf import psf_from_array
from tests.evaluation.images import Camera, simulate

CAMERA = Camera()
NOISE = NoiseModel(CAMERA.gain, CAMERA.read_out**2 + 1 / 12, CAMERA.offset)
NDIM = pytest.mark.parametrize("ndim", [2, 3])
SEED = pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])


def lucy(image, psf, iterations):
    settings = ClassicalSettings(iterations=iterations, background=CAMERA.offset, sieve=0.0)
    return classical_method("richardson-lucy", psf, settings, threads=1)(np.asarray(image, np.float32))


# --- does it explain the image? ----------------------------------------------------------------------


@NDIM
@SEED
@pytest.mark.parametrize("specimen", ["filaments", "nuclei"])
def test_the_truth_explains_the_image_to_its_noise(specimen, ndim, seed):
    got = simulate(specimen, ndim, seed, CAMERA)
    residual = residual_of(got.image, got.truth, got.psf, NOISE)
    finding = check_explanation(residual)
    assert finding.severity == "good"
    assert "to the noise: yes" in finding.sentence
    assert all(check_psf_by_residual(residual, made).severity == "good" for made in ("given", "network"))
    assert check_intensity(residual.kept).severity == "good"


@NDIM
@SEED
def test_a_result_of_a_wrong_psf_does_not(ndim, seed):
    """Blurred by a PSF three times as wide as the true one, even the best result leaves structure."""
    got = simulate("filaments", ndim, seed, CAMERA)
    wide = psf_from_array(got.psf, voxel_size_um=(1.0,) * ndim, psf_voxel_size_um=(3.0,) * ndim).array
    wide = wide[tuple(slice(n // 2 - 15, n // 2 + 16) for n in wide.shape)] if ndim == 3 else wide
    wide = wide / wide.sum()
    residual = residual_of(got.image, lucy(got.image, wide, 10), wide, NOISE)
    explained, psf = check_explanation(residual), check_psf_by_residual(residual)
    assert explained.needs_attention
    assert "to the noise: no" in explained.sentence
    assert psf.needs_attention
    assert "The PSF seems wrong" in psf.sentence
    of_network = check_psf_by_residual(residual, "network")  # which may leave as much itself
    assert of_network.severity == "warning"
    assert of_network.sentence.startswith("Either the network has not learned enough, or the PSF is wrong")
    assert "richardson-lucy" in of_network.remedy
    early = check_psf_by_residual(residual, "unfinished-network")
    assert early.severity == "note"
    assert "tells nothing of the PSF" in early.sentence
    assert check_trust([explained, psf]).severity == max(
        explained.severity, psf.severity, key=SEVERITIES.index
    )


SEVERITIES = ["good", "note", "warning", "distrust"]


def test_a_dim_image_near_its_noise_is_not_distrusted():
    """Of structure that lies below the noise a large share may be left without harm."""
    got = simulate("nuclei", 3, 0, CAMERA)
    residual = residual_of(got.image, got.truth, got.psf, NOISE)
    for chi, correlation, severity in ((1.24, 0.15, "note"), (1.6, 0.0, "warning"), (3.0, 0.5, "distrust")):
        dim = replace(residual, chi_square=chi, correlation=(correlation,) * 3, unexplained=chi - 1)
        assert check_explanation(dim).severity == severity


def test_a_result_that_follows_the_noise():
    got = simulate("filaments", 2, 0, CAMERA)
    point = np.zeros((3, 3), np.float32)
    point[1, 1] = 1
    followed = got.expected + 0.9 * (got.image - got.expected)
    finding = check_explanation(residual_of(got.image, followed, point, NOISE))
    assert finding.severity == "warning"
    assert "followed the noise" in finding.sentence


# --- noise and light -----------------------------------------------------------------------------------


@NDIM
@SEED
def test_a_sharpened_image_amplifies_noise_and_the_truth_does_not(ndim, seed):
    dim = Camera(electrons=60.0)
    got = simulate("points", ndim, seed, dim)
    assert check_noise_amplification(got.image, got.truth, NOISE).severity == "good"
    assert check_noise_amplification(got.image, got.image, NOISE).severity == "good"
    sharpened = got.image + 2.0 * (got.image - got.expected)
    finding = check_noise_amplification(got.image, sharpened, NOISE)
    assert finding.name == "amplified-noise"
    assert finding.severity == "warning"


def halves_of(image):
    return [2 * half for half in thin(image, NOISE, np.random.default_rng(0))]


@NDIM
def test_noise_that_smoothing_would_take_away_is_named(ndim):
    got = simulate("nuclei", ndim, 0, CAMERA)
    halves = halves_of(got.image)
    sharpened = tuple(half + 3 * (half - gaussian_filter(half, 1)) for half in halves)
    finding = check_noise_amplification(got.image, sharpened[0], NOISE, sharpened)
    assert (finding.name, finding.severity) == ("amplified-noise", "warning")
    assert "amplifies noise" in finding.sentence
    smoothed = tuple(gaussian_filter(half, 1.5) for half in halves)
    assert check_noise_amplification(got.image, smoothed[0], NOISE, smoothed).severity == "good"
    same = check_noise_amplification(got.image, got.image, NOISE, (got.truth, got.truth))
    assert same.severity == "good"


def test_noise_within_the_structure_is_good_and_the_sentence_says_why():
    random = np.random.default_rng(0)
    signal, *noise = (gaussian_filter(random.standard_normal((96, 96)), 2, mode="wrap") for _ in range(3))
    halves = tuple(signal + 0.5 * n for n in noise)
    finding = check_noise_amplification(signal, signal, NOISE, halves)
    assert finding.severity == "good"
    assert "more than 3%, but only" in finding.sentence
    assert "in order" not in finding.sentence


def test_a_box_too_small_for_halves_is_not_judged_by_them():
    finding = check_noise_amplification(*(np.ones((12, 12)),) * 2, NOISE, (np.ones((12, 12)),) * 2)
    assert (finding.severity, "too small" in finding.sentence) == ("note", True)


def test_no_correlation_is_beyond_one():
    got = simulate("nuclei", 2, 0, CAMERA)
    residual = residual_of(got.image, got.image, got.psf, NOISE)
    told = check_explanation(replace(residual, chi_square=3.0, correlation=(0.4, 1.01)))
    assert "correlated by 1.00" in told.sentence


def judged(specimen, electrons, counts, sieve=0.0):
    """True error (after the best scale), and severity, after numbers of iterations."""
    got = simulate(specimen, 2, 0, Camera(electrons=electrons))
    settings = ClassicalSettings(
        iterations=max(counts), background=CAMERA.offset, sieve=sieve, accelerate=True
    )
    method = classical_method("richardson-lucy", got.psf, settings, threads=1)
    ways = [method.iterates(np.asarray(y, np.float32), counts) for y in (got.image, *halves_of(got.image))]
    found = []
    for (_, whole), (_, first), (_, second) in zip(*ways, strict=True):
        agreement = np.corrcoef(whole.ravel(), got.truth.ravel())[0, 1]
        finding = check_noise_amplification(got.image, whole, NOISE, (first, second))
        found.append((math.sqrt(1 - agreement**2), finding.severity))
    return found


@pytest.mark.parametrize(
    ("specimen", "electrons"),
    [("filaments", 30.0), ("filaments", 400.0), ("filaments", 4000.0), ("nuclei", 30.0), ("nuclei", 400.0)],
)
def test_the_best_number_of_iterations_is_not_warned_of_and_far_too_many_are(specimen, electrons):
    """Noise that is several times the image's is no fault where structure is as much sharper."""
    found = judged(specimen, electrons, (5, 10, 14, 20, 28, 40, 56, 80, 110))
    best = min(error for error, _ in found)
    for error, severity in found:
        if error <= 1.15 * best:
            assert severity == "good"
        if error >= 2.7 * best:
            assert severity == "warning"
    assert any(severity == "warning" for _, severity in found)


def test_without_dark_places_nothing_is_claimed():
    image = np.random.default_rng(0).poisson(1000, (40, 40))
    assert "no dark places" in check_noise_amplification(image, image, NoiseModel(1, 9, 100)).sentence


def test_light_that_is_lost():
    assert check_intensity(1.02).severity == "good"
    assert check_intensity(math.nan).severity == "note"
    lost = check_intensity(0.62)
    assert lost.severity == "warning"
    assert "62.0%" in lost.sentence


def test_clipping():
    assert check_clipping(0, 10**6, "uint16").severity == "good"
    assert check_clipping(3, 10**6, "uint16").severity == "note"
    many = check_clipping(5000, 10**6, "uint8")
    assert many.severity == "warning"
    assert "uint8" in many.sentence
    assert "--dtype float32" in many.remedy


# --- training --------------------------------------------------------------------------------------------


def curve(errors):
    return [(100 * (i + 1), error) for i, error in enumerate(errors)]


@SEED
def test_training(seed):
    random = np.random.default_rng(seed)
    steps = np.arange(40)
    jitter = 1 + 0.01 * random.standard_normal(40)
    flat = 1 + np.exp(-steps / 4)
    falling = 3 - steps / 20
    rising = 1 + np.exp(-steps / 4) + 0.04 * np.maximum(0, steps - 15)
    assert check_training(curve(flat * jitter), "steps").severity == "good"
    assert check_training(curve(flat * jitter), "plateau").severity == "good"
    early = check_training(curve(falling * jitter), "steps")
    assert early.severity == "warning"
    assert "after 4000 steps while the network was still learning" in early.sentence
    worse = check_training(curve(rising * jitter), "steps")
    assert worse.severity == "warning"
    assert "got worse" in worse.sentence
    for errors in (falling * jitter, falling[:3]):
        cut = check_training(curve(errors), "time", 8000)
        assert cut.severity == "warning"
        assert f"after {100 * len(errors)} of 8000 steps" in cut.sentence
    assert check_training(curve(flat * jitter), "time", 8000).severity == "good"
    assert "while the network was still learning" in check_training(curve(falling), "time", 4200).sentence
    few = check_training(curve([None, None, 3.0, math.nan, 2.0]), "time")
    assert few.severity == "note"
    assert "2 times" in few.sentence


# --- the sum ---------------------------------------------------------------------------------------------


def test_what_to_say_first():
    good = Finding("a", "good", "All well.")
    note = Finding("b", "note", "By the way.")
    warning = Finding("c", "warning", "A mistake.", "Mend it.")
    distrust = Finding("d", "distrust", "Nonsense.", "Start anew.")
    assert check_trust([good, note]).severity == "good"
    assert check_trust([]).severity == "good"
    doubtful = check_trust([good, warning, warning])
    assert (doubtful.severity, doubtful.remedy) == ("warning", "Mend it.")
    serious = check_trust([good, warning, distrust])
    assert serious.severity == "distrust"
    assert serious.sentence == "Do not trust this result. Nonsense."
    assert serious.remedy == "Start anew."
