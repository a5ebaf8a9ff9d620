from __future__ import annotations

import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from bigdecon_cli import main as entry
from bigdecon_cli.evaluate import _draw, command
from click.testing import CliRunner

from bigdecon.errors import InputError
from bigdecon.evaluation import pictures, scratch
from bigdecon.io.writing import write_ome_zarr
from bigdecon.volume import ArraySource, Stack, Volume


def score(*arguments):
    result = CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


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


def test_smi_may_be_left_out(files):
    lines = score(*files, "--without-smi").splitlines()
    assert lines[0].split() == ["RMSE", "PSNR", "(dB)", "SSIM", "MI"]
    assert [len(line.split()) for line in lines[1:3]] == [5, 5]
    scores = json.loads(score(*files, "--without-smi", "--json"))
    assert scores["plain"]["smi"] is scores["affine"]["smi"] is None
    assert scores["plain"]["mi"] > 0


def test_too_little_space_for_smi_ends_with_one_sentence(files, monkeypatch, capsys):
    monkeypatch.setattr(scratch, "IN_MEMORY_VOXELS", 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    monkeypatch.setattr(sys, "argv", ["bigdecon", "evaluate", *map(str, files)])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    for word in (f"{2 * 4 * 12 * 14 * 16} bytes", "1000 bytes", "TMPDIR", "--without-smi"):
        assert word in told


@pytest.mark.parametrize("voxel_size_um", [(0.3, 0.1, 0.1), None])
def test_a_part_is_compared_with_its_place_in_the_truth(tmp_path, voxel_size_um):
    truth = np.random.default_rng(0).random((12, 14, 16)).astype(np.float32)
    volume = Volume.from_array(truth, voxel_size_um=voxel_size_um)
    write_ome_zarr(volume, tmp_path / "truth.ome.zarr")
    part = volume.crop((slice(2, 9), slice(0, 14), slice(5, 15)))
    write_ome_zarr(part, tmp_path / "part.ome.zarr")
    arguments = [str(tmp_path / name) for name in ("part.ome.zarr", "truth.ome.zarr")]
    done = CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False)
    scores = json.loads(done.stdout)
    assert scores["plain"]["rmse"] == 0
    assert scores["shape"] == [7, 14, 10]
    assert len(done.stderr.splitlines()) == 1
    assert "cropped" in done.stderr
    assert "z 2:9, y 0:14, x 5:15" in done.stderr
    tifffile.imwrite(tmp_path / "truth.tif", truth)  # knows no voxel size; its first voxel lies at zero
    assert json.loads(score(arguments[0], tmp_path / "truth.tif", "--json"))["plain"]["rmse"] == 0
    with pytest.raises(InputError, match="must agree"):
        score(*arguments[::-1])


@pytest.mark.parametrize(
    ("shift_um", "size_um"),
    [((0.15, 0.0, 0.0), (0.3, 0.1, 0.1)), ((3.0, 0.0, 0.0), (0.3, 0.1, 0.1)), ((0.0,) * 3, (0.3, 0.1, 0.2))],
    ids=["half a voxel", "beyond the end", "another voxel size"],
)
def test_no_place_in_the_truth(tmp_path, shift_um, size_um):
    truth = np.random.default_rng(0).random((12, 14, 16)).astype(np.float32)
    write_ome_zarr(Volume.from_array(truth, voxel_size_um=(0.3, 0.1, 0.1)), tmp_path / "truth.ome.zarr")
    part = Volume(ArraySource(truth[:6]), "zyx", size_um, shift_um)
    write_ome_zarr(part, tmp_path / "part.ome.zarr")
    with pytest.raises(InputError, match=r"\(6, 14, 16\).*\(12, 14, 16\); they must agree"):
        score(tmp_path / "part.ome.zarr", tmp_path / "truth.ome.zarr")


def test_a_picture(files, tmp_path):
    score(*files, "--picture", tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_reads_no_more_than_it_shows(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_VOXELS", {"z": 8, "y": 20, "x": 30})

    class Source(ArraySource):
        def __getitem__(self, selection):
            data = super().__getitem__(selection)
            assert data.shape == (8, 20, 30)
            return data

    stacks = tuple(Stack(Source(np.random.default_rng(i).random((40, 50, 60))), "zyx") for i in (0, 1))
    _draw(stacks, 2, None, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_a_picture_that_cannot_be_written_is_told_before_any_work(tmp_path):
    with pytest.raises(InputError, match=r"p\.jpg is no PNG.*\.png"):
        score("missing", "missing", "--picture", tmp_path / "p.jpg")
    with pytest.raises(InputError, match="there is no folder"):
        score("missing", "missing", "--picture", tmp_path / "none" / "p.png")


def test_what_cannot_be_scored_is_refused(files, tmp_path):
    tifffile.imwrite(tmp_path / "other.tif", np.ones((12, 14, 15), np.float32))
    with pytest.raises(InputError, match=r"\(12, 14, 16\).*\(12, 14, 15\)"):
        score(files[0], tmp_path / "other.tif")
    with pytest.raises(InputError, match="leaves nothing"):
        score(*files, "--crop-border", 6)
    with pytest.raises(InputError):
        score(tmp_path / "missing.tif", files[1])
