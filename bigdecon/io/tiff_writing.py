"""Write OME-TIFF files larger than memory: plain ones in any order, tiled ones with a pyramid page by page.

plain   one IFD a plane, the voxels uncompressed in one piece: the file is laid out first and then filled
        box by box, as the source is best read; every program reads it, and it can be mapped into memory
tiled   compressed tiles, and coarser levels of every plane in SubIFDs: for viewers of large planes

A file has its name only when it is whole: the caller gives a temporary name and renames it.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray

from bigdecon.io.boxes import convert
from bigdecon.io.ome_xml import ome_xml
from bigdecon.io.pyramid import local_mean
from bigdecon.io.tiff_source import open_tiff_image
from bigdecon.storage.write_errors import write_error
from bigdecon.volume import Box, Volume

__all__ = ["TiffReport", "count_parts", "largest_tiff_bytes", "read_boxes", "write_ome_tiff"]

TILE = 512
"""Side of a tile, in voxels; the coarsest level is at most one tile."""
BOX_BYTES = 2**26
"""64 MiB: voxels of one box, of which a few are in memory."""
PLANE_BYTES = 2**28
"""256 MiB: a plane that is held for its tiles; a larger one is read in bands of tiles."""
WRITERS = 2
CLASSIC_BYTES = 2**32 - 2**25
"""A file that may be larger becomes a BigTIFF."""
PAGE_BYTES = 512
"""More than the description of a plane takes."""

OnPart = Callable[[int], None]
"""Gets the number of voxels that have just been written, from any thread."""


class TiffReport(NamedTuple):
    """What `write_ome_tiff` did.

    Attributes
    ----------
    n_clipped : voxels outside the range of an integer type
    big : whether the file is a BigTIFF
    """

    n_clipped: int
    big: bool


def largest_tiff_bytes(volume: Volume, dtype: str, *, tiled: bool = False) -> int:
    """Give the size of a file, in bytes: what a plain one takes, and a tiled one that cannot be packed.

    Writing a tiled one may take the room of the plain one beside it for the time being.
    """
    planes = math.prod(volume.shape[:-2])
    levels = _plane_levels(volume.shape[-2:]) if tiled else 1
    voxels = sum(math.prod(_reduced(volume.shape[-2:], level)) for level in range(levels)) * planes
    return voxels * np.dtype(dtype).itemsize + (planes * levels + 8) * PAGE_BYTES


def write_ome_tiff(
    volume: Volume,
    path: Path,
    *,
    dtype: str,
    name: str,
    tiled: bool = False,
    on_part: OnPart = lambda voxels: None,
) -> TiffReport:
    """Write a volume as one OME-TIFF; memory stays at a few boxes or planes.

    Parameters
    ----------
    volume : what to write
    path : of the file, which is made or replaced
    dtype : one of `OME_TYPES`; integers are rounded and clipped
    name : of the image
    tiled : write compressed tiles with a pyramid of every plane instead of a plain file
    on_part : gets the number of voxels just written

    Raises
    ------
    WriteError
        if the disk is full or the file system fails
    ReadError
        if the source cannot be read
    """
    if tiled:
        return _write_tiled(volume, path, dtype, name, on_part)
    big = largest_tiff_bytes(volume, dtype) > CLASSIC_BYTES
    options = _options(volume, dtype, name)
    try:
        with tifffile.TiffWriter(path, bigtiff=big, byteorder="<") as writer:
            place: Any = writer.write(shape=volume.shape, dtype=dtype, returnoffset=True, **options)
        return TiffReport(_fill(volume, path, int(place[0]), dtype, on_part), big)
    except OSError as error:
        raise write_error(path, error) from error


def _options(volume: Volume, dtype: str, name: str) -> dict[str, Any]:
    """Give what tifffile is told of the first page; the resolution tags are for readers without OME-XML."""
    options: dict[str, Any] = {
        "photometric": "minisblack",
        "description": ome_xml(volume, dtype, name).encode(),
        "metadata": None,
        "software": "bigdecon",
    }
    if volume.voxel_size_um is not None:
        y, x = volume.voxel_size_um[-2:]
        options |= {"resolution": (1e4 / x, 1e4 / y), "resolutionunit": "CENTIMETER"}
    return options


def count_parts(volume: Volume, *, tiled: bool = False) -> int:
    """Tell how often `on_part` will be called."""
    stacks = volume.n_timepoints * volume.n_channels
    boxes = stacks * sum(1 for _ in read_boxes(volume))
    if not tiled:
        return boxes
    bands = stacks * _planes(volume) * math.ceil(volume.shape[-2] / TILE)
    return bands + (boxes if _is_deep(volume) else 0)


# --- plain ---------------------------------------------------------------------------------------


def read_boxes(volume: Volume, budget: int = BOX_BYTES) -> Iterator[Box]:
    """Cut the spatial axes into boxes of whole chunks of the source, as long in x, then y, then z as fit.

    Parameters
    ----------
    volume : whose source is to be read once
    budget : bytes of a box; one chunk is never cut
    """
    ndim = len(volume.spatial_axes)
    extent, chunk = volume.spatial_shape, volume.source.chunks[-ndim:]
    box = [max(1, min(c, n)) for c, n in zip(chunk, extent, strict=True)]
    for axis in reversed(range(ndim)):
        room = budget // (math.prod(box) * volume.dtype.itemsize)
        box[axis] = min(extent[axis], box[axis] * max(1, room))
    cuts = [
        [slice(a, min(a + step, n)) for a in range(0, n, step)] for n, step in zip(extent, box, strict=True)
    ]
    return itertools.product(*cuts)


def _fill(volume: Volume, path: Path, offset: int, dtype: str, on_part: OnPart) -> int:
    """Write the voxels of a file that is laid out; gives how many were clipped."""
    places = itertools.product(range(volume.n_timepoints), range(volume.n_channels))
    jobs = ((t, c, box) for t, c in places for box in read_boxes(volume))
    lock, stored = threading.Lock(), np.dtype(dtype).newbyteorder("<")
    pool = ThreadPoolExecutor(WRITERS, thread_name_prefix="tiff")
    with open(path, "r+b") as file:

        def copy(job: tuple[int, int, Box]) -> int:
            timepoint, channel, box = job
            data = convert(volume.stack(timepoint=timepoint, channel=channel)[box], dtype)
            first = (timepoint * volume.n_channels + channel) * _planes(volume)
            values = np.ascontiguousarray(data.array, stored)
            with lock:
                _put(file, offset, values, box, volume.shape[-2:], first)
            on_part(values.size)
            return data.n_clipped

        try:
            clipped = sum(_in_turn(pool, copy, jobs))
        finally:
            pool.shutdown(cancel_futures=True)
        file.flush()
        os.fsync(file.fileno())
    return clipped


def _planes(volume: Volume) -> int:
    return volume.spatial_shape[0] if len(volume.spatial_axes) == 3 else 1


def _in_turn(pool: ThreadPoolExecutor, work: Callable[[Any], int], jobs: Iterator[Any]) -> Iterator[int]:
    """Map with a few jobs ahead: `Executor.map` would list all of them at once."""
    ahead = [pool.submit(work, job) for job in itertools.islice(jobs, 2 * WRITERS)]
    while ahead:
        yield ahead.pop(0).result()
        ahead += [pool.submit(work, job) for job in itertools.islice(jobs, 1)]


def _put(file: Any, offset: int, values: NDArray[Any], box: Box, plane: tuple[int, ...], first: int) -> None:
    """Write a box, whole rows at once where it has them."""
    height, width = plane
    rows, columns = box[-2:]
    planes = values.reshape(-1, *values.shape[-2:])
    start = box[0].start if len(box) == 3 else 0
    for i, data in enumerate(planes, first + start):
        whole = data.shape[1] == width
        for j, part in [(0, data)] if whole else enumerate(data):
            place = (i * height + rows.start + j) * width + columns.start
            file.seek(offset + place * values.itemsize)
            file.write(part.data)


# --- tiled ---------------------------------------------------------------------------------------


def _plane_levels(plane: tuple[int, ...]) -> int:
    """Count the levels of a plane; the coarsest fits one tile."""
    return 1 + max(0, math.ceil(math.log2(max(plane) / TILE)))


def _reduced(plane: tuple[int, ...], level: int) -> tuple[int, ...]:
    return tuple(-(-n // 2**level) for n in plane)


def _is_deep(volume: Volume) -> bool:
    """Whether chunks of the source hold several planes, and would be unpacked for each of them again."""
    return len(volume.spatial_axes) == 3 and volume.source.chunks[-3] > 1


def _write_tiled(volume: Volume, path: Path, dtype: str, name: str, on_part: OnPart) -> TiffReport:
    """Write tiles, from a plain file of our own where the source is not read plane by plane."""
    plain, clipped = path.with_name(f"{path.name}.plain.tif"), 0
    big = largest_tiff_bytes(volume, dtype, tiled=True) > CLASSIC_BYTES
    try:
        options = _options(volume, dtype, name)
        if _is_deep(volume):
            clipped = write_ome_tiff(volume, plain, dtype=dtype, name=name, on_part=on_part).n_clipped
            volume = replace(volume, source=open_tiff_image(str(plain)).sources[0])
        with tifffile.TiffWriter(path, bigtiff=big, byteorder="<") as writer:
            return TiffReport(clipped + _write_tiles(volume, writer, dtype, options, on_part), big)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        plain.unlink(missing_ok=True)


def _write_tiles(volume: Volume, writer: Any, dtype: str, options: dict[str, Any], on_part: OnPart) -> int:
    levels = _plane_levels(volume.shape[-2:])
    common: dict[str, Any] = {"dtype": dtype, "tile": (TILE, TILE), "maxworkers": 1}
    common |= {"compression": "zlib", "compressionargs": {"level": 1}}
    clipped = 0
    for level in range(levels):
        reader = _Bands(volume, dtype, level)
        shape = (*volume.shape[:-2], *_reduced(volume.shape[-2:], level))
        how = (
            options | {"subifds": levels - 1}
            if level == 0
            else {"photometric": "minisblack", "subfiletype": 1}
        )
        tiles = reader.tiles(on_part if level == 0 else lambda voxels: None)
        writer.write(tiles, shape=shape, **common, **(how | {"metadata": None}))
        clipped += reader.n_clipped if level == 0 else 0
    return clipped


class _Bands:
    """Bands of tiles of one level, in the order of the file; a band is as high as a tile."""

    def __init__(self, volume: Volume, dtype: str, level: int) -> None:
        self.volume, self.dtype, self.level = volume, dtype, level
        self.height, self.width = _reduced(volume.shape[-2:], level)
        self.n_clipped = 0
        self._plane = lru_cache(maxsize=1)(self._read_plane)
        self.whole_planes = math.prod(volume.shape[-2:]) * volume.dtype.itemsize <= PLANE_BYTES

    def tiles(self, on_part: OnPart) -> Iterator[NDArray[Any]]:
        """Give every tile of every plane; those at the edges are smaller."""
        counts = (self.volume.n_timepoints, self.volume.n_channels, _planes(self.volume))
        for t, c, z in itertools.product(*map(range, counts)):
            for top in range(0, self.height, TILE):
                band = self._band(t, c, z, slice(top, min(top + TILE, self.height)))
                on_part(band.size)
                for left in range(0, self.width, TILE):
                    yield np.ascontiguousarray(band[:, left : left + TILE])

    def _band(self, t: int, c: int, z: int, rows: slice) -> NDArray[Any]:
        if self.whole_planes:
            plane: NDArray[Any] = self._plane(t, c, z)
            return plane[rows]
        return self._read(t, c, z, rows)

    def _read_plane(self, t: int, c: int, z: int) -> NDArray[Any]:
        return self._read(t, c, z, slice(0, self.height))

    def _read(self, t: int, c: int, z: int, rows: slice) -> NDArray[Any]:
        """Read rows of this level, reduced from level 0 a few at a time."""
        stack, factor = self.volume.stack(timepoint=t, channel=c), 2**self.level
        bottom = min(rows.stop * factor, self.volume.shape[-2])
        parts = []
        for top in range(rows.start * factor, bottom, max(TILE, factor)):
            fine = slice(top, min(top + max(TILE, factor), bottom)), slice(0, self.volume.shape[-1])
            box = (slice(z, z + 1), *fine) if len(self.volume.spatial_axes) == 3 else fine
            data = convert(stack[box], self.dtype)
            self.n_clipped += data.n_clipped
            part = data.array.reshape(data.array.shape[-2:])
            for _ in range(self.level):
                part = local_mean(part, (2, 2))
            parts.append(part)
        return np.concatenate(parts)
