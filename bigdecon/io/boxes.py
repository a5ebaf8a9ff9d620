"""Write units of an output: type conversion, writing, reading back, and the hash of what was written."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray

from bigdecon.errors import WriteError
from bigdecon.io.layout import LevelLayout, OutputLayout
from bigdecon.io.output_folder import output_place
from bigdecon.io.stores import open_store, writable_store
from bigdecon.storage.object_path import ObjectPath
from bigdecon.storage.places import Place, PlaceLike
from bigdecon.storage.write_errors import write_error
from bigdecon.volume import Box

__all__ = ["Converted", "convert", "digest", "read_box", "write_box"]

_CONFIGURABLE = hasattr(zarr.Array, "with_config")


class Converted(NamedTuple):
    """Values in another type, and how many of them had to be clipped."""

    array: NDArray[Any]
    n_clipped: int


def convert(data: NDArray[Any], dtype: str | np.dtype[Any]) -> Converted:
    """Bring values into another type; for integers they are rounded (half to even) and clipped.

    NaN becomes 0 in integers and counts as clipped. Float types are cast; nothing is rescaled.
    """
    target = np.dtype(dtype)
    if data.dtype == target:
        return Converted(data, 0)
    if target.kind == "f":
        return Converted(data.astype(target), 0)
    limits = np.iinfo(target)
    # float32 has no exact 2**31 - 1: the wide types are rounded in float64
    narrow = target.itemsize <= 2 and data.dtype.kind == "f"
    exact = np.result_type(data.dtype, np.float32 if narrow else np.float64)
    rounded = np.rint(data.astype(exact, copy=False))
    inside = (rounded >= limits.min) & (rounded <= limits.max)
    n_clipped = int(data.size - np.count_nonzero(inside))
    if n_clipped:
        rounded = np.nan_to_num(np.clip(rounded, limits.min, limits.max), nan=0.0)
    return Converted(rounded.astype(target), n_clipped)


def digest(data: NDArray[Any]) -> str:
    """Give the BLAKE2b hash (64 hexadecimal digits) of decoded values: type, shape, bytes in C order."""
    values = np.ascontiguousarray(data, dtype=data.dtype.newbyteorder("<"))
    state = hashlib.blake2b(f"{values.dtype.str}{values.shape}".encode(), digest_size=32)
    state.update(values.data)
    return state.hexdigest()


def write_box(
    path: PlaceLike,
    layout: OutputLayout,
    level: int,
    timepoint: int,
    channel: int,
    box: Box,
    data: NDArray[Any],
) -> str:
    """Write whole write units of one channel at one time point; any process may write others meanwhile.

    On a disk, what an interrupted attempt left of these units is removed first: Zarr reads a file that
    overhangs the array's edge before it writes it, and would fail on a torn one for ever. The files are
    flushed to the disk before this returns. In an object store each unit is one put.

    Parameters
    ----------
    path : folder or URL of the image
    layout : of `plan_output`
    level : resolution level, 0 the finest
    timepoint, channel : indices, 0 where there is no such axis
    box : spatial slices that start at multiples of the level's write_shape and end at one or at the edge
    data : values of the box, spatial axes only, in the output's type

    Returns
    -------
    `digest` of what a reader will find

    Raises
    ------
    WriteError
        if the disk is full or the file system fails; what is finished stays
    """
    root, target = output_place(path), layout.levels[level]
    _check_box(target, layout, box, data)
    values = data + 0.0 if data.dtype.kind == "f" else data  # an empty chunk would lose a negative zero
    selection = _full_selection(layout, timepoint, channel, box)
    part = values.reshape([part.stop - part.start for part in selection])
    # Hashing takes about as long as packing; it lets go of the interpreter's lock.
    hasher = ThreadPoolExecutor(1, thread_name_prefix="hash")
    hashed = hasher.submit(digest, values)
    try:
        whole = not _has_empty_chunk(part, target.chunks)
        array = _open_array(root, layout, level, writes=True, stores_all=whole)
        if isinstance(root, Path):
            _replace_files(_owned_files(root, array, target, selection), array, selection, part)
        else:
            array[selection] = part
    except OSError as error:
        raise write_error(root, error) from error
    finally:
        hasher.shutdown()
    return hashed.result()


def _replace_files(files: Sequence[Path], array: Any, selection: Box, values: NDArray[Any]) -> None:
    """Write a selection into new files, and wait until they are on the disk."""
    _remove_remains(files)
    array[selection] = values
    _flush(files)


def read_box(
    path: PlaceLike, layout: OutputLayout, level: int, timepoint: int, channel: int, box: Box
) -> NDArray[Any]:
    """Read a spatial box of an output back, as decoded; spatial axes only.

    Raises
    ------
    WriteError
        if what was written cannot be read
    """
    root = output_place(path)
    try:
        array = _open_array(root, layout, level, writes=False)
        data = np.asarray(array[_full_selection(layout, timepoint, channel, box)])
    except Exception as error:
        raise WriteError(
            f"the box {_box_text(box)} of level {level} of {root}, written before, cannot be read back "
            f"({type(error).__name__}: {error}); --overwrite starts anew."
        ) from error
    return np.ascontiguousarray(data.reshape(data.shape[-layout.n_spatial :]), dtype=layout.dtype)


def _open_array(
    root: Place, layout: OutputLayout, level: int, *, writes: bool, stores_all: bool = False
) -> Any:
    """Open a level; in an object store its metadata are read once a process.

    With `stores_all` Zarr does not compare every chunk with zeros, which takes it longer than packing it and
    all in one thread; to be asked for where no chunk is empty, and then it changes no byte.
    """
    if isinstance(root, ObjectPath):
        return _opened(root, layout, level, writes, stores_all, os.getpid())
    return _open_anew(root, layout, level, writes, stores_all)


@lru_cache(maxsize=64)
def _opened(
    root: ObjectPath, layout: OutputLayout, level: int, writes: bool, stores_all: bool, pid: int
) -> Any:
    """Keep an array under its layout, so that another output in the same place is opened anew."""
    return _open_anew(root, layout, level, writes, stores_all)


def _open_anew(root: Place, layout: OutputLayout, level: int, writes: bool, stores_all: bool) -> Any:
    array = zarr.open_array(
        writable_store(root) if writes else open_store(str(root)),
        path=layout.levels[level].path,
        mode="r+" if writes else "r",
        zarr_format=layout.zarr_format,
    )
    # Older versions of zarr cannot be told.
    return array.with_config({"write_empty_chunks": True}) if stores_all and _CONFIGURABLE else array


def _has_empty_chunk(values: NDArray[Any], chunks: Sequence[int]) -> bool:
    """Tell whether a chunk of a write unit holds zeros only; most show by one voxel that they do not."""
    starts = itertools.product(*(range(0, n, chunk) for n, chunk in zip(values.shape, chunks, strict=True)))
    cells = (
        values[tuple(slice(at, at + chunk) for at, chunk in zip(start, chunks, strict=True))]
        for start in starts
    )
    return not all(cell[(0,) * cell.ndim] or cell[(-1,) * cell.ndim] or cell.any() for cell in cells)


def _full_selection(layout: OutputLayout, timepoint: int, channel: int, box: Box) -> Box:
    """Add the time point and the channel to spatial slices."""
    fixed = {"t": slice(timepoint, timepoint + 1), "c": slice(channel, channel + 1)}
    return (*(fixed[axis] for axis in layout.axes[: -layout.n_spatial]), *box)


def _box_text(box: Box) -> str:
    return ",".join(f"{part.start}:{part.stop}" for part in box)


def _check_box(level: LevelLayout, layout: OutputLayout, box: Box, data: NDArray[Any]) -> None:
    """Refuse what would tear another writer's unit apart: a mistake in the calling code."""
    whole = all(
        part.start % unit == 0 and (part.stop % unit == 0 or part.stop == size) and part.stop <= size
        for part, unit, size in zip(box, level.write_shape, level.spatial_shape, strict=True)
    )
    shape = tuple(part.stop - part.start for part in box)
    if not whole or data.shape != shape or data.dtype != np.dtype(layout.dtype):
        raise WriteError(
            f"the box {_box_text(box)} with values of shape {data.shape} and type {data.dtype} cannot be "
            f"written to level {level.path} of shape {level.spatial_shape}: it takes whole write units of "
            f"{level.write_shape} and the type {layout.dtype}."
        )


def _owned_files(root: Path, array: Any, level: LevelLayout, selection: Box) -> list[Path]:
    """List the stored files that a selection of whole write units covers, present or not."""
    ranges = [
        range(part.start // n, -(-part.stop // n))
        for part, n in zip(selection, level.stored_shape, strict=True)
    ]
    folder = root / level.path
    return [folder / array.metadata.encode_chunk_key(index) for index in itertools.product(*ranges)]


def _remove_remains(files: Sequence[Path]) -> None:
    """Remove finished files and those that zarr left half written when its process was killed."""
    for file in files:
        file.unlink(missing_ok=True)
        if file.parent.is_dir():
            for partial in file.parent.glob(f"{file.stem}.*.partial"):
                partial.unlink(missing_ok=True)


def _flush(files: Sequence[Path]) -> None:
    """Wait until the files are on the disk; chunks of zeros only have no file."""
    for file in files:
        try:
            descriptor = os.open(file, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
