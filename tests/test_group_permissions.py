"""A group shares its results: all that a run writes keeps the folder's group and what the umask leaves."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

GROUP = 12345


@pytest.fixture
def shared(tmp_path) -> Path:
    """A folder whose group its content inherits, as on file servers."""
    folder = tmp_path / "shared"
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, -1, GROUP)
    folder.chmod(0o2775)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="there are no groups here")
def test_everything_a_run_writes_belongs_to_the_folders_group(shared):
    simulate = ["simulate", "filaments", "-o", "s", "--shape", "16", "32", "32"]
    restore = ["run", "s/noisy.ome.zarr", "--psf", "s/psf.tif", "--steps", "2", "--preset", "fast"]
    quiet = ["--device", "cpu", "--dashboard-address", "none", "--quiet"]
    for command in (simulate, restore + quiet):
        subprocess.run([sys.executable, "-m", "bigdecon_cli", *command], cwd=shared, umask=0o002, check=True)
    paths = [shared, *shared.rglob("*")]
    group = shared.stat().st_gid
    assert [path for path in paths if path.stat().st_gid != group] == []
    wrong = [path for path in paths if stat.S_IMODE(path.stat().st_mode) & 0o060 != 0o060]
    assert wrong == []
    assert any(path.suffix == ".safetensors" for path in paths)
    assert any("ledger" in path.parts for path in paths)
