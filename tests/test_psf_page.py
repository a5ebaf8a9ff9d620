"""The commands and the script of docs/psf.md, run in one folder with an image of beads."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import tifffile
from bigdecon_cli.main import bigdecon
from click.testing import CliRunner

from bigdecon.optics.psf import load_psf, read_psf_file
from tests.optics.beads import VOXEL_UM, bead_image, scattered

PAGE = (Path(__file__).parents[1] / "docs" / "psf.md").read_text()
SHAPE = (44, 240, 160)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("page")
    metadata = {
        "axes": "ZYX",
        **{f"PhysicalSize{axis}": size for axis, size in zip("ZYX", VOXEL_UM, strict=True)},
    }
    tifffile.imwrite(
        path / "beads.ome.tif", bead_image(SHAPE, scattered(SHAPE, (100, 50, 50))), metadata=metadata
    )
    return path


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def commands():
    return re.findall(r"^\$ (bigdecon .*)$", "\n".join(blocks("console")), flags=re.MULTILINE)


def test_the_page_can_be_followed(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert len(commands()) == 7
    for line in commands():
        result = CliRunner().invoke(bigdecon, shlex.split(line)[1:])
        assert result.exit_code == 0, (line, result.output, result.exception)
        assert "Warning" not in result.output, line
        for path in re.findall(r"-o (\S+)", line):
            notes = load_psf(path, voxel_size_um=read_psf_file(path)[1]).corrections
            assert not any("centre" in note or "background" in note for note in notes)
    script: dict[str, object] = {}
    exec("\n".join(blocks("python")), script)
    assert (folder / "measured_too.tif").exists()
    assert (folder / "measured.tif").read_bytes() == (folder / "measured_too.tif").read_bytes()


def test_the_picture_is_there():
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", PAGE):
        assert (Path(__file__).parents[1] / "docs" / name).exists()
