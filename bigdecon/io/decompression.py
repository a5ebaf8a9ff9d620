"""Decompression that takes no more memory than its result may have.

A few kilobytes can claim, or really unpack to, any number of bytes. Each function here gets the size
that a chunk has by its metadata and stops, or does not begin, where a chunk would become larger.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import numcodecs
import numpy as np
from numpy.typing import NDArray

__all__ = ["TooLargeError", "decompress", "inflates_beyond"]

SLACK = 1024
"""Bytes beyond a chunk's own that its packing may add: checksums of a few bytes each."""
STEP = 2**20
ZSTD_BLOCK = 2**17
"""Most bytes that one block of Zstandard unpacks to (RFC 8878, 3.1.1.2.4)."""
LZMA_MEMORY = 2**28
"""Of the decoder: presets up to 9 take 65 MiB, four times that leaves room."""

Bytes = NDArray[np.uint8]


class TooLargeError(ValueError):
    """A chunk would unpack to more than it may."""


class _Stream(Protocol):
    """What decompressors of the standard library have in common (zlib, bz2, lzma)."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: Any, max_length: int, /) -> bytes: ...


def decompress(codec: str, data: Bytes, size: int, into: Bytes | None = None) -> Any:
    """Unpack a chunk.

    Parameters
    ----------
    codec : blosc, zstd, lz4, gzip, zlib, bz2 or lzma
    data : as stored
    size : bytes that it must not exceed, but for checksums
    into : memory that is used where the chunk is known beforehand to fill it

    Raises
    ------
    ValueError
        if it would become larger, or is damaged
    """
    if not data.size:
        raise ValueError("it is empty")
    try:
        if codec in _TELLING:
            return _TELLING[codec](data, size + SLACK, into)
        return _FUNCTIONS[codec](data, size + SLACK)
    except (OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{codec} cannot unpack it: {error}") from error


def inflates_beyond(data: bytes, size: int, as_lzma: bool = False) -> bool:
    """Whether zlib or lzma data unpack to more than `size` bytes; nothing is kept of the result."""
    total = 0
    if as_lzma:
        packed = lzma.LZMADecompressor(memlimit=LZMA_MEMORY)
        while total <= size and not packed.eof and (part := packed.decompress(data, STEP)):
            total, data = total + len(part), b""
        return total > size
    stream = zlib.decompressobj()
    while total <= size and data and not stream.eof:
        total += len(stream.decompress(data, STEP))
        data = stream.unconsumed_tail
    return total > size


def _too_large(claimed: int, size: int) -> TooLargeError:
    return TooLargeError(f"it would unpack to {claimed} bytes or more, but a chunk has {size - SLACK}")


def _blosc(data: Bytes, size: int, into: Bytes | None) -> Any:
    """Blosc tells both sizes in its header of 16 bytes, and trusts them."""
    if data.size < 16:
        raise ValueError(f"{data.size} bytes are no blosc data")
    claimed, stored = _little(data, 4, 4), _little(data, 12, 4)
    if claimed > size:
        raise _too_large(claimed, size)
    if stored > data.size:
        raise ValueError(f"it is cut short: {data.size} of {stored} bytes are there")
    return numcodecs.Blosc().decode(data, _if_filled(into, claimed))


def _lz4(data: Bytes, size: int, into: Bytes | None) -> Any:
    if data.size < 4:
        raise ValueError(f"{data.size} bytes are no lz4 data")
    claimed = _little(data, 0, 4)
    if claimed > size:
        raise _too_large(claimed, size)
    return numcodecs.LZ4().decode(data, _if_filled(into, claimed))


def _zstd(data: Bytes, size: int, into: Bytes | None) -> Any:
    """Zstandard need not tell its size, and may consist of several frames; its blocks bound it."""
    least, most = _zstd_bounds(data)
    if least > size or (most > 2 * size + ZSTD_BLOCK and not _zstd_fits(data, size)):
        raise _too_large(max(least, size + 1), size)
    return numcodecs.Zstd().decode(data, _if_filled(into, least) if least == most else None)


def _if_filled(into: Bytes | None, size: int) -> Bytes | None:
    """Take memory only where all of it is overwritten: what a chunk lacks must not come from another one."""
    return into if into is not None and into.size == size else None


def _zstd_fits(data: Bytes, size: int) -> bool:
    """Try whether data unpack into so many bytes: blocks may hold far less than they could."""
    try:
        numcodecs.Zstd().decode(data, np.empty(size, np.uint8))
    except (RuntimeError, ValueError) as error:
        return "expected to decompress" in str(error)  # what is told when the buffer is not filled
    return True


def _zstd_bounds(data: Bytes) -> tuple[int, int]:
    """Add up the sizes that frames tell, or else what blocks hold at least and at most (RFC 8878, 3.1.1)."""
    least, most, at = 0, 0, 0
    while at + 5 <= data.size:
        magic = _little(data, at, 4)
        if magic & 0xFFFFFFF0 == 0x184D2A50:  # a frame to be skipped
            at += 8 + _little(data, at + 4, 4)
            continue
        descriptor = int(data[at + 4])
        single, flag = bool(descriptor & 0x20), descriptor >> 6
        width = (int(single), 2, 4, 8)[flag]
        at += 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
        told = _little(data, at, width) + (256 if width == 2 else 0) if width else None
        low, high, at = _zstd_blocks(data, at + width)
        least += low if told is None else told
        most += high if told is None else told
        at += 4 * bool(descriptor & 4)
    return least, most


def _zstd_blocks(data: Bytes, at: int) -> tuple[int, int, int]:
    """Give what the blocks of a frame hold at least and at most, and where they end."""
    least, packed, last = 0, 0, False
    while not last and at + 3 <= data.size:
        header = _little(data, at, 3)
        last, kind, length = bool(header & 1), header >> 1 & 3, header >> 3
        packed += kind == 2
        least += length if kind != 2 else 0
        at += 3 + (1 if kind == 1 else length)
    return least, least + packed * ZSTD_BLOCK, at


def _little(data: Bytes, at: int, width: int) -> int:
    return int.from_bytes(data[at : at + width].tobytes(), "little")


def _zlib(data: Bytes, size: int) -> bytes:
    """Gzip and zlib: by their headers; gzip may consist of several members, and be filled up with zeros."""
    return _streamed(data, size, lambda: zlib.decompressobj(wbits=zlib.MAX_WBITS | 32), filling=b"\0")


def _streamed(data: Bytes, size: int, start: Callable[[], _Stream], filling: bytes = b"") -> bytes:
    """One stream after another, each with a decompressor of its own."""
    rest, parts, room = data.tobytes(), [], size
    while rest:
        stream = start()
        part = stream.decompress(rest, room + 1)
        if len(part) > room:
            raise _too_large(size + 1, size)
        if not stream.eof:
            raise ValueError("it is cut short")
        parts.append(part)
        room -= len(part)
        rest = stream.unused_data.lstrip(filling)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _bz2(data: Bytes, size: int) -> bytes:
    return _streamed(data, size, bz2.BZ2Decompressor)


def _lzma(data: Bytes, size: int) -> bytes:
    return _streamed(data, size, lambda: lzma.LZMADecompressor(memlimit=LZMA_MEMORY))


_FUNCTIONS: Mapping[str, Callable[[Bytes, int], Any]] = MappingProxyType(
    {"gzip": _zlib, "zlib": _zlib, "bz2": _bz2, "lzma": _lzma}
)
_TELLING: Mapping[str, Callable[[Bytes, int, Bytes | None], Any]] = MappingProxyType(
    {"blosc": _blosc, "lz4": _lz4, "zstd": _zstd}
)
"""Codecs that tell how large a chunk will be."""
