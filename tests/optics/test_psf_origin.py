"""What a PSF file remembers of how it was made."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from bigdecon.optics.conditions import ImagingConditions
from bigdecon.optics.expectation import expect
from bigdecon.optics.microscopes import Microscope, MicroscopeKind
from bigdecon.optics.models import make_psf
from bigdecon.optics.psf import load_psf, save_psf
from bigdecon.optics.psf_file import read_psf_origin
from bigdecon.optics.psf_origin import PSFOrigin

CONFOCAL = Microscope("confocal", excitation_um=0.488, pinhole_airy=1.0)
ORIGIN = PSFOrigin("richards-wolf", (0.3, 0.1, 0.1), (5, 9, 9), ImagingConditions(1.2, 0.52, 1.33, CONFOCAL))


@pytest.mark.parametrize(
    "origin",
    [ORIGIN, replace(ORIGIN, conditions=None), PSFOrigin("beads", (0.1, 0.1), (9, 9))],
)
def test_text_and_back(origin):
    assert PSFOrigin.from_text(origin.as_text()) == origin


def test_a_file_keeps_it(tmp_path):
    psf = make_psf("born-wolf", numerical_aperture=1.2, wavelength_um=0.52, refractive_index=1.33,
                   voxel_size_um=(0.3, 0.1, 0.1), shape=(9, 15, 15), microscope=CONFOCAL)  # fmt: skip
    save_psf(psf, tmp_path / "psf.tif")
    read = load_psf(tmp_path / "psf.tif", voxel_size_um=(0.3, 0.1, 0.1))
    assert read.origin == psf.origin
    assert read.origin.conditions == ImagingConditions(1.2, 0.52, 1.33, CONFOCAL)
    assert read.sha256 == psf.sha256
    with tifffile.TiffFile(tmp_path / "psf.tif") as file:
        assert '"numerical_aperture": 1.2' in file.imagej_metadata["Info"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Point spread", "Line spread"),
        ('"voxel_size_um"', '"size"'),
        ("0.3", "-0.3"),
        ("1.2", '"NaN"'),
        ('"confocal"', '"telescope"'),
        ("}", ""),
        ("1.33", "1" * 20_000),
    ],
)
def test_a_damaged_text_is_no_origin(old, new):
    assert PSFOrigin.from_text(ORIGIN.as_text().replace(old, new)) is None


def described(changes, microscope=None):
    """Give the text of an origin with some numbers changed by a stranger."""
    heading, _, rest = ORIGIN.as_text().partition("\n")
    more = {} if microscope is None else {"microscope": microscope}
    return f"{heading}\n{json.dumps({**json.loads(rest), **changes, **more})}"


DISK = {"kind": "spinning-disk", "excitation_um": 0.488, "pinhole_um": 0.25, "pinhole_spacing_um": 1.25}


@pytest.mark.parametrize(
    ("changes", "microscope"),
    [
        ({"numerical_aperture": 1e-9}, None),
        ({"numerical_aperture": 5e-324}, None),
        ({"numerical_aperture": 1.4}, None),
        ({"wavelength_um": 5e-324}, None),
        ({"wavelength_um": 520}, None),
        ({"refractive_index": 1e300}, None),
        ({"voxel_size_um": [1e308, 0.1, 0.1]}, None),
        ({"shape": [5.5, 9, 9]}, None),
        ({}, DISK | {"pinhole_um": 1e6, "pinhole_spacing_um": 1e7}),
        ({}, DISK | {"pinhole_um": 500.0, "pinhole_spacing_um": 900.0}),
        ({}, DISK | {"pinhole_um": 1e-300}),
        ({}, DISK | {"excitation_um": 1e-300}),
        ({}, {"kind": "confocal", "excitation_um": 0.488, "pinhole_airy": 1e300}),
        ({}, {"kind": "light-sheet", "excitation_um": 0.488, "sheet_aperture": 1e-300}),
    ],
)
def test_numbers_that_no_microscope_has_are_no_origin(changes, microscope):
    assert PSFOrigin.from_text(described({}, DISK)) is not None
    assert PSFOrigin.from_text(described(changes, microscope)) is None


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
NUMBERS = (
    SCALARS | st.floats(0, 3) | st.sampled_from([5e-324, 1e-9, 0.01, 0.2, 2.0, 20, 1e3, 1e6, 1e308, 10**400])
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner), max_leaves=4
)
NAMES = (
    "excitation_um",
    "pinhole_airy",
    "pinhole_um",
    "pinhole_spacing_um",
    "sheet_thickness_um",
    "sheet_aperture",
)
KINDS = st.sampled_from(get_args(MicroscopeKind))
MICROSCOPES = st.fixed_dictionaries({"kind": KINDS}, optional=dict.fromkeys(NAMES, NUMBERS))
OPTICS = {
    "numerical_aperture": NUMBERS, "wavelength_um": NUMBERS, "refractive_index": NUMBERS,
    "microscope": MICROSCOPES, "shape": JSON, "voxel_size_um": JSON, "model": JSON,
}  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({}, optional=OPTICS) | JSON)
def test_whatever_a_file_says_raises_nothing(changes):
    changes = changes if isinstance(changes, dict) else {"model": changes}
    assert isinstance(PSFOrigin.from_text(described(changes)), PSFOrigin | None)


GREATEST = [
    ImagingConditions(1.9, 0.5, 2.0, Microscope("confocal", 0.45, pinhole_airy=40.0)),
    ImagingConditions(2.0, 0.3, 2.0, Microscope("spinning-disk", 0.2, None, 5.9, 5.9)),
    ImagingConditions(0.01, 2.0, 2.0, Microscope("spinning-disk", 1.9, None, 999.0, 999.0)),
]


@pytest.mark.slow
@pytest.mark.parametrize("conditions", GREATEST)
def test_what_is_let_through_takes_little_memory(conditions):
    """An origin that is accepted is computed with: a check of a PSF must not take the machine's memory."""
    tracemalloc.start()
    try:
        expectation = expect(conditions, (0.2, 0.1, 0.1))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert all(0 < width < np.inf for width in expectation.fwhm_um)
    assert peak < 2 * 2**30


@pytest.mark.parametrize("microscope", [Microscope(), CONFOCAL])
def test_voxels_far_too_coarse_are_not_computed(microscope):
    conditions = ImagingConditions(1.4, 0.52, 1.515, microscope)
    coarse, fine = expect(conditions, (90.0, 65.0, 65.0)), expect(conditions, (0.3, 0.1, 0.1))
    assert coarse.fwhm_um == (90.0, 65.0, 65.0)
    assert coarse.sampling_um == pytest.approx(fine.sampling_um, rel=0.5)


def test_files_of_others_have_none(tmp_path):
    tifffile.imwrite(tmp_path / "plain.tif", np.ones((5, 9, 9), np.float32))
    np.save(tmp_path / "plain.npy", np.ones((5, 9, 9)))
    (tmp_path / "broken.tif").write_bytes(b"II*\0 no image")
    for name in ("plain.tif", "plain.npy", "broken.tif"):
        assert read_psf_origin(tmp_path / name) is None
