from __future__ import annotations

import numpy as np
import pytest
import scipy.signal

from bigdecon.errors import PSFError
from bigdecon.optics.microscopes import Microscope, ring_step
from bigdecon.optics.models import make_psf
from bigdecon.optics.pupil import Optics, intensity, light_of_a_plane
from bigdecon.optics.rings import disc_mean
from bigdecon.optics.widths import fwhm

NA, EMISSION, EXCITATION, INDEX = 1.2, 0.52, 0.488, 1.33
MODELS = ["gaussian", "born-wolf", "gibson-lanni", "richards-wolf"]
MICROSCOPES = [
    Microscope("widefield"),
    Microscope("confocal", EXCITATION, pinhole_airy=1),
    Microscope("spinning-disk", EXCITATION, pinhole_um=0.5),
    Microscope("light-sheet", sheet_thickness_um=2),
    Microscope("two-photon", 0.9),
]
BY_KIND = {m.kind: m for m in MICROSCOPES}


def make(microscope, model="richards-wolf", **changes):
    settings = {
        "numerical_aperture": NA,
        "wavelength_um": EMISSION,
        "refractive_index": INDEX,
        "voxel_size_um": (0.2, 0.08, 0.08),
        "shape": (11, 15, 17),
        "pixel_integration": False,
    }
    return make_psf(model, microscope=microscope, **(settings | changes)).array


def excited(model="richards-wolf", wavelength=EXCITATION, **changes):
    """Focus of the light that excites."""
    return make(None, model, wavelength_um=wavelength, **changes)


def unit(array):
    return array / array.sum(dtype=float)


def distance(a, b):
    return float(np.abs(unit(a) - unit(b)).max() / unit(b).max())


