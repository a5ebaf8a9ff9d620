"""A few boxes of a volume at full resolution, read within a budget whatever the volume's size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigdecon.diagnosis.shared_reads import decoded_unit
from bigdecon.errors import ReadError
from bigdecon.volume import Box, Stack

__all__ = ["BUDGET_BYTES", "is_affordable", "sample_boxes"]

BUDGET_BYTES = 2**25
"""Voxels decoded for a sample: chunks are decoded whole, also where a box needs a part of them."""
SIDE = {2: 512, 3: 64}
WHOLE_VOXELS = 2**20
"""An image of no more voxels is one box."""
LEAST_SIDE = 4


def sample_boxes(
    stacks: Sequence[Stack], background: float, *, keep: int, seed: int = 0
) -> list[NDArray[Any]]:
    """Read twice as many boxes as are kept, at places drawn at random, and keep those with most light.

    Parameters
    ----------
    stacks : one channel at every time point
    background : of the channel, in data units; all above it is light
    keep : boxes to keep, at most
    seed : chooses the places

    Returns
    -------
    boxes of one shape, the brightest first. Boxes that cannot be read, hold NaN or one value only are left
    out. There are none if a single box would exceed `BUDGET_BYTES`.
    """
    shape = stacks[0].shape
    if math.prod(shape) <= WHOLE_VOXELS:
        side, wanted = list(shape), 1
    else:
        side, wanted = [min(n, SIDE[len(shape)]) for n in shape], 2 * keep
    side = _within_budget(stacks[0], side)
    wanted = min(wanted, BUDGET_BYTES // _decoded_bytes(stacks[0], side))
    read = [_read(stacks, place) for place in _places(stacks, side, wanted, np.random.default_rng(seed))]
    boxes = [box for box in read if box is not None]
    return sorted(boxes, key=lambda box: _light(box, background), reverse=True)[:keep]


def _within_budget(stack: Stack, side: Sequence[int]) -> list[int]:
    """Halve a box along the axis of most chunks as long as it is too large and that helps.

    Where planes are decoded whole, few of them remain, which then may as well be used further.
    """
    fitting = list(side)
    while _decoded_bytes(stack, fitting) > BUDGET_BYTES:
        axis = max(range(len(fitting)), key=lambda a: _chunks_along(stack, fitting, a))
        if fitting[axis] <= LEAST_SIDE:
            break
        fitting[axis] //= 2
    if fitting[0] < side[0]:
        wider = [min(n, 256) for n in stack.shape[1:]]
        fitting[1:] = [max(pair) for pair in zip(fitting[1:], wider, strict=True)]
        if _decoded_bytes(stack, fitting) > BUDGET_BYTES:
            fitting[1:] = side[1:]
    return fitting


def _chunks_along(stack: Stack, side: Sequence[int], axis: int) -> int:
    """Chunks that a box may touch along an axis; one more than it fills where it may lie across two."""
    n, chunk, extent = side[axis], _units(stack)[axis], stack.shape[axis]
    across = 0 if n == extent or n % chunk == 0 else 1
    return min(-(-extent // chunk), -(-n // chunk) + across)


def _units(stack: Stack) -> tuple[int, ...]:
    source, _ = stack.locate(tuple(slice(0, 1) for _ in stack.shape))
    pairs = zip(stack.axes, decoded_unit(source), strict=True)
    return tuple(size for axis, size in pairs if axis in "zyx")


def is_affordable(stack: Stack) -> bool:
    """Whether even the smallest box can be read within the budget."""
    shape = stack.shape
    side = list(shape) if math.prod(shape) <= WHOLE_VOXELS else [min(n, SIDE[len(shape)]) for n in shape]
    return _decoded_bytes(stack, _within_budget(stack, side)) <= BUDGET_BYTES


def _decoded_bytes(stack: Stack, side: Sequence[int]) -> int:
    """Give what is decoded for a box of these sides wherever it lies, at most."""
    chunks = math.prod(_chunks_along(stack, side, axis) for axis in range(len(side)))
    source, _ = stack.locate(tuple(slice(0, 1) for _ in side))
    return chunks * math.prod(decoded_unit(source)) * stack.dtype.itemsize


def _places(
    stacks: Sequence[Stack], side: Sequence[int], count: int, rng: np.random.Generator
) -> list[tuple[int, Box]]:
    """Draw places, none twice; where whole chunks fit into a box its corner lies on their grid."""
    shape, chunks = stacks[0].shape, stacks[0].chunks
    drawn: dict[tuple[int, tuple[int, ...]], None] = {}
    for _ in range(count):
        corner = []
        for n, s, chunk in zip(shape, side, chunks, strict=True):
            start = int(rng.integers(0, n - s + 1))
            corner.append(start // chunk * chunk if s % chunk == 0 else start)
        drawn[int(rng.integers(len(stacks))), tuple(corner)] = None
    return [(index, tuple(slice(c, c + s) for c, s in zip(at, side, strict=True))) for index, at in drawn]


def _read(stacks: Sequence[Stack], place: tuple[int, Box]) -> NDArray[Any] | None:
    index, box = place
    try:
        data = np.asarray(stacks[index][box])
    except ReadError:
        return None
    low, high = float(data.min()), float(data.max())
    return data if math.isfinite(high - low) and high > low else None


def _light(box: NDArray[Any], background: float) -> float:
    return float(np.maximum(box[::2, ::2].astype(np.float64) - background, 0).mean())
