"""The scripts of docs/slurm.md, on a real SLURM."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.slurm import jobs

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[1] / "docs" / "slurm.md"
QUICK = "--method richardson-lucy --iterations 2 --background 0 --sieve 0 --no-accelerate --block 24"

SMALL_JOBS = "--walltime 0:30:00 --threads 1 --mem 1500M"


def scripts() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [block for block in blocks if block.startswith("#!/bin/bash")]


def find_script(part: str) -> str:
    (script,) = [text for text in scripts() if part in text]
    return script


def fit(script: str) -> str:
    """Make a script fit a node without GPUs and networks, and the work short."""
    script = re.sub(r"^#SBATCH --gres=.*\n", "", script, flags=re.MULTILINE)
    script = re.sub(r"^#SBATCH --mem=.*$", "#SBATCH --mem=1500M", script, flags=re.MULTILINE)
    script = re.sub(r"^#SBATCH --time=.*$", "#SBATCH --time=0:30:00", script, flags=re.MULTILINE)
    script = re.sub(r"(?<=--cpus-per-task=)\d+", "1", script)
    script = script.replace("--interface ib0", "--interface lo")
    # of the jobs that bigdecon submits
    script = script.replace("--walltime 4:00:00 --gpus 1 --threads 4 --mem 32G", SMALL_JOBS)
    return script.replace("bigdecon run volume.ome.zarr", f"bigdecon run volume.ome.zarr {QUICK}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a small volume and its PSF."""
    path = tmp_path_factory.mktemp("page")
    command = ["-m", "bigdecon_cli", "simulate", "filaments", "-o", "test", "--shape", "24", "48", "48"]
    subprocess.run([sys.executable, *command], cwd=path, check=True, capture_output=True)
    for made, name in (("noisy.ome.zarr", "volume.ome.zarr"), ("psf.tif", "psf.tif")):
        (path / "test" / made).rename(path / name)
    return path


def submit(script: str, folder: Path, configuration: Path) -> str:
    """Run a script as a job; gives what it said once it is over."""
    (folder / "job.sh").write_text(script)
    environment = os.environ | {"SLURM_CONF": str(configuration)}
    answer = subprocess.run(
        ["sbatch", "--output=said.txt", "job.sh"],
        cwd=folder, env=environment, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    number = answer.split()[-1]
    deadline = time.monotonic() + 240
    while number in jobs(configuration):
        assert time.monotonic() < deadline, (folder / "said.txt").read_text()
        time.sleep(0.5)
    return (folder / "said.txt").read_text()


def read_voxels(output: Path) -> dict[str, bytes]:
    files = sorted(path for path in (output / "0").rglob("*") if path.is_file())
    return {str(path.relative_to(output)): path.read_bytes() for path in files}


def test_scripts_give_a_result_and_all_the_same(slurm_node, folder):
    output = folder / "volume.deconvolved.ome.zarr"
    results = []
    for part in ("--gres=gpu:2", "--cluster slurm", "job_worker --scheduler-file"):
        script = fit(find_script(part))
        assert part != "--cluster slurm" or SMALL_JOBS in script
        assert "Result: " in (said := submit(script, folder, slurm_node)), said
        results.append(read_voxels(output))
        if len(results) == 1:
            assert "was finished by an earlier run" in submit(script, folder, slurm_node)
        output.rename(folder / f"result-{len(results)}")
    assert results[0]
    assert all(one == results[0] for one in results)
    assert list((folder / "volume.deconvolved.logs").glob("bigdecon-*.out")), "the second one submitted jobs"


def test_every_script_is_one_that_bash_can_read():
    assert len(scripts()) == 3
    for script in scripts():
        assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
