"""Reading parts of a volume at a known cost: chunks are decoded whole, also where a box needs a part of them.

chunk    |-----------------------|-----------------------|
boxes       |--a--|   |--b--|      |--c--|
decoded  |===== once for a, b ===|====== for c ==========|
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigdecon.errors import ReadError
from bigdecon.volume import Box, Source, Stack

__all__ = ["ReadingBudget", "decoded_bytes", "decoded_unit", "groups_by_chunk", "read_boxes"]

MOST_COUNTED = 2**20
"""Chunks whose names are compared; beyond, a request counts as if it shared none."""


_Bounds = tuple[tuple[int, int], ...]
"""Start and stop along every axis; unlike slices, these can be looked up."""


class ReadingBudget:
    """What may still be decoded, and until when work may begin.

    Parameters
    ----------
    n_bytes : of decoded voxels
    seconds : from now
    clock : gives seconds
    """

    def __init__(
        self, n_bytes: int, seconds: float = math.inf, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total = self.left = n_bytes
        self._clock = clock
        self._end = clock() + seconds

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return self._clock() >= self._end

    def spend(self, n_bytes: int) -> bool:
        """Take bytes if they are there and the time is not over; tells whether they were."""
        if self.late or n_bytes > self.left:
            return False
        self.left -= n_bytes
        return True

    def part(self, share: float) -> ReadingBudget:
        """Give a budget of a part of what is left, which is taken off here; the time is the same."""
        given = ReadingBudget(int(self.left * share), clock=self._clock)
        given._end = self._end
        self.left -= given.total
        return given

    def give_back(self, part: ReadingBudget) -> None:
        """Take back what is left of a part."""
        self.left += part.left
        part.left = 0


def decoded_unit(source: Source) -> tuple[int, ...]:
    """Give the shape of what is decoded for a single voxel: a chunk, or a row of a plain TIFF file."""
    unit: tuple[int, ...] = getattr(source, "decoded", source.chunks)
    return unit


def decoded_bytes(requests: Iterable[tuple[Stack, Box]]) -> int:
    """Count what is decoded for boxes, chunks that they share once, in bytes.

    Parameters
    ----------
    requests : boxes, each with the stack that it is of
    """
    seen: dict[int, tuple[int, set[tuple[int, ...]]]] = {}
    total = 0
    for stack, box in requests:
        source, selection = stack.locate(box)
        unit = decoded_unit(source)
        size, chunks = seen.setdefault(id(source), (math.prod(unit) * source.dtype.itemsize, set()))
        touched = [range(p.start // c, -(-p.stop // c)) for p, c in zip(selection, unit, strict=True)]
        count = math.prod(len(r) for r in touched)
        if count + len(chunks) > MOST_COUNTED:
            total += count * size
        else:
            chunks.update(product(*touched))
    return total + sum(size * len(chunks) for size, chunks in seen.values())


def groups_by_chunk(stack: Stack, boxes: Sequence[Box], most_voxels: int) -> list[list[int]]:
    """Put boxes together that lie in the same chunks, where a chunk is larger than a box.

    Parameters
    ----------
    stack : what they are of
    boxes : of like extents
    most_voxels : of a group

    Returns
    -------
    positions in `boxes`, group by group
    """
    together: dict[tuple[int, ...], list[list[int]]] = {}
    voxels = [math.prod(part.stop - part.start for part in box) for box in boxes]
    for position, box in enumerate(boxes):
        source, selection = stack.locate(box)
        pairs = zip(selection, source.chunks, strict=True)
        key = tuple(p.start // c if c > p.stop - p.start else p.start for p, c in pairs)
        groups = together.setdefault(key, [[]])
        if groups[-1] and sum(voxels[i] for i in groups[-1]) + voxels[position] > most_voxels:
            groups.append([])
        groups[-1].append(position)
    return [group for groups in together.values() for group in groups]


def read_boxes(stack: Stack, boxes: Sequence[Box]) -> list[NDArray[Any] | None]:
    """Read boxes and decode every chunk once; None for a box that cannot be read.

    Memory holds the boxes and one chunk.
    """
    if len(boxes) == 1:
        try:
            return [stack[boxes[0]]]
        except ReadError:
            return [None]
    read: list[NDArray[Any] | None] = [
        np.empty([p.stop - p.start for p in box], stack.dtype) for box in boxes
    ]
    parts: dict[_Bounds, list[int]] = {}
    for position, box in enumerate(boxes):
        for bounds in _chunks_of(stack, box):
            parts.setdefault(bounds, []).append(position)
    for bounds, positions in parts.items():
        chunk = tuple(slice(*ends) for ends in bounds)
        _read_chunk(stack, chunk, boxes, [i for i in positions if read[i] is not None], read)
    return read


def _chunks_of(stack: Stack, box: Box) -> Iterable[_Bounds]:
    """Give the chunks that a box touches, each in voxels of the stack; they may reach beyond it."""
    source, selection = stack.locate(box)
    spatial = [i for i, axis in enumerate(stack.axes) if axis in "zyx"]
    cuts = []
    for i, part in zip(spatial, box, strict=True):
        chunk, shift = source.chunks[i], selection[i].start - part.start
        numbers = range(selection[i].start // chunk, -(-selection[i].stop // chunk))
        cuts.append([(n * chunk - shift, (n + 1) * chunk - shift) for n in numbers])
    return product(*cuts)


def _read_chunk(
    stack: Stack,
    chunk: Box,
    boxes: Sequence[Box],
    positions: Sequence[int],
    read: list[NDArray[Any] | None],
) -> None:
    if not positions:
        return
    common = {i: _common(chunk, boxes[i]) for i in positions}
    hull = tuple(
        slice(min(p.start for p in parts), max(p.stop for p in parts))
        for parts in zip(*common.values(), strict=True)
    )
    try:
        data = stack[hull]
    except ReadError:
        for i in positions:
            read[i] = None
        return
    for i, part in common.items():
        out = read[i]
        if out is not None:
            out[_within(part, boxes[i])] = data[_within(part, hull)]


def _common(chunk: Box, box: Box) -> Box:
    return tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(chunk, box, strict=True))


def _within(part: Box, whole: Box) -> Box:
    return tuple(slice(p.start - w.start, p.stop - w.start) for p, w in zip(part, whole, strict=True))
