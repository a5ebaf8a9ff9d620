"""A Zarr array as a source of voxels: a small description that opens the array where it is needed."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from bigdecon.errors import ReadError, VolumeError
from bigdecon.io.stores import open_store
from bigdecon.volume import Box

__all__ = ["ZarrSource", "open_zarr_source"]


@dataclass(frozen=True)
class ZarrSource:
    """One array of a Zarr store (format 2 or 3), read when it is sliced.

    Pickles to these few values; each process opens the array once. Any number of threads may read.

    Attributes
    ----------
    location : local path or URL of the store
    array_path : path of the array inside the store; empty where the store is the array
    zarr_format : 2 or 3
    shape : extent of every axis, in voxels
    dtype : native-endian type of the values
    chunks : inner chunks, the unit of reading
    shards : stored files, where the array is sharded
    """

    location: str
    array_path: str
    zarr_format: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None = None

    @property
    def address(self) -> str:
        """Path or URL of the array, for messages."""
        return f"{self.location}/{self.array_path}".rstrip("/")

    def __getitem__(self, selection: Box, /) -> NDArray[Any]:
        """Read the voxels of one slice (step 1) per axis.

        Raises
        ------
        ReadError
            if a chunk cannot be read or decoded; the message says which one
        """
        try:
            data = _opened(self, os.getpid())[selection]
            return np.ascontiguousarray(data, dtype=self.dtype)
        except Exception as error:
            raise ReadError(_describe_failure(self, selection, error)) from error

    def chunk_file(self, index: tuple[int, ...]) -> str:
        """Give the name of the file, inside the array's folder, that holds a chunk or its shard."""
        stored = self.shards or self.chunks
        position = tuple(i * c // s for i, c, s in zip(index, self.chunks, stored, strict=True))
        name: str = _opened(self, os.getpid()).metadata.encode_chunk_key(position)
        return name


@lru_cache(maxsize=256)
def _opened(source: ZarrSource, pid: int) -> Any:
    """Open a source's array, once a process: `pid` keeps a forked child off its parent's connections."""
    return _open_array(source.location, source.array_path, source.zarr_format)


def _open_array(location: str, array_path: str, zarr_format: int) -> Any:
    return zarr.open_array(
        open_store(location), path=array_path, mode="r", zarr_format=2 if zarr_format == 2 else 3
    )


def open_zarr_source(location: str, array_path: str, zarr_format: int) -> ZarrSource:
    """Read an array's metadata and describe it.

    Raises
    ------
    VolumeError
        if the array is missing, cannot be understood, or holds no real numbers
    """
    address = f"{location}/{array_path}".rstrip("/")
    try:
        array = _open_array(location, array_path, zarr_format)
    except Exception as error:
        raise VolumeError(f"the Zarr array {address} cannot be opened: {_one_line(error)}.") from error
    dtype = np.dtype(array.dtype)
    if dtype.kind not in "uif":
        raise VolumeError(
            f"the Zarr array {address} holds values of type {dtype}; an image holds integers or real numbers."
        )
    return ZarrSource(
        location,
        array_path,
        zarr_format,
        tuple(array.shape),
        dtype.newbyteorder("="),
        tuple(array.chunks),
        None if array.shards is None else tuple(array.shards),
    )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _chunks_in(source: ZarrSource, selection: Box) -> Iterator[tuple[int, ...]]:
    """Give the index of every chunk that a selection touches."""
    ranges = []
    for part, size, chunk in zip(selection, source.shape, source.chunks, strict=True):
        start, stop, _ = part.indices(size)
        ranges.append(range(start // chunk, -(-stop // chunk)))
    return itertools.product(*ranges)


def _describe_failure(source: ZarrSource, selection: Box, error: BaseException) -> str:
    """Read again chunk by chunk to say which one fails; zarr's own errors do not tell."""
    try:
        array = _opened(source, os.getpid())
    except Exception as again:
        return f"the Zarr array {source.address} cannot be opened any more: {_one_line(again)}."
    for index in _chunks_in(source, selection):
        box = tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, source.chunks, strict=True))
        try:
            array[box]
        except Exception as cause:
            name = f"{source.address}/{source.chunk_file(index)}"
            return (
                f"chunk {index} of {source.address} cannot be read ({_one_line(cause)}): "
                f"{name} is damaged or out of reach; with a sound copy the same command continues."
            )
    box_text = ",".join(f"{part.start}:{part.stop}" for part in selection)
    return (
        f"the voxels {box_text} of {source.address} could not be read ({_one_line(error)}); "
        "a second attempt succeeded, so the same command may well continue."
    )
