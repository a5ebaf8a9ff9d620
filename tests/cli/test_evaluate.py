from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from bigdecon_cli.evaluate import command
from click.testing import CliRunner

from bigdecon.errors import InputError
from bigdecon.io.writing import write_ome_zarr
from bigdecon.volume import Volume


def score(*arguments):
    result = CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def files(tmp_path):
    """Give a truth, and a result at half its scale with a small disturbance at the border."""
    truth = np.random.default_rng(0).random((12, 14, 16)).astype(np.float32)
    result = truth / 2 + 3
    result[0] += 0.3
    write_ome_zarr(Volume.from_array(result), tmp_path / "result.ome.zarr")
    tifffile.imwrite(tmp_path / "truth.tif", truth)
    return tmp_path / "result.ome.zarr", tmp_path / "truth.tif"


def test_a_table_of_two_rows(files):
    lines = score(*files).splitlines()
    assert lines[0].split() == ["RMSE", "PSNR", "(dB)", "SSIM", "MI", "SMI"]
    plain, affine = lines[1].split(), lines[2].split()
    assert (plain[0], affine[0]) == ("plain", "affine")
    assert float(plain[2]) < 0 < float(affine[2])
    assert len({len(line) for line in lines[:3]}) == 1


def test_json_and_the_border(files):
    whole = json.loads(score(*files, "--json"))
    inner = json.loads(score(*files, "--json", "--crop-border", 1, "--data-range", 1))
    assert whole["shape"] == [12, 14, 16]
    assert inner["shape"] == [10, 12, 14]
    assert inner["data_range"] == 1
    assert inner["fit"]["scale"] == pytest.approx(2, abs=1e-4)
    assert inner["fit"]["offset"] == pytest.approx(-6, abs=1e-3)
    assert inner["affine"]["psnr"] > whole["affine"]["psnr"] + 20


def test_equal_images_in_json(files):
    perfect = json.loads(score(files[1], files[1], "--json"))
    assert perfect["plain"]["psnr"] is None
    assert perfect["plain"]["ssim"] == pytest.approx(1)


def test_a_picture(files, tmp_path):
    score(*files, "--picture", tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_scored_is_refused(files, tmp_path):
    tifffile.imwrite(tmp_path / "other.tif", np.ones((12, 14, 15), np.float32))
    with pytest.raises(InputError, match=r"\(12, 14, 16\).*\(12, 14, 15\)"):
        score(files[0], tmp_path / "other.tif")
    with pytest.raises(InputError, match="leaves nothing"):
        score(*files, "--crop-border", 6)
    with pytest.raises(InputError):
        score(tmp_path / "missing.tif", files[1])
