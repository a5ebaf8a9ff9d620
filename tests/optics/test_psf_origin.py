"""What a PSF file remembers of how it was made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tifffile

from bigdecon.optics.conditions import ImagingConditions
from bigdecon.optics.microscopes import Microscope
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


def test_files_of_others_have_none(tmp_path):
    tifffile.imwrite(tmp_path / "plain.tif", np.ones((5, 9, 9), np.float32))
    np.save(tmp_path / "plain.npy", np.ones((5, 9, 9)))
    (tmp_path / "broken.tif").write_bytes(b"II*\0 no image")
    for name in ("plain.tif", "plain.npy", "broken.tif"):
        assert read_psf_origin(tmp_path / name) is None
