"""The whole of a volume, small enough to look at: the same coarse level of input and result.

The result brings its pyramid, and the input may. Else the input's voxels are averaged, every chunk decoded
once, where that does not take long.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bigdecon.diagnosis.shared_reads import ReadingBudget, decoded_bytes
from bigdecon.errors import BigdeconError
from bigdecon.io.layout import LevelLayout
from bigdecon.io.reading import open_volume
from bigdecon.reporting.subject import Subject
from bigdecon.volume import Box, Stack

__all__ = ["Overview", "mean_of_voxels", "overview"]

Image = NDArray[Any]

MOST_VOXELS = 2**24
MOST_SIDE = 512
MOST_TO_READ = 2**28
"""Voxels of an input without a pyramid that are read to make a coarse image of it."""
PIECE_VOXELS = 2**23
"""Small chunks are read together, as far as they make no more voxels."""


class Overview(NamedTuple):
    """A coarse image of all.

    Attributes
    ----------
    before : the input; None where it would take too long, or cannot be had
    after : the result
    voxel_size_um : of these coarse voxels; None where unknown
    level : of the result's pyramid
    """

    before: Image | None
    after: Image
    voxel_size_um: tuple[float, ...] | None
    level: int


def overview(subject: Subject, channel: int, timepoint: int, budget: ReadingBudget) -> Overview:
    """Read the finest level that fits, of one channel at one time; of the input if the budget allows."""
    levels = subject.work.layout.levels
    index = next((i for i, level in enumerate(levels) if _fits(level)), len(levels) - 1)
    level = levels[index]
    source = subject.result if index == 0 else open_volume(str(subject.output), level=index)
    after = _all_of(source.stack(timepoint=timepoint, channel=channel))
    before = _coarse_input(subject, channel, timepoint, level, budget)
    if before is not None and before.shape != after.shape:
        before = None
    return Overview(before, after, level.voxel_size_um, index)


def _fits(level: LevelLayout) -> bool:
    return math.prod(level.spatial_shape) <= MOST_VOXELS and max(level.spatial_shape) <= MOST_SIDE


def _all_of(stack: Stack) -> Image:
    return stack[tuple(slice(0, n) for n in stack.shape)]


def _coarse_input(
    subject: Subject, channel: int, timepoint: int, level: LevelLayout, budget: ReadingBudget
) -> Image | None:
    if subject.image is None:
        return None
    stack, factors = _nearest_level(subject, channel, timepoint, level)
    everything = tuple(slice(0, n) for n in stack.shape)
    if math.prod(stack.shape) > MOST_TO_READ or not budget.spend(decoded_bytes([(stack, everything)])):
        return None
    try:
        return mean_of_voxels(stack, factors)
    except BigdeconError:  # a part that cannot be read
        return None


def _nearest_level(
    subject: Subject, channel: int, timepoint: int, level: LevelLayout
) -> tuple[Stack, tuple[int, ...]]:
    """Choose what the input's coarse image is made from, and how many of its voxels make one.

    That is the coarsest level of the input's own pyramid whose voxels make up those of the result's level.
    """
    whole = subject.image
    if whole is None:
        raise ValueError("there is no input")
    for coarser in reversed(subject.coarser_inputs):
        steps = [round(n / k) for n, k in zip(whole.spatial_shape, coarser.spatial_shape, strict=True)]
        divides = all(f % s == 0 for f, s in zip(level.factors, steps, strict=True))
        exact = all(
            -(-n // s) == k for n, s, k in zip(whole.spatial_shape, steps, coarser.spatial_shape, strict=True)
        )
        if divides and exact:
            stack = coarser.stack(timepoint=timepoint, channel=channel)
            return stack, tuple(f // s for f, s in zip(level.factors, steps, strict=True))
    return whole.stack(timepoint=timepoint, channel=channel), tuple(level.factors)


def mean_of_voxels(stack: Stack, factors: Sequence[int]) -> Image:
    """Average boxes of voxels, as coarser levels do; boxes at the far edges are cut short.

    Every chunk is decoded once; memory holds one piece of a few chunks, and the result.

    Parameters
    ----------
    stack : (z, y, x) or (y, x)
    factors : voxels of the stack in one of the result, along every axis
    """
    if all(f == 1 for f in factors):
        return _all_of(stack)
    sums = np.zeros([-(-n // f) for n, f in zip(stack.shape, factors, strict=True)], np.float32)
    for piece in _pieces(stack):
        target = tuple(slice(p.start // f, -(-p.stop // f)) for p, f in zip(piece, factors, strict=True))
        sums[target] += _sums(stack[piece], piece, factors)
    for axis, (n, factor) in enumerate(zip(stack.shape, factors, strict=True)):
        count = np.diff([*range(0, n, factor), n]).astype(np.float32)
        sums /= count.reshape([-1 if a == axis else 1 for a in range(sums.ndim)])
    return sums


def _pieces(stack: Stack) -> Iterable[Box]:
    """Cut a stack between its chunks, into pieces of whole chunks."""
    source, selection = stack.locate(tuple(slice(0, n) for n in stack.shape))
    spatial = [i for i, axis in enumerate(stack.axes) if axis in "zyx"]
    steps = [source.chunks[i] for i in spatial]
    for axis in reversed(range(len(steps))):
        room = PIECE_VOXELS // math.prod(steps)
        steps[axis] *= max(1, min(room, -(-stack.shape[axis] // steps[axis])))
    cuts = []
    for i, n, step in zip(spatial, stack.shape, steps, strict=True):
        first = step - selection[i].start % source.chunks[i]
        cuts.append(list(pairwise([0, *range(first, n, step), n])))
    return (tuple(slice(start, stop) for start, stop in piece) for piece in product(*cuts))


def _sums(image: Image, piece: Box, factors: Sequence[int]) -> Image:
    """Add up the voxels of each box, of a piece that may begin and end within boxes."""
    data: Image = image.astype(np.float32)
    for axis, (part, factor) in enumerate(zip(piece, factors, strict=True)):
        first = -(-part.start // factor) * factor - part.start
        starts = [*([0] if first else []), *range(first, part.stop - part.start, factor)]
        data = np.add.reduceat(data, starts, axis=axis)
    return data
