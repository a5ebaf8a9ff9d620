"""The benchmarks behind docs/evidence.md run, go on where they stopped, and the page is made of results."""

from __future__ import annotations

import io
import json
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from tests.conftest import workers_forked

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


def call(script: str, *arguments: object, folder: Path) -> str:
    """Run a script in this process, in a folder; gives what it printed."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, workers_forked(), redirect_stdout(printed):
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        patch.syspath_prepend(str(BENCHMARKS))
        patch.chdir(folder)
        runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
    return printed.getvalue()


@pytest.mark.slow
def test_tables_criterion_ablation_and_the_page(tmp_path: Path) -> None:
    """All of it in small; a second call finds everything done, and a torn last line is done again."""
    store = tmp_path / "trials.jsonl"
    kept = ("--store", store)
    quick = ("--quick", "--threads", 1, "--device", "cpu", *kept)
    assert "to do" in call("tables.py", *quick, "--jobs", 2, folder=tmp_path)
    assert ", 0 to do" in call("tables.py", *quick, folder=tmp_path)
    whole = store.read_text()
    store.write_text(whole[:-20])
    assert ", 1 to do" in call("tables.py", *quick, folder=tmp_path)
    call("criterion.py", *quick, folder=tmp_path)
    call("ablation.py", *quick, folder=tmp_path)
    records = [json.loads(line) for line in store.read_text().splitlines() if line.endswith("}")]
    assert {r["method"] for r in records} >= {
        "input",
        "siamese",
        "ssi",
        "richardson-lucy",
        "wiener",
        "unrolled",
    }
    page = tmp_path / "evidence.md"
    call("evidence.py", "--settings", "quick", "--output", page, *kept, folder=tmp_path)
    text = page.read_text()
    for row in ("| input |", "| SSI |", "Richardson-Lucy, tuned", "| noise2same-d+bound |", "mean of"):
        assert row in text, row
    assert "<!-- losses" not in text


def test_the_page_is_the_one_that_the_kept_results_give(tmp_path: Path) -> None:
    """docs/evidence.md is generated, never typed."""
    page = tmp_path / "evidence.md"
    call("evidence.py", "--output", page, "--store", BENCHMARKS / "results" / "trials.jsonl", folder=tmp_path)
    assert page.read_text() == (ROOT / "docs" / "evidence.md").read_text()


@pytest.mark.slow
def test_engines_cost_little_write_the_same_bytes_and_leave_the_scheduler_small(tmp_path: Path) -> None:
    """In small; the script itself fails where the bytes differ or the memory grows."""
    result, plot = tmp_path / "engines.json", tmp_path / "memory.png"
    call("engine_overhead.py", "--quick", "--output", result, "--plot", plot, folder=tmp_path)
    found = json.loads(result.read_text())
    assert found["identical_bytes"]
    assert all(cost["scheduler_seconds_per_block"] > 0 for cost in found["engines"].values())
    assert plot.stat().st_size > 10_000


@pytest.mark.slow
def test_what_a_gpu_is_timed_with_runs_on_a_cpu(tmp_path: Path) -> None:
    """In small: every function that the script calls takes what it is given."""
    result = tmp_path / "gpu.json"
    call("gpu.py", result, "--quick", "--device", "cpu", folder=tmp_path)
    found = json.loads(result.read_text())
    assert found["state"] == "finished"
    assert [entry["what"] for entry in found["measurements"]] == ["training", "inference", "richardson-lucy"]
    assert all(entry["rate"] > 0 for entry in found["measurements"])


@pytest.mark.slow
def test_a_large_volume_is_planned_within_the_limits(tmp_path: Path) -> None:
    """The script itself fails where a plan takes too much time or memory."""
    result = tmp_path / "plans.json"
    command = [sys.executable, str(BENCHMARKS / "plan_scale.py"), "--quick"]
    subprocess.run([*command, "--output", result], check=True, cwd=tmp_path)
    found = json.loads(result.read_text())
    assert found["voxels"] == 3000**3
    assert [23**3 <= plan["blocks"] <= 24**3 for plan in found["plans"]] == [True, True]


@pytest.mark.slow
def test_many_simulated_workers_are_kept_busy(tmp_path: Path) -> None:
    """In small: all blocks are done, none faster than its 0.3 s allow."""
    result, plot = tmp_path / "workers.json", tmp_path / "plot.png"
    command = [sys.executable, str(BENCHMARKS / "many_workers.py"), "--quick"]
    subprocess.run([*command, "--output", result, "--plot", plot], check=True, capture_output=True)
    found = json.loads(result.read_text())
    assert found["throughput"]["blocks"] >= 8 * 16
    assert 0 < found["throughput"]["efficiency"] <= 1
    assert [growth["blocks"] for growth in found["growth"]] == sorted(g["blocks"] for g in found["growth"])
    assert plot.stat().st_size > 0
