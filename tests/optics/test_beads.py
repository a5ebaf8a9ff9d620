from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.ndimage
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from bigdecon.errors import PSFError, VolumeError
from bigdecon.io.reading import open_volume
from bigdecon.optics import bead_finding
from bigdecon.optics.bead_registration import fourier_shift
from bigdecon.optics.bead_size import ball_transfer, without_bead
from bigdecon.optics.beads import psf_from_beads
from bigdecon.optics.conditions import ImagingConditions
from bigdecon.optics.expectation import bead_widening, expect
from bigdecon.optics.microscopes import Microscope
from bigdecon.optics.models import make_psf
from bigdecon.optics.psf import find_centre, load_psf, save_psf
from bigdecon.optics.widths import asymmetries, fwhm
from bigdecon.volume import Volume
from tests.optics.beads import (
    CONDITIONS,
    VOXEL_UM,
    bead_image,
    difference,
    point_image,
    scattered,
    true_psf,
)

SHAPE = (25, 29, 29)
OPTIONS = {"voxel_size_um": VOXEL_UM, **CONDITIONS}


def counts(measured):
    return {rejection.reason: rejection.count for rejection in measured.rejections}


@pytest.fixture(scope="module")
def field():
    """Sixteen beads between voxels, and where they are."""
    places = scattered((44, 240, 240), (100, 60, 60))
    return bead_image((44, 240, 240), places), places


# One bead


@settings(deadline=None, max_examples=8)
@given(shift=st.tuples(*[st.floats(-0.5, 0.5)] * 3))
def test_one_bead_anywhere_between_voxels_gives_the_psf(shift):
    place = np.add((24, 30, 31), shift)
    image = bead_image((49, 61, 63), [place], noise=False)
    measured = psf_from_beads(image, **OPTIONS, shape=SHAPE)
    assert measured.n_used == measured.n_found == 1
    assert measured.beads[0].position == pytest.approx(tuple(place), abs=0.005)
    assert measured.beads[0].brightness == pytest.approx(1000, rel=0.1)
    assert measured.psf.array.shape == SHAPE
    assert measured.psf.array.sum(dtype=float) == pytest.approx(1, abs=1e-5)
    assert measured.psf.array.min() >= 0
    assert find_centre(measured.psf.array) == pytest.approx((12, 14, 14), abs=0.01)
    assert difference(measured.psf.array) < 0.008


def test_the_widths_are_those_of_theory():
    """With the pixels of a camera, as theory takes them."""
    fine = make_psf("richards-wolf", **CONDITIONS, voxel_size_um=VOXEL_UM, shape=(41, 41, 41)).array
    image = np.zeros((61, 81, 81), np.float32)
    image[10:51, 20:61, 20:61] = 1000 * fine / fine.max()
    measured = psf_from_beads(image, **OPTIONS)
    assert measured.fwhm_um == pytest.approx(measured.expectation.fwhm_um, rel=0.03)


