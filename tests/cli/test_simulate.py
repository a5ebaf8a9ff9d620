from __future__ import annotations

import numpy as np
import pytest
from bigdecon_cli.simulate import KINDS, command
from click.testing import CliRunner

from bigdecon.errors import InputError
from bigdecon.evaluation.metrics import evaluate
from bigdecon.io.reading import open_volume
from bigdecon.optics.psf import load_psf, save_psf
from bigdecon.optics.simulation import paper_psf
from bigdecon.optics.specimens import SPECIMENS


def simulate(*arguments):
    result = CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def read(path):
    return np.asarray(open_volume(path))


def test_the_kinds_are_those_of_the_library():
    assert tuple(SPECIMENS) == KINDS


def test_a_volume_with_truth_and_psf(tmp_path):
    output = simulate("filaments", "-o", tmp_path / "out", "--shape", 24, 70, 66)
    assert "24 x 70 x 66" in output
    noisy = open_volume(tmp_path / "out" / "noisy.ome.zarr")
    assert noisy.axes == "zyx"
    assert noisy.spatial_shape == (24, 70, 66)
    assert noisy.voxel_size_um == pytest.approx((0.406,) * 3)
    psf = load_psf(tmp_path / "out" / "psf.tif", voxel_size_um=noisy.voxel_size_um)
    np.testing.assert_allclose(psf.array, paper_psf(3).array, atol=1e-5)
    scores = evaluate(np.asarray(noisy), read(tmp_path / "out" / "truth.ome.zarr"), data_range=1)
    assert 18 < scores.plain.psnr < scores.affine.psnr < 26


def test_the_seed_decides(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        simulate("points", "-o", tmp_path / name, "--shape", 8, 20, 20, "--seed", seed)
    a, b, c = (read(tmp_path / name / "noisy.ome.zarr") for name in "abc")
    assert (a == b).all()
    assert (a != c).any()


def test_a_flat_image_in_counts_with_a_psf_of_its_own(tmp_path):
    save_psf(paper_psf(2), tmp_path / "own.tif")
    options = ["--shape", 1, 60, 80, "--dtype", "uint16", "--offset", 100, "--psf", tmp_path / "own.tif"]
    simulate("nuclei", "-o", tmp_path / "out", *options)
    noisy = open_volume(tmp_path / "out" / "noisy.ome.zarr")
    assert noisy.axes == "yx"
    assert noisy.dtype == np.uint16
    counts = np.asarray(noisy)
    assert counts.min() == 100
    assert counts.max() <= 1123
    truth = read(tmp_path / "out" / "truth.ome.zarr")
    assert truth.min() == 100
    assert np.corrcoef(truth.ravel(), counts.ravel())[0, 1] > 0.4


def test_the_psf_is_resampled_to_another_voxel_size(tmp_path):
    save_psf(paper_psf(3), tmp_path / "own.tif")
    options = ["--shape", 8, 20, 20, "--psf", tmp_path / "own.tif", "--voxel-size", 0.406, 0.203, 0.203]
    simulate("points", "-o", tmp_path / "out", *options)
    assert open_volume(tmp_path / "out" / "noisy.ome.zarr").voxel_size_um == pytest.approx(
        (0.406, 0.203, 0.203)
    )


def test_a_psf_without_voxel_size_takes_the_one_given(tmp_path):
    np.save(tmp_path / "own.npy", paper_psf(3).array)
    options = ["--shape", 8, 20, 20, "--psf", tmp_path / "own.npy", "--voxel-size", 0.3, 0.2, 0.2]
    simulate("points", "-o", tmp_path / "with", *options)
    assert open_volume(tmp_path / "with" / "noisy.ome.zarr").voxel_size_um == pytest.approx((0.3, 0.2, 0.2))
    simulate("points", "-o", tmp_path / "without", *options[:-4])
    assert open_volume(tmp_path / "without" / "truth.ome.zarr").voxel_size_um is None


def test_the_help_shows_the_examples_line_by_line():
    lines = [line.strip() for line in simulate("--help").splitlines()]
    assert "bigdecon simulate bars -o flat --shape 1 512 512" in lines


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "psf.tif").write_text("precious")
    with pytest.raises(InputError, match=r"psf\.tif exists already"):
        simulate("bars", "-o", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["psf.tif"]
    assert (tmp_path / "psf.tif").read_text() == "precious"


@pytest.mark.parametrize(
    "options",
    [
        ["--gaussian", "-1"],
        ["--bits", "20"],
        ["--psf", "missing.tif"],
        ["--dtype", "uint16", "--offset", "70000"],
        ["--voxel-size", "1", "1", "1"],
    ],
)
def test_bad_settings_write_nothing(tmp_path, options):
    with pytest.raises(InputError):
        simulate("bars", "-o", tmp_path / "out", "--shape", 8, 8, 8, *options)
    assert not (tmp_path / "out").exists()
