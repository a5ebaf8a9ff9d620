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
import math
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from distributed import Scheduler
from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin

from bigdecon.distributed.progress import TOPIC
from bigdecon.errors import ClusterError

__all__ = ["BatchJob", "JobKeeper"]

LOOK_SECONDS = 2.0
"""Between two looks at the queue; SLURM's controllers suffer from users who ask all the time."""

IDLE_SECONDS = 120.0
"""How long there must be no work before jobs beyond the least number are given back."""

FUTILE_JOBS = 3
"""Jobs in a row that may end before any of their workers joined."""

FRUITLESS_JOBS = 5
"""Jobs in a row that may end with nothing done, although their workers joined."""

ALIVE = frozenset({"PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "REQUEUED", "STOPPED", "SIGNALING"})


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


class BatchJob(Protocol):
    """A job as dask-jobqueue has it."""

    job_id: str | None

    async def start(self) -> None:
        """Submit it; sets `job_id`."""

    async def close(self) -> None:
        """Cancel it."""


@dataclass
class _Kept:
    """A job that we look after."""

    name: str
    job: BatchJob
    submitted: float = field(default_factory=time.monotonic)
    joined: bool = False
    leaving: bool = False

    @property
    def number(self) -> str:
        return str(self.job.job_id)


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
    ) -> None:
        self.failure: ClusterError | None = None
        self._scheduler = scheduler
        self._make_job = make_job
        self._least, self._most = jobs
        self._workers_per_job = workers_per_job
        self._logs = logs
        self._say = say
        self._kept: list[_Kept] = []
        self._numbers = 0
        self._futile = self._fruitless = 0
        self._has_work = False
        self._busy_until = time.monotonic()
        self._stopping = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._fruit = _Fruit(self._bear_fruit)

    async def start(self) -> None:
        """Submit the first jobs, and look after them from now on.

        Raises
        ------
        ClusterError
            if SLURM refuses them
        """
        self._scheduler.add_plugin(self._fruit, name=self._fruit.name)
        await self._submit(self._least)
        numbers = ", ".join(kept.number for kept in self._kept)
        plural = "s" if len(self._kept) > 1 else ""
        self._say(f"Submitted {len(self._kept)} job{plural} to SLURM ({numbers}); waiting for a start.")
        self._watch = asyncio.create_task(self._keep_watch())

    async def stop(self) -> None:
        """Cancel all jobs."""
        # Not cancelled: a job that is just being submitted would be forgotten.
        self._stopping.set()
        if self._watch is not None:
            await self._watch
        kept, self._kept = self._kept, []
        numbers = [one.number for one in kept if one.job.job_id is not None]
        if numbers:
            with suppress(OSError, RuntimeError):
                await _call("scancel", *numbers)

    @property
    def job_numbers(self) -> tuple[str, ...]:
        """The jobs that are alive, as SLURM counts them."""
        return tuple(kept.number for kept in self._kept)

    # --- the watch -------------------------------------------------------------------------------

    async def _keep_watch(self) -> None:
        try:
            while not await self._told_to_stop(LOOK_SECONDS):
                await self._look()
        except ClusterError as error:
            self.failure = error
            # Whoever waits for a result wakes up by that; `slurm_cluster` tells them why.
            asyncio.get_running_loop().create_task(self._scheduler.close(reason="no more jobs"))

    async def _told_to_stop(self, seconds: float) -> bool:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    async def _look(self) -> None:
        """Compare what there is with what is wanted."""
        self._note_workers()
        queue = await _queue()
        if queue is None:  # the controller does not answer; the jobs go on without it
            return
        self._refuse_hopeless(queue)
        gone = [kept for kept in self._kept if kept.number not in queue]
        self._kept = [kept for kept in self._kept if kept not in gone]
        for kept in gone:
            self._mourn(kept)
        staying = [kept for kept in self._kept if not kept.leaving]
        wanted = self._wanted()
        missing = wanted - len(staying)
        if missing > 0:
            first = len(self._kept)
            await self._submit(missing)
            numbers = ", ".join(kept.number for kept in self._kept[first:])
            self._say(f"Submitted to SLURM: {numbers}.")
        elif missing < 0 and time.monotonic() > self._busy_until + IDLE_SECONDS:
            await self._give_back(staying[missing:])

    def _refuse_hopeless(self, queue: dict[str, str]) -> None:
        for kept in self._kept:
            reason = queue.get(kept.number)
            if reason in HOPELESS:
                raise ClusterError(
                    f"SLURM took job {kept.number} but will never start it, for the reason {reason}; ask for "
                    "what the partition allows (--walltime, --mem, --account, --partition)."
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

    async def _submit(self, count: int) -> None:
        for _ in range(count):
            if self._stopping.is_set():
                return
            name = f"job{self._numbers}"
            self._numbers += 1
            job = self._make_job(name)
            try:
                await job.start()
            except (OSError, RuntimeError, ValueError) as error:
                await self._refused(error)
                return
            self._kept.append(_Kept(name, job))

    async def _refused(self, error: Exception) -> None:
        """Give up where nothing is left; else hope that SLURM takes the job at the next look."""
        if self._kept:
            return
        raise ClusterError(f"SLURM did not take the job: {_reason(str(error))}") from error

    async def _give_back(self, surplus: list[_Kept]) -> None:
        names = [str(ws.name) for ws in self._scheduler.workers.values()]
        for kept in surplus:
            mine = [name for name in names if name.startswith(f"{kept.name}-")]
            if mine:
                await self._scheduler.retire_workers(names=mine, close_workers=True)
            await kept.job.close()
            self._kept.remove(kept)
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
        if self._fruitless >= FRUITLESS_JOBS:
            raise ClusterError(
                f"{self._fruitless} jobs in a row ended with no task done; give a longer --walltime or "
                f"smaller blocks; the log of the last, {log}, {_last_words(log)}"
            )
        self._say(f"Job {kept.number} has ended; another takes its place where there is work.")


class _Fruit(SchedulerPlugin):
    """Notices that something gets done: a task ended, or told of its progress."""

    name = "bigdecon-jobs"

    def __init__(self, notice: Callable[[], None]) -> None:
        self._notice = notice

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        if start == "processing" and finish in ("memory", "erred"):
            self._notice()

    def log_event(self, topic: str, msg: Any) -> None:
        if topic == TOPIC:
            self._notice()


async def _queue() -> dict[str, str] | None:
    """Ask SLURM for this user's jobs that are not over; None if it does not answer.

    Gives, by the job's number, the reason for which it waits, or whatever SLURM has to say of it.
    """
    try:
        answer = await _call("squeue", "--noheader", f"--user={os.getuid()}", "--format=%A|%T|%r")
    except (OSError, RuntimeError):
        return None
    lines = [line.strip().split("|") for line in answer.splitlines()]
    return {line[0]: line[2] for line in lines if len(line) == 3 and line[1] in ALIVE}


async def _call(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, complaint = await process.communicate()
    if process.returncode:
        raise RuntimeError(complaint.decode(errors="replace"))
    return output.decode(errors="replace")


def _reason(text: str) -> str:
    """Find sbatch's own words in what dask-jobqueue says of a failed command."""
    found = re.findall(r"^sbatch: error: (.+)$", text, flags=re.MULTILINE)
    words = found[-1] if found else text.strip().partition("\n")[0]
    return words.removeprefix("Batch job submission failed: ").rstrip(".") + "."


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
