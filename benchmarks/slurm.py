"""Walltime on a real SLURM of one node: jobs of one minute, SLURM's shortest, and work for several.

    python benchmarks/slurm.py     (as root, with slurm-wlm and munge installed; about five minutes)

Blocks: tasks of a second each. None may be begun that cannot end, none may be begun twice.
Training: one task of 100 s, longer than a job, which goes on from what it left on disk.
"""

from __future__ import annotations

import json
import os
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

from machine import describe  # noqa: E402

from tests.slurm import slurm, why_not  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "slurm.json"
BLOCKS, BLOCK_SECONDS, TRAINING_SECONDS = 120, 1.0, 100


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


def measure(folder: Path) -> dict[str, Any]:
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
    return describe() | {"blocks": blocks, "training": train}


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
