"""Plan an output image: axes, resolution levels, chunks and shards. Pure: nothing is read or written.

level 0   write units (shards of whole chunks; here 2 x 2 chunks a shard)
+---+---+  the write unit is what one writer fills alone: two writers in one
|c c|c c|  shard would lose each other's data. Every unit starts at a multiple
|c c|c c|  of write_shape and is clipped at the array's edge.
+---+---+
|c c|c c|
+---+---+
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bigdecon.errors import OptionError
from bigdecon.volume import Box, Volume

__all__ = [
    "OUTPUT_DTYPES",
    "LevelLayout",
    "OutputLayout",
    "check_dtype",
    "layout_from_json",
    "plan_output",
    "write_boxes",
]

OUTPUT_DTYPES = ("float32", "float64", "uint8", "uint16", "uint32", "int8", "int16", "int32")
COARSEST = 256
"""The pyramid ends at the level whose spatial extents are all at most this."""
ISOTROPY = 1.5
"""z is halved where its voxels are at most this many times as large as those of y and x."""


@dataclass(frozen=True)
class LevelLayout:
    """One resolution level of an output.

    Attributes
    ----------
    path : name of the array inside the image
    shape : extent of every axis, in voxels
    chunks : unit of reading, for every axis
    shards : stored files, for every axis; None where every chunk is a file
    write_shape : extent of one write unit along the spatial axes: whole shards, or whole chunks
    factors : voxels of level 0 in one voxel of this level, along every spatial axis
    voxel_size_um : along every spatial axis, in micrometres; None where unknown
    translation_um : place of the first voxel's centre; in voxels of level 0 where the size is unknown
    """

    path: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    write_shape: tuple[int, ...]
    factors: tuple[int, ...]
    voxel_size_um: tuple[float, ...] | None
    translation_um: tuple[float, ...]

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """Extent of the spatial axes, in voxels."""
        return self.shape[-len(self.factors) :]

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Extent of one stored file along every axis, in voxels."""
        return self.shards or self.chunks


@dataclass(frozen=True)
class OutputLayout:
    """Everything about an output image but its voxels.

    Attributes
    ----------
    axes : one letter an axis, as in the input
    levels : from fine to coarse
    dtype : type of the values, by name
    ome_version : "0.5" (Zarr 3, sharded) or "0.4" (Zarr 2)
    """

    axes: str
    levels: tuple[LevelLayout, ...]
    dtype: str
    ome_version: str

    @property
    def zarr_format(self) -> Literal[2, 3]:
        """2 or 3."""
        return 2 if self.ome_version == "0.4" else 3

    @property
    def write_shape(self) -> tuple[int, ...]:
        """Extent of one write unit of level 0 along the spatial axes, in voxels."""
        return self.levels[0].write_shape

    @property
    def n_spatial(self) -> int:
        """2 or 3."""
        return len(self.write_shape)

    @property
    def n_timepoints(self) -> int:
        """Number of time points; 1 where there is no time axis."""
        return self.levels[0].shape[self.axes.index("t")] if "t" in self.axes else 1

    @property
    def n_channels(self) -> int:
        """Number of channels; 1 where there is no channel axis."""
        return self.levels[0].shape[self.axes.index("c")] if "c" in self.axes else 1


def layout_from_json(content: Mapping[str, Any]) -> OutputLayout:
    """Read a layout from plain JSON values, as `dataclasses.asdict` gives them.

    Raises
    ------
    KeyError, TypeError, ValueError
        if they are none
    """

    def level(values: Mapping[str, Any]) -> LevelLayout:
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return LevelLayout(**plain)

    levels = tuple(level(values) for values in content["levels"])
    return OutputLayout(str(content["axes"]), levels, str(content["dtype"]), str(content["ome_version"]))


def check_dtype(dtype: str) -> None:
    """Refuse a type of values that results do not have.

    Raises
    ------
    OptionError
        if it is none of `OUTPUT_DTYPES`
    """
    if dtype not in OUTPUT_DTYPES:
        raise OptionError(f"the output type {dtype!r} is not one of {', '.join(OUTPUT_DTYPES)}.")


