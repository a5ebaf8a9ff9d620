"""Keeping jobs alive: a real scheduler, and stand-ins for SLURM's programs that answer as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import dask
import pytest
from dask import delayed
from distributed import Scheduler

from bigdecon.distributed import job_replacement, slurm_queue
from bigdecon.distributed.job_replacement import JobKeeper
from bigdecon.distributed.progress import TOPIC
from bigdecon.distributed.slurm_queue import SlurmQueue, sbatch_words

SQUEUE = """#!/bin/sh
[ -z "$SQUEUE_STATES$SQUEUE_PARTITION" ] || exit 0
cat "{folder}/queue"
"""
SCANCEL = """#!/bin/sh
[ -z "$SCANCEL_STATE" ] || exit 0
echo "$@" >> "{folder}/cancelled"
[ -e "{folder}/deaf" ] || : > "{folder}/queue"
"""
LIMIT = "sbatch: error: Batch job submission failed: Job violates accounting policy\n"


class Slurm:
    """The queue as squeue shows it, and what scancel was told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.submitted: list[str] = []
        self.refuses = ""
        self.seconds = 0.0
        self.asked = 0

    def show(self, *lines: str) -> None:
        (self.folder / "queue").write_text("".join(f"{line}\n" for line in lines))

    @property
    def cancelled(self) -> list[str]:
        path = self.folder / "cancelled"
        return path.read_text().split() if path.exists() else []


class Job:
    """A job that is submitted in no time, or takes its time."""

    def __init__(self, slurm: Slurm) -> None:
        self.job_id: str | None = None
        self._slurm = slurm

    async def start(self) -> None:
        self._slurm.asked += 1
        await asyncio.sleep(self._slurm.seconds)
        if self._slurm.refuses:
            raise RuntimeError(self._slurm.refuses)
        self.job_id = str(100 + len(self._slurm.submitted))
        self._slurm.submitted.append(self.job_id)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    for name, text in (("squeue", SQUEUE), ("scancel", SCANCEL)):
        (tmp_path / name).write_text(text.format(folder=tmp_path))
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(job_replacement, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(slurm_queue, "CANCEL_PAUSES", (0.0, 0.01))
    made = Slurm(tmp_path)
    made.show()
    return made


def keep(
    slurm: Slurm, check: Callable[[JobKeeper, list[str]], object], jobs: tuple[int, int] = (1, 1)
) -> None:
    """Have jobs looked after while `check` runs."""

    async def run() -> None:
        said: list[str] = []
        scheduler = Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address="127.0.0.1:0")
        async with scheduler:
            keeper = JobKeeper(
                scheduler,
                lambda name: Job(slurm),
                jobs,
                workers_per_job=1,
                logs=slurm.folder,
                say=said.append,
            )
            await check(keeper, said)

    asyncio.run(run())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def test_a_job_that_is_being_submitted_is_not_forgotten(slurm):
    slurm.seconds = 0.3

    async def check(keeper, said):
        starting = asyncio.create_task(keeper.start())
        await until(lambda: slurm.asked == 1)
        await keeper.stop()
        await starting
        assert slurm.submitted == slurm.cancelled == ["100"]
        await asyncio.sleep(0.1)
        assert slurm.asked == 1, "nothing watches any more"

    keep(slurm, check, (3, 3))


def test_an_answer_without_a_job_does_not_end_it(slurm, monkeypatch):
    for name in ("SQUEUE_STATES", "SQUEUE_PARTITION", "SCANCEL_STATE"):
        monkeypatch.setenv(name, "PENDING")

    async def check(keeper, said):
        await keeper.start()
        await asyncio.sleep(0.3)
        assert keeper.job_numbers == ("100",), "it may be too new for what squeue knows"
        monkeypatch.setattr(job_replacement, "ABSENT_SECONDS", 0.0)
        await until(lambda: len(slurm.submitted) >= 2)
        slurm.show("100|RUNNING|None", *(f"{number}|RUNNING|None" for number in slurm.submitted))
        await keeper.stop()
        assert slurm.cancelled == slurm.submitted, "the one that seemed gone, too"

    keep(slurm, check)


