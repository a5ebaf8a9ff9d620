from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bigdecon.diagnosis.bead_findings import bead_findings, width_findings
from bigdecon.diagnosis.optics_checks import KnownOptics
from bigdecon.diagnosis.psf_checks import check_sampling
from bigdecon.optics.beads import psf_from_beads
from bigdecon.optics.conditions import ImagingConditions
from bigdecon.optics.expectation import Expectation, expect
from bigdecon.optics.models import make_psf
from tests.optics.beads import CONDITIONS, VOXEL_UM, bead_image, scattered

OPTIONS = {"voxel_size_um": VOXEL_UM, **CONDITIONS}
SHAPE = (44, 240, 160)


def names(findings):
    return {finding.name for finding in findings if finding.severity != "good"}


@pytest.fixture(scope="module")
def healthy():
    return psf_from_beads(bead_image(SHAPE, scattered(SHAPE, (100, 50, 50))), **OPTIONS)


def test_good_beads_are_said_to_be_good(healthy):
    findings = bead_findings(healthy)
    assert healthy.n_used >= 10
    assert names(findings) == set()
    assert {"bead-count", "undersampling", "psf-width-axial", "psf-width-lateral", "psf-symmetry"} <= {
        finding.name for finding in findings
    }


def test_few_beads(healthy):
    few = replace(healthy, beads=healthy.beads[:1])
    some = replace(healthy, beads=healthy.beads[:7])
    assert [f.severity for f in bead_findings(few) if f.name == "bead-count"] == ["warning"]
    assert [f.severity for f in bead_findings(some) if f.name == "bead-count"] == ["note"]
    assert "Only 1 bead could" in bead_findings(few)[0].sentence


def test_a_wrong_voxel_size_is_noticed():
    image = bead_image((49, 120, 120), scattered((49, 120, 120), (100, 60, 60)))
    finer = psf_from_beads(image, voxel_size_um=(0.2, 0.065, 0.065), **CONDITIONS)
    coarser = psf_from_beads(image, voxel_size_um=(0.4, 0.16, 0.16), **CONDITIONS)
    assert "psf-narrow-lateral" in names(bead_findings(finer))
    assert {"psf-wide-axial", "psf-wide-lateral", "undersampling"} <= names(bead_findings(coarser))


def test_an_aberrated_psf_is_noticed():
    psf = make_psf(
        "gibson-lanni", numerical_aperture=1.4, wavelength_um=0.52, refractive_index=1.515,
        sample_refractive_index=1.33, emitter_depth_um=5, voxel_size_um=VOXEL_UM, shape=(61, 61, 61),
    ).array  # fmt: skip
    image = np.pad(1000 * psf / psf.max(), ((10, 10), (20, 20), (20, 20)))
    found = names(bead_findings(psf_from_beads(image, voxel_size_um=VOXEL_UM)))
    assert "psf-spherical-aberration" in found
    assert not found & {"psf-coma", "psf-oval"}


def test_coma_and_ovals_are_noticed(healthy):
    assert names(bead_findings(replace(healthy, asymmetry=(0.02, 0.02, 0.3)))) == {"psf-coma"}
    oval = replace(healthy, fwhm_um=(0.63, 0.24, 0.30))
    assert "psf-oval" in names(bead_findings(oval))


def test_unlike_beads_and_a_cut_psf_are_noticed(healthy):
    assert names(bead_findings(replace(healthy, width_spread=(0.3, 0.1, 0.1)))) == {"bead-spread"}
    cut = bead_findings(replace(healthy, fwhm_um=(None, 0.25, 0.25)))
    assert [f.severity for f in cut if f.name == "psf-whole"] == ["distrust"]


def test_weak_beads_are_noticed():
    image = bead_image((44, 120, 70), [(18.2, 30.4, 30.1), (18.4, 80.2, 33.3)], brightness=40)
    assert "bead-signal" in names(bead_findings(psf_from_beads(image, **OPTIONS)))


def test_large_beads_are_noticed(healthy):
    small = replace(healthy, bead_diameter_um=0.05, widening=(1.0, 1.01, 1.01))
    large = replace(healthy, bead_diameter_um=0.3, widening=(1.1, 1.4, 1.4))
    corrected = replace(large, bead_size_corrected=True, widening=(1, 1, 1))
    assert "bead-size" not in names(bead_findings(small))
    assert [f.severity for f in bead_findings(large) if f.name == "bead-size"] == ["warning"]
    assert [f.severity for f in bead_findings(corrected) if f.name == "bead-size"] == ["good"]


def test_the_beads_own_size_is_part_of_theory():
    theory = Expectation((0.6, 0.25, 0.25), (0.3, 0.1, 0.1))
    wide = (0.63, 0.36, 0.36)
    assert names(width_findings(wide, theory)) == {"psf-wide-lateral"}
    assert names(width_findings(wide, theory, 0.45)) == set()


def test_sampling_is_held_against_the_limit():
    conditions = ImagingConditions(1.2, 0.52, 1.33)
    known, theory = KnownOptics.of(conditions), expect(conditions, VOXEL_UM)
    assert check_sampling(VOXEL_UM, None, known).severity == "good"
    for size, axis in [((0.6, 0.1, 0.1), 0), ((0.2, 0.2, 0.2), 1)]:
        found = check_sampling(size, None, known)
        assert found.severity == "warning"
        assert f"{size[axis]:g} µm along {'zyx'[axis]}" in found.sentence
        assert f"is {theory.sampling_um[axis]:.3g} µm" in found.sentence


def test_without_optics_sampling_is_told_by_the_width(healthy):
    unknown = replace(healthy, expectation=None, conditions=None)
    assert names(bead_findings(unknown)) == set()
    coarse = replace(healthy.psf, array=healthy.psf.array[:, ::3, ::3])
    assert names(bead_findings(replace(unknown, psf=coarse))) == {"undersampling"}
