"""Keep memory that is freed at the end of a training step for the next one.

A step allocates and frees the same tensors as the one before. The C library gives large ones back to the
system, and every new page then costs a page fault: a quarter of a float32 step on a CPU
(benchmarks/training_step.py).
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["freed_memory_kept"]

# Parameters of mallopt(3).
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
NEVER = -1
# What the C library arrives at by itself where large pieces are freed, and its own number of mappings.
AFTERWARDS = {MMAP_MAX: 65536, MMAP_THRESHOLD: 2**25, TRIM_THRESHOLD: 2**26}


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Hold freed memory in this process while the block lasts, and give it back afterwards.

    Works with the GNU C library alone; elsewhere it does nothing. Threads other than the main one profit
    if they share its arena (MALLOC_ARENA_MAX=1, as in the workers that `connect` starts).
    """
    tune = _mallopt()
    if tune is None:
        yield
        return
    tune(MMAP_MAX, 0)
    tune(TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        for parameter, value in AFTERWARDS.items():
            tune(parameter, value)
        ctypes.CDLL(None).malloc_trim(0)


@functools.cache
def _mallopt() -> Callable[[int, int], int] | None:
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  (other C libraries have a mallopt that means something else)
        tune: Callable[[int, int], int] = library.mallopt
    except (AttributeError, OSError, TypeError):
        return None
    return tune
