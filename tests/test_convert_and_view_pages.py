"""The commands in docs/convert.md and docs/viewers.md, run as they stand there."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
import tifffile

from bigdecon.io.writing import write_ome_zarr
from bigdecon.volume import Volume

DOCS = Path(__file__).parent.parent / "docs"


def commands(page):
    text = (DOCS / page).read_text()
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return re.findall(r"^\$ bigdecon (.*)$", "".join(blocks), re.MULTILINE)


@pytest.fixture
def folder(tmp_path):
    """Give a folder with all files that the pages name."""
    data = np.random.default_rng(0).integers(0, 999, (6, 48, 50)).astype("uint16")
    tifffile.imwrite(tmp_path / "stack.tif", data, photometric="minisblack")
    for name in ("planes", "scan"):
        (tmp_path / name).mkdir()
    for i, plane in enumerate(data):
        tifffile.imwrite(tmp_path / "planes" / f"cell_{i}.tif", plane, photometric="minisblack")
        tifffile.imwrite(tmp_path / "scan" / f"{i // 3}_{i % 3}.tif", plane, photometric="minisblack")
    volume = Volume.from_array(data, voxel_size_um=(0.3, 0.13, 0.13))
    write_ome_zarr(volume, tmp_path / "volume.deconvolved.ome.zarr")
    return tmp_path


@pytest.mark.slow
def test_every_command_for_converting(folder):
    found = commands("convert.md")
    assert len(found) > 6
    for line in found:
        typed = [sys.executable, "-m", "bigdecon_cli", *shlex.split(line)]
        done = subprocess.run(typed, cwd=folder, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, ""), line


@pytest.mark.slow
def test_every_command_for_viewing(folder):
    volume = Volume.from_array(np.ones((6, 48, 50), "uint16"), voxel_size_um=(0.3, 0.1, 0.1))
    write_ome_zarr(volume, folder / "volume.ome.zarr")
    found = commands("viewers.md")
    assert [line.split()[0] for line in found] == ["view", "convert"]
    for line in found:
        typed = [sys.executable, "-m", "bigdecon_cli", *shlex.split(line)]
        process = subprocess.Popen(
            typed, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            if line.startswith("view"):
                lines = takewhile(lambda line: line not in ("", "Ctrl-C ends it.\n"), process.stdout)
                told = "".join(lines)
                assert "/result" in told
                assert "/input" in told
                process.send_signal(signal.SIGINT)
            rest = process.communicate(timeout=120)
            assert process.returncode == 0, (line, rest)
        finally:
            process.kill()
            process.communicate()
