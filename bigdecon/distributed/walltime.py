"""Walltime: no task is begun that cannot end before the job does.

    |--------- tasks ---------|  leaving  | margin |
    start                     ^ stop                end of the job
                              end - (1.25 x longest recent task + margin)

A worker that leaves takes no more tasks, lets those that run finish, hands its results to other workers
and closes. What it had been given but not begun goes elsewhere, and no task is blamed for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dask.utils import key_split
from distributed import WorkerPlugin
from distributed.core import Status

if TYPE_CHECKING:
    from distributed import Worker

__all__ = [
    "JOB_END",
    "JOB_MARGIN",
    "LONGEST_TASK",
    "SAFETY",
    "LeaveInTime",
    "job_end",
    "job_margin",
    "margin_seconds",
    "seconds_left",
]

JOB_END = "BIGDECON_JOB_END"
"""Name in the environment of the time at which the job ends, in seconds since 1970."""

JOB_MARGIN = "BIGDECON_JOB_MARGIN"
"""Name in the environment of the seconds to keep free before the job ends."""

LONGEST_TASK = "BIGDECON_JOB_LONGEST_TASK"
"""Name in the environment of a file that tells a worker that is started again what the first one learnt."""

SAFETY = 1.25
"""How much longer than the longest recent task the next one may take."""

RECENT = 32
"""Durations that are remembered of each kind of task."""

RESUMABLE = "train"
"""How the names of tasks begin that go on from their last checkpoint, and may be cut off at any time."""

MARGIN_PART, MARGIN_LEAST, MARGIN_MOST = 0.05, 2.0, 60.0

logger = logging.getLogger("bigdecon.walltime")


def job_end(environment: Mapping[str, str] | None = None) -> float | None:
    """Tell when the batch job around this process ends, in seconds since 1970; None if nothing ends it.

    Asks the environment (BIGDECON_JOB_END, SLURM_JOB_END_TIME), and in an older SLURM its queue.
    """
    env = os.environ if environment is None else environment
    for name in (JOB_END, "SLURM_JOB_END_TIME"):
        with suppress(ValueError):
            if env.get(name):
                return float(env[name])
    return _end_in_queue(env["SLURM_JOB_ID"]) if env.get("SLURM_JOB_ID") else None


def _end_in_queue(job: str) -> float | None:
    """Ask SLURM, whose answer is local time as in 2026-11-24T11:26:13, or words."""
    command = ["squeue", "--noheader", f"--jobs={job}", "--format=%e"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    env["SLURM_TIME_FORMAT"] = "standard"
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=True, env=env
        ).stdout
        return datetime.fromisoformat(answer.strip()).timestamp()
    return None


def seconds_left(environment: Mapping[str, str] | None = None) -> float | None:
    """Tell how long the job around this process goes on; None if nothing ends it."""
    end = job_end(environment)
    return None if end is None else end - time.time()


def margin_seconds(seconds: float) -> float:
    """Give what to keep free at the end of a job of so many seconds, to hand over and close."""
    return min(MARGIN_MOST, max(MARGIN_LEAST, MARGIN_PART * seconds))


def job_margin(end: float, environment: Mapping[str, str] | None = None) -> float:
    """Give what to keep free before a job's end: as the environment says, else by the length of the job."""
    env = os.environ if environment is None else environment
    with suppress(ValueError):
        if env.get(JOB_MARGIN):
            return float(env[JOB_MARGIN])
    started = env.get("SLURM_JOB_START_TIME", "")
    return margin_seconds(end - (float(started) if started.isdigit() else time.time()))


class LeaveInTime(WorkerPlugin):
    """Lets a worker leave while all that it has begun can still finish.

    Parameters
    ----------
    end : when the job ends, in seconds since 1970
    margin : seconds to keep free before that; `job_margin` by default
    memory : file in which the longest duration outlives the process; None for none
    """

    name = "bigdecon-walltime"

    def __init__(self, end: float, margin: float | None = None, memory: Path | None = None) -> None:
        self.end = end
        self.margin = job_margin(end) if margin is None else margin
        self._memory = memory
        self._inherited = self._longest = 0.0
        self._begun: dict[Any, float] = {}
        self._durations: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))
        self._timer: asyncio.TimerHandle | None = None
        self._leaving: asyncio.Task[None] | None = None

    def setup(self, worker: Worker) -> None:
        """Start to watch the time."""
        self._worker = worker
        self._inherited = self._longest = self._recall()
        self._loop = asyncio.get_running_loop()
        self._set_timer()

    def teardown(self, worker: Worker) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
        """Measure how long tasks take."""
        kind = key_split(key)
        if kind.startswith(RESUMABLE):
            return
        if finish == "executing":
            self._begun.setdefault(key, time.time())
        elif finish != "long-running" and key in self._begun:
            taken = time.time() - self._begun.pop(key)
            if finish in ("memory", "error"):
                self._durations[kind].append(taken)
                self._remember(taken)
        else:
            return
        self._set_timer()

    def stop_at(self) -> float:
        """Tell from when on no task is begun, in seconds since 1970.

        A task that runs may turn out to be the longest: it counts with what it has taken so far. The time
        of stopping is where a line that falls, the time left, meets one that rises, what that task's
        successor would need. So this is decided before the task ends and its successor begins.
        """
        usable = self.end - self.margin
        known = max((max(recent) for recent in self._durations.values()), default=self._inherited)
        if sum(map(len, self._durations.values())) < RECENT:
            known = max(known, self._inherited)
        at = usable - SAFETY * known
        if self._begun:
            at = min(at, (usable + SAFETY * min(self._begun.values())) / (1 + SAFETY))
        return at

    def _recall(self) -> float:
        with suppress(OSError, ValueError):
            if self._memory is not None:
                return float(self._memory.read_text())
        return 0.0

    def _remember(self, taken: float) -> None:
        """Write down a duration that is longer than any before."""
        if self._memory is None or taken <= self._longest:
            return
        self._longest = taken
        with suppress(OSError):
            self._memory.write_text(str(taken))

    def _set_timer(self) -> None:
        if self._leaving is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, self.stop_at() - time.time()), self._leave)

    def _leave(self) -> None:
        self._leaving = self._loop.create_task(self._close_in_order())

    async def _close_in_order(self) -> None:
        worker = self._worker
        while worker.status in (Status.init, Status.starting):
            await asyncio.sleep(0.05)
        if worker.status not in (Status.running, Status.paused):
            return
        # Not "paused", from which Dask's own watch over the memory would wake the worker again.
        worker.status = Status.closing_gracefully
        left = self.end - time.time()
        logger.info("%s takes no more tasks: its job ends in %.0f s", worker.name, left)
        while worker.state.executing or worker.state.long_running:
            if time.time() > self.end - self.margin / 2:
                logger.warning("%s leaves in the middle of a task: its job is about to end", worker.name)
                break
            await asyncio.sleep(0.05)
        await self._hand_over()
        await worker.close(timeout=2, executor_wait=False, reason="the job ends")

    async def _hand_over(self) -> None:
        """Copy results to other workers, and have the rest done elsewhere without blaming anything."""
        worker = self._worker
        stimulus = f"job-ends-{time.time()}"
        patience = max(1.0, self.end - self.margin / 4 - time.time())
        with suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(
                worker.scheduler.retire_workers(
                    workers=[worker.address], close_workers=False, remove=True, stimulus_id=stimulus
                ),
                patience,
            )
        # Where nobody could take the results, or something still ran, the scheduler has it done again.
        with suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(
                worker.scheduler.unregister(
                    address=worker.address, expected=True, close=False, stimulus_id=stimulus
                ),
                patience,
            )
