"""Whose turn it is to compute in a worker process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from bigdecon.learning.heap import freed_memory_kept

__all__ = ["computing"]

_ONE_AT_A_TIME = threading.Lock()


@contextmanager
def computing(threads: int | None, device: str = "cpu") -> Iterator[None]:
    """Compute without gradients, one block at a time in a process.

    Several blocks at once would only compete for cores and memory; tasks that read or write go on
    meanwhile.

    Parameters
    ----------
    threads : CPU threads for torch; None leaves its setting
    device : where; on a CPU, freed memory is held for the next operation meanwhile
    """
    memory: AbstractContextManager[None] = freed_memory_kept() if device == "cpu" else nullcontext()
    with _ONE_AT_A_TIME, torch.inference_mode(), memory:
        if threads:
            torch.set_num_threads(threads)
        yield
