"""Whose turn it is to compute in a worker process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from bigdecon.learning.heap import freed_memory_kept

__all__ = ["computing"]

HOLD_FROM = 2**18
"""Voxels of a block from which on it pays to hold its memory: to give it back takes half a millisecond."""

_ONE_AT_A_TIME = threading.Lock()


@contextmanager
def computing(threads: int | None, device: str = "cpu", voxels: int = 0) -> Iterator[None]:
    """Compute without gradients, one block at a time in a process.

    Several blocks at once would only compete for cores and memory; tasks that read or write go on
    meanwhile.

    Parameters
    ----------
    threads : CPU threads for torch; None leaves its setting
    device : where
    voxels : of the block; a large one on a CPU has freed memory held for the next operation meanwhile
    """
    holds = device == "cpu" and voxels >= HOLD_FROM
    memory: AbstractContextManager[None] = freed_memory_kept() if holds else nullcontext()
    with _ONE_AT_A_TIME, torch.inference_mode(), memory:
        if threads:
            torch.set_num_threads(threads)
        yield
