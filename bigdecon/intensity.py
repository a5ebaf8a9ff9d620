"""IntensityStats: how bright a volume is, measured once so that all of its blocks agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigdecon.errors import ConstantImageError, ReadError, VolumeError
from bigdecon.volume import Box, Stack

__all__ = ["IntensityStats", "Scaling", "measure_intensity"]

SAMPLE_VOXELS = 2**26
"""Volumes up to this many voxels (a 512 x 512 x 256 volume) are read whole, larger ones sampled."""


@dataclass(frozen=True)
class Scaling:
    """From data units to those in which a network computes, and back.

    Attributes
    ----------
    offset : value, in data units, that becomes 0
    unit : difference, in data units, that becomes 1
    bounded : whether results are kept within [0, 1] of the scaled units
    """

    offset: float
    unit: float
    bounded: bool = False

    def apply(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Scale values in data units."""
        return ((np.asarray(x, np.float32) - np.float32(self.offset)) / np.float32(self.unit)).astype(
            np.float32
        )

    def restore(self, y: NDArray[Any]) -> NDArray[np.float32]:
        """Undo `apply`, after clipping where the scaling is bounded: back to data units."""
        y = np.asarray(y, np.float32)
        if self.bounded:
            y = y.clip(0, 1)
        return (y * np.float32(self.unit) + np.float32(self.offset)).astype(np.float32)


