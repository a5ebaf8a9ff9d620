from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from bigdecon_cli.main import bigdecon
from click.testing import CliRunner

from bigdecon.errors import OutputError, PSFError
from bigdecon.optics.models import make_psf
from bigdecon.optics.psf import load_psf, read_psf_file

OPTICS = ["--na", "1.2", "--wavelength", "0.52", "--refractive-index", "1.33"]
SIZES = ["--voxel-size", "0.3", "0.13", "0.11", "--shape", "11", "15", "17"]


def psf_command(*arguments):
    return CliRunner().invoke(bigdecon, ["psf", *map(str, arguments)])


@pytest.mark.parametrize("model", ["gaussian", "born-wolf", "gibson-lanni", "richards-wolf"])
def test_make_writes_what_load_reads(tmp_path, model):
    path = tmp_path / "psf.tif"
    result = psf_command("make", model, "-o", path, *OPTICS, *SIZES)
    assert result.exit_code == 0, result.output
    expected = make_psf(
        model,
        numerical_aperture=1.2,
        wavelength_um=0.52,
        refractive_index=1.33,
        voxel_size_um=(0.3, 0.13, 0.11),
        shape=(11, 15, 17),
    )
    array, size = read_psf_file(path)
    assert size == (0.3, 0.13, 0.11)
    assert array.dtype == np.float32
    assert np.array_equal(array, expected.array)
    loaded = load_psf(path, voxel_size_um=size)
    assert not any("centre" in note or "background" in note for note in loaded.corrections)


def test_make_in_two_dimensions(tmp_path):
    path = tmp_path / "psf.tif"
    sizes = ["--voxel-size", "1", "0.4", "0.4", "--shape", "1", "17", "17"]
    result = psf_command("make", "richards-wolf", "-o", path, *OPTICS, *sizes, "--defocus", "2")
    assert result.exit_code == 0, result.output
    array, size = read_psf_file(path)
    assert array.shape == (17, 17)
    assert size == (0.4, 0.4)


def test_make_overwrites_only_when_told(tmp_path):
    path = tmp_path / "psf.tif"
    path.write_text("precious")
    result = psf_command("make", "gaussian", "-o", path, *OPTICS, *SIZES)
    assert isinstance(result.exception, OutputError)
    assert path.read_text() == "precious"
    assert psf_command("make", "gaussian", "-o", path, *OPTICS, *SIZES, "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--wavelength", "520"], PSFError, "520 nm is 0.52"),
        (["--na", "1.4"], PSFError, "exceeds the refractive index"),
        (["--shape", "10", "15", "15"], PSFError, "must be odd"),
        (["-o", "psf.png"], OutputError, "must end in .tif"),
        (["-o", "/nowhere/psf.tif"], OutputError, "no folder"),
    ],
)
def test_make_refuses_what_cannot_be(tmp_path, arguments, error, words):
    path = tmp_path / "psf.tif"
    result = psf_command("make", "born-wolf", "-o", path, *OPTICS, *SIZES, *arguments)
    assert isinstance(result.exception, error)
    assert words in str(result.exception)
    assert not list(tmp_path.iterdir())


def _off_centre_bead(path):
    z, y, x = np.indices((16, 20, 21))
    bead = 1000 * np.exp(-0.5 * (((z - 8.4) / 2) ** 2 + ((y - 10) / 1.5) ** 2 + ((x - 10) / 1.5) ** 2)) + 50
    metadata = {"axes": "ZYX", "spacing": 300.0, "unit": "nm"}
    tifffile.imwrite(path, bead.astype("f4"), imagej=True, metadata=metadata, resolution=(0.01, 0.01))


def test_check_reports_what_loading_corrects(tmp_path):
    path = tmp_path / "bead.tif"
    _off_centre_bead(path)
    result = psf_command("check", path, "--voxel-size", "0.3", "0.13", "0.13")
    assert result.exit_code == 0, result.output
    for words in ("16 × 20 × 21", "+0.40, +0.00, +0.00", "background       50", "resampled"):
        assert words in result.output
    assert max(map(len, result.output.splitlines())) < 140


