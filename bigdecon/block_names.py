"""Names of blocks as keys of Dask tasks: readable on the dashboard, and read back by the page of a run.

    deconvolve-block-t0-c1-z128-y0-x256-RUN-RANDOM
    deconvolve-shard-t0-c1-z256-y0-x256-to-z512-y256-x512-RUN-RANDOM     all blocks of a box, written as well

Dask groups and colours tasks by what precedes the first word with a digit: here "deconvolve-block".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple
from uuid import uuid4

__all__ = ["BUNDLE", "COLLECT", "DECONVOLVE", "BlockPlace", "block_key", "read_block_key"]

DECONVOLVE = "deconvolve-block"
COLLECT = "collect-block"
BUNDLE = "deconvolve-shard"
"""What the tasks are called that restore a block, that take one from an array of many, and that restore and
write all blocks of a box."""

_VOXEL = r"(?:z(\d+)-)?y(\d+)-x(\d+)-"
_PATTERN = re.compile(
    rf"(?:{DECONVOLVE}|{COLLECT}|{BUNDLE})-t(\d+)-c(\d+)-{_VOXEL}(?:to-{_VOXEL})?([0-9a-f]+)-"
)


class BlockPlace(NamedTuple):
    """A block of a run, or all blocks of a box.

    Attributes
    ----------
    timepoint, channel : where
    start : first voxel along the spatial axes
    stop : one beyond the last voxel of the box; empty for a single block
    """

    timepoint: int
    channel: int
    start: tuple[int, ...]
    stop: tuple[int, ...] = ()


def block_key(
    kind: str, timepoint: int, channel: int, start: Sequence[int], run: str, stop: Sequence[int] = ()
) -> str:
    """Name the task of a block, or of all blocks of a box; another name each time.

    Parameters
    ----------
    kind : `DECONVOLVE`, `COLLECT` or `BUNDLE`
    timepoint, channel, start : which block: its first voxel along ([z,] y, x)
    run : hexadecimal digits that tell the run
    stop : one beyond the last voxel of the box; empty for a single block
    """
    place = _voxel(start) + (f"-to-{_voxel(stop)}" if stop else "")
    return f"{kind}-t{timepoint}-c{channel}-{place}-{run or '0'}-{uuid4().hex}"


def read_block_key(key: str, run: str) -> BlockPlace | None:
    """Tell which blocks of a run a task restores; None for any other task."""
    found = _PATTERN.match(key)
    if found is None or found[9] != run:
        return None
    start, stop = (tuple(int(n) for n in found.group(*at) if n) for at in ((3, 4, 5), (6, 7, 8)))
    return BlockPlace(int(found[1]), int(found[2]), start, stop)


def _voxel(place: Sequence[int]) -> str:
    return "-".join(f"{axis}{n}" for axis, n in zip("zyx"[-len(place) :], place, strict=True))