@dataclass(frozen=True)
class IntensityStats:
    """Brightness of one channel, in data units.

    Attributes
    ----------
    mean, std : over all voxels looked at
    minimum, maximum : extremes of the voxels looked at
    background : camera offset, see `measure_intensity`
    sampled : part of the voxels that was looked at, in (0, 1]; 0 where the values are assumed
    unread : what could not be read and was left out, as a sentence; "" if all could
    """

    mean: float
    std: float
    minimum: float
    maximum: float
    background: float
    sampled: float = 1.0
    unread: str = ""

    @property
    def standard(self) -> Scaling:
        """Zero mean and unit variance, over the volume."""
        return Scaling(self.mean, self.std)

    @property
    def unit_range(self) -> Scaling:
        """From 0 at the minimum to 1 at the maximum; results stay within them."""
        return Scaling(self.minimum, self.maximum - self.minimum, bounded=True)

    def standardize(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Give zero mean and unit variance, over the volume."""
        return self.standard.apply(x)

    def restore(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Undo `standardize`: back to data units."""
        return self.standard.restore(x)


@dataclass(frozen=True)
class _Part:
    """Sums over one box, enough to add boxes up."""

    count: int
    mean: float
    squares: float
    minimum: float
    maximum: float
    local_means: NDArray[np.float64]


def measure_intensity(
    stacks: Sequence[Stack],
    *,
    sample_voxels: int = SAMPLE_VOXELS,
    search: bool = True,
    name: str = "the volume",
) -> IntensityStats:
    """Measure the brightness of a channel over all its time points.

    The background is the 1st percentile of the means of 4-voxel boxes: averaging keeps the noise
    out of it, and a few dark boxes are enough to find it.

    Parameters
    ----------
    stacks : one channel at every time point
    sample_voxels : read at most about this many voxels, in chunks spread evenly over the volume
    search : where the sample holds one value only, read on until others are found, to the end if need be
    name : what to call the volume in messages

    Raises
    ------
    ConstantImageError
        if all voxels that were looked at have one value
    VolumeError
        if a voxel is NaN or infinite (it says where)
    ReadError
        if nothing can be read; parts that cannot are left out
    """
    total = len(stacks) * int(np.prod(stacks[0].shape))
    boxes = list(_sample_boxes(stacks, sample_voxels))
    with ThreadPoolExecutor(4) as pool:
        looked = list(pool.map(lambda item: _try_box(stacks[item[0]], item[1], name), boxes))
    failed = [look for look in looked if isinstance(look, ReadError)]
    parts = [look for look in looked if not isinstance(look, ReadError)]
    if not parts:
        raise failed[0]
    if search and len({value for part in parts for value in (part.minimum, part.maximum)}) == 1:
        parts += _find_others(stacks, parts[0].minimum, sample_voxels, name)
    count = sum(part.count for part in parts)
    mean = sum(part.count * part.mean for part in parts) / count
    squares = sum(part.squares + part.count * (part.mean - mean) ** 2 for part in parts)
    low, high = min(part.minimum for part in parts), max(part.maximum for part in parts)
    if low == high:
        raise ConstantImageError(
            f"every voxel of {name} has the value {low:g}; there is nothing to restore in a "
            "constant image: check the file, the channel and the part of it."
        )
    background = float(np.percentile(np.concatenate([part.local_means for part in parts]), 1))
    unread = f"{len(failed)} of {len(boxes)} parts that were looked at: {failed[0]}" if failed else ""
    return IntensityStats(mean, float(np.sqrt(squares / count)), low, high, background, count / total, unread)


def _try_box(stack: Stack, box: Box, name: str) -> _Part | ReadError:
    try:
        return _measure_box(stack, box, name)
    except ReadError as error:
        return error


def _find_others(stacks: Sequence[Stack], value: float, enough: int, name: str) -> list[_Part]:
    """Look through all of a volume, whose sample holds one value only, for boxes that hold others.

    Stops when those found have `enough` voxels; an empty volume is read to its end.
    """
    found: list[_Part] = []
    everything = (
        8 * len(stacks) * int(np.prod(stacks[0].shape, dtype=float))
    )  # boxes at the edges are smaller
    for index, box in _sample_boxes(stacks, everything):
        part = _try_box(stacks[index], box, name)
        if not isinstance(part, ReadError) and not part.minimum == part.maximum == value:
            found.append(part)
        if sum(part.count for part in found) >= enough:
            break
    return found


def _sample_boxes(stacks: Sequence[Stack], sample_voxels: int) -> Iterator[tuple[int, Box]]:
    """Choose whole chunks, evenly spread over all stacks; all of them where they are few enough."""
    shape, chunks = stacks[0].shape, stacks[0].chunks
    sides = [min(max(c, 32), 256) for c in chunks]
    counts = [-(-n // side) for n, side in zip(shape, sides, strict=True)]
    total = len(stacks) * int(np.prod(counts))
    wanted = max(1, sample_voxels // int(np.prod([min(s, n) for s, n in zip(sides, shape, strict=True)])))
    # An irrational stride visits all parts of the volume whatever its shape.
    picks = (
        range(total)
        if wanted >= total
        else sorted({int((i * 0.6180339887498949 % 1) * total) for i in range(wanted)})
    )
    for pick in picks:
        index, rest = pick % len(stacks), pick // len(stacks)
        corner = np.unravel_index(rest, counts)
        yield (
            index,
            tuple(
                slice(int(i) * side, min((int(i) + 1) * side, n))
                for i, side, n in zip(corner, sides, shape, strict=True)
            ),
        )


def _measure_box(stack: Stack, box: Box, name: str) -> _Part:
    data = np.asarray(stack[box], np.float64)
    low, high = float(data.min()), float(data.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = np.argwhere(~np.isfinite(data))[0]
        place = ", ".join(
            f"{axis}={part.start + int(i)}"
            for axis, part, i in zip("zyx"[-data.ndim :], box, bad, strict=True)
        )
        raise VolumeError(
            f"{name} holds NaN or infinity, first at {place} of time point {stack.timepoint}, "
            f"channel {stack.channel}; replace such voxels before deconvolution."
        )
    mean = float(data.mean())
    return _Part(data.size, mean, float(((data - mean) ** 2).sum()), low, high, _local_means(data))


def _local_means(data: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of boxes of 4 voxels a side; voxels left over at the far edges are not used."""
    sides = [min(4, n) for n in data.shape]
    trimmed = data[tuple(slice(0, n - n % s) for n, s in zip(data.shape, sides, strict=True))]
    split: list[int] = []
    for n, s in zip(trimmed.shape, sides, strict=True):
        split += [n // s, s]
    means: NDArray[np.float64] = trimmed.reshape(split).mean(axis=tuple(range(1, 2 * data.ndim, 2))).ravel()
    return means
