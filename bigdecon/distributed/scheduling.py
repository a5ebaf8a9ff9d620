"""Scheduling: many tasks, a few at a time, each built only when its turn comes.

                    build           Dask             on_done
    tasks (lazy) ──────────▶ in flight (n) ─────────▶ released

The scheduler never knows more than `in_flight` tasks, so that its memory does not grow with the volume.
"""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import uuid4

from dask.base import is_dask_collection
from distributed import CancelledError, Client, Future, KilledWorker
from distributed.comm.core import CommClosedError

from bigdecon.device_errors import is_out_of_memory
from bigdecon.distributed.device_failure import device_failure_of
from bigdecon.errors import (
    BigdeconError,
    NonFiniteError,
    OptionError,
    ReadError,
    RunError,
    SchedulerLostError,
)

__all__ = ["Call", "Task", "run_tasks"]

LOOK_SECONDS = 1.0
ASK_SECONDS = 10.0

K = TypeVar("K", bound=Hashable)


class Call(NamedTuple):
    """A plain function to call on a worker, with its arguments; all of it must pickle."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Task(Generic[K]):
    """A piece of work.

    Attributes
    ----------
    key : what `on_done` gets to know it by
    build : makes the work: a `Call`, or a Dask collection (a Delayed, say); called again for each retry
    name : what a Call is called on the dashboard; tasks are grouped by what precedes the first digit.
        A collection brings its own names.
    remedy : what to do where the memory does not suffice, as the end of a sentence
    workers : addresses of the workers that may do it; empty for any
    can_be_milder : called where workers died of the task; tells whether what `build` makes next asks less of
        them, and is worth another attempt
    """

    key: K
    build: Callable[[], Any]
    name: str = "task"
    remedy: str = "give the workers more memory, and the same command again"
    workers: tuple[str, ...] = ()
    can_be_milder: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class _Attempt(Generic[K]):
    """A task in flight, and how many times it has failed."""

    task: Task[K]
    future: Future[Any]
    failures: int


def run_tasks(
    client: Client,
    tasks: Iterable[Task[K]],
    *,
    in_flight: int | Callable[[], int],
    retries: int = 2,
    on_done: Callable[[K, Any], None] | None = None,
    patience_seconds: float = 120.0,
) -> int:
    """Run tasks on a cluster and wait for them all.

    Parameters
    ----------
    client : of the cluster
    tasks : consumed one at a time, whenever there is room
    in_flight : how many may be unfinished at once, at least 1; a function is asked again and again
    retries : how often a task is tried again after an exception; errors of our own tree are final, but for
        those of reading
    on_done : gets key and result of each finished task, in this thread, in the order of finishing
    patience_seconds : how long the cluster may be without any worker

    Returns
    -------
    int
        how many tasks were run

    Raises
    ------
    SchedulerLostError
        if the scheduler went away, or had no worker for longer than `patience_seconds`
    RunError
        if workers died again and again of the same task
    BigdeconError
        of a task, at once; any other failure, once it has been tried again, as a RunError. The other tasks
        are cancelled then, as on Ctrl-C.
    """
    if not callable(in_flight):
        if in_flight < 1:
            raise OptionError(f"{in_flight} tasks in flight were asked for; it must be at least 1.")
        count = in_flight
        return run_tasks(
            client,
            tasks,
            in_flight=lambda: count,
            retries=retries,
            on_done=on_done,
            patience_seconds=patience_seconds,
        )
    return _Walk(client, retries, on_done, patience_seconds).run(iter(tasks), in_flight)


class _Walk(Generic[K]):
    """The state of one `run_tasks`."""

    def __init__(
        self,
        client: Client,
        retries: int,
        on_done: Callable[[K, Any], None] | None,
        patience_seconds: float,
    ) -> None:
        self._client = client
        self._retries = retries
        self._on_done = on_done
        self._patience_seconds = patience_seconds
        self._id = uuid4().hex[:8]
        self._numbers = itertools.count()
        self._flying: dict[int, _Attempt[K]] = {}
        self._finished: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._asked = self._with_workers = time.monotonic()

    def run(self, tasks: Iterator[Task[K]], in_flight: Callable[[], int]) -> int:
        done = 0
        try:
            self._fill(tasks, in_flight)
            while self._flying:
                done += self._settle(self._next_finished())
                self._fill(tasks, in_flight)
        except BaseException:
            self._cancel()
            raise
        return done

    def _fill(self, tasks: Iterator[Task[K]], in_flight: Callable[[], int]) -> None:
        """Launch tasks while there is room."""
        for task in itertools.islice(tasks, max(0, in_flight() - len(self._flying))):
            self._launch(task, 0)

    def _launch(self, task: Task[K], failures: int) -> None:
        """Build the work and hand it to the scheduler."""
        number = next(self._numbers)
        work = task.build()
        where = list(task.workers) or None
        try:
            if isinstance(work, Call):
                key = f"{task.name}-{self._id}-{number}"
                future = self._client.submit(
                    work.function, *work.arguments, key=key, workers=where, pure=False
                )
            elif is_dask_collection(work):
                future = self._client.compute(work, workers=where)
            else:
                raise TypeError(
                    f"task {task.key} was built as {type(work).__name__}, not a Call or collection"
                )
        except (CommClosedError, OSError) as error:
            raise self._lost() from error
        self._flying[number] = _Attempt(task, future, failures)
        future.add_done_callback(lambda _: self._finished.put(number))

    def _next_finished(self) -> int:
        """Wait for any task, with an eye on the cluster."""
        while True:
            try:
                return self._finished.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                self._look_after_cluster()

    def _settle(self, number: int) -> bool:
        """Take the result of a task, or try it again; tell whether it is done."""
        attempt = self._flying.pop(number)
        try:
            result = attempt.future.result()
        except Exception as error:
            attempt.future.release()
            self._forgive(attempt, error)
            return False
        attempt.future.release()
        if self._on_done is not None:
            self._on_done(attempt.task.key, result)
        return True

    def _forgive(self, attempt: _Attempt[K], error: Exception) -> None:
        """Launch a failed task again, or raise what its failure means."""
        if isinstance(error, BigdeconError) and not isinstance(error, ReadError | NonFiniteError):
            raise error
        if isinstance(error, KilledWorker):
            failure = device_failure_of(self._client, error)
            if failure:
                raise RunError(
                    f"the GPU failed in {error.allowed_failures + 1} processes one after the other, in the "
                    f"task {error.task} at last with: {failure}; what is finished is kept: have GPU and "
                    "driver looked at, and give the same command again."
                ) from error
            if attempt.failures < self._retries and attempt.task.can_be_milder():
                self._again(attempt)
                return
            raise RunError(
                f"{error.allowed_failures + 1} workers died one after the other in the task {error.task}, "
                "probably for want of memory; give more --memory-limit, fewer --threads or a smaller --block."
            ) from error
        if isinstance(error, CancelledError | CommClosedError) or self._client.status != "running":
            raise self._lost() from error
        if attempt.failures >= self._retries:
            if isinstance(error, BigdeconError):
                raise error
            raise _final(error, attempt.task) from error
        self._again(attempt)

    def _again(self, attempt: _Attempt[K]) -> None:
        # A graph keeps its keys: wait until the client has let go of the failed ones.
        self._client.sync(_breathe)
        self._launch(attempt.task, attempt.failures + 1)

    def _look_after_cluster(self) -> None:
        """Notice a scheduler that is gone, or one that waits for workers in vain."""
        if self._client.status != "running":
            raise self._lost()
        now = time.monotonic()
        if now < self._asked + min(ASK_SECONDS, self._patience_seconds):
            return
        self._asked = now
        try:
            workers = self._client.sync(self._ask, callback_timeout=ASK_SECONDS)
        except (OSError, TimeoutError):
            return  # busy, or lost: then the status says so soon
        if any(set(workers).intersection(one.task.workers or workers) for one in self._flying.values()):
            self._with_workers = now
        elif now > self._with_workers + self._patience_seconds:
            raise SchedulerLostError(
                f"the cluster has had no workers for this for {now - self._with_workers:.0f} s; "
                "start some and run the same command again: it continues where it stopped."
            )

    async def _ask(self) -> Any:
        """Ask the scheduler for its workers."""
        scheduler = self._client.scheduler
        return await scheduler.ncores() if scheduler is not None else {}

    def _lost(self) -> SchedulerLostError:
        return SchedulerLostError(
            "the connection to the Dask scheduler was lost; what is finished is kept: "
            "run the same command again and it continues where it stopped."
        )

    def _cancel(self) -> None:
        """Drop everything that is in flight; what a worker is in the middle of ends by itself."""
        futures = [attempt.future for attempt in self._flying.values()]
        self._flying.clear()
        with suppress(Exception):  # whatever fails now, the reason for cancelling is what counts
            if futures and self._client.status == "running":
                self._client.cancel(futures)


def _final(error: Exception, task: Task[Any]) -> RunError:
    """Say in a sentence why a task cannot be done."""
    text = str(error).strip().partition("\n")[0]
    if is_out_of_memory(error):
        on_gpu = type(error).__name__ == "OutOfMemoryError"
        whose = "the GPU's memory" if on_gpu else "a worker's memory"
        return RunError(f"{whose} does not suffice for the task {task.name}; {task.remedy}.")
    return RunError(
        f"the task {task.name} failed again and again, at last with "
        f"{type(error).__name__}: {text or 'no message'}; "
        "what is finished is kept, and the same command continues."
    )


async def _breathe() -> None:
    """Run after everything that waits in the client's loop."""
