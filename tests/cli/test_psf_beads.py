from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from bigdecon_cli.main import bigdecon
from click.testing import CliRunner

from bigdecon.errors import OptionError, OutputError, PSFError
from bigdecon.io.writing import write_ome_zarr
from bigdecon.optics.beads import psf_from_beads
from bigdecon.optics.microscopes import Microscope
from bigdecon.optics.models import make_psf
from bigdecon.optics.psf import load_psf, read_psf_file
from bigdecon.volume import Volume
from tests.optics.beads import CONDITIONS, VOXEL_UM, bead_image, scattered

OPTICS = ["--na", "1.2", "--wavelength", "0.52", "--refractive-index", "1.33"]
SHAPE = (44, 180, 120)


def psf_command(*arguments):
    return CliRunner().invoke(bigdecon, ["psf", *map(str, arguments)])


@pytest.fixture(scope="module")
def image():
    return bead_image(SHAPE, scattered(SHAPE, (100, 60, 60)))


@pytest.fixture
def beads(tmp_path, image):
    path = tmp_path / "beads.tif"
    metadata = {"axes": "ZYX", "spacing": 0.2, "unit": "micron"}
    tifffile.imwrite(path, image, imagej=True, metadata=metadata, resolution=(10, 10))
    return path


def test_measures_what_run_reads(tmp_path, beads, image):
    path = tmp_path / "psf.tif"
    result = psf_command("from-beads", beads, "-o", path, *OPTICS, "--bead-diameter", 0.1)
    assert result.exit_code == 0, result.output
    expected = psf_from_beads(image, voxel_size_um=VOXEL_UM, **CONDITIONS)
    array, size = read_psf_file(path)
    assert size == VOXEL_UM
    assert np.array_equal(array, expected.psf.array)
    assert not load_psf(path, voxel_size_um=VOXEL_UM).corrections
    for words in (
        f"{expected.n_used} used of {expected.n_found} found", "axial 0.6", "by theory", "lateral 0.251 µm",
        "spread of beads", "asymmetry", "widened by beads", "Note: Only",
    ):  # fmt: skip
        assert words in result.output


def test_as_json(tmp_path, beads):
    result = psf_command("from-beads", beads, "-o", tmp_path / "psf.tif", *OPTICS, "--json", "--max-beads", 2)
    report = json.loads(result.output)
    assert report["beads_used"] == len(report["beads"]) == 2
    assert report["beads_found"] == 2 + report["beads_beyond_max"]
    assert report["fwhm_um"] == pytest.approx(report["theory"]["fwhm_um"], rel=0.1)
    assert {"name", "severity", "sentence", "remedy"} <= report["findings"][0].keys()
    assert report["rejected"] == {}


def test_rejected_beads_are_told(tmp_path, image):
    crowded = bead_image(SHAPE, [(18, 30, 31), (18, 1, 60)], 900, offset=0)
    tifffile.imwrite(tmp_path / "beads.tif", image + crowded)
    size = ["--voxel-size", *VOXEL_UM]
    result = psf_command("from-beads", tmp_path / "beads.tif", "-o", tmp_path / "psf.tif", *OPTICS, *size)
    assert result.exit_code == 0, result.output
    assert "left out: 2 crowded, 1 cut by the border" in result.output


def test_from_one_channel_of_ome_zarr(tmp_path, image):
    both = np.stack([np.zeros_like(image), image])
    volume = Volume.from_array(both, "czyx", voxel_size_um=VOXEL_UM)
    write_ome_zarr(volume, tmp_path / "beads.ome.zarr")
    arguments = ["from-beads", tmp_path / "beads.ome.zarr", "-o", tmp_path / "psf.tif"]
    refused = psf_command(*arguments)
    assert isinstance(refused.exception, OptionError)
    assert "choose one with --channel" in str(refused.exception)
    assert psf_command(*arguments, "--channel", 1).exit_code == 0
    assert read_psf_file(tmp_path / "psf.tif")[1] == VOXEL_UM


