"""How zarr's chunks come to their places: by threads, and those of a shard side by side.

zarr itself unpacks chunks in threads, but copies each in the one thread of its event loop, chunks of shards
twice, and asks a store for the chunks of a shard one after the other. Here                 [..] in a thread

    in a folder     [read, unpack, copy to its place; the next]   ten at a time
    on a server     get ──> [unpack, copy to its place]
    shard           get its index ──> all chunks wanted, as above, at a time

Chunks with filters, or with several codecs, are unpacked by zarr.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr.abc.codec import BytesBytesCodec
from zarr.abc.store import RangeByteRequest
from zarr.codecs import BytesCodec, ShardingCodec
from zarr.codecs._v2 import V2Codec
from zarr.core.codec_pipeline import BatchedCodecPipeline, fill_value_or_default

from bigdecon.io.decompression import decompress
from bigdecon.io.guarded_store import GuardedStore

__all__ = ["BoundedBytes", "BoundedNumcodec", "ShardsSideBySide", "ThreadedPipeline"]

SMALL_CHUNK = 2**20
"""Bytes of a chunk, unpacked, below which it is not worth a request: a whole shard of them is one."""
READERS = 10
"""Threads of a process that read chunks in folders: disks in the network are waited for."""
STORED_GROWTH = 2
"""How much larger than unpacked a stored chunk may be: packing noise adds 1 %."""
STORED_SLACK = 2**16
LARGEST_SCRATCH = 2**23
"""Memory that each thread that unpacks chunks may keep; a chunk of 128³ in float32 has as much."""


@dataclass(frozen=True)
class BoundedBytes(BytesBytesCodec):
    """A codec of Zarr 3 that unpacks bytes within the size that zarr expects."""

    name: str
    is_fixed_size = False

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        stored, size = chunk_bytes.as_numpy_array(), _decoded_bytes(chunk_spec)
        data = await asyncio.to_thread(decompress, self.name, stored, size)
        return chunk_spec.prototype.buffer.from_bytes(data)

    def compute_encoded_size(self, _input_byte_length: int, _chunk_spec: Any) -> int:
        """Be asked by nobody: what is stored is only read."""
        raise NotImplementedError


@dataclass(frozen=True)
class BoundedNumcodec:
    """A codec of Zarr 2 that unpacks bytes within a given size."""

    codec_id: str
    size: int

    def decode(self, data: Any) -> Any:
        """Unpack a chunk."""
        return decompress(self.codec_id, np.frombuffer(data, np.uint8), self.size)


@dataclass(frozen=True)
class ThreadedPipeline(BatchedCodecPipeline):
    """zarr's pipeline for reading, which leaves the copying to threads."""

    async def read(self, batch_info: Iterable[Any], out: Any, drop_axes: tuple[int, ...] = ()) -> None:
        """Read chunks: those that lie in a folder of this machine by a few threads, with many for each."""
        jobs, others = [], []
        for each in batch_info:
            getter, spec, part, place, *_ = each
            codec, read = self._only_codec(spec), _reader_of(getter)
            if drop_axes or codec is None or read is None:
                others.append(each)
            else:
                jobs.append((read, out.as_numpy_array()[place], codec, part, spec))
        count = min(len(jobs), READERS)
        loop, failed = asyncio.get_running_loop(), threading.Event()
        shares = (
            loop.run_in_executor(_readers(os.getpid()), _read_and_unpack, jobs[first::count], failed)
            for first in range(count)
        )
        await asyncio.gather(super().read(others, out, drop_axes), *shares)

    async def read_batch(self, batch_info: Iterable[Any], out: Any, drop_axes: tuple[int, ...] = ()) -> None:
        """Read some chunks, or parts of shards, into their places.

        Parameters
        ----------
        batch_info : of each a getter of bytes, the specification, the part that is wanted, and its place in
            the result; what follows does not count
        out : the result
        drop_axes : axes that the result lacks
        """
        for getter, spec, part, place, *_ in batch_info:
            if drop_axes or (self.supports_partial_decode and not isinstance(self._shards, ShardsSideBySide)):
                await super().read_batch([(getter, spec, part, place, *_)], out, drop_axes)
                continue
            target = out.as_numpy_array()[place]
            if isinstance(self._shards, ShardsSideBySide):
                await self._shards.read_into(target, getter, spec, part)
                continue
            codec = self._only_codec(spec)
            stored = await getter.get(spec.prototype)
            if codec is not None and stored is not None:
                await asyncio.to_thread(_unpack, target, codec, stored.as_numpy_array(), part, spec)
                continue
            (chunk,) = await self.decode_batch([(stored, spec)])
            await asyncio.to_thread(_copy, target, chunk, part, spec)

    @property
    def _shards(self) -> Any:
        return self.array_bytes_codec

    def _only_codec(self, spec: Any) -> str | None:
        """Name the codec that alone stands between stored bytes and voxels; None where there are others."""
        plain = self.array_bytes_codec
        if self.array_array_codecs:
            return None
        if isinstance(plain, BytesCodec) and len(self.bytes_bytes_codecs) == 1:
            packer = self.bytes_bytes_codecs[0]
            return packer.name if isinstance(packer, BoundedBytes) and _is_native(plain) else None
        if isinstance(plain, V2Codec) and isinstance(plain.compressor, BoundedNumcodec):
            in_order = spec.order == "C" and not plain.filters and spec.dtype.to_native_dtype().isnative
            return plain.compressor.codec_id if in_order else None
        return None


