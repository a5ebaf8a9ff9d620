"""Walltime on a real SLURM of one node: jobs of one minute, SLURM's shortest, and work for several.

    python benchmarks/slurm.py     (as root, with slurm-wlm and munge installed; about eight minutes)

Blocks: tasks of a second each. None may be begun that cannot end, none may be begun twice.
Training: one task of 100 s, longer than a job, which goes on from what it left on disk.
Runs: `bigdecon run --cluster slurm` itself, as in chaos.py: its decoded bytes are those of an undisturbed
run on this machine, although a job is cancelled, or jobs end one after the other.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bigdecon.cluster_settings import SlurmSettings
from bigdecon.distributed.cluster import connect
from bigdecon.distributed.scheduling import Call, Task, run_tasks
from bigdecon.distributed.walltime import job_end

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import chaos  # noqa: E402
from benchmarks.chaos import CLASSICAL, IN_A_REGION, TRAINED, Case, expect  # noqa: E402
from tests.slurm import jobs, slurm, why_not  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "slurm.json"
BLOCKS, BLOCK_SECONDS, TRAINING_SECONDS = 120, 1.0, 100


ON_SLURM = ("--cluster", "slurm", "--interface", "lo", "--mem", "1500M")
PYTHON = """#!/bin/sh
# in the place of: python -m bigdecon.distributed.job_worker
shift 2
exec {python} {script} "$@"
"""
WORKER = """
if __name__ == "__main__":
    import sys
    from bigdecon.distributed.job_worker import main
    sys.exit(main())
"""


def block(number: int, notes: Path) -> int:
    left = (job_end() or 0.0) - time.time()
    with open(notes, "a") as file:
        file.write(f"{number} {os.environ['SLURM_JOB_ID']} {left}\n")
    time.sleep(BLOCK_SECONDS)
    return number


def training(state: Path, notes: Path) -> int:
    """Count seconds, and write each down; a successor goes on from there."""
    with open(notes, "a") as file:
        file.write(f"begun {os.environ['SLURM_JOB_ID']}\n")
    done = int(state.read_text()) if state.exists() else 0
    while done < TRAINING_SECONDS:
        time.sleep(1)
        done += 1
        draft = state.with_suffix(".new")
        draft.write_text(str(done))
        draft.replace(state)
    return done


def blamed(dask_scheduler: Any = None) -> int:
    return sum(prefix.suspicious for prefix in dask_scheduler.task_prefixes.values())


def walk(folder: Path, tasks: list[Task[int]]) -> dict[str, Any]:
    """Run tasks in jobs of one minute."""
    settings = SlurmSettings(walltime="1", mem="900M", log_directory=str(folder / "logs"))
    results: dict[int, Any] = {}
    began = time.monotonic()
    with connect(
        "slurm", threads=1, interface="lo", dashboard_address="none", slurm=settings, say=print
    ) as link:
        patience = link.patience_seconds
        run_tasks(
            link.client, iter(tasks), in_flight=4, on_done=results.__setitem__, patience_seconds=patience
        )
        blame = link.client.run_on_scheduler(blamed)
    seconds = round(time.monotonic() - began, 1)
    return {"tasks": len(tasks), "done": len(results), "blamed": blame, "seconds": seconds}


# --- whole runs ------------------------------------------------------------------------------------------


def write_case(folder: Path) -> Path:
    """Write what a run needs; gives the python of its jobs, whose workers preload chaos.SURROUNDINGS."""
    chaos.write_case(folder)
    script, python = folder / "worker.py", folder / "python"
    script.write_text(WORKER)
    python.write_text(PYTHON.format(python=shlex.quote(sys.executable), script=shlex.quote(str(script))))
    python.chmod(0o755)
    return python


def logs_of(case: Case) -> list[Path]:
    """Give the logs of the jobs of a run, which lie beside its output."""
    return sorted(case.output.with_name(f"{case.output.name}.logs").glob("bigdecon-*.out"))


def a_job_is_cancelled(case: Case) -> int:
    """The only job is cancelled while its worker restores blocks: another takes its place."""
    process = case.start(*ON_SLURM, "--walltime", "10")
    case.wait_for(process, lambda: case.regions_written >= 2)
    subprocess.run(["scancel", *jobs(Path(os.environ["SLURM_CONF"]))], check=True)
    expect(case.end(process), 0)
    return 2 * IN_A_REGION


def a_job_is_cancelled_in_training(case: Case) -> int:
    """The only job is cancelled while it trains: another goes on from the last checkpoint."""
    process = case.start(*ON_SLURM, "--walltime", "10")
    case.wait_for(process, (case.output / "bigdecon" / "training" / "channel-0.safetensors").exists)
    subprocess.run(["scancel", *jobs(Path(os.environ["SLURM_CONF"]))], check=True)
    expect(case.end(process), 0)
    return 0


def jobs_end_one_after_the_other(case: Case) -> int:
    """Jobs of one minute, and a run that takes several: each leaves in time, the next one goes on."""
    case.seconds = 5.0
    expect(case.end(case.start(*ON_SLURM, "--walltime", "1")), 0)
    ended = len(logs_of(case)) - 1
    expect(ended > 0, True)
    return 2 * IN_A_REGION * ended


SCENARIOS = {
    a_job_is_cancelled: CLASSICAL,
    a_job_is_cancelled_in_training: TRAINED,
    jobs_end_one_after_the_other: CLASSICAL,
}


def runs(folder: Path) -> list[dict[str, object]]:
    """Disturb whole runs."""
    folder.mkdir()
    os.environ["DASK_JOBQUEUE__SLURM__PYTHON"] = str(write_case(folder))
    rows = []
    for scenario, arguments in SCENARIOS.items():
        row = chaos.disturb(scenario, folder, arguments)
        row["jobs"] = len(logs_of(Case(folder, arguments, folder / scenario.__name__ / "out")))
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def measure(folder: Path) -> dict[str, Any]:
    """Run all of it."""
    import machine

    notes = folder / "blocks"
    tasks = [Task(i, lambda i=i: Call(block, (i, notes)), "region") for i in range(BLOCKS)]
    blocks = walk(folder, tasks)
    lines = [line.split() for line in notes.read_text().splitlines()]
    blocks["begun"] = len(lines)
    blocks["jobs"] = len({job for _, job, _ in lines})
    blocks["least_seconds_left_at_a_start"] = round(min(float(left) for _, _, left in lines), 2)
    begun = folder / "training"
    train = walk(folder, [Task(0, lambda: Call(training, (folder / "state", begun)), "train")])
    train["jobs"] = len(begun.read_text().splitlines())
    return machine.describe() | {"blocks": blocks, "training": train, "runs": runs(folder / "runs")}


def main() -> None:
    reason = why_not()
    if reason:
        sys.exit(reason)
    with tempfile.TemporaryDirectory(prefix="bigdecon-slurm-") as name, slurm(Path(name) / "slurm") as path:
        os.environ["SLURM_CONF"] = str(path)
        found = measure(Path(name))
    print(json.dumps(found, indent=2))
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
