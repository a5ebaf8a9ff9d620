"""The benchmarks behind docs/evidence.md run, go on where they stopped, and the page is made of results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


def call(script: str, *arguments: object, store: Path) -> str:
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments), "--store", str(store)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=store.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_tables_criterion_ablation_and_the_page(tmp_path: Path) -> None:
    """All of it in small; a second call finds everything done, and a torn last line is done again."""
    store = tmp_path / "trials.jsonl"
    quick = ("--quick", "--jobs", 2, "--threads", 1, "--device", "cpu")
    assert "to do" in call("tables.py", *quick, store=store)
    assert ", 0 to do" in call("tables.py", *quick, store=store)
    whole = store.read_text()
    store.write_text(whole[:-20])
    assert ", 1 to do" in call("tables.py", *quick, store=store)
    call("criterion.py", *quick, store=store)
    call("ablation.py", *quick, store=store)
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
    call("evidence.py", "--settings", "quick", "--output", page, store=store)
    text = page.read_text()
    for row in ("| input |", "| SSI |", "Richardson-Lucy, tuned", "| noise2same-d+bound |", "mean of"):
        assert row in text, row
    assert "<!-- losses" not in text


def test_the_page_is_the_one_that_the_kept_results_give(tmp_path: Path) -> None:
    """docs/evidence.md is generated, never typed."""
    page = tmp_path / "evidence.md"
    call("evidence.py", "--output", page, store=BENCHMARKS / "results" / "trials.jsonl")
    assert page.read_text() == (ROOT / "docs" / "evidence.md").read_text()


@pytest.mark.slow
def test_engines_cost_little_write_the_same_bytes_and_leave_the_scheduler_small(tmp_path: Path) -> None:
    """In small; the script itself fails where the bytes differ or the memory grows."""
    result, plot = tmp_path / "engines.json", tmp_path / "memory.png"
    command = [sys.executable, str(BENCHMARKS / "engine_overhead.py"), "--quick"]
    subprocess.run([*command, "--output", result, "--plot", plot], check=True, cwd=tmp_path)
    found = json.loads(result.read_text())
    assert found["identical_bytes"]
    assert all(cost["scheduler_seconds_per_block"] > 0 for cost in found["engines"].values())
    assert plot.stat().st_size > 10_000


@pytest.mark.slow
def test_what_a_gpu_is_timed_with_runs_on_a_cpu(tmp_path: Path) -> None:
    """In small: every function that the script calls takes what it is given."""
    result = tmp_path / "gpu.json"
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), str(result), "--quick", "--device", "cpu"]
    subprocess.run(command, check=True, cwd=tmp_path)
    found = json.loads(result.read_text())
    assert found["state"] == "finished"
    assert [entry["what"] for entry in found["measurements"]] == ["training", "inference", "richardson-lucy"]
    assert all(entry["rate"] > 0 for entry in found["measurements"])


@pytest.mark.slow
def test_a_large_volume_is_planned_within_the_limits(tmp_path: Path) -> None:
    """The script itself fails where a plan takes too much time or memory."""
    result = tmp_path / "plans.json"
    command = [sys.executable, str(BENCHMARKS / "plan_scale.py"), "--side", "3000"]
    subprocess.run([*command, "--output", result], check=True, cwd=tmp_path)
    found = json.loads(result.read_text())
    assert found["voxels"] == 3000**3
    assert all(23**3 <= plan["blocks"] <= 24**3 for plan in found["plans"])


@pytest.mark.slow
def test_many_simulated_workers_are_kept_busy(tmp_path: Path) -> None:
    """In small: all blocks are done, none faster than its 0.3 s allow."""
    result = tmp_path / "workers.json"
    command = [sys.executable, str(BENCHMARKS / "many_workers.py"), "--quick"]
    subprocess.run(
        [*command, "--output", result, "--plot", tmp_path / "plot.png"], check=True, capture_output=True
    )
    found = json.loads(result.read_text())
    assert found["throughput"]["blocks"] >= 8 * 16
    assert 0 < found["throughput"]["efficiency"] <= 1
    assert [growth["blocks"] for growth in found["growth"]] == sorted(g["blocks"] for g in found["growth"])
    assert (tmp_path / "plot.png").stat().st_size > 0
