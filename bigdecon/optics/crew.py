"""Threads that share a piece of work and meet when all of it is done.

Torch shares out single operations: its threads meet after each of them. With many short operations, on a
machine that others use too, they mostly wait for the one that the system has put aside. Here every thread
takes a part and does all that is to do with it by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import torch

__all__ = ["Crew"]


class Crew:
    """As many threads as torch would use, each of which computes alone; a context manager.

    One thread needs no crew: then the work is done where it is asked for.
    """

    def __init__(self) -> None:
        self.threads = torch.get_num_threads()
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Crew:
        """Start the threads."""
        if self.threads > 1:
            self._pool = ThreadPoolExecutor(self.threads)
            ready = threading.Barrier(self.threads + 1)
            for _ in range(self.threads):
                self._pool.submit(_work_alone, ready)
            ready.wait()
            # Theirs is one thread each, but torch takes the newest number for everybody's.
            torch.set_num_threads(self.threads)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def share(self, work: Callable[[slice], None], count: int, step: int) -> None:
        """Call `work` with slices that together make up `count` items, `step` of them at a time.

        Parameters
        ----------
        work : runs in any thread and in any order, without gradients
        count : items
        step : items of one part, at least 1; fewer where a thread would go without
        """
        step = min(step, -(-count // self.threads))
        parts = [slice(start, min(start + step, count)) for start in range(0, count, step)]
        inference = torch.is_inference_mode_enabled()

        def task(part: slice) -> None:
            with torch.inference_mode(inference), torch.no_grad():
                work(part)

        if self._pool is None:
            for part in parts:
                task(part)
        else:
            for _ in self._pool.map(task, parts):
                pass


def _work_alone(ready: threading.Barrier) -> None:
    torch.set_num_threads(1)
    # A thread takes torch's newest number when it first asks for it: that must be now.
    torch.get_num_threads()
    ready.wait()
