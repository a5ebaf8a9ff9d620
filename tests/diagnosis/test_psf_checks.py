"""Checks of the PSF: by itself, against the voxels, and against the image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from bigdecon.diagnosis.optics_checks import KnownOptics
from bigdecon.diagnosis.psf_checks import check_orientation, check_psf_extent, check_psf_width, check_sampling
from bigdecon.optics.psf import psf_from_array
from bigdecon.optics.simulation import paper_psf
from tests.evaluation.images import OPTICS, VOXEL_UM, Camera, microscope_psf, simulate

NDIM = pytest.mark.parametrize("ndim", [2, 3])
SPECIMENS = ["filaments", "points", "nuclei", "bars"]
BRIGHT = Camera(electrons=4000.0)
KNOWN = KnownOptics(**OPTICS)


def wrongly_sized(psf, factor):
    """Take the PSF's voxels for `factor` times as large as they are."""
    ndim = psf.ndim
    factors = np.broadcast_to(factor, ndim).astype(float)
    return psf_from_array(psf, voxel_size_um=(1.0,) * ndim, psf_voxel_size_um=tuple(factors)).array


# --- orientation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("voxel_um", [VOXEL_UM, (0.1, 0.1, 0.1), (0.5, 0.1, 0.1), None])
def test_a_psf_with_its_axes_in_order(voxel_um):
    psf = microscope_psf(3, voxel_um or VOXEL_UM)
    assert check_orientation(psf, voxel_um).severity == "good"
    assert check_orientation(psf[psf.shape[0] // 2], voxel_um and voxel_um[1:]).severity == "good"
    assert check_orientation(paper_psf(3).array, paper_psf(3).voxel_size_um).severity == "good"


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 0, 2)])
def test_swapped_axes(order):
    psf = microscope_psf(3, (0.1, 0.1, 0.1)).transpose(order)
    finding = check_orientation(psf, (0.1, 0.1, 0.1))
    assert finding.severity == "warning"
    assert f"along {'x' if order == (2, 1, 0) else 'y'}" in finding.sentence


def test_voxel_sizes_in_the_wrong_order():
    finding = check_orientation(microscope_psf(3), (0.1, 0.1, 0.3))
    assert finding.severity == "warning"


def test_a_psf_that_is_flat_along_z():
    axes = np.meshgrid(*(np.arange(-7, 8),) * 3, indexing="ij")
    flat = np.exp(-sum((a / s) ** 2 for a, s in zip(axes, (1.0, 3.0, 3.0), strict=True)))
    finding = check_orientation(flat, (0.1, 0.1, 0.1))
    assert "narrower along z" in finding.sentence
    assert check_orientation(flat, (0.3, 0.1, 0.1)).severity == "good"


# --- width against the image -----------------------------------------------------------------------


@NDIM
@pytest.mark.parametrize("specimen", SPECIMENS)
@pytest.mark.parametrize(("electrons", "seed"), [(400.0, 0), pytest.param(4000.0, 1, marks=pytest.mark.slow)])
def test_the_true_psf_raises_no_alarm(ndim, specimen, seed, electrons):
    got = simulate(specimen, ndim, seed, Camera(electrons))
    assert check_psf_width(got.image, got.psf).severity == "good"


@NDIM
@pytest.mark.parametrize("specimen", ["filaments", "points", "bars"])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_psf_whose_voxels_were_taken_for_twice_as_large(ndim, specimen, seed):
    got = simulate(specimen, ndim, seed, BRIGHT)
    finding = check_psf_width(got.image, wrongly_sized(got.psf, 2))
    assert finding.name == "psf-too-wide"
    assert finding.severity == "warning"


@pytest.mark.parametrize("specimen", ["filaments", "points", "bars"])
def test_a_psf_that_is_too_long_along_z(specimen):
    got = simulate(specimen, 3, 0, BRIGHT)
    finding = check_psf_width(got.image, wrongly_sized(got.psf, (2, 1, 1)))
    assert finding.name == "psf-too-wide"
    assert "along z" in finding.sentence


@pytest.mark.parametrize("specimen", SPECIMENS)
def test_a_psf_that_is_far_too_narrow_for_a_very_bright_image(specimen):
    narrow = microscope_psf(2)
    true = gaussian_filter(np.pad(narrow, 10), 2.5)
    got = simulate(specimen, 2, 0, Camera(electrons=20000.0, gain=0.5), psf=true / true.sum())
    assert check_psf_width(got.image, got.psf).severity == "good"
    finding = check_psf_width(got.image, narrow)
    assert finding.name == "psf-too-narrow"
    assert "smooth" in finding.sentence


@NDIM
def test_noise_alone_says_nothing_of_the_psf(ndim):
    image = np.random.default_rng(0).poisson(100, (40, 64, 64)[-ndim:])
    assert check_psf_width(image, microscope_psf(ndim)).severity == "good"


# --- sampling --------------------------------------------------------------------------------------


def test_nyquist_limits_of_the_optics():
    """For NA 1.2 in water at 0.52 µm: 0.108 µm in the plane, 0.344 µm along z."""
    assert check_sampling((0.34, 0.108, 0.108), None, KNOWN).severity == "good"
    slightly = check_sampling((0.34, 0.13, 0.13), None, KNOWN)
    assert slightly.severity == "note"
    coarse = check_sampling((0.34, 0.2, 0.2), None, KNOWN)
    assert coarse.severity == "warning"
    assert "0.2 µm along" in coarse.sentence
    assert "0.108 µm" in coarse.sentence
    thick = check_sampling((0.8, 0.1, 0.1), None, KNOWN)
    assert "0.344 µm" in thick.sentence
    assert "along z" in thick.sentence
    flat = replace(KNOWN, refractive_index=None)
    assert check_sampling((0.8, 0.1, 0.1), None, flat).severity == "good"
    assert check_sampling((0.2, 0.2), None, KNOWN).severity == "warning"


@pytest.mark.parametrize(("pixel_um", "severity"), [(0.1, "good"), (0.2, "note"), (0.4, "note")])
def test_sampling_told_by_the_psf_alone(pixel_um, severity):
    for ndim in (2, 3):
        psf = microscope_psf(ndim, (0.2, pixel_um, pixel_um))
        assert check_sampling(None, psf).severity == severity


@pytest.mark.parametrize(
    ("psf_shape", "image_shape", "severity"),
    [
        ((79, 201, 201), (40, 201, 101), "warning"),
        ((39, 201, 101), (40, 201, 101), "good"),
        ((31, 31, 31), (16, 16, 16), "good"),  # large, but quick
        ((31, 101, 101), (500, 2000, 2000), "good"),
        ((101, 101), (64, 64), "good"),
        ((2047, 2047), (1024, 1024), "good"),  # nine times, which is usual
        ((1023, 4095), (256, 2048), "warning"),
    ],
)
def test_a_psf_that_is_much_larger_than_the_image_is_told(psf_shape, image_shape, severity):
    finding = check_psf_extent(psf_shape, image_shape)
    assert (finding.name, finding.severity) == ("psf-extent", severity)


def test_the_remedy_for_a_large_psf_is_a_shape_and_what_it_gains():
    finding = check_psf_extent((79, 201, 201), (40, 201, 101))
    assert "along z and x: 18 voxels are computed for one" in finding.sentence
    assert "39 x 201 x 101 voxels takes 2.3 times less work" in finding.remedy
    assert check_psf_extent((39, 201, 101), (40, 201, 101)).severity == "good"
