"""Checks of the image: each finds its fault, and stays silent about images without it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from bigdecon.diagnosis.image_checks import (
    check_background,
    check_hot_pixels,
    check_noise_correlation,
    check_saturation,
    check_signal,
)
from bigdecon.evaluation.noise import estimate_noise, noise_correlation
from tests.evaluation.images import Camera, simulate

CAMERA = Camera()
NDIM = pytest.mark.parametrize("ndim", [2, 3])
SEED = pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])


def findings(image, background=CAMERA.offset):
    noise = estimate_noise(image, background)
    return {
        finding.name: finding
        for finding in (
            check_saturation(image),
            check_hot_pixels(image),
            check_signal(image, background, noise),
            check_noise_correlation(noise_correlation(image)),
            check_background(image, background, noise),
        )
    }


def alarms(image, background=CAMERA.offset):
    return {name for name, finding in findings(image, background).items() if finding.needs_attention}


@NDIM
@SEED
@pytest.mark.parametrize("specimen", ["filaments", "points", "nuclei", "bars"])
def test_a_good_image_raises_no_alarm(specimen, ndim, seed):
    found = findings(simulate(specimen, ndim, seed).image)
    assert {name: f.severity for name, f in found.items()} == dict.fromkeys(found, "good")


@NDIM
@SEED
def test_saturated_voxels(ndim, seed):
    image = simulate("nuclei", ndim, seed).image
    limit = np.percentile(image, 98).astype(image.dtype)
    finding = findings(image.clip(0, limit))["saturated-voxels"]
    assert finding.severity == "warning"
    assert f"highest value, {limit:g}" in finding.sentence


def test_a_known_limit_counts_every_voxel_there():
    image = np.arange(100.0).reshape(10, 10)
    assert check_saturation(image).severity == "good"
    assert check_saturation(image, 90).sentence.startswith("10 voxels")


@SEED
def test_few_grey_levels_are_no_saturation(seed):
    rng = np.random.default_rng(seed)
    for image in (
        rng.poisson(0.5, (32, 64, 64)),
        rng.poisson(2, (32, 64, 64)),
        rng.binomial(8, 0.5, (64, 64)),
    ):
        assert check_saturation(image.astype("uint16")).severity == "good"


@NDIM
@SEED
@pytest.mark.parametrize("share", [2e-3, 2e-2])
def test_hot_pixels(ndim, seed, share):
    image = simulate("filaments", ndim, seed).image
    hot = np.random.default_rng(seed).random(image.shape[-2:]) < share
    image = np.where(hot, image + 1500, image)  # in every plane, as defects of a camera are
    assert alarms(image) == {"hot-pixels"}


@NDIM
@SEED
def test_too_little_signal(ndim, seed):
    dark = simulate("filaments", ndim, seed, Camera(electrons=0.5, read_out=6.0)).image
    assert "too-little-signal" in alarms(dark)
    assert "too-little-signal" not in alarms(simulate("filaments", ndim, seed, Camera(electrons=60)).image)


@NDIM
@SEED
@pytest.mark.parametrize("spoil", ["shift", "shear", "smooth", "scale"])
def test_noise_that_neighbours_share(ndim, seed, spoil):
    image = simulate("nuclei", ndim, seed).image.astype(float)
    spoiled = {
        "shift": lambda: ndimage.shift(image, [0.4] * ndim, order=1, mode="nearest"),
        "shear": lambda: _sheared(image),
        "smooth": lambda: ndimage.gaussian_filter(image, 0.7),
        "scale": lambda: ndimage.zoom(image, [1] * (ndim - 1) + [1.6], order=1),
    }[spoil]()
    finding = findings(spoiled)["correlated-noise"]
    assert finding.severity == "warning"
    assert "deskew" in finding.remedy


def _sheared(image):
    """Deskew, as for a light sheet: every row moves by a fraction of a pixel more than the last."""
    matrix = np.eye(image.ndim)
    matrix[-1, -2] = 0.37
    return ndimage.affine_transform(image, matrix, order=1, mode="nearest")


@SEED
def test_a_dark_image_is_no_false_alarm(seed):
    image = np.random.default_rng(seed).normal(100, 5, (32, 64, 64))
    assert check_background(image, 100.0, estimate_noise(image, 100.0)).severity == "good"


@NDIM
@SEED
@pytest.mark.parametrize(("background", "word"), [(0.0, "too low"), (300.0, "too high")])
def test_a_background_that_does_not_suit(ndim, seed, background, word):
    image = simulate("filaments", ndim, seed, Camera(electrons=60, offset=200.0)).image
    noise = estimate_noise(image, 200)
    assert check_background(image, 200.0, noise).severity == "good"
    finding = check_background(image, background, noise)
    assert finding.severity == "warning"
    assert word in finding.sentence
    assert f"{background:g}" in finding.sentence