class ShardsSideBySide(ShardingCodec):
    """zarr's shards, of which all chunks that are wanted are fetched and unpacked at a time."""

    @property
    def codec_pipeline(self) -> ThreadedPipeline:
        """What the chunks of a shard go through."""
        return ThreadedPipeline.from_codecs(self.codecs)

    async def read_into(self, target: NDArray[Any], getter: Any, spec: Any, part: Any) -> None:
        """Read a part of a shard.

        Parameters
        ----------
        target : its place in the result
        getter : of the shard's bytes
        spec : of the shard
        part : that is wanted, in voxels of the shard
        """
        counts = self._get_chunks_per_shard(spec)
        wanted = _cut(part, spec.shape, self.chunk_shape)
        index = await self._load_shard_index_maybe(getter, counts)
        if index is None:
            target[...] = fill_value_or_default(spec)
            return
        chunk_spec = self._get_chunk_spec(spec)
        most = STORED_GROWTH * _decoded_bytes(chunk_spec) + STORED_SLACK
        places = [index.get_chunk_slice(at) for at, *_ in wanted]
        if any(bounds is not None and bounds[1] - bounds[0] > most for bounds in places):
            raise ValueError(f"its index tells of chunks of more than {most} bytes")
        file: Any = getter
        if len(wanted) == math.prod(counts) and _decoded_bytes(chunk_spec) < SMALL_CHUNK:
            file = _InMemory(await getter.get(prototype=spec.prototype))
        chunks: list[Any] = [
            (_PartOfFile(file, bounds), chunk_spec, inner, place, True)
            for (_, inner, place), bounds in zip(wanted, places, strict=True)
        ]
        await self.codec_pipeline.read(chunks, spec.prototype.nd_buffer.from_numpy_array(target))


@dataclass(frozen=True)
class _PartOfFile:
    """Gets the bytes of a chunk in a shard; none where it has no voxels but the fill value."""

    file: Any
    bounds: tuple[int, int] | None

    async def get(self, prototype: Any, byte_range: None = None) -> Any:
        if self.bounds is None:
            return None
        return await self.file.get(prototype=prototype, byte_range=RangeByteRequest(*self.bounds))


@dataclass(frozen=True)
class _InMemory:
    """A shard that was fetched as a whole."""

    content: Any

    async def get(self, prototype: Any, byte_range: RangeByteRequest) -> Any:
        return self.content[byte_range.start : byte_range.end]


def _reader_of(getter: Any) -> Callable[[], NDArray[np.uint8] | None] | None:
    """Give a function that reads the bytes of a chunk at once, where they lie in a folder of this machine."""
    bounds: Any = None
    if isinstance(getter, _PartOfFile):
        if getter.bounds is None:
            return lambda: None
        getter, bounds = getter.file, RangeByteRequest(*getter.bounds)
    store = getattr(getter, "store", None)
    if not isinstance(store, GuardedStore):
        return None
    return partial(store.read_into, _packed.of, getter.path, bounds)


class _Scratch(threading.local):
    """Memory of a thread in which it reads, or unpacks, one chunk after the other.

    To be given fresh memory for each takes half as long as unpacking it.
    """

    memory: NDArray[np.uint8] = np.empty(0, np.uint8)

    def of(self, size: int) -> NDArray[np.uint8]:
        """Give so many bytes; those that were given before are forgotten, but for large ones."""
        if size > LARGEST_SCRATCH:
            return np.empty(size, np.uint8)
        if self.memory.size < size:
            self.memory = np.empty(size, np.uint8)
        return self.memory[:size]


_packed, _unpacked = _Scratch(), _Scratch()


def _read_and_unpack(jobs: Sequence[tuple[Any, ...]], failed: threading.Event) -> None:
    """Do all with some chunks in one thread: to change threads for each takes a tenth of the time.

    Once a chunk has failed, nobody goes on with what is wanted no more.
    """
    for read, target, codec, part, spec in jobs:
        if failed.is_set():
            return
        try:
            stored = read()
            if stored is None:
                target[...] = fill_value_or_default(spec)
            else:
                _unpack(target, codec, stored, part, spec)
        except BaseException:
            failed.set()
            raise


@lru_cache(maxsize=1)
def _readers(pid: int) -> ThreadPoolExecutor:
    """Start the threads anew after a fork, which they do not survive."""
    return ThreadPoolExecutor(READERS, thread_name_prefix="read")


def _cut(
    part: Sequence[slice], shape: Sequence[int], chunk: Sequence[int]
) -> list[tuple[tuple[int, ...], tuple[slice, ...], tuple[slice, ...]]]:
    """Give the chunks that a part of a shard touches: which, what of each, and where that goes."""
    axes = []
    for wanted, n, size in zip(part, shape, chunk, strict=True):
        start, stop, _ = wanted.indices(n)
        axis = []
        for i in range(start // size, -(-stop // size)):
            first, last = max(start, i * size), min(stop, (i + 1) * size)
            axis.append((i, slice(first - i * size, last - i * size), slice(first - start, last - start)))
        axes.append(axis)
    return [tuple(zip(*each, strict=True)) for each in itertools.product(*axes)]


def _unpack(target: NDArray[Any], codec: str, stored: NDArray[np.uint8], part: Any, spec: Any) -> None:
    """Unpack a chunk and copy the part that is wanted, in one thread."""
    dtype = spec.dtype.to_native_dtype()
    size = _decoded_bytes(spec)
    chunk = np.frombuffer(decompress(codec, stored, size, _unpacked.of(size)), dtype)
    target[...] = chunk.reshape(spec.shape)[part]


def _decoded_bytes(spec: Any) -> int:
    return int(math.prod(spec.shape) * spec.dtype.to_native_dtype().itemsize)


def _is_native(codec: BytesCodec) -> bool:
    return codec.endian is None or codec.endian.value == sys.byteorder


def _copy(target: NDArray[Any], chunk: Any, part: Any, spec: Any) -> None:
    target[...] = fill_value_or_default(spec) if chunk is None else np.asarray(chunk.as_numpy_array())[part]
