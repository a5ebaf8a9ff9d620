"""`bigdecon run --cluster slurm` on a real SLURM: jobs that are cancelled, Ctrl-C, with TLS and without."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import chaos
from benchmarks.chaos import CLASSICAL, Case
from benchmarks.slurm import ON_SLURM, a_job_is_cancelled, logs_of, write_case
from tests.slurm import jobs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(slurm_node, tmp_path_factory):
    """A folder with an image of ten regions, its PSF and the command, whose blocks take their time."""
    folder = tmp_path_factory.mktemp("slurm-run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DASK_JOBQUEUE__SLURM__PYTHON", str(write_case(folder)))
        yield folder


def make_case(folder: Path, name: str) -> Case:
    (folder / name).mkdir()
    return Case(folder, CLASSICAL, folder / name / "out")


def certificates(case: Case) -> list[Path]:
    return list(case.output.with_name("out.logs").glob(".bigdecon-tls-*"))


def status(case: Case) -> dict:
    command = [sys.executable, "-m", "bigdecon_cli", "status", str(case.output), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=case.environment)
    return json.loads(done.stdout)


def wait_for_an_empty_queue(configuration: Path) -> None:
    deadline = time.monotonic() + 30
    while jobs(configuration):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_cancelled_job_changes_nothing(slurm_node, folder):
    seen = []

    def watched(case: Case) -> int:
        seen.append(case)
        return a_job_is_cancelled(case)

    watched.__name__ = "cancelled"
    chaos.disturb(watched, folder, CLASSICAL)
    (case,) = seen
    logs = [path.read_text() for path in logs_of(case)]
    assert len(logs) == 2, "one job, and another in its place"
    assert all("tls://127.0.0.1:" in log and "tcp://" not in log for log in logs)
    assert certificates(case) == [], "they are gone with the run"
    wait_for_an_empty_queue(slurm_node)


def test_ctrl_c_without_tls_leaves_no_job_and_another_cluster_continues(slurm_node, folder):
    case = make_case(folder, "interrupted")
    (folder / "blocks").unlink(missing_ok=True)
    process = case.start(*ON_SLURM, "--no-tls", "--walltime", "10")
    case.wait_for(process, lambda: case.regions_written >= 2)
    told = status(case)
    assert told["state"] == "unfinished"
    assert told["writer"]["pid"] == process.pid
    assert 2 <= told["levels"][0]["done"] < 10
    assert process.poll() is None
    assert len(jobs(slurm_node)) == 1
    assert certificates(case) == []
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130
    assert complaint == "Stopped. What is finished is kept; the same command continues.\n"
    wait_for_an_empty_queue(slurm_node)
    (log,) = logs_of(case)
    assert "tcp://127.0.0.1:" in log.read_text()
    assert "tls://" not in log.read_text()
    before = case.regions_written
    computed = case.blocks_computed
    chaos.expect(case.end(case.start()), 0)
    expected = chaos.decoded(chaos.undisturbed(folder, CLASSICAL))
    for one, other in zip(chaos.decoded(case.output), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert case.blocks_computed - computed == (10 - before) * chaos.IN_A_REGION, "what was written stays"


def test_a_dry_run_prints_plan_and_script_and_submits_nothing(slurm_node, folder):
    words = [
        "a.ome.zarr",
        "--psf",
        "psf.tif",
        "-o",
        "dry/out",
        "--walltime",
        "3:00:00",
        "--jobs",
        "1:4",
        "--dry-run",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "bigdecon_cli", "run", "--dry-run", *words, *CLASSICAL, *ON_SLURM],
        cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    plan, _, script = done.stdout.partition("The script of each job, for sbatch:\n\n")
    assert "richardson-lucy, 3 iterations" in plan
    for line in ("#SBATCH --mem=1500M", "#SBATCH -t 3:00:00", "out.logs/bigdecon-%j.out"):
        assert line in script
    assert re.search(r"^exec .* -m bigdecon.distributed.job_worker tls://", script, flags=re.MULTILINE)
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    assert jobs(slurm_node) == {}
    assert not (folder / "dry").exists()
