"""The whole of a volume, small enough to look at: the same coarse level of input and result.

The result brings its pyramid. The input's voxels are averaged, slab by slab, where that does not take long.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bigdecon.errors import BigdeconError
from bigdecon.io.layout import LevelLayout
from bigdecon.io.reading import open_volume
from bigdecon.reporting.subject import Subject
from bigdecon.volume import Stack

__all__ = ["Overview", "mean_of_voxels", "overview"]

Image = NDArray[Any]

MOST_VOXELS = 2**24
MOST_SIDE = 512
MOST_TO_READ = 2**28
"""Voxels of an input without a pyramid that are read to make a coarse image of it."""
SLAB_VOXELS = 2**23


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


def overview(subject: Subject, channel: int, timepoint: int) -> Overview:
    """Read the finest level that fits, of one channel at one time point."""
    levels = subject.work.layout.levels
    index = next((i for i, level in enumerate(levels) if _fits(level)), len(levels) - 1)
    level = levels[index]
    source = subject.result if index == 0 else open_volume(str(subject.output), level=index)
    after = _all_of(source.stack(timepoint=timepoint, channel=channel))
    before = _coarse_input(subject, channel, timepoint, level)
    if before is not None and before.shape != after.shape:
        before = None
    return Overview(before, after, level.voxel_size_um, index)


def _fits(level: LevelLayout) -> bool:
    return math.prod(level.spatial_shape) <= MOST_VOXELS and max(level.spatial_shape) <= MOST_SIDE


def _all_of(stack: Stack) -> Image:
    return stack[tuple(slice(0, n) for n in stack.shape)]


def _coarse_input(subject: Subject, channel: int, timepoint: int, level: LevelLayout) -> Image | None:
    if subject.image is None or math.prod(subject.image.spatial_shape) > MOST_TO_READ:
        return None
    stack = subject.image.stack(timepoint=timepoint, channel=channel)
    try:
        return mean_of_voxels(stack, level.factors)
    except BigdeconError:  # a part that cannot be read
        return None


def mean_of_voxels(stack: Stack, factors: Sequence[int]) -> Image:
    """Average boxes of voxels, as coarser levels do; boxes at the far edges are cut short.

    Parameters
    ----------
    stack : (z, y, x) or (y, x)
    factors : voxels of the stack in one of the result, along every axis
    """
    if all(f == 1 for f in factors):
        return _all_of(stack)
    plane = math.prod(stack.shape[1:])
    rows = max(1, SLAB_VOXELS // (plane * factors[0])) * factors[0]
    rest = tuple(slice(0, n) for n in stack.shape[1:])
    slabs = [
        _mean(stack[(slice(start, min(start + rows, stack.shape[0])), *rest)], factors)
        for start in range(0, stack.shape[0], rows)
    ]
    return np.concatenate(slabs)


def _mean(image: Image, factors: Sequence[int]) -> Image:
    data: Image = image.astype(np.float32)
    for axis, factor in enumerate(factors):
        starts = np.arange(0, data.shape[axis], factor)
        count = np.diff([*starts, data.shape[axis]]).astype(np.float32)
        shape = [-1 if a == axis else 1 for a in range(data.ndim)]
        data = np.add.reduceat(data, starts, axis=axis) / count.reshape(shape)
    return data
