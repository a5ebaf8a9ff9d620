"""Which mistakes with axes, voxel sizes and optics are noticed, and that right input stays silent.

The table of docs/warnings.md stands on these tests: where an image alone cannot tell, silence is asserted.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from bigdecon_cli.main import bigdecon
from click.testing import CliRunner

from bigdecon.config import RunConfig
from bigdecon.diagnosis.input_checks import check_input, check_psf_alone
from bigdecon.diagnosis.optics_checks import (
    KnownOptics,
    check_psf_optics,
    check_psf_plausibility,
    check_psf_theory,
)
from bigdecon.diagnosis.orientation import optical_axis
from bigdecon.io.writing import write_ome_zarr
from bigdecon.optics.microscopes import Microscope
from bigdecon.optics.models import make_psf
from bigdecon.optics.psf import psf_from_array, save_psf
from bigdecon.reporting.checking import findings_of_psfs
from bigdecon.running.planning import prepare
from bigdecon.volume import Volume
from tests.evaluation.images import Camera, simulate

WATER = {"numerical_aperture": 1.2, "wavelength_um": 0.52, "refractive_index": 1.33}
OIL = {"numerical_aperture": 1.4, "wavelength_um": 0.52, "refractive_index": 1.515}
SAMPLED = {1.2: (0.2, 0.1, 0.1), 1.4: (0.15, 0.08, 0.08)}
CONFOCAL = Microscope("confocal", excitation_um=0.488, pinhole_airy=1.0)
CLOSED = Microscope("confocal", excitation_um=0.405, pinhole_airy=0.2)
DISK = Microscope("spinning-disk", excitation_um=0.488, pinhole_um=0.5)
SHEET = Microscope("light-sheet", sheet_thickness_um=1.0)
ONE, HALF, TWICE = (1.0, 1.0, 1.0), 0.5, 2.0


@cache
def made(na=1.2, microscope=None, size=None, shape=(25, 25, 25)):
    optics = WATER if na == 1.2 else OIL
    return make_psf(
        "richards-wolf",
        **optics,
        voxel_size_um=size or SAMPLED[na],
        shape=shape,
        microscope=microscope,
    )


@cache
def image(specimen, electrons, na):
    return simulate(specimen, 3, 0, Camera(electrons), psf=made(na).array).image


def loaded(psf, *, kept=True, order=(0, 1, 2), psf_factor=ONE, image_factor=ONE):
    """Load a PSF as a file with these mistakes would be."""
    size = psf.voxel_size_um
    found = psf_from_array(
        psf.array.transpose(order),
        psf_voxel_size_um=[s * f for s, f in zip(size, psf_factor, strict=True)],
        voxel_size_um=[s * f for s, f in zip(size, image_factor, strict=True)],
    )
    return replace(found, origin=psf.origin) if kept else found


def noticed(psf, known=None):
    """Names of the warnings about a PSF alone."""
    found = check_psf_alone(psf, psf.voxel_size_um, known or KnownOptics())
    return {finding.name for finding in found if finding.needs_attention}


# --- right ones --------------------------------------------------------------------------------------


@pytest.mark.parametrize("na", [1.2, pytest.param(1.4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("microscope", [None, CONFOCAL, CLOSED, DISK, SHEET])
def test_a_right_psf_raises_no_alarm_whatever_the_microscope(na, microscope):
    fine = tuple(0.6 * s for s in SAMPLED[na])
    psf = made(na, microscope, fine, (41, 41, 41))
    known = KnownOptics(**(WATER if na == 1.2 else OIL))
    for kept in (True, False):
        for asked in (None, known, replace(known, refractive_index=None)):
            assert noticed(loaded(psf, kept=kept), asked) == set()


@pytest.mark.parametrize("voxel_um", [(0.4, 0.16, 0.16), (0.2, 0.1, 0.1), (0.1, 0.1, 0.1), (0.3, 0.08, 0.1)])
def test_the_optical_axis_of_a_psf_in_order(voxel_um):
    psf = make_psf("gibson-lanni", **OIL, sample_refractive_index=1.36, emitter_depth_um=5,
                   voxel_size_um=voxel_um, shape=(41, 31, 33))  # fmt: skip
    assert optical_axis(psf.array, voxel_um) == 0
    noise = np.random.default_rng(0).normal(0, 0.02 * psf.array.max(), psf.array.shape)
    assert optical_axis(psf.array + noise, voxel_um) == 0


# --- axes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("microscope", [None, CONFOCAL, DISK])
@pytest.mark.parametrize(("order", "axis", "named"), [((1, 0, 2), 1, "yzx"), ((2, 1, 0), 2, "yxz")])
@pytest.mark.parametrize("sizes_moved", [False, True])
def test_axes_in_another_order(microscope, order, axis, named, sizes_moved):
    """Whether the voxel sizes were moved with the axes or not."""
    psf = made(1.4, microscope, shape=(31, 25, 27))
    size = psf.voxel_size_um
    moved = tuple(size[i] for i in order) if sizes_moved else size
    wrong = psf_from_array(psf.array.transpose(order), psf_voxel_size_um=moved, voxel_size_um=moved)
    assert noticed(wrong) == {"psf-orientation"}
    said = next(f for f in check_psf_alone(wrong, moved, KnownOptics()) if f.name == "psf-orientation")
    if "swapped" in said.sentence:
        assert f"{'zyx'[axis]} for z" in said.sentence
        assert f"--axes {named}" in said.remedy


# --- voxel sizes of the PSF ------------------------------------------------------------------------------

PSF_FACTORS = [(1, HALF, HALF), (1, TWICE, TWICE), (HALF, 1, 1), (TWICE, 1, 1), (HALF,) * 3, (TWICE,) * 3]


@pytest.mark.parametrize("factor", PSF_FACTORS)
@pytest.mark.parametrize("na", [1.2, 1.4])
def test_our_psf_with_other_voxels_than_it_was_made_with(factor, na):
    psf = loaded(made(na), psf_factor=factor)
    found = next(f for f in check_psf_alone(psf, psf.voxel_size_um, KnownOptics()) if f.needs_attention)
    assert found.name == "psf-voxel-size"
    ratio = TWICE if TWICE in factor else HALF
    assert f"{ratio:g} times as wide" in found.sentence


def test_a_psf_that_was_cut_or_resampled_since_says_nothing():
    psf = made()
    coarser = psf_from_array(psf.array[::2], psf_voxel_size_um=(0.4, 0.1, 0.1), voxel_size_um=(0.4, 0.1, 0.1))
    assert "psf-voxel-size" not in noticed(replace(coarser, origin=psf.origin))
    assert noticed(loaded(psf, image_factor=(0.5, 0.5, 0.5))) == set()


@pytest.mark.parametrize("factor", [f for f in PSF_FACTORS if f != (HALF, 1, 1)])
@pytest.mark.parametrize("na", [1.2, 1.4])
def test_a_psf_from_elsewhere_is_held_against_the_optics_of_the_image(factor, na):
    known = KnownOptics(**(WATER if na == 1.2 else OIL))
    found = noticed(loaded(made(na), kept=False, psf_factor=factor), known)
    # One that is too long alone may be aberrated.
    assert found - {"undersampling"} == (set() if factor == (TWICE, 1, 1) else {"psf-width-by-theory"})


@pytest.mark.parametrize(("depth_um", "severity"), [(2.0, "good"), (5.0, "note"), (10.0, "note")])
def test_a_psf_that_is_aberrated_by_depth_is_no_mistake(depth_um, severity):
    size = (0.2, 0.1, 0.1)
    sample = {"sample_refractive_index": 1.33, "emitter_depth_um": depth_um}
    psf = make_psf("gibson-lanni", **OIL, **sample, voxel_size_um=size, shape=(61, 33, 33))
    found = check_psf_theory(loaded(psf, kept=False), KnownOptics(**OIL))
    assert found.severity == severity
    assert severity == "good" or "spherical aberration" in found.remedy
    both = check_psf_theory(loaded(psf, kept=False, psf_factor=(TWICE,) * 3), KnownOptics(**OIL))
    assert (both.severity, "wide along y" in both.sentence) == ("warning", True)


@pytest.mark.parametrize("factor", [(1, HALF, HALF), (HALF, 1, 1), (0.45,) * 3])
def test_widths_that_no_objective_makes(factor):
    assert noticed(loaded(made(1.4), kept=False, psf_factor=factor)) == {"psf-implausible"}


def test_what_nothing_tells_stays_silent():
    """A PSF from elsewhere at twice its size could be that of another objective."""
    for factor in [(1, TWICE, TWICE), (TWICE, 1, 1), (TWICE,) * 3]:
        assert check_psf_plausibility(loaded(made(1.2), kept=False, psf_factor=factor)).severity == "good"


# --- two microscopes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"wavelength_um": 0.461}, "light of 0.52 µm where the image has 0.461 µm"),
        ({"numerical_aperture": 0.8}, "an NA of 1.2 where the image has 0.8"),
        ({"refractive_index": 1.515}, "an immersion of index 1.33 where the image has 1.515"),
    ],
)
def test_a_psf_of_another_microscope_or_channel(told, words):
    found = check_psf_optics(made(), KnownOptics(**told))
    assert found.severity == "warning"
    assert words in found.sentence


def test_rounded_optics_are_the_same():
    assert check_psf_optics(made(), KnownOptics(1.2, 0.509, 1.333)).severity == "good"
    assert check_psf_optics(made(), KnownOptics()) is None


# --- with an image: the table ----------------------------------------------------------------------------

SMOOTH = [pytest.param(("nuclei", 30.0, 1.2), marks=pytest.mark.slow), ("nuclei", 400.0, 1.4)]
SHARP = [("filaments", 400.0, 1.2)]


def warnings(specimen, electrons, na, kept, known, **faults):
    psf = loaded(made(na), kept=kept, **faults)
    optics = KnownOptics(**(WATER if na == 1.2 else OIL)) if known else KnownOptics()
    stack = Volume.from_array(image(specimen, electrons, na)).stack()
    found = check_input([stack], psf, background=100.0, voxel_size_um=psf.voxel_size_um, image_optics=optics)
    return {f.name for f in found if f.needs_attention}


@pytest.mark.parametrize("case", SMOOTH + SHARP)
def test_no_fault_no_warning(case):
    assert warnings(*case, kept=True, known=False) == set()
    assert warnings(*case, kept=False, known=True) == set()


@pytest.mark.parametrize("case", SMOOTH)
def test_smooth_specimens_need_the_optics(case):
    """The image alone is silent; what the PSF's file or the image's metadata know is not."""
    wide = {"psf_factor": (TWICE,) * 3}
    assert warnings(*case, kept=False, known=False, **wide) == set()
    assert warnings(*case, kept=True, known=False, **wide) == {"psf-voxel-size"}
    assert "psf-width-by-theory" in warnings(*case, kept=False, known=True, **wide)
    assert warnings(*case, kept=True, known=False, order=(1, 0, 2)) == {"psf-orientation"}


def test_a_sharp_specimen_tells_by_itself():
    assert warnings(*SHARP[0], kept=False, known=False, psf_factor=(TWICE,) * 3) == {"psf-too-wide"}
    assert warnings(*SHARP[0], kept=False, known=False, image_factor=(HALF,) * 3) == {"psf-too-wide"}


@pytest.mark.parametrize("case", SMOOTH + SHARP)
def test_an_image_whose_voxels_were_given_twice_as_large_looks_undersampled(case):
    assert warnings(*case, kept=True, known=False, image_factor=(TWICE,) * 3) == {"undersampling"}
    assert warnings(*case, kept=False, known=False, image_factor=(TWICE,) * 3) == set()


def test_plan_psf_check_and_report_tell_undersampling_in_one_sentence(tmp_path):
    """The same voxels, the same PSF, three places that know the optics from the PSF's file alone."""
    psf = made(1.2, size=(0.2, 0.18, 0.18), shape=(9, 15, 15))
    save_psf(psf, tmp_path / "psf.tif")
    part = image("nuclei", 400.0, 1.4)[:16, :32, :32]
    write_ome_zarr(
        Volume.from_array(part, voxel_size_um=(0.2, 0.18, 0.18)), tmp_path / "a.ome.zarr", dtype="uint16"
    )
    config = RunConfig(str(tmp_path / "a.ome.zarr"), (str(tmp_path / "psf.tif"),), method="richardson-lucy",
                       iterations=1, sieve=0.0, background=100.0, device="cpu")  # fmt: skip
    plan = prepare(config, "cpu")

    def checked(*voxel_size):
        call = ["psf", "check", str(tmp_path / "psf.tif"), "--json", *voxel_size]
        found = json.loads(CliRunner().invoke(bigdecon, call).output)["findings"]
        return [f for f in found if f["name"] == "undersampling"]

    assert checked() == []  # a PSF by itself may have any voxels
    told = checked("--voxel-size", "0.2", "0.18", "0.18")
    assert told == [f.as_json() for f in plan.findings if f.name == "undersampling"]
    assert told[0]["severity"] == "warning"
    before = SimpleNamespace(findings=(), image=plan.volume, result=plan.volume, psfs=plan.psfs)
    reported = [f.as_json() for _, f in findings_of_psfs(before) if f.name == "undersampling"]
    assert reported == told
    known = prepare(replace(config, na=0.5, wavelength=0.52), "cpu")
    assert {f.severity for f in known.findings if f.name == "undersampling"} == {"good"}
    assert "psf-optics" in {f.name for f in known.findings if f.needs_attention}
