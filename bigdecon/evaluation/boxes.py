"""How the work on a large image is shared out: boxes, slabs, and a few threads."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TypeVar

from bigdecon.errors import OptionError
from bigdecon.volume import Box, Stack

__all__ = ["PIECE_VOXELS", "Work", "box_shape", "cut", "pencils", "piece_shape", "thread_count", "whole"]

Out = TypeVar("Out")

BOX_VOXELS = 2**23
"""A box read at once is grown, chunk by chunk, up to this size (32 MiB of float32)."""
LARGEST_BOX_VOXELS = 2**25
"""A single chunk larger than this is read in parts, and so decoded more than once."""
PIECE_VOXELS = 2**18
"""Boxes are worked on in pieces of about this size, with some twenty arrays of double precision at a time."""
SLAB_VOXELS = 2**22
"""Voxels transformed at once; never less than one line through the image."""
THREADS = 4


@dataclass(frozen=True)
class Work:
    """How the work is shared out.

    Attributes
    ----------
    shape : extent of the images, in voxels
    box_shape : extent of what is read at once
    threads : boxes in work at a time
    """

    shape: tuple[int, ...]
    box_shape: tuple[int, ...]
    threads: int

    @property
    def boxes(self) -> Iterator[Box]:
        """The boxes that cover the images, last axis fastest."""
        return cut(whole(self.shape), self.box_shape)

    @property
    def slab_voxels(self) -> int:
        """Size of what is transformed at once: no larger than a box, as far as lines allow."""
        return min(SLAB_VOXELS, math.prod(self.box_shape))

    def each(self, function: Callable[[Box], Out], boxes: Iterable[Box]) -> Iterator[Out]:
        """Call a function for every box in a few threads; few are waiting, and answers keep their order."""
        with ThreadPoolExecutor(self.threads) as pool:
            waiting: deque[Future[Out]] = deque()
            for box in boxes:
                waiting.append(pool.submit(function, box))
                if len(waiting) > self.threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()


def whole(shape: Sequence[int]) -> Box:
    """Give the box of a whole image."""
    return tuple(slice(0, n) for n in shape)


def cut(box: Box, size: Sequence[int]) -> Iterator[Box]:
    """Cut a box into boxes no larger than `size`, last axis fastest."""
    axes = [pairwise([*range(b.start, b.stop, n), b.stop]) for b, n in zip(box, size, strict=True)]
    for bounds in product(*axes):
        yield tuple(slice(start, stop) for start, stop in bounds)


def pencils(shape: Sequence[int], axes: Sequence[int], voxels: int) -> Iterator[Box]:
    """Cut a volume into boxes that reach through it along some axes, of about `voxels` voxels each.

    Of the other axes the last is cut last, so that what is read lies together in a file.
    """
    size = [n if axis in axes else 1 for axis, n in enumerate(shape)]
    for axis in reversed(range(len(shape))):
        if axis not in axes:
            size[axis] = max(1, min(shape[axis], voxels // math.prod(size)))
    return cut(whole(shape), size)


def piece_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Give the extent of the pieces in which an image is worked on: cubes, or squares where it is flat."""
    thick = max(1, sum(n > 1 for n in shape))
    return (round(PIECE_VOXELS ** (1 / thick)),) * len(shape)


def box_shape(stacks: Sequence[Stack], box: int | Sequence[int] | None) -> tuple[int, ...]:
    """Give the extent of what is read at once: as asked for, or whole chunks of both images."""
    shape = stacks[0].shape
    if box is not None:
        given = (box,) * len(shape) if isinstance(box, int) else tuple(box)
        if len(given) != len(shape) or min(given) < 1:
            raise OptionError(
                f"the box {given} does not fit an image of the shape {shape}; "
                "it takes one number of at least 1 for every axis."
            )
        return tuple(min(b, n) for b, n in zip(given, shape, strict=True))
    chunks = zip(*(stack.chunks for stack in stacks), shape, strict=True)
    size = [min(max(pair), n) for *pair, n in chunks]
    while math.prod(size) > LARGEST_BOX_VOXELS:
        longest = size.index(max(size))
        size[longest] = -(-size[longest] // 2)
    return _grown(size, shape)


def _grown(size: list[int], shape: Sequence[int]) -> tuple[int, ...]:
    """Double the shortest side, again and again, as long as the box stays below its limit."""
    while shorter := [axis for axis, n in enumerate(shape) if size[axis] < n]:
        axis = min(shorter, key=lambda a: size[a])
        grown = [min(2 * n, shape[a]) if a == axis else n for a, n in enumerate(size)]
        if math.prod(grown) > BOX_VOXELS:
            break
        size = grown
    return tuple(size)


def thread_count(threads: int | None) -> int:
    """Give how many threads to use: as asked for, else one for each core, up to 4."""
    if threads is None:
        return min(THREADS, os.cpu_count() or 1)
    if threads < 1:
        raise OptionError(f"{threads} threads do nothing; give at least 1.")
    return threads
