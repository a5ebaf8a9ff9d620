"""A Zarr array as a source of voxels: a small description that opens the array where it is needed."""

from __future__ import annotations

import itertools
import math
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigdecon.errors import ReadError, VolumeError
from bigdecon.io.zarr_array import open_bounded
from bigdecon.untrusted import reason
from bigdecon.volume import Box

__all__ = ["ZarrSource", "open_zarr_source"]

MAX_CHUNKS_PER_READ = 2**20
"""More chunks than that in one read would take gigabytes for their bookkeeping alone: a block of 1024
voxels a side has 2**15 chunks of 32."""


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
    follow_links : whether links may lead out of a local store
    """

    location: str
    array_path: str
    zarr_format: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None = None
    follow_links: bool = False

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
        n_chunks = math.prod(len(r) for r in _chunk_ranges(self, selection))
        if n_chunks > MAX_CHUNKS_PER_READ:
            raise ReadError(
                f"{self.address} is cut into chunks of only {self.chunks} voxels, {n_chunks} of them in one "
                f"part of the image (at most {MAX_CHUNKS_PER_READ} are read at once); "
                "copy the image into larger chunks."
            )
        try:
            data = _opened(self, os.getpid())[selection]
            return np.ascontiguousarray(data, dtype=self.dtype)
        except Exception as error:
            raise ReadError(_describe_failure(self, selection, error)) from error

    def coarser_levels(self) -> list[ZarrSource]:
        """Find the coarser levels of the image that this array is a level of, from fine to coarse."""
        from bigdecon.io.zarr_image import open_zarr_image  # which is made of these

        image = open_zarr_image(self.location, follow_links=self.follow_links)
        paths = [level.path for level in image.info.levels]
        here = paths.index(self.array_path) if self.array_path in paths else len(paths)
        return [image.source(level) for level in range(here + 1, len(paths))]

    def chunk_file(self, index: tuple[int, ...]) -> str:
        """Give the name of the file, inside the array's folder, that holds a chunk or its shard."""
        stored = self.shards or self.chunks
        position = tuple(i * c // s for i, c, s in zip(index, self.chunks, stored, strict=True))
        name: str = _opened(self, os.getpid()).metadata.encode_chunk_key(position)
        return name


@lru_cache(maxsize=256)
def _opened(source: ZarrSource, pid: int) -> Any:
    """Open a source's array, once a process: `pid` keeps a forked child off its parent's connections."""
    where = (source.location, source.array_path, source.zarr_format)
    return open_bounded(*where, follow_links=source.follow_links).array


def open_zarr_source(
    location: str, array_path: str, zarr_format: int, *, follow_links: bool = False
) -> ZarrSource:
    """Read an array's metadata and describe it.

    Raises
    ------
    VolumeError
        if the array is missing, cannot be understood, would not be safe to read, or holds no real numbers
    """
    try:
        found = open_bounded(location, array_path, zarr_format, follow_links=follow_links).description
    except Exception as error:
        address = f"{location}/{array_path}".rstrip("/")
        raise VolumeError(f"the Zarr array {address} cannot be opened: {reason(error)}.") from error
    return ZarrSource(
        location, array_path, zarr_format, found.shape, found.dtype, found.chunks, found.shards, follow_links
    )


def _chunk_ranges(source: ZarrSource, selection: Box) -> list[range]:
    """Give the positions, in chunks along every axis, that a selection touches."""
    ranges = []
    for part, size, chunk in zip(selection, source.shape, source.chunks, strict=True):
        start, stop, _ = part.indices(size)
        ranges.append(range(start // chunk, -(-stop // chunk)))
    return ranges


def _describe_failure(source: ZarrSource, selection: Box, error: BaseException) -> str:
    """Read again chunk by chunk to say which one fails; zarr's own errors do not tell."""
    try:
        array = _opened(source, os.getpid())
    except Exception as again:
        return f"the Zarr array {source.address} cannot be opened any more: {reason(again)}."
    for index in itertools.product(*_chunk_ranges(source, selection)):
        box = tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, source.chunks, strict=True))
        try:
            array[box]
        except Exception as cause:
            name = f"{source.address}/{source.chunk_file(index)}"
            return (
                f"chunk {index} of {source.address} cannot be read ({reason(cause)}): "
                f"{name} is damaged or out of reach; with a sound copy the same command continues."
            )
    box_text = ",".join(f"{part.start}:{part.stop}" for part in selection)
    return (
        f"the voxels {box_text} of {source.address} could not be read ({reason(error)}); "
        "a second attempt succeeded, so the same command may well continue."
    )
