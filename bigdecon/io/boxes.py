"""Write units of an output: type conversion, writing, reading back, and the hash of what was written."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
import zarr
from numpy.typing import NDArray

from bigdecon.errors import WriteError
from bigdecon.io.layout import LevelLayout, OutputLayout
from bigdecon.io.output_folder import output_place
from bigdecon.io.stored_files import format_of, is_blank, pack, packers
from bigdecon.io.stores import open_store
from bigdecon.storage import places
from bigdecon.storage.durable import TEMPORARY, write_durably
from bigdecon.storage.object_path import ObjectPath
from bigdecon.storage.places import Place, PlaceLike
from bigdecon.storage.write_errors import write_error
from bigdecon.volume import Box

__all__ = ["Converted", "convert", "digest", "has_digest", "read_box", "write_box"]

KIND = "xxh3-128"
FILES_AT_A_TIME = 8


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
    """Give the hash of decoded values: of their type, shape, and bytes in C order.

    It is made to find damage at the speed of memory, not to withstand attacks: XXH3 with 128 bits, as
    hexadecimal digits after the name of its kind.
    """
    head, content = _hashed(data)
    state = xxhash.xxh3_128(head)
    state.update(content)
    return f"{KIND}:{state.hexdigest()}"


def has_digest(data: NDArray[Any], written: str) -> bool:
    """Tell whether values have a digest, be it by `digest` or, from earlier versions, BLAKE2b."""
    if written.startswith(f"{KIND}:"):
        return digest(data) == written
    head, content = _hashed(data)
    state = hashlib.blake2b(head, digest_size=32)
    state.update(content)
    return state.hexdigest() == written


def _hashed(data: NDArray[Any]) -> tuple[bytes, memoryview]:
    """Give what is hashed; it depends neither on the order of bytes nor of axes in memory."""
    values = np.ascontiguousarray(data, dtype=data.dtype.newbyteorder("<"))
    return f"{values.dtype.str}{values.shape}".encode(), values.data


def write_box(
    path: PlaceLike,
    layout: OutputLayout,
    level: int,
    timepoint: int,
    channel: int,
    box: Box,
    data: NDArray[Any],
    writer: str = "",
) -> str:
    """Write whole write units of one channel at one time point; any process may write others meanwhile.

    A file on a disk is replaced in one step, after its content is on the disk, and this returns when all
    are; what an interrupted attempt left is removed. In an object store each file is one put.

    Parameters
    ----------
    path : folder or URL of the image
    layout : of `plan_output`
    level : resolution level, 0 the finest
    timepoint, channel : indices, 0 where there is no such axis
    box : spatial slices that start at multiples of the level's write_shape and end at one or at the edge
    data : values of the box, spatial axes only, in the output's type
    writer : whose unfinished files are left alone, as another task of the same run may be at them

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
    values = _without_lost_signs(data, target.chunks[-data.ndim :])
    hashed = packers().submit(digest, values)
    selection = _full_selection(layout, timepoint, channel, box)
    part = values.reshape([part.stop - part.start for part in selection])
    try:
        array = _open_array(root, layout, level)
        form = format_of(array)
        files = {root / target.path / key: part[place] for key, place in _files(array, target, selection)}
        with ThreadPoolExecutor(min(len(files), FILES_AT_A_TIME), thread_name_prefix="store") as pool:
            for stored in [
                pool.submit(_store, file, pack(cell, form), writer) for file, cell in files.items()
            ]:
                stored.result()
    except OSError as error:
        raise write_error(root, error) from error
    return hashed.result()


def _store(file: Place, pieces: Iterator[bytes], writer: str) -> None:
    """Replace a file by what is packed, or remove it where that is nothing."""
    if isinstance(file, Path):
        _store_on_disk(file, pieces, writer)
    elif content := b"".join(pieces):
        places.write(file, content)
    else:
        places.delete(file)


def _store_on_disk(file: Path, pieces: Iterator[bytes], writer: str) -> None:
    _remove_remains(file, writer)
    first = next(pieces, None)
    if first is None:
        file.unlink(missing_ok=True)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    write_durably(file, itertools.chain([first], pieces), writer)


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
        array = _open_array(root, layout, level)
        data = np.asarray(array[_full_selection(layout, timepoint, channel, box)])
    except Exception as error:
        raise WriteError(
            f"the box {_box_text(box)} of level {level} of {root}, written before, cannot be read back "
            f"({type(error).__name__}: {error}); --overwrite starts anew."
        ) from error
    return np.ascontiguousarray(data.reshape(data.shape[-layout.n_spatial :]), dtype=layout.dtype)


def _open_array(root: Place, layout: OutputLayout, level: int) -> Any:
    """Open a level for reading; in an object store its metadata are read once a process."""
    if isinstance(root, ObjectPath):
        return _opened(root, layout, level, os.getpid())
    return _open_anew(root, layout, level)


@lru_cache(maxsize=64)
def _opened(root: ObjectPath, layout: OutputLayout, level: int, pid: int) -> Any:
    """Keep an array under its layout, so that another output in the same place is opened anew."""
    return _open_anew(root, layout, level)


def _open_anew(root: Place, layout: OutputLayout, level: int) -> Any:
    return zarr.open_array(
        open_store(str(root)), path=layout.levels[level].path, mode="r", zarr_format=layout.zarr_format
    )


def _without_lost_signs(data: NDArray[Any], chunks: Sequence[int]) -> NDArray[Any]:
    """Make negative zeros positive if a chunk holds zeros only: it is not stored, and would lose them."""
    if data.dtype.kind != "f":
        return data
    starts = itertools.product(*(range(0, n, chunk) for n, chunk in zip(data.shape, chunks, strict=True)))
    cells = [
        tuple(slice(at, at + chunk) for at, chunk in zip(start, chunks, strict=True)) for start in starts
    ]
    lost = [cell for cell in cells if is_blank(data[cell]) and np.signbit(data[cell]).any()]
    if lost:
        data = data.copy()
        for cell in lost:
            data[cell] = 0
    return data


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


def _files(array: Any, level: LevelLayout, selection: Box) -> Iterator[tuple[str, Box]]:
    """Give the key of every stored file that a selection of whole write units covers, and its place there."""
    ranges = [
        range(part.start // n, -(-part.stop // n))
        for part, n in zip(selection, level.stored_shape, strict=True)
    ]
    for index in itertools.product(*ranges):
        place = tuple(
            slice(i * n - part.start, min(i * n + n, part.stop) - part.start)
            for i, n, part in zip(index, level.stored_shape, selection, strict=True)
        )
        yield array.metadata.encode_chunk_key(index), place


def _remove_remains(file: Path, writer: str) -> None:
    """Remove what others, or zarr in earlier versions, left half written when the process was killed."""
    ours = f"{TEMPORARY}{file.name}-{writer}-"
    if file.parent.is_dir():
        for pattern in (f"{TEMPORARY}{file.name}-*", f"{file.stem}.*.partial"):
            for remains in file.parent.glob(pattern):
                if not (writer and remains.name.startswith(ours)):
                    remains.unlink(missing_ok=True)