def test_an_asymmetric_psf_is_not_mirrored():
    tail = point_image((49, 61, 61), (24.2, 30.3, 29.8)) + 0.3 * point_image((49, 61, 61), (27.2, 30.3, 31.8))
    measured = psf_from_beads(1000 * tail, **OPTIONS, shape=SHAPE).psf.array
    middle = [n // 2 for n in tail.shape]
    truth = fourier_shift(tail, np.subtract(middle, find_centre(tail)))[12:37, 16:45, 16:45]

    def error(array):
        return np.abs(array / array.max() - truth / truth.max()).max()

    assert error(measured) < 0.05
    assert min(error(np.flip(measured, axis)) for axis in (0, 2)) > 0.1


def test_moving_by_whole_voxels_changes_nothing():
    image = bead_image((61, 81, 81), [(30.3, 40.4, 39.8)])
    first = psf_from_beads(image[:-3, :-5, :-7], **OPTIONS, shape=SHAPE)
    second = psf_from_beads(image[3:, 5:, 7:], **OPTIONS, shape=SHAPE)
    assert np.subtract(first.beads[0].position, second.beads[0].position) == pytest.approx((3, 5, 7))
    assert np.array_equal(first.psf.array, second.psf.array)


def test_without_optics_the_same_psf_is_found(field):
    image, _ = field
    known, unknown = psf_from_beads(image, **OPTIONS), psf_from_beads(image, voxel_size_um=VOXEL_UM)
    assert unknown.expectation is None
    assert np.allclose(known.psf.array, unknown.psf.array, atol=1e-4 * known.psf.array.max())


def test_a_flat_image_gives_a_flat_psf():
    image = bead_image((49, 161, 161), [(24, 40.3, 41.4), (24, 110.2, 119.6)])[24]
    measured = psf_from_beads(image, voxel_size_um=VOXEL_UM[1:], **CONDITIONS)
    assert measured.n_used == 2
    assert measured.psf.array.ndim == 2
    truth = true_psf((1, 81, 81))[0]
    assert fwhm(measured.psf.array) == pytest.approx(fwhm(truth), rel=0.03)


# Many beads


def test_the_error_falls_with_the_number_of_beads(field):
    image, places = field
    errors = []
    for n in (1, 4, 16):
        measured = psf_from_beads(image, **OPTIONS, max_beads=n)
        assert (measured.n_used, measured.unused) == (n, len(places) - n)
        errors.append(difference(measured.psf.array))
    assert errors[1] < 0.65 * errors[0]
    assert errors[2] < 0.65 * errors[1]
    assert errors[2] < 0.05


def test_every_bead_is_found_where_it_is(field):
    image, places = field
    measured = psf_from_beads(image, **OPTIONS)
    found = np.array(sorted(bead.position for bead in measured.beads))
    nearest = np.abs(found[:, None] - places).max(axis=2).min(axis=1)
    assert len(found) == len(places)
    assert nearest.max() < 0.1
    assert measured.fwhm_um == pytest.approx(np.multiply(fwhm(true_psf((29, 23, 23))), VOXEL_UM), rel=0.03)
    assert max(measured.width_spread) < 0.08
    assert max(measured.asymmetry) < 0.03


def test_dimmer_beads_count_less():
    places = scattered((44, 200, 200), (100, 60, 60))
    bright, dim = places[::2], places[1::2]
    image = bead_image((44, 200, 200), np.concatenate([bright, dim]), [3000] * len(bright) + [200] * len(dim))
    alone = bead_image((44, 200, 200), bright, 3000)
    both = psf_from_beads(image, **OPTIONS)
    assert both.n_used == len(places)
    assert difference(both.psf.array) < 1.1 * difference(psf_from_beads(alone, **OPTIONS).psf.array)


def test_one_bead_that_is_not_like_the_others_does_no_harm(field):
    image, places = field
    spoiled = image.astype(np.float32)
    z, y, x = np.round(places[7]).astype(int)
    spoiled[z + 3 : z + 7, y + 3 : y + 8, x - 3 : x + 4] += 150  # dirt beside a bead
    assert difference(psf_from_beads(spoiled, **OPTIONS).psf.array) < 0.05


# Beads that are left out


def test_crowded_beads_are_left_out(field):
    image, places = field
    near = bead_image(image.shape, [places[3] + (0, 7, 6), places[11] + (0, 0, 9)], 700, offset=0)
    measured = psf_from_beads(image + near, **OPTIONS)
    assert counts(measured) == {"crowded": 4}
    assert measured.n_used == len(places) - 2
    assert measured.n_found == len(places) + 2


def test_two_beads_that_look_like_one_are_left_out(field):
    image, places = field
    beside = bead_image(image.shape, [places[5] + (0, 1.6, 1.2)], 800, offset=0)
    assert counts(psf_from_beads(image + beside, **OPTIONS)) == {"of another shape": 1}


def test_saturated_beads_are_left_out(field):
    image, places = field
    more = bead_image(image.shape, [places[2], places[9], places[15]], 5000, offset=0)
    for limit in (4095, 3000):
        measured = psf_from_beads(np.minimum(image + more, limit), **OPTIONS)
        assert counts(measured) == {"saturated": 3}
    eight_bit = (np.minimum(image + more, 2040) / 8).astype(np.uint8)
    assert counts(psf_from_beads(eight_bit, **OPTIONS))["saturated"] == 3


def test_beads_cut_by_the_border_are_left_out():
    image = bead_image((44, 160, 120), [(20, 40, 60), (21, 90, 5), (3, 120, 60), (22, 3, 20)])
    measured = psf_from_beads(image, **OPTIONS, shape=(21, 21, 21))
    assert counts(measured) == {"cut by the border": 3}
    assert measured.n_used == 1


def test_dim_beads_and_hot_pixels_are_left_out(field):
    image, _ = field
    spoiled = image.copy()
    spoiled[20, 50, 50] = spoiled[22, 110, 111] = 3000
    faint = bead_image(image.shape, [(20, 50, 112)], 28, offset=0, noise=False)
    measured = psf_from_beads(spoiled + faint.astype(np.uint16), **OPTIONS)
    assert counts(measured) == {"too dim": 1, "of another shape": 2}
    assert difference(measured.psf.array) < 0.05


def test_no_noise_is_taken_for_a_bead():
    noise = np.random.default_rng(0).normal(100, 3, (40, 100, 100)).astype(np.float32)
    with pytest.raises(PSFError, match=r"no bead|none of the"):
        psf_from_beads(noise, **OPTIONS)


# Aberrations, and the size of beads


def test_an_aberrated_psf_is_told_by_its_asymmetry():
    psf = make_psf(
        "gibson-lanni", numerical_aperture=1.4, wavelength_um=0.52, refractive_index=1.515,
        sample_refractive_index=1.33, emitter_depth_um=5, voxel_size_um=VOXEL_UM, shape=(61, 61, 61),
    ).array  # fmt: skip
    image = np.pad(1000 * psf / psf.max(), ((10, 10), (20, 20), (20, 20)))
    measured = psf_from_beads(image, voxel_size_um=VOXEL_UM)
    assert measured.n_used == 1, "lobes along the axis are no neighbours"
    assert measured.asymmetry[0] > 0.15
    assert max(measured.asymmetry[1:]) < 0.02


def _ball_image(diameter):
    """Image of a ball, by convolution of the PSF with it, on an eighth of the voxels."""
    z, y, x = (np.arange(-3, 4 - 1e-9, 1 / 8) * v for v in VOXEL_UM)
    ball = (z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 <= diameter**2 / 4).astype(float)
    weights = scipy.ndimage.zoom(ball, 1, order=0)
    image = np.zeros((61, 81, 81), np.float32)
    coarse = np.argwhere(weights[::2, ::2, ::2])
    for k, j, i in coarse:
        image += point_image(image.shape, (30 + k / 4 - 3, 40 + j / 4 - 3, 40 + i / 4 - 3))
    return 1000 * image / image.max()


@pytest.mark.slow
def test_the_size_of_beads_is_told_and_can_be_taken_out():
    image, truth = _ball_image(0.2), true_psf((25, 29, 29))
    told = psf_from_beads(image, **OPTIONS, shape=SHAPE, bead_diameter_um=0.2)
    taken_out = psf_from_beads(image, **OPTIONS, shape=SHAPE, bead_diameter_um=0.2, correct_bead_size=True)
    real = np.divide(fwhm(told.psf.array), fwhm(truth))
    assert told.widening == pytest.approx(tuple(real), rel=0.02)
    assert min(told.widening[1:]) > 1.08
    assert taken_out.widening == (1, 1, 1)
    assert difference(taken_out.psf.array) < 0.4 * difference(told.psf.array)


def test_a_ball_of_no_size_changes_nothing():
    psf = true_psf(SHAPE)
    assert np.allclose(without_bead(psf, VOXEL_UM, 1e-3, None), psf, atol=1e-5 * psf.max())
    assert bead_widening((0.6, 0.2), 1e-4) == pytest.approx((1, 1))
    assert bead_widening((0.1,), 1.0) == (np.inf,)


def test_ball_transfer_is_that_of_a_ball():
    """By a sum over slices of the ball, at one frequency after the other."""
    at = np.linspace(-0.5, 0.5, 2001)
    slices = 0.25 - at**2
    for frequency in (0.2, 0.7, 1.1):
        direct = (slices * np.cos(2 * np.pi * frequency * at)).sum() / slices.sum()
        assert ball_transfer(np.array([frequency]), 1.0)[0] == pytest.approx(direct, abs=1e-4)


def test_beads_too_large_to_be_undone_are_refused():
    image = bead_image((49, 61, 61), [(24, 30, 30)], noise=False)
    with pytest.raises(PSFError, match=r"hide the finest details.*beads of 0\.\d+ µm or less"):
        psf_from_beads(image, **OPTIONS, bead_diameter_um=0.5, correct_bead_size=True)


def test_two_photons_pass_no_more_than_their_own_wavelength_lets():
    two_photons = Microscope("two-photon", excitation_um=0.92)
    conditions = ImagingConditions.from_numbers(1.0, 0.52, 1.33, two_photons)
    image = np.zeros((31, 41, 41), np.float32)
    image[15, 20, 20] = 1
    without_bead(image, (0.2, 0.08, 0.08), 0.2, conditions)  # by the emission, 0.13 µm were the most
    with pytest.raises(PSFError, match="hide the finest details"):
        without_bead(image, (0.2, 0.08, 0.08), 0.35, conditions)


# Pieces


def test_pieces_give_what_the_whole_gives(field, monkeypatch):
    image, _ = field
    whole = psf_from_beads(image, **OPTIONS)
    monkeypatch.setattr(bead_finding, "BOX_VOXELS", 40**3)
    pieces = psf_from_beads(image, **OPTIONS)
    assert pieces.n_used == whole.n_used
    assert np.abs(pieces.psf.array - whole.psf.array).max() < 1e-4 * whole.psf.array.max()


@pytest.mark.slow
def test_a_large_image_is_read_in_pieces(tmp_path, monkeypatch):
    shape = (44, 900, 900)
    image = np.random.default_rng(0).normal(100, 3, shape).astype(np.float32)
    beads = bead_image((44, 240, 240), scattered((44, 240, 240), (100, 60, 60)), offset=0)
    image[:, 500:740, 300:540] += beads
    tifffile.imwrite(tmp_path / "beads.tif", image)
    size = image.nbytes
    del image
    monkeypatch.setattr(bead_finding, "BOX_VOXELS", 2**18)
    volume = open_volume(tmp_path / "beads.tif", voxel_size_um=VOXEL_UM)
    tracemalloc.start()
    measured = psf_from_beads(volume, **CONDITIONS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert measured.n_used == 16
    assert peak < size / 3


# Parts


@settings(deadline=None, max_examples=12)
@given(shift=st.tuples(*[st.floats(-0.5, 0.5)] * 3))
def test_a_shift_moves_what_is_sampled_finely_enough(shift):
    place = (24, 30, 30)
    moved = fourier_shift(point_image((49, 61, 61), place), shift)
    assert np.abs(moved - point_image((49, 61, 61), np.add(place, shift)))[12:37, 15:46, 15:46].max() < 0.02


def test_widths_lie_between_voxels():
    z, y, x = np.indices((41, 31, 31))
    for centre in ((20, 15, 15), (19.6, 15.3, 14.5)):
        away = [(a - c) / s for a, c, s in zip((z, y, x), centre, (3, 1.3, 1.1), strict=True)]
        data = np.exp(-0.5 * (away[0] ** 2 + away[1] ** 2 + away[2] ** 2))
        expected = 2.3548 * np.array([3, 1.3, 1.1])
        assert fwhm(data) == pytest.approx(tuple(expected), rel=0.02)
    assert fwhm(np.exp(-0.5 * ((z - 20) / 30) ** 2 - (y - 15) ** 2 - (x - 15) ** 2))[0] is None


def test_a_mirror_image_has_no_asymmetry():
    psf = true_psf(SHAPE)
    assert asymmetries(psf, (3, 2.5, 2.5)) == pytest.approx((0, 0, 0), abs=1e-5)
    assert asymmetries(np.roll(psf, 1, axis=0), (3, 2.5, 2.5))[0] > 0.2


def test_theory_is_that_of_published_formulas():
    conditions = ImagingConditions(0.4, 0.52, 1.0)
    theory = expect(conditions, (0.3, 0.1, 0.1))
    axial = 1 - np.sqrt(1 - 0.16)
    assert theory.sampling_um == pytest.approx((0.52 / 2 / axial, 0.325, 0.325))
    assert theory.fwhm_um == pytest.approx((0.88 * 0.52 / axial, 0.51 * 1.3, 0.51 * 1.3), rel=0.04)


def test_a_measured_psf_is_read_as_it_was_written(field, tmp_path):
    measured = psf_from_beads(field[0], **OPTIONS)
    save_psf(measured.psf, tmp_path / "psf.tif")
    loaded = load_psf(tmp_path / "psf.tif", voxel_size_um=VOXEL_UM)
    assert loaded.voxel_size_um == VOXEL_UM
    assert not any("background" in note or "centre" in note for note in loaded.corrections)
    assert fwhm(loaded.array) == pytest.approx(fwhm(measured.psf.array), rel=0.01)


# Bad input


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"voxel_size_um": None}, "voxel size of array is unknown"),
        ({"voxel_size_um": (0.1, 0.1)}, "must be 3 positive numbers"),
        ({"shape": (20, 21, 21)}, "odd numbers"),
        ({"shape": (99, 21, 21)}, "does not fit into the image"),
        ({"max_beads": 0}, "at least one bead"),
        ({"bead_diameter_um": -1}, "must be positive"),
        ({"correct_bead_size": True}, "--bead-diameter"),
        ({"wavelength_um": None}, "the wavelength is missing"),
        ({"numerical_aperture": 1.4}, "exceeds the refractive index"),
    ],
)
def test_impossible_settings_are_refused(changes, words):
    image = bead_image((49, 61, 61), [(24, 30, 30)], noise=False)
    with pytest.raises(PSFError, match=words):
        psf_from_beads(image, **(OPTIONS | changes))


def test_an_empty_image_and_one_with_nan_are_refused():
    with pytest.raises(PSFError, match="no bead was found"):
        psf_from_beads(np.zeros((30, 40, 40), np.uint16), **OPTIONS)
    with pytest.raises(VolumeError, match="NaN"):
        psf_from_beads(np.full((30, 40, 40), np.nan, np.float32), **OPTIONS)
    with pytest.raises(VolumeError, match="no time point 3"):
        psf_from_beads(Volume.from_array(np.zeros((9, 9, 9))), timepoint=3, **OPTIONS)
