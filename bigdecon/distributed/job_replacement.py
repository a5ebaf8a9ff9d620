"""Job replacement: as many jobs as are wanted stay alive, whatever happens to single ones.

    wanted: MIN, and up to MAX while there is work for more
                 │
    submit ──▶ pending ──▶ running ──▶ leaving (its time is nearly up) ──▶ gone
       ▲                                  │                                 │
       └──────────── one more ────────────┴── killed, cancelled, expired ───┘

Jobs that end again and again without anything done are not replaced for ever: the run ends, with the last
line of the last one's log.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from distributed import Scheduler
from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin

from bigdecon.distributed.progress import TOPIC, ChoosingProgress, TrainingProgress
from bigdecon.distributed.slurm_queue import QueuedJob, SlurmQueue, sbatch_words
from bigdecon.errors import ClusterError

__all__ = ["BatchJob", "JobKeeper"]

LOOK_SECONDS = 2.0
"""Between two looks at the queue; SLURM's controllers suffer from users who ask all the time."""

IDLE_SECONDS = 120.0
"""How long there must be no work before jobs beyond the least number are given back."""

FUTILE_JOBS = 3
"""Jobs in a row that may end before any of their workers joined."""

FRUITLESS_JOBS = 5
"""Jobs in a row that may end with nothing done, although their workers joined; more where many run."""

ABSENT_LOOKS = 2
"""Looks in a row at a queue without a job after which it is gone; one answer may be old or incomplete."""

ABSENT_SECONDS = 60.0
"""How old a job must be for that: a queue that is shown from a cache does not know new ones."""

FAILED_LOOKS = 10
"""Looks in a row that may fail for reasons unknown."""

REFUSED_SECONDS = (10.0, 300.0)
"""First and longest pause after SLURM did not take a job, as beyond a limit; doubled in between."""

HOPELESS = frozenset(
    {
        "AccountNotAllowed",
        "AssocMaxCpuPerJobLimit",
        "AssocMaxMemPerJob",
        "AssocMaxWallDurationPerJobLimit",
        "BadConstraints",
        "InvalidAccount",
        "InvalidQOS",
        "PartitionNodeLimit",
        "PartitionTimeLimit",
        "QOSMaxCpuPerJobLimit",
        "QOSMaxMemoryPerJob",
        "QOSMaxWallDurationPerJobLimit",
    }
)
"""Reasons, in SLURM's words, for which a job that was taken will wait for ever."""

logger = logging.getLogger("bigdecon.jobs")


class BatchJob(Protocol):
    """A job as dask-jobqueue has it."""

    job_id: str | None

    async def start(self) -> None:
        """Submit it; sets `job_id`."""


@dataclass
class _Kept:
    """A job that we look after."""

    name: str
    job: BatchJob
    submitted: float = field(default_factory=time.monotonic)
    joined: bool = False
    leaving: bool = False
    absent: int = 0

    @property
    def number(self) -> str:
        return str(self.job.job_id)

    def is_gone(self, queue: dict[str, QueuedJob]) -> bool:
        """Judge by one more look at the queue whether the job is over."""
        found = queue.get(self.number)
        self.absent = 0 if found else self.absent + 1
        if found:
            return found.ended
        return self.absent >= ABSENT_LOOKS and time.monotonic() > self.submitted + ABSENT_SECONDS


