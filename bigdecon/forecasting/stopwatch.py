"""A stopwatch that a busy machine does not mislead: the time that work would take with the machine to itself.

    by the clock       |====== computing ======|  waiting for a core  |== computing ==|
    of the processor   |====== computing ======|                      |== computing ==|

On a CPU the processor's time counts. Where several threads compute, theirs is shared out among them; what one
thread does alone takes as long as that thread computes. (Threads of OpenMP that wait for one another seem to
compute unless OMP_WAIT_POLICY is passive, as `bigdecon plan` has it.) On a GPU, which nobody else has as a
rule, and where nothing is computed but waited for, the clock counts.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

import torch
from dask.system import CPU_COUNT

__all__ = ["BUSY", "Lap", "Stopwatch", "computing_threads", "load_of_machine"]

BUSY = 0.5
"""Part of the cores that others keep busy from which a plan says so."""


class Lap(NamedTuple):
    """What passed between two looks at a stopwatch, in seconds.

    Attributes
    ----------
    clock : by the clock
    own : with the machine to itself
    processor : of all threads of this process, added up
    """

    clock: float
    own: float
    processor: float


class Stopwatch:
    """Runs from its making on; belongs to the thread that made it.

    Parameters
    ----------
    threads : that compute at a time, on a CPU; None counts by the clock
    """

    def __init__(self, threads: int | None) -> None:
        self._threads = threads
        self._last = _look()

    def lap(self) -> Lap:
        """Say what has passed since the last look."""
        before, self._last = self._last, _look()
        clock, process, thread = (b - a for a, b in zip(before, self._last, strict=True))
        own = clock if self._threads is None else min(clock, max(thread, process / self._threads))
        return Lap(clock, own, process)


def _look() -> tuple[float, float, float]:
    return time.perf_counter(), time.process_time(), time.thread_time()


def computing_threads(device: str, threads: int | None = None) -> int | None:
    """Tell how many threads compute at a time here; None on a GPU.

    Parameters
    ----------
    device : torch device
    threads : asked for; None for torch's setting. More than there are cores do not compute at a time.
    """
    return None if device != "cpu" else max(1, min(threads or torch.get_num_threads(), CPU_COUNT))


def load_of_machine() -> float | None:
    """Give the part of the cores that was in use over the last minute, above 1 where some wait for one.

    None where the system does not tell, as under Windows.
    """
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except (AttributeError, OSError):
        return None