def test_nothing_is_written_where_nothing_is_found(tmp_path, beads):
    empty = tmp_path / "empty.tif"
    tifffile.imwrite(empty, np.zeros((20, 40, 40), np.uint16))
    path = tmp_path / "psf.tif"
    sizes = ["--voxel-size", *VOXEL_UM]
    for arguments, error, words in (
        ([empty, *sizes], PSFError, "no bead was found"),
        ([empty], PSFError, "voxel size of empty.tif is unknown"),
        ([beads, "--na", 1.2], PSFError, "the wavelength and the refractive index are missing"),
        ([beads, "--shape", 20, 21, 21], PSFError, "odd"),
        ([beads, *OPTICS, "--microscope", "confocal"], PSFError, "excitation"),
        ([beads, *OPTICS, "--pinhole", 1], PSFError, "no use for the pinhole"),
        ([beads, "-o", "psf.png"], OutputError, "must end in .tif"),
    ):
        result = psf_command("from-beads", *([] if "-o" in arguments else ["-o", path]), *arguments)
        assert isinstance(result.exception, error)
        assert words in str(result.exception)
        assert not path.exists()


@pytest.mark.parametrize(
    ("flags", "microscope"),
    [
        (["--microscope", "widefield"], Microscope()),
        (["--microscope", "confocal", "--excitation", "0.488", "--pinhole", "1"],
         Microscope("confocal", 0.488, pinhole_airy=1)),
        (["--microscope", "confocal", "--excitation", "0.488", "--pinhole", "inf"],
         Microscope("confocal", 0.488, pinhole_airy=np.inf)),
        (["--microscope", "spinning-disk", "--excitation", ".488", "--disk-pinhole", ".5",
          "--disk-spacing", "2.5"],
         Microscope("spinning-disk", 0.488, None, 0.5, 2.5)),
        (["--microscope", "light-sheet", "--sheet-thickness", "2"],
         Microscope("light-sheet", sheet_thickness_um=2)),
        (["--microscope", "light-sheet", "--sheet-na", "0.1", "--excitation", "0.488"],
         Microscope("light-sheet", 0.488, sheet_aperture=0.1)),
        (["--microscope", "two-photon", "--excitation", "0.9"], Microscope("two-photon", 0.9)),
    ],
)  # fmt: skip
def test_make_knows_the_kinds_of_microscopes(tmp_path, flags, microscope):
    path, sizes = tmp_path / "psf.tif", {"voxel_size_um": (0.3, 0.13, 0.11), "shape": (11, 15, 17)}
    numbers = ["--voxel-size", "0.3", "0.13", "0.11", "--shape", "11", "15", "17"]
    result = psf_command("make", "richards-wolf", "-o", path, *OPTICS, *numbers, *flags)
    assert result.exit_code == 0, result.output
    expected = make_psf("richards-wolf", **CONDITIONS, **sizes, microscope=microscope)
    assert np.array_equal(read_psf_file(path)[0], expected.array)
    assert "FWHM" in result.output
    assert "by theory" in result.output


def test_check_holds_a_psf_against_theory(tmp_path):
    path = tmp_path / "psf.tif"
    sizes = ["--voxel-size", "0.2", "0.1", "0.1", "--shape", "21", "21", "21"]
    assert psf_command("make", "richards-wolf", "-o", path, *OPTICS, *sizes).exit_code == 0
    fits = psf_command("check", path, *OPTICS)
    assert "axial 0.62" in fits.output
    assert fits.output.count("lateral 0.251 µm") == 2
    assert "Warning" not in fits.output
    other = psf_command("check", path, "--na", "0.5", "--wavelength", "0.52", "--refractive-index", "1")
    assert "Warning: The lateral FWHM is 0.251 µm" in other.output
    report = json.loads(psf_command("check", path, *OPTICS, "--json").output)
    assert report["theory"]["fwhm_um"] == pytest.approx([0.627, 0.251, 0.251], abs=0.002)
    assert {f["severity"] for f in report["findings"]} == {"good"}


def test_check_needs_a_voxel_size_for_theory(tmp_path):
    np.save(tmp_path / "psf.npy", make_psf(
        "gaussian", **CONDITIONS, voxel_size_um=VOXEL_UM, shape=(9, 9, 9)).array)  # fmt: skip
    result = psf_command("check", tmp_path / "psf.npy", *OPTICS)
    assert "give --psf-voxel-size" in str(result.exception)


def test_help_has_an_example():
    assert "    bigdecon psf from-beads" in psf_command("from-beads", "--help").output
