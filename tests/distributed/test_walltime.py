"""Walltime: what is begun ends, what is not begun is done elsewhere, and nothing is blamed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bigdecon.distributed.cluster import connect
from bigdecon.distributed.local_cluster import local_cluster
from bigdecon.distributed.scheduling import Call, Task, run_tasks
from bigdecon.distributed.surroundings import quiet_logging
from bigdecon.distributed.walltime import (
    SAFETY,
    LeaveInTime,
    job_end,
    job_margin,
    margin_seconds,
    seconds_left,
)
from bigdecon.distributed.workers import Layout
from bigdecon.errors import SchedulerLostError
from tests.conftest import workers_forked

MARGIN = 1.0
TICK = 0.1
"""What a busy machine may be late by."""


@pytest.fixture
def two_workers():
    with quiet_logging(), workers_forked(), local_cluster(Layout(("", ""), 1, 2**30), None) as client:
        yield client


class Begun(NamedTuple):
    """What a task wrote down before anything else."""

    number: int
    process: int
    at: float


def work(number: int, seconds: float, notes: Path) -> int:
    line = f"{number} {os.getpid()} {time.time()}\n"
    with open(notes, "a") as file:
        file.write(line)
    time.sleep(seconds)
    return number


def read_notes(notes: Path) -> list[Begun]:
    lines = (line.split() for line in notes.read_text().splitlines())
    return [Begun(int(number), int(process), float(at)) for number, process, at in lines]


async def end_soon(end: float, margin: float, dask_worker: Any = None) -> None:
    await dask_worker.plugin_add(LeaveInTime(end, margin))


async def stopping_time(dask_worker: Any = None) -> float:
    return dask_worker.plugins[LeaveInTime.name].stop_at()


def blamed(dask_scheduler: Any = None) -> int:
    return sum(prefix.suspicious for prefix in dask_scheduler.task_prefixes.values())


def give_an_end(client: Any, seconds: float) -> tuple[str, int, float]:
    """Let the first worker's job end; gives its address, its process and the time."""
    address, process = next(iter(client.run(os.getpid).items()))
    end = time.time() + seconds
    client.run(end_soon, end, MARGIN, workers=[address])
    return address, process, end


def wait_until_gone(client: Any, address: str, until: float) -> None:
    while address in client.scheduler_info(n_workers=-1)["workers"]:
        assert time.time() < until
        time.sleep(0.02)


def test_no_task_is_begun_that_cannot_end_and_none_is_lost(two_workers, tmp_path):
    notes, seconds, count = tmp_path / "notes", 0.3, 16
    address, leaver, end = give_an_end(two_workers, 3.0)
    results: dict[int, int] = {}
    tasks = (Task(i, lambda i=i: Call(work, (i, seconds, notes)), "region") for i in range(count))
    run_tasks(two_workers, tasks, in_flight=4, retries=0, on_done=results.__setitem__)
    begun = read_notes(notes)
    assert results == {i: i for i in range(count)}
    assert sorted(one.number for one in begun) == list(range(count)), "each was begun once"
    last = max(one.at for one in begun if one.process == leaver)
    assert last < end - MARGIN - SAFETY * seconds + TICK
    assert max(one.at for one in begun) > last, "the other worker went on"
    assert two_workers.run_on_scheduler(blamed) == 0
    wait_until_gone(two_workers, address, end)


def test_a_first_long_task_is_reckoned_with_before_it_ends(two_workers, tmp_path):
    notes = tmp_path / "notes"
    address, leaver, _ = give_an_end(two_workers, 4.0)
    other = next(name for name in two_workers.nthreads() if name != address)
    busy = two_workers.submit(time.sleep, 3.0, workers=[other], pure=False)
    while not two_workers.processing()[other]:
        time.sleep(0.01)
    futures = [two_workers.submit(work, i, 2.0, notes, key=f"region-{i}") for i in range(2)]
    assert two_workers.gather(futures) == [0, 1]
    first, second = sorted(read_notes(notes), key=lambda one: one.at)
    # The leaver ran one of them; a second one, of two seconds, would not have ended in time.
    assert {first.process, second.process} >= {leaver}
    assert first.process != second.process
    assert two_workers.run_on_scheduler(blamed) == 0
    busy.release()


