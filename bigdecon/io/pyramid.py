"""Coarser resolution levels by local mean, and display windows from the coarsest."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigdecon.io.boxes import read_box, write_box
from bigdecon.io.layout import LevelLayout, OutputLayout, write_boxes
from bigdecon.io.ome_writing import DisplayWindow
from bigdecon.storage.places import PlaceLike
from bigdecon.volume import Box

__all__ = ["build_pyramid", "local_mean", "measure_windows", "pyramid_boxes", "write_pyramid_box"]

WRITERS = 2
"""Write units in work at a time; each holds its voxels in memory."""
PERCENTILES = (0.1, 99.9)
TIMES_TO_SAMPLE = 3
VALUES_TO_SAMPLE = 2**21


def pyramid_boxes(layout: OutputLayout, level: int) -> list[Box]:
    """List the write units of a level (1 or coarser); they depend on nothing but the level before."""
    return write_boxes(layout.levels[level])


def local_mean(data: NDArray[Any], factors: tuple[int, ...]) -> NDArray[Any]:
    """Average neighbouring voxels: pairs along axes with factor 2, none along those with 1.

    At an odd edge the mean of the voxels that exist is taken. Integers are rounded (half to even).
    Sums run in float32 where that is exact or the data are float32, else in float64.

    Parameters
    ----------
    data : any number of axes
    factors : 1 or 2 for every axis
    """
    wide = data.dtype.itemsize > 2 and data.dtype != np.float32
    mean = data.astype(np.float64 if wide else np.float32)
    for axis, factor in enumerate(factors):
        if factor == 2:
            mean = _pair_mean(mean, axis)
    if data.dtype.kind in "ui":
        mean = np.rint(mean)
    result: NDArray[Any] = mean.astype(data.dtype)
    return result


def _pair_mean(data: NDArray[Any], axis: int) -> NDArray[Any]:
    values = np.moveaxis(data, axis, 0)
    n = values.shape[0] // 2
    paired = (values[0 : 2 * n : 2] + values[1 : 2 * n : 2]) * values.dtype.type(0.5)
    if values.shape[0] % 2:
        paired = np.concatenate([paired, values[-1:]])
    return np.moveaxis(paired, 0, axis)


def write_pyramid_box(
    path: PlaceLike, layout: OutputLayout, level: int, timepoint: int, channel: int, box: Box
) -> str:
    """Compute whole write units of a level (1 or coarser) from the level before, and write them.

    The result does not depend on the order: every voxel is a mean of its own voxels only.
    Memory: the box, and one chunk of it with the voxels it is made from.

    Returns
    -------
    `digest` of what was written

    Raises
    ------
    WriteError
        if the level before cannot be read, or the file system fails
    """
    finer, this = layout.levels[level - 1], layout.levels[level]
    factors = tuple(b // a for a, b in zip(finer.factors, this.factors, strict=True))
    out = np.empty([part.stop - part.start for part in box], np.dtype(layout.dtype))
    for piece in _chunks_of(this, box):
        fine = tuple(
            slice(part.start * f, min(part.stop * f, size))
            for part, f, size in zip(piece, factors, finer.spatial_shape, strict=True)
        )
        place = tuple(slice(p.start - b.start, p.stop - b.start) for p, b in zip(piece, box, strict=True))
        out[place] = local_mean(read_box(path, layout, level - 1, timepoint, channel, fine), factors)
    return write_box(path, layout, level, timepoint, channel, box, out)


def _chunks_of(level: LevelLayout, box: Box) -> Iterator[Box]:
    """Cut a box of write units into chunks."""
    steps = level.chunks[-len(box) :]
    cuts = [
        [slice(start, min(start + step, part.stop)) for start in range(part.start, part.stop, step)]
        for part, step in zip(box, steps, strict=True)
    ]
    return itertools.product(*cuts)


def build_pyramid(path: PlaceLike, layout: OutputLayout) -> None:
    """Fill all levels above 0, in this process.

    Raises
    ------
    WriteError
        if a level cannot be read or written
    """
    for level in range(1, len(layout.levels)):
        jobs = itertools.product(
            range(layout.n_timepoints), range(layout.n_channels), pyramid_boxes(layout, level)
        )
        pool = ThreadPoolExecutor(WRITERS)
        try:
            waiting = [pool.submit(write_pyramid_box, path, layout, level, t, c, box) for t, c, box in jobs]
            for future in waiting:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def measure_windows(path: PlaceLike, layout: OutputLayout) -> tuple[DisplayWindow, ...]:
    """Measure every channel's contrast limits on the coarsest level: percentiles 0.1 and 99.9.

    Of many time points the first, the middle and the last are looked at.

    Raises
    ------
    WriteError
        if that level cannot be read
    """
    last = layout.n_timepoints - 1
    times = sorted({last * i // (TIMES_TO_SAMPLE - 1) for i in range(TIMES_TO_SAMPLE)})
    windows = []
    for channel in range(layout.n_channels):
        samples = [_sample(path, layout, timepoint, channel) for timepoint in times]
        windows.append(_window(np.concatenate(samples)))
    return tuple(windows)


def _sample(path: PlaceLike, layout: OutputLayout, timepoint: int, channel: int) -> NDArray[Any]:
    """Take the extremes of the coarsest level and evenly spaced values in between."""
    level = len(layout.levels) - 1
    everything = tuple(slice(0, n) for n in layout.levels[level].spatial_shape)
    values: NDArray[Any] = read_box(path, layout, level, timepoint, channel, everything).ravel()
    values = values[np.isfinite(values)]
    if values.size == 0:
        return values
    spaced = values[:: -(-values.size // VALUES_TO_SAMPLE)]
    sample: NDArray[Any] = np.concatenate([spaced, [values.min(), values.max()]]).astype(values.dtype)
    return sample


def _window(values: NDArray[Any]) -> DisplayWindow:
    """Give limits that are finite and not empty, as viewers need them."""
    if values.size == 0:
        return DisplayWindow(0.0, 1.0, 0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    start, end = (float(v) for v in np.percentile(values, PERCENTILES))
    if high <= low:
        return DisplayWindow(low, low + 1.0, low, low + 1.0)
    return DisplayWindow(low, high, *((start, end) if end > start else (low, high)))