def test_check_as_json(tmp_path):
    path = tmp_path / "bead.tif"
    _off_centre_bead(path)
    report = json.loads(psf_command("check", path, "--json").output)
    assert report["voxel_size_um"] == pytest.approx([0.3, 0.1, 0.1])
    assert report["centre_offset"] == pytest.approx([0.4, 0, 0], abs=0.01)
    assert report["symmetries"] == {"flips": [True, True, True], "rot90": True}


def test_check_refuses_nanometres(tmp_path):
    _off_centre_bead(tmp_path / "bead.tif")
    for option in ("--voxel-size", "--psf-voxel-size"):
        error = psf_command("check", tmp_path / "bead.tif", option, "300", "130", "130").exception
        assert isinstance(error, PSFError)
        assert "300 nm is 0.3" in str(error)


def test_check_of_what_is_no_psf(tmp_path):
    assert isinstance(psf_command("check", tmp_path / "none.tif").exception, PSFError)


@pytest.mark.parametrize("arguments", [[], ["make"], ["check"]])
def test_help_has_an_example(arguments):
    lines = psf_command(*arguments, "--help").output.splitlines()
    assert "  Example:" in lines
    assert any(line.startswith("    bigdecon psf") for line in lines)


# --- what a file knows, and axes in another order ------------------------------------------------------


@pytest.fixture
def made(tmp_path):
    sizes = ["--voxel-size", "0.2", "0.1", "0.1", "--shape", "21", "21", "23"]
    assert psf_command("make", "richards-wolf", "-o", tmp_path / "psf.tif", *OPTICS, *sizes).exit_code == 0
    return tmp_path / "psf.tif"


def test_check_takes_the_optics_from_the_file(made):
    result = psf_command("check", made)
    assert "NA 1.2, light of 0.52 µm, immersion 1.33" in result.output
    assert "by theory" in result.output
    assert "Warning" not in result.output
    wrong = psf_command("check", made, "--psf-voxel-size", "0.2", "0.2", "0.2")
    assert "Warning: The PSF was made with voxels of 0.2 x 0.1 x 0.1 µm" in wrong.output
    other = psf_command("check", made, "--na", "0.8", "--wavelength", "0.461", "--refractive-index", "1")
    assert "light of 0.52 µm where the image has 0.461 µm" in other.output


@pytest.mark.parametrize("axes", ["yzx", "yxz", "xyz", "xzy", "zxy"])
def test_reorder_brings_axes_into_order(made, axes):
    array, size = read_psf_file(made)
    places = ["zyx".index(axis) for axis in axes]
    wrong = made.with_name("wrong.tif")
    tifffile.imwrite(wrong, array.transpose(places), imagej=True)
    sizes = ["--voxel-size", *size]
    result = psf_command("reorder", wrong, "--axes", axes, "-o", made.with_name("right.tif"), *sizes)
    assert result.exit_code == 0, result.output
    again, same = read_psf_file(made.with_name("right.tif"))
    assert np.array_equal(again, array)
    assert same == size


def test_reorder_moves_the_voxel_sizes_with_the_axes(made):
    result = psf_command("reorder", made, "--axes", "yxz", "-o", made.with_name("moved.tif"))
    assert "voxels of 0.1 × 0.2 × 0.1 µm" in result.output
    assert read_psf_file(made.with_name("moved.tif"))[1] == (0.1, 0.2, 0.1)


def test_reorder_refuses_a_plane_and_a_file_that_is_there(tmp_path, made):
    np.save(tmp_path / "plane.npy", np.ones((5, 5)))
    flat = psf_command("reorder", tmp_path / "plane.npy", "--axes", "yxz", "-o", tmp_path / "new.tif")
    assert isinstance(flat.exception, PSFError)
    taken = psf_command("reorder", made, "--axes", "yxz", "-o", made)
    assert isinstance(taken.exception, OutputError)