def test_results_are_handed_over_and_not_computed_again(two_workers, tmp_path):
    notes = tmp_path / "notes"
    address, _, end = give_an_end(two_workers, 3.0)
    kept = two_workers.submit(work, 7, 0.0, notes, workers=[address], allow_other_workers=True)
    assert kept.result() == 7
    wait_until_gone(two_workers, address, end)
    assert kept.result() == 7
    assert len(read_notes(notes)) == 1


def test_training_goes_on_to_the_end_and_does_not_count(two_workers, tmp_path):
    address, _, end = give_an_end(two_workers, 60)
    for name, usable in (("train-channel-0-ab12", end - MARGIN), ("region-ab12", end - MARGIN - 0.2)):
        two_workers.submit(time.sleep, 0.2, key=name, workers=[address]).result()
        stop = two_workers.run(stopping_time, workers=[address])[address]
        assert usable - 0.1 < stop <= usable


def test_a_worker_in_the_middle_of_training_leaves_without_blame(two_workers):
    address, _, _ = give_an_end(two_workers, 2.0)
    training = two_workers.submit(time.sleep, 2.4, key="train-0", workers=[address], allow_other_workers=True)
    assert training.result() is None
    assert address not in two_workers.nthreads()
    assert two_workers.run_on_scheduler(blamed) == 0


def test_a_run_within_a_job_that_ends_says_how_to_go_on(monkeypatch):
    monkeypatch.setenv("BIGDECON_JOB_END", str(time.time() + 8))
    done: list[int] = []
    tasks = (Task(i, lambda: Call(time.sleep, (0.05,)), "region") for i in range(10**6))
    with (
        pytest.raises(SchedulerLostError, match=r"about to end.*submit the same script again"),
        connect(workers=1, threads=1, device="cpu", dashboard_address="none") as opened,
    ):
        run_tasks(opened.client, tasks, in_flight=2, on_done=lambda key, _: done.append(key))
    assert done == list(range(len(done)))
    assert len(done) > 5
    left = seconds_left()
    assert left is not None
    assert left > 0


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"BIGDECON_JOB_END": "12.5", "SLURM_JOB_END_TIME": "99"}, 12.5),
        ({"SLURM_JOB_END_TIME": "99"}, 99.0),
        ({"SLURM_JOB_END_TIME": "soon"}, None),
        ({"SLURM_JOB_END_TIME": ""}, None),
    ],
)
def test_the_end_of_the_job(environment, expected):
    assert job_end(environment) == expected


def test_an_older_slurm_is_asked_for_the_end(tmp_path, monkeypatch):
    fake = tmp_path / "squeue"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for answer, expected in (("1970-01-02T00:00:00", 86400 + time.timezone), ("NONE", None)):
        fake.write_text(f"#!/bin/sh\necho {answer}\n")
        fake.chmod(0o755)
        assert job_end({"SLURM_JOB_ID": "7"}) == expected


def test_the_margin_grows_with_the_job_within_bounds():
    assert [margin_seconds(s) for s in (1, 60, 600, 86400)] == [2, 3, 30, 60]


def test_the_margin_is_that_of_the_whole_job():
    now = time.time()
    assert job_margin(now + 40, {"BIGDECON_JOB_MARGIN": "30"}) == 30
    assert job_margin(now + 40, {"SLURM_JOB_START_TIME": str(int(now) - 560)}) == pytest.approx(30, abs=0.1)
    assert job_margin(now + 40, {}) == pytest.approx(2, abs=0.1)


async def longest_known(dask_worker: Any = None) -> float:
    plugin = dask_worker.plugins[LeaveInTime.name]
    return (plugin.end - plugin.margin - plugin.stop_at()) / SAFETY


@pytest.mark.slow
def test_a_worker_that_is_started_again_knows_how_long_tasks_take(monkeypatch):
    monkeypatch.setenv("BIGDECON_JOB_END", str(time.time() + 600))
    with quiet_logging(), local_cluster(Layout(("",), 1, 2**30), None) as client:
        client.submit(time.sleep, 0.3, key="region-0").result()
        (before,) = client.run(longest_known).values()
        client.restart_workers(list(client.nthreads()))
        (after,) = client.run(longest_known).values()
    assert before >= 0.3
    assert after == pytest.approx(before, abs=1e-3)