class JobKeeper:
    """Keeps jobs alive; all of its methods run in the scheduler's loop.

    Parameters
    ----------
    scheduler : whose workers the jobs hold
    make_job : makes a job whose workers' names begin with the name given
    jobs : how many to keep: at least, and at most while there is work
    workers_per_job : worker processes that a job holds
    logs : folder of the files bigdecon-JOB.out
    say : gets sentences for the user
    queue : that the jobs are in; this user's on this cluster by default

    Attributes
    ----------
    failure : why no more jobs are submitted, once that is so; the scheduler is closed then
    """

    def __init__(
        self,
        scheduler: Scheduler,
        make_job: Callable[[str], BatchJob],
        jobs: tuple[int, int],
        *,
        workers_per_job: int,
        logs: Path,
        say: Callable[[str], None],
        queue: SlurmQueue | None = None,
    ) -> None:
        self.failure: ClusterError | None = None
        self._scheduler = scheduler
        self._make_job = make_job
        self._least, self._most = jobs
        self._workers_per_job = workers_per_job
        self._logs = logs
        self._say = say
        self._queue = queue or SlurmQueue()
        self._kept: list[_Kept] = []
        self._submitted: list[str] = []  # all numbers ever: none may be left behind
        self._submitting = asyncio.Lock()
        self._refusal, self._pause, self._try_again = "", 0.0, 0.0
        self._numbers = 0
        self._futile = self._fruitless = 0
        self._has_work = False
        self._busy_until = time.monotonic()
        self._stopping = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._fruit = _Fruit(scheduler, self._bear_fruit)

    async def start(self) -> None:
        """Submit the first jobs, and look after them from now on.

        Raises
        ------
        ClusterError
            if SLURM refuses them
        """
        self._scheduler.add_plugin(self._fruit, name=self._fruit.name)
        await self._submit(self._least)
        if self._stopping.is_set():
            return
        numbers = ", ".join(kept.number for kept in self._kept)
        plural = "s" if len(self._kept) > 1 else ""
        self._say(f"Submitted {len(self._kept)} job{plural} to SLURM ({numbers}); waiting for a start.")
        self._watch = asyncio.create_task(self._keep_watch())

    async def stop(self) -> None:
        """Cancel all jobs."""
        # Not cancelled: a job that is just being submitted would be forgotten.
        self._stopping.set()
        try:
            if self._watch is not None:
                await self._watch
        finally:
            async with self._submitting:  # sbatch may be at it
                self._kept = []
            left = await self._queue.cancel(self._submitted)
            if left:
                self._say(f"Jobs that may still be in the queue; cancel them with: scancel {' '.join(left)}")

    @property
    def job_numbers(self) -> tuple[str, ...]:
        """The jobs that are alive, as SLURM counts them."""
        return tuple(kept.number for kept in self._kept)

    # --- the watch -------------------------------------------------------------------------------

    async def _keep_watch(self) -> None:
        failed = 0
        while not await self._told_to_stop(LOOK_SECONDS):
            try:
                await self._look()
                failed = 0
            except ClusterError as error:
                self._give_up(error)
                return
            except Exception as error:  # nothing that goes wrong here may end the watch unnoticed
                logger.warning("looking after the jobs failed (%r); another look follows", error)
                failed += 1
                if failed >= FAILED_LOOKS:
                    self._give_up(ClusterError(f"the jobs cannot be looked after any more: {error!r}."))
                    return

    def _give_up(self, failure: ClusterError) -> None:
        """Wake up whoever waits for a result; `slurm_cluster` tells them why."""
        self.failure = failure
        asyncio.get_running_loop().create_task(self._scheduler.close(reason="no more jobs"))

    async def _told_to_stop(self, seconds: float) -> bool:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    async def _look(self) -> None:
        """Compare what there is with what is wanted."""
        self._note_workers()
        queue = await self._queue.look()
        if queue is None:  # the controller does not answer; the jobs go on without it
            return
        self._refuse_hopeless(queue)
        gone = [kept for kept in self._kept if kept.is_gone(queue)]
        self._kept = [kept for kept in self._kept if kept not in gone]
        for kept in gone:
            self._mourn(kept)
        staying = [kept for kept in self._kept if not kept.leaving]
        wanted = self._wanted()
        missing = wanted - len(staying)
        if missing > 0:
            await self._submit_more(missing)
        elif missing < 0 and time.monotonic() > self._busy_until + IDLE_SECONDS:
            await self._give_back(staying[missing:])

    def _refuse_hopeless(self, queue: dict[str, QueuedJob]) -> None:
        for kept in self._kept:
            found = queue.get(kept.number)
            if found and not found.ended and found.reason in HOPELESS:
                raise ClusterError(
                    f"SLURM took job {kept.number} but will never start it, for the reason {found.reason}; "
                    "ask for what the partition allows (--walltime, --mem, --account, --partition)."
                )

    def _note_workers(self) -> None:
        workers = list(self._scheduler.workers.values())
        for kept in self._kept:
            mine = [ws for ws in workers if str(ws.name).startswith(f"{kept.name}-")]
            if mine:
                kept.joined = True
                kept.leaving = all(ws.status is Status.closing_gracefully for ws in mine)

    def _wanted(self) -> int:
        """Say how many jobs the work is enough for."""
        scheduler = self._scheduler
        processing = sum(len(ws.processing) for ws in scheduler.workers.values())
        tasks = processing + len(scheduler.queued) + len(scheduler.unrunnable)
        self._has_work = tasks > 0
        if tasks:
            self._busy_until = time.monotonic()
        return min(self._most, max(self._least, math.ceil(tasks / self._workers_per_job)))

    async def _submit_more(self, count: int) -> None:
        """Submit jobs, unless SLURM has refused one a moment ago."""
        if time.monotonic() < self._try_again:
            return
        before = len(self._kept)
        await self._submit(count)
        added = [kept.number for kept in self._kept[before:]]
        if added:
            self._say(f"Submitted to SLURM: {', '.join(added)}.")

    async def _submit(self, count: int) -> None:
        async with self._submitting:
            for _ in range(count):
                if self._stopping.is_set():
                    return
                name = f"job{self._numbers}"
                self._numbers += 1
                job = self._make_job(name)
                try:
                    await job.start()
                except (OSError, RuntimeError, ValueError) as error:
                    self._note_refusal(error)
                    return
                kept = _Kept(name, job)
                self._submitted.append(kept.number)
                self._kept.append(kept)
                self._pause = 0.0

    def _note_refusal(self, error: Exception) -> None:
        """Give up where nothing is left; else try again later, and say why once."""
        reason = sbatch_words(str(error))
        if not self._kept:
            raise ClusterError(f"SLURM did not take the job: {reason}") from error
        first, longest = REFUSED_SECONDS
        self._pause = min(longest, max(first, 2 * self._pause))
        self._try_again = time.monotonic() + self._pause
        if reason != self._refusal:
            self._refusal = reason
            self._say(f"SLURM does not take more jobs for now: {reason} It is asked again now and then.")

    async def _give_back(self, surplus: list[_Kept]) -> None:
        names = [str(ws.name) for ws in self._scheduler.workers.values()]
        for kept in surplus:
            mine = [name for name in names if name.startswith(f"{kept.name}-")]
            if mine:
                await self._scheduler.retire_workers(names=mine, close_workers=True)
            self._kept.remove(kept)
        await self._queue.cancel([kept.number for kept in surplus])
        self._say(f"Gave back {len(surplus)} jobs for which there is no work.")

    # --- what jobs die of ------------------------------------------------------------------------

    def _bear_fruit(self) -> None:
        self._futile = self._fruitless = 0

    def _mourn(self, kept: _Kept) -> None:
        """Count a job that is gone; raise if it is one too many."""
        log = self._logs / f"bigdecon-{kept.number}.out"
        self._futile = 0 if kept.joined else self._futile + 1
        self._fruitless += self._has_work or not kept.joined
        if self._futile >= FUTILE_JOBS:
            raise ClusterError(
                f"{self._futile} jobs in a row ended before their workers had started; "
                f"the log of the last, {log}, {_last_words(log)}"
            )
        if self._fruitless >= max(FRUITLESS_JOBS, 2 * self._most):
            raise ClusterError(
                f"{self._fruitless} jobs in a row ended with no region of the output written; give a longer "
                f"--walltime, more --jobs or smaller blocks; the log of the last, {log}, {_last_words(log)}"
            )
        self._say(f"Job {kept.number} has ended; another takes its place where there is work.")


class _Fruit(SchedulerPlugin):
    """Notices that something lasting gets done: what a client waits for, a step of training or a trial.

    The blocks of a region do not count: where no job lives long enough for all of them, they are computed
    again and again.
    """

    name = "bigdecon-jobs"

    def __init__(self, scheduler: Scheduler, notice: Callable[[], None]) -> None:
        self._scheduler = scheduler
        self._notice = notice

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        if start != "processing" or finish not in ("memory", "erred"):
            return
        task = self._scheduler.tasks.get(key)
        if finish == "erred" or (task is not None and task.who_wants):
            self._notice()

    def log_event(self, topic: str, msg: Any) -> None:
        lasting = (TrainingProgress.__name__, ChoosingProgress.__name__)
        if topic == TOPIC and any(name in str(msg) for name in lasting):
            self._notice()


def _last_words(log: Path) -> str:
    """Say what the last line of a log is."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return "is not there: does the node see its folder?"
    said = [line.strip() for line in lines if line.strip()]
    return f"ends with: {said[-1]}" if said else "is empty."