def plan_output(
    volume: Volume,
    *,
    dtype: str = "float32",
    ome_version: str = "0.5",
    chunk: int | None = None,
    shard: int | None = None,
    unit: int = 128,
) -> OutputLayout:
    """Plan the arrays of an output with the axes, shape and place of `volume`.

    Parameters
    ----------
    volume : what will be written
    dtype : one of `OUTPUT_DTYPES`
    ome_version : "0.5" or "0.4"
    chunk : extent of a chunk along the spatial axes, about; 128 in 3D and 512 in 2D by default
    shard : extent of a shard, about; 256 in 3D and 1024 in 2D by default
    unit : write units are multiples of this many voxels along every axis longer than it

    Raises
    ------
    OptionError
        if a setting is not one of those possible
    """
    check_dtype(dtype)
    if ome_version not in ("0.4", "0.5"):
        raise OptionError(f"the OME-Zarr version {ome_version!r} cannot be written; choose 0.5 or 0.4.")
    flat = len(volume.spatial_axes) == 2
    chunk = chunk or (512 if flat else 128)
    shard = shard or (1024 if flat else 256)
    if min(chunk, shard, unit) < 1:
        raise OptionError(f"chunk {chunk}, shard {shard} and unit {unit} must be at least 1 voxel.")
    levels = tuple(
        _level(volume, i, factors, _chunk_extent(chunk, unit), shard if ome_version == "0.5" else None, unit)
        for i, factors in enumerate(_pyramid_factors(volume.spatial_shape, volume.voxel_size_um))
    )
    return OutputLayout(volume.axes, levels, np.dtype(dtype).name, ome_version)


def write_boxes(level: LevelLayout) -> list[Box]:
    """List the write units of a level, in C order, clipped at the array's edge."""
    axes = [
        [slice(start, min(start + step, size)) for start in range(0, size, step)]
        for size, step in zip(level.spatial_shape, level.write_shape, strict=True)
    ]
    return list(itertools.product(*axes))


def _chunk_extent(chunk: int, unit: int) -> int:
    """Change the chunk's extent a little so that it divides the unit, or the unit divides it."""
    if unit <= chunk:
        return chunk // unit * unit
    fitting = [n for n in range(chunk, chunk // 2, -1) if unit % n == 0]
    return fitting[0] if fitting else unit


def _pyramid_factors(
    shape: tuple[int, ...], voxel_size_um: tuple[float, ...] | None
) -> list[tuple[int, ...]]:
    """Choose the cumulative downsampling factors of all levels."""
    size = voxel_size_um or (1.0,) * len(shape)
    factors = [(1,) * len(shape)]
    while max(_coarse_shape(shape, factors[-1])) > COARSEST:
        factors.append(_next_factors(shape, size, factors[-1]))
    return factors


def _next_factors(shape: tuple[int, ...], size: tuple[float, ...], now: tuple[int, ...]) -> tuple[int, ...]:
    """Halve y and x, and z unless its voxels are still much larger; never an axis of one voxel."""
    extent = _coarse_shape(shape, now)
    voxel = [s * f for s, f in zip(size, now, strict=True)]
    halve = [n > 1 for n in extent]
    if len(shape) == 3 and voxel[0] > ISOTROPY * max(voxel[1:]):
        halve[0] = max(extent[1:]) <= COARSEST  # nothing but z is left to make smaller
    return tuple(f * 2 if h else f for f, h in zip(now, halve, strict=True))


def _coarse_shape(shape: tuple[int, ...], factors: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-n // f) for n, f in zip(shape, factors, strict=True))


def _level(
    volume: Volume, index: int, factors: tuple[int, ...], chunk: int, shard: int | None, unit: int
) -> LevelLayout:
    """Lay out one level; the first voxel of a coarse level is centred on the voxels it averages."""
    spatial = _coarse_shape(volume.spatial_shape, factors)
    step = volume.voxel_size_um or (1.0,) * len(factors)
    lead = volume.shape[: -len(spatial)]
    units = [_extents(n, chunk, shard, unit) for n in spatial]
    size_um = volume.voxel_size_um and tuple(s * f for s, f in zip(step, factors, strict=True))
    return LevelLayout(
        path=str(index),
        shape=(*lead, *spatial),
        chunks=(*(1 for _ in lead), *(c for c, _ in units)),
        shards=None if shard is None else (*(1 for _ in lead), *(w for _, w in units)),
        write_shape=tuple(w for _, w in units),
        factors=factors,
        voxel_size_um=size_um,
        translation_um=tuple(
            t + (f - 1) / 2 * s for t, f, s in zip(volume.translation_um, factors, step, strict=True)
        ),
    )


def _extents(size: int, chunk: int, shard: int | None, unit: int) -> tuple[int, int]:
    """Give the extents of chunk and write unit along one axis, no larger than the axis needs."""
    if size <= chunk:
        return size, size
    step = max(chunk, unit)
    wanted = step if shard is None else max(shard // step, 1) * step
    return chunk, min(wanted, math.ceil(size / step) * step)