# Invariants


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("microscope", MICROSCOPES, ids=BY_KIND)
def test_sums_to_one_and_is_symmetric(model, microscope):
    psf = make(microscope, model, pixel_integration=None)
    assert psf.sum(dtype=float) == pytest.approx(1, abs=1e-5)
    assert psf.min() >= 0
    assert np.unravel_index(psf.argmax(), psf.shape) == tuple(n // 2 for n in psf.shape)
    for axis in range(3):
        assert np.allclose(psf, np.flip(psf, axis), rtol=0, atol=1e-6 * psf.max())


@pytest.mark.parametrize("model", MODELS)
def test_a_closed_pinhole_gives_the_product_of_both_psfs(model):
    expected = excited(model) * make(None, model)
    assert distance(make(Microscope("confocal", EXCITATION, pinhole_airy=1e-3), model), expected) < 1e-3
    assert distance(make(Microscope("spinning-disk", EXCITATION, pinhole_um=1e-4), model), expected) < 1e-3


def test_an_open_pinhole_gives_the_psf_of_the_excitation():
    expected = excited()
    assert distance(make(Microscope("confocal", EXCITATION, pinhole_airy=np.inf)), expected) < 1e-3
    errors = [
        distance(make(Microscope("confocal", EXCITATION, pinhole_airy=airy)), expected) for airy in (1, 4, 16)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02


def test_closing_the_pinhole_sharpens():
    widths = [
        fwhm(make(Microscope("confocal", EXCITATION, pinhole_airy=airy))) for airy in (0.2, 1, 3, np.inf)
    ]
    assert np.all(np.diff(widths, axis=0) > 0)


def test_an_infinitely_thick_light_sheet_is_widefield():
    sheet = Microscope("light-sheet", sheet_thickness_um=np.inf)
    for model in MODELS:
        assert distance(make(sheet, model), make(None, model)) < 1e-3


def test_a_light_sheet_lies_across_the_detection_axis():
    ratio = make(Microscope("light-sheet", sheet_thickness_um=0.8)) / make(None)
    middle = ratio[:, 7, 8] / ratio[5, 7, 8]
    assert np.allclose(ratio, ratio[:, 7:8, 8:9], rtol=1e-4)
    assert middle[5 + 2] == pytest.approx(0.5, rel=1e-4)  # 0.4 µm away, half of the thickness


def test_a_light_sheets_aperture_gives_its_thickness():
    sheet = Microscope("light-sheet", EXCITATION, sheet_aperture=0.1)
    assert sheet.thickness_um == pytest.approx(1.177 * EXCITATION / np.pi / 0.1, rel=1e-3)
    thick = Microscope("light-sheet", sheet_thickness_um=sheet.thickness_um)
    assert distance(make(sheet), make(thick)) < 1e-4


def test_two_photons_square_the_excitation():
    assert distance(make(Microscope("two-photon", 0.9)), excited(wavelength=0.9) ** 2) < 1e-3


def test_cameras_integrate_and_beams_sample():
    for microscope in MICROSCOPES:
        default = make(microscope, pixel_integration=None)
        assert np.array_equal(default, make(microscope, pixel_integration=not microscope.scans))
        assert not np.array_equal(default, make(microscope, pixel_integration=microscope.scans))


def test_an_aberrated_confocal_psf_is_in_the_middle():
    psf = make(
        BY_KIND["confocal"], "gibson-lanni", shape=(31, 21, 21), refractive_index=1.515,
        sample_refractive_index=1.33, emitter_depth_um=3.0,
    )  # fmt: skip
    assert np.unravel_index(psf.argmax(), psf.shape)[1:] == (10, 10)
    assert abs(int(psf[:, 10, 10].argmax()) - 15) <= 2


# Light of a plane, means over discs, and neighbours


@pytest.mark.parametrize("model", ["born-wolf", "gibson-lanni", "richards-wolf"])
@pytest.mark.parametrize("z", [0.0, 1.0])
def test_every_plane_holds_the_light_that_parseval_tells(model, z):
    radii = np.arange(0, 20, 0.02)
    lines = intensity(model, Optics(NA, EMISSION, INDEX, INDEX, 0.0), radii, np.array([z]))[:, 0]
    summed = float((lines * 2 * np.pi * radii).sum() * 0.02)
    assert summed == pytest.approx(
        light_of_a_plane(model, Optics(NA, EMISSION, INDEX, INDEX, 0.0)), rel=0.015
    )


def test_disc_mean_equals_convolution_with_a_disc():
    step, radius = 0.02, 0.3
    radii = step * np.arange(120)
    line = np.exp(-0.5 * (radii / 0.25) ** 2)[:, None] * (1 + 0.3 * np.cos(9 * radii))[:, None]
    mean = disc_mean(line, step, radius, 60)[:, 0]
    at = step * np.arange(-119, 120)
    r = np.hypot(at[:, None], at)
    image = np.interp(r, radii, line[:, 0], right=0)
    disc = (r <= radius).astype(float)
    direct = scipy.signal.fftconvolve(image, disc / disc.sum(), mode="same")[119, 119:179]
    assert np.abs(mean - direct).max() < 0.01 * direct.max()


def test_disc_mean_keeps_what_is_the_same_everywhere():
    assert disc_mean(np.ones((50, 2)), 0.1, 1.0, 30) == pytest.approx(1)


def _disk(**changes):
    settings = {"voxel_size_um": (1.0, 0.1, 0.1), "shape": (9, 21, 21)} | changes
    close = Microscope("spinning-disk", EXCITATION, pinhole_um=0.5, pinhole_spacing_um=2.5)
    return make(Microscope("spinning-disk", EXCITATION, pinhole_um=0.5), **settings), make(close, **settings)


def test_neighbouring_pinholes_add_light_far_from_focus_only():
    single, many = (psf / psf.max() for psf in _disk())
    assert np.abs(many - single)[4].max() < 0.01
    assert many[0].sum() > 1.5 * single[0].sum()


def test_far_from_focus_a_spinning_disk_is_widefield_dimmed_by_its_holes():
    """There every emitter is lit by all pinholes alike."""
    _, many = _disk(voxel_size_um=(6.0, 0.1, 0.1), shape=(3, 21, 21))
    wide = make(None, voxel_size_um=(6.0, 0.1, 0.1), shape=(3, 21, 21))
    ratio = many[0] / wide[0]
    assert ratio.max() / ratio.min() < 1.05


def test_neighbours_spread_evenly_stand_for_a_hexagonal_pattern():
    optics = Optics(NA, EXCITATION, INDEX, INDEX, 0.0)
    spacing, z = 2.5, np.array([2.5])
    step = ring_step(Microscope("spinning-disk", EXCITATION), optics)
    lit = intensity("richards-wolf", optics, step * np.arange(int(15 / step)), z)
    lit = disc_mean(lit, step, 0.25, int(14.5 / step))
    i, j = np.mgrid[-12:13, -12:13]
    away = np.hypot(i + j / 2, j * np.sqrt(3) / 2).ravel() * spacing
    places = step * np.arange(len(lit))
    lattice = np.interp(away[(away > 0) & (away < 14)], places, lit[:, 0]).sum()
    density = 2 / np.sqrt(3) / spacing**2
    share = disc_mean(lit, step, 1 / np.sqrt(np.pi * density), 2)[0, 0]
    assert density * light_of_a_plane("richards-wolf", optics) - share == pytest.approx(lattice, rel=0.1)


# Widths as published


FINE = {
    "numerical_aperture": 0.4,
    "refractive_index": 1.0,
    "voxel_size_um": (0.25, 0.08, 0.08),
    "shape": (61, 21, 21),
}
AXIAL = 1 - np.sqrt(1 - 0.4**2)


def widths_um(microscope):
    widths = fwhm(make(microscope, "gibson-lanni", **FINE))
    return tuple(w * v for w, v in zip(widths, FINE["voxel_size_um"], strict=True))


def test_widefield_is_as_wide_as_published():
    """0.51 λ / NA and 0.88 λ / (n − √(n² − NA²)): Wilhelm et al., Confocal Microscopy, 2003."""
    expected = (0.88 * EMISSION / AXIAL, 0.51 * EMISSION / 0.4)
    assert widths_um(None)[:2] == pytest.approx(expected, rel=0.03)


def test_confocal_is_as_wide_as_published():
    """Open: as the excitation; closed: 0.37 λ̄ / NA and 0.64 λ̄ / (n − √(n² − NA²)), from the same source."""
    opened = widths_um(Microscope("confocal", EXCITATION, pinhole_airy=np.inf))
    assert opened[:2] == pytest.approx((0.88 * EXCITATION / AXIAL, 0.51 * EXCITATION / 0.4), rel=0.03)
    mean = np.sqrt(2) * EXCITATION * EMISSION / np.hypot(EXCITATION, EMISSION)
    closed = widths_um(Microscope("confocal", EXCITATION, pinhole_airy=0.1))
    assert closed[:2] == pytest.approx((0.64 * mean / AXIAL, 0.37 * mean / 0.4), rel=0.03)


def test_two_photon_is_as_wide_as_published():
    """1/e radii 0.32 λ / √2 NA and 0.532 λ / √2 (n − √(n² − NA²)): Zipfel et al. 2003."""
    to_fwhm = 2 * np.sqrt(np.log(2)) * 0.9 / np.sqrt(2)
    expected = (0.532 * to_fwhm / AXIAL, 0.32 * to_fwhm / 0.4)
    assert widths_um(Microscope("two-photon", 0.9))[:2] == pytest.approx(expected, rel=0.05)


def test_a_thin_light_sheet_makes_the_axial_width():
    thickness = 1.0
    wide = widths_um(None)[0]
    width = widths_um(Microscope("light-sheet", sheet_thickness_um=thickness))[0]
    assert width == pytest.approx(1 / np.hypot(1 / thickness, 1 / wide), rel=0.03)


# Bad input


@pytest.mark.parametrize(
    ("microscope", "words"),
    [
        (Microscope("confocal"), "needs the wavelength of excitation"),
        (Microscope("confocal", EXCITATION), "needs the pinhole's diameter in Airy units"),
        (Microscope("confocal", 488, pinhole_airy=1), "488 nm is 0.488"),
        (Microscope("confocal", 0.6, pinhole_airy=1), "were the two exchanged"),
        (Microscope("confocal", EXCITATION, pinhole_airy=0), r"Airy units \(--pinhole\) is 0"),
        (Microscope("confocal", EXCITATION, pinhole_airy=float("nan")), "is nan"),
        (Microscope("widefield", pinhole_airy=1), "no use for the pinhole"),
        (Microscope("spinning-disk", EXCITATION), "--disk-pinhole"),
        (Microscope("spinning-disk", EXCITATION, None, 0.5, 0.4), "cannot lie 0.4 µm apart"),
        (Microscope("spinning-disk", EXCITATION, None, 1e6, 1e7), "between 0.0001 and 1000"),
        (Microscope("spinning-disk", EXCITATION, None, 50, 250), "divide what the disk has"),
        (Microscope("light-sheet", sheet_thickness_um=1e9), "between 0.0001 and 1000"),
        (Microscope("light-sheet"), "either the sheet's thickness"),
        (Microscope("light-sheet", sheet_aperture=0.1), "excitation"),
        (Microscope("light-sheet", EXCITATION, sheet_aperture=1.4), "exceeds the refractive index"),
        (Microscope("two-photon", 0.488), "longer wavelength than the emission"),
        (Microscope("sted"), "there is no microscope 'sted'"),
    ],
)
def test_impossible_settings_are_refused(microscope, words):
    with pytest.raises(PSFError, match=words):
        make(microscope)


def test_a_gaussian_knows_no_cross_talk():
    with pytest.raises(PSFError, match="cross-talk"):
        make(Microscope("spinning-disk", EXCITATION, None, 0.5, 2.5), "gaussian")