@pytest.mark.parametrize(
    "state", ["REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT", "RESIZING", "NEW"]
)
def test_only_states_without_a_return_end_a_job(slurm, state):
    async def check(keeper, said):
        slurm.show(f"100|{state}|None")
        await keeper.start()
        await asyncio.sleep(0.2)
        assert keeper.job_numbers == ("100",)
        slurm.show("100|TIMEOUT|None", "101|PENDING|Priority")
        await until(lambda: keeper.job_numbers == ("101",))
        await keeper.stop()

    keep(slurm, check)


def test_an_unforeseen_error_is_survived_and_many_end_the_run_with_all_jobs_cancelled(slurm, monkeypatch):
    async def check(keeper, said):
        await keeper.start()
        slurm.show("100|RUNNING|None")
        looks = []

        async def fail(self):
            looks.append(1)
            raise KeyError("unforeseen")

        real = SlurmQueue.look
        monkeypatch.setattr(SlurmQueue, "look", fail)
        await until(lambda: len(looks) >= 2)
        assert keeper.failure is None
        await until(lambda: keeper.failure)
        assert "unforeseen" in str(keeper.failure)
        monkeypatch.setattr(SlurmQueue, "look", real)
        await keeper.stop()
        assert slurm.cancelled == ["100"]

    keep(slurm, check)


def test_jobs_that_cannot_be_cancelled_are_named(slurm):
    async def check(keeper, said):
        await keeper.start()
        slurm.show("100|RUNNING|None", "101|CANCELLED|None")
        (slurm.folder / "deaf").touch()
        await keeper.stop()
        assert said[-1].endswith("scancel 100")
        assert slurm.cancelled == ["100", "101", "100"]

    keep(slurm, check, (2, 2))


def test_a_limit_is_told_once_and_asked_for_seldom(slurm, monkeypatch):
    monkeypatch.setattr(job_replacement, "REFUSED_SECONDS", (0.2, 0.4))

    async def check(keeper, said):
        await keeper.start()
        slurm.show("100|RUNNING|None", "101|FAILED|None", "102|RUNNING|None")
        slurm.refuses = LIMIT
        asked = slurm.asked
        await until(lambda: slurm.asked == asked + 2)
        refused = [sentence for sentence in said if "does not take more jobs" in sentence]
        (sentence,) = refused
        assert ": Job violates accounting policy. It is asked again" in sentence
        assert not any(sentence.startswith("Submitted to SLURM") for sentence in said)
        slurm.refuses = ""
        await until(lambda: said[-1] == "Submitted to SLURM: 102.")
        await keeper.stop()

    keep(slurm, check, (2, 2))


def test_what_counts_is_what_a_client_waits_for(connection):
    noticed: list[int] = []
    scheduler = connection.client.cluster.scheduler
    plugin = job_replacement._Fruit(scheduler, lambda: noticed.append(1))
    scheduler.add_plugin(plugin, name=plugin.name)
    try:
        blocks = [delayed(pow)(2, number, dask_key_name=f"block-{number}") for number in range(5)]
        region = delayed(sum)(blocks, dask_key_name="region")
        with dask.config.set({"optimization.fuse.active": False}):
            assert connection.client.compute(region).result() == 31
        assert noticed == [1]
        plugin.log_event(TOPIC, {"run": "", "bigdecon": {"event": "Message"}})
        assert noticed == [1]
        plugin.log_event(TOPIC, {"run": "", "bigdecon": {"event": "TrainingProgress"}})
        assert noticed == [1, 1]
    finally:
        scheduler.remove_plugin(plugin.name)


def test_sbatch_has_the_word():
    assert sbatch_words(f"Command exited\nstderr:\n{LIMIT}") == "Job violates accounting policy."
    assert sbatch_words("no such file\nmore") == "no such file."
