"""The bytes of one stored file of an output: a shard of Zarr 3, or a single chunk of Zarr 2.

shard   +---------+---------+--   --+---------------------------------+
        | chunk   | chunk   |  ...  | index: offset and length of all | CRC32C
        +---------+---------+--   --+---------------------------------+

They are those that zarr-python gives. It packs a shard in one thread but for the compression, and copies the
packed bytes twice; here every chunk is cut out and compressed in a thread of its own, and goes to the file
while others are in work. Sources: the specifications of Zarr 2 and of Zarr 3 with its codecs
"sharding_indexed", "blosc" and "crc32c", https://zarr-specs.readthedocs.io.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import Blosc
from numpy.typing import NDArray

__all__ = ["FileFormat", "format_of", "is_blank", "pack", "packers"]

ABSENT = 2**64 - 1
"""Offset and length, in the index, of a chunk of zeros only, which is not stored."""
SHUFFLES = {"noshuffle": Blosc.NOSHUFFLE, "shuffle": Blosc.SHUFFLE, "bitshuffle": Blosc.BITSHUFFLE}
MOST_THREADS = 32


@dataclass(frozen=True)
class FileFormat:
    """How the voxels of an array lie in its files.

    Attributes
    ----------
    chunks : extent of a chunk along every axis
    per_file : chunks in a shard along every axis; None where every chunk is a file
    compressor : of each chunk
    """

    chunks: tuple[int, ...]
    per_file: tuple[int, ...] | None
    compressor: Blosc


def format_of(array: Any) -> FileFormat:
    """Read the format from the metadata of a Zarr array that bigdecon made."""
    (codec,) = array.compressors
    if not isinstance(codec, Blosc):
        told = codec.to_dict()["configuration"]
        codec = Blosc(told["cname"], told["clevel"], SHUFFLES[told["shuffle"]], told["blocksize"])
    shards = array.shards and tuple(s // c for s, c in zip(array.shards, array.chunks, strict=True))
    return FileFormat(array.chunks, shards, codec)


def pack(values: NDArray[Any], form: FileFormat) -> Iterator[bytes]:
    """Give the bytes of a file piece by piece; work on all pieces begins at once, in the `packers`.

    Parameters
    ----------
    values : the file's voxels, clipped at the array's edge
    form : of the array

    Returns
    -------
    iterator
        nothing at all where all voxels are 0: such a file is not stored
    """
    counts = tuple(-(-size // chunk) for size, chunk in zip(values.shape, form.chunks, strict=True))
    places = sorted(itertools.product(*map(range, counts)), key=partial(_morton, form.per_file or counts))
    parts = (
        values[tuple(slice(i * n, i * n + n) for i, n in zip(place, form.chunks, strict=True))]
        for place in places
    )
    packed = packers().map(partial(_pack_chunk, form), parts)
    return (piece for piece in packed if piece) if form.per_file is None else _shard(form, places, packed)


def _shard(
    form: FileFormat, places: list[tuple[int, ...]], packed: Iterator[bytes | None]
) -> Iterator[bytes]:
    """Give the chunks of a shard, and at last its index."""
    assert form.per_file is not None
    index = np.full((*form.per_file, 2), ABSENT, "<u8")
    end = 0
    for place, piece in zip(places, packed, strict=True):
        if piece:
            index[place] = end, len(piece)
            end += len(piece)
            yield piece
    if end:
        table = index.tobytes()
        yield table + google_crc32c.value(table).to_bytes(4, "little")


def _pack_chunk(form: FileFormat, part: NDArray[Any]) -> bytes | None:
    """Compress a chunk, with zeros beyond the array's edge; None where it holds nothing else."""
    if is_blank(part):
        return None
    stored = part.dtype.newbyteorder("<")
    if part.shape == form.chunks:
        whole = np.ascontiguousarray(part, stored)
    else:
        whole = np.zeros(form.chunks, stored)
        whole[tuple(map(slice, part.shape))] = part
    packed: bytes = form.compressor.encode(whole)
    return packed


def is_blank(part: NDArray[Any]) -> bool:
    """Tell whether all voxels are 0; most chunks show by one voxel that they are not."""
    return not (part[(0,) * part.ndim] or part[(-1,) * part.ndim] or part.any())


def _morton(counts: tuple[int, ...], place: tuple[int, ...]) -> int:
    """Give a chunk's place in zarr's order, in which neighbours in space lie close together in the file."""
    widths = [(n - 1).bit_length() for n in counts]
    bits = (
        i >> bit & 1
        for bit in range(max(widths, default=0))
        for i, width in zip(place, widths, strict=True)
        if bit < width
    )
    return sum(bit << position for position, bit in enumerate(bits))


def packers() -> ThreadPoolExecutor:
    """Give the threads that pack, one a core, shared by all writers of this process."""
    return _threads(os.getpid())


@lru_cache(maxsize=1)
def _threads(pid: int) -> ThreadPoolExecutor:
    """Start anew after a fork, which threads do not survive."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ThreadPoolExecutor(min(cores, MOST_THREADS), thread_name_prefix="pack")
