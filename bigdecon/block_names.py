"""Names of blocks as keys of Dask tasks: readable on the dashboard, and read back by the page of a run.

    deconvolve-block-t0-c1-z128-y0-x256-RUN-RANDOM

Dask groups and colours tasks by what precedes the first word with a digit: here "deconvolve-block".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple
from uuid import uuid4

__all__ = ["COLLECT", "DECONVOLVE", "BlockPlace", "block_key", "read_block_key"]

DECONVOLVE = "deconvolve-block"
COLLECT = "collect-block"
"""What the tasks are called that restore a block, and that take one from an array of many."""

_PATTERN = re.compile(rf"(?:{DECONVOLVE}|{COLLECT})-t(\d+)-c(\d+)-(?:z(\d+)-)?y(\d+)-x(\d+)-([0-9a-f]+)-")


class BlockPlace(NamedTuple):
    """A block of a run: time point, channel, and its first voxel along the spatial axes."""

    timepoint: int
    channel: int
    start: tuple[int, ...]


def block_key(kind: str, timepoint: int, channel: int, start: Sequence[int], run: str) -> str:
    """Name the task of a block; another name each time.

    Parameters
    ----------
    kind : `DECONVOLVE` or `COLLECT`
    timepoint, channel, start : which block: its first voxel along ([z,] y, x)
    run : hexadecimal digits that tell the run
    """
    place = "-".join(f"{axis}{n}" for axis, n in zip("zyx"[-len(start) :], start, strict=True))
    return f"{kind}-t{timepoint}-c{channel}-{place}-{run or '0'}-{uuid4().hex}"


def read_block_key(key: str, run: str) -> BlockPlace | None:
    """Tell which block of a run a task restores; None for any other task."""
    found = _PATTERN.match(key)
    if found is None or found[6] != run:
        return None
    return BlockPlace(int(found[1]), int(found[2]), tuple(int(n) for n in found.group(3, 4, 5) if n))
