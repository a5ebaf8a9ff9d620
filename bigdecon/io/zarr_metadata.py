"""Metadata of a Zarr array, checked before any of it is believed; pure functions on parsed JSON.

What passes is an array of real numbers that can be addressed, cut into chunks that can be held in
memory, and packed by codecs that only compute: none of them unpickles, imports or runs anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigdecon.untrusted import is_whole, shown

__all__ = ["MAX_CHUNK_BYTES", "ArrayDescription", "check_level_path", "decoded_bytes", "describe_array"]

MAX_DIMENSIONS = 32
"""As many as NumPy of all versions has; an image needs five."""
MAX_ARRAY_BYTES = 2**56
"""72 petabytes, decoded: thousands of times the largest images of light microscopy, and few enough
that no product of sizes and strides overflows anywhere."""
MAX_CHUNK_BYTES = 2**34
"""16 GiB, decoded: a chunk is held in memory as a whole. Recommended are some MiB; whole stacks written
as one chunk have some GiB."""
MAX_CHUNKS_PER_SHARD = 2**22
"""A shard's index is read as a whole, 16 bytes a chunk: 64 MiB. Common are up to 32768."""
MAX_PATH = 1024
"""Longest path of a level, in characters; file systems take 4096 with the store's own."""

NUMBERS_V3 = frozenset(
    f"{kind}{bits}" for kind, sizes in (("int", (8, 16, 32, 64)), ("uint", (8, 16, 32, 64))) for bits in sizes
) | {"float16", "float32", "float64"}
COMPRESSORS = frozenset({"blosc", "zstd", "gzip", "zlib", "bz2", "lzma", "lz4"})
"""Codecs of Zarr 2 that pack bytes, and whose result can be bounded."""
FILTERS = COMPRESSORS | {
    "delta", "shuffle", "fixedscaleoffset", "bitround", "quantize", "astype",
    "crc32", "crc32c", "adler32", "fletcher32",
}  # fmt: skip
"""Codecs that may stand among the filters of Zarr 2. None of them grows data more than eightfold."""
FILTER_GROWTH = 8
BYTES_CODECS_V3 = frozenset({"blosc", "zstd", "gzip", "crc32c"})


@dataclass(frozen=True)
class ArrayDescription:
    """What the metadata of an array say, once they have passed.

    Attributes
    ----------
    shape : extent of every axis, in voxels
    dtype : native-endian type of the values
    chunks : inner chunks, the unit of reading
    shards : stored files, where the array is sharded
    codecs : names of the codecs that pack a chunk
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    codecs: tuple[str, ...]


def decoded_bytes(chunks: Sequence[int], dtype: np.dtype[Any]) -> int:
    """Give the memory that one decoded chunk takes, in bytes."""
    return math.prod(chunks) * dtype.itemsize


def check_level_path(path: object) -> str:
    """Refuse the path of a level that could lead out of its store.

    Returns
    -------
    The path: names joined by slashes, none of them "." or ".."

    Raises
    ------
    ValueError
        if it is anything else
    """
    if not isinstance(path, str) or not 0 < len(path) <= MAX_PATH:
        raise ValueError(
            f"the path of a level is {shown(path)}; it must be the name of a folder in the store"
        )
    # In an address %2e is a dot, and what follows ? or # is no path.
    plain = path.replace("%2e", ".").replace("%2E", ".").replace("%2f", "/").replace("%2F", "/")
    odd = any(c in "\\?#:" or not c.isprintable() for c in path)
    if odd or any(part in ("", ".", "..") for part in plain.split("/")):
        raise ValueError(
            f"the path of a level is {shown(path)}; it must lead to a folder inside the store, such as '0'"
        )
    return path


def describe_array(document: Mapping[str, Any], zarr_format: int) -> ArrayDescription:
    """Check the metadata of an array (zarr.json or .zarray) and say what they describe.

    Raises
    ------
    ValueError
        with what is wrong, for use inside a sentence
    """
    if document.get("zarr_format") != zarr_format:
        raise ValueError(f"its zarr_format is {shown(document.get('zarr_format'))} instead of {zarr_format}")
    shape = _extents(document.get("shape"), "shape", least=0)
    found = _describe_v2(document, shape) if zarr_format == 2 else _describe_v3(document, shape)
    if math.prod(shape) * found.dtype.itemsize > MAX_ARRAY_BYTES:
        raise ValueError(
            f"its shape {shown(shape)} makes more than {MAX_ARRAY_BYTES >> 50} PiB, "
            "which no image of a microscope has"
        )
    size = decoded_bytes(found.chunks, found.dtype)
    if size > MAX_CHUNK_BYTES:
        raise ValueError(
            f"one chunk {shown(found.chunks)} takes {size / 2**30:.3g} GiB of memory, and at most "
            f"{MAX_CHUNK_BYTES >> 30} GiB can be read; copy the image into smaller chunks"
        )
    return found


def _extents(value: object, name: str, *, least: int, length: int | None = None) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(is_whole(n, least) for n in value):
        raise ValueError(f"its {name} is {shown(value)}; it must be a list of whole numbers from {least}")
    if len(value) > MAX_DIMENSIONS:
        raise ValueError(f"it has {len(value)} dimensions; an image has 2 to 5")
    if length is not None and len(value) != length:
        raise ValueError(f"its {name} has {len(value)} numbers for {length} dimensions")
    return tuple(value)


def _describe_v2(document: Mapping[str, Any], shape: tuple[int, ...]) -> ArrayDescription:
    dtype = _dtype_v2(document.get("dtype"))
    chunks = _extents(document.get("chunks"), "chunk shape", least=1, length=len(shape))
    if document.get("order", "C") not in ("C", "F"):
        raise ValueError(f"its order is {shown(document.get('order'))} instead of 'C' or 'F'")
    if document.get("dimension_separator", ".") not in (".", "/"):
        raise ValueError(
            f"its dimension_separator is {shown(document['dimension_separator'])}, not '.' or '/'"
        )
    filters, compressor = document.get("filters"), document.get("compressor")
    if filters is not None and not isinstance(filters, list):
        raise ValueError(f"its filters are {shown(filters)} instead of a list")
    names = [_codec_v2(item, FILTERS) for item in filters or ()]
    if compressor is not None:
        names.append(_codec_v2(compressor, COMPRESSORS))
    return ArrayDescription(shape, dtype, chunks, None, tuple(names))


def _dtype_v2(text: object) -> np.dtype[Any]:
    """Take a type such as "<u2"; what it is called is looked at before NumPy sees it."""
    if isinstance(text, str) and len(text) <= 4 and text[:1] in "<>|=" and text[1:2] in ("u", "i", "f"):
        try:
            return np.dtype(text).newbyteorder("=")
        except TypeError:
            pass
    raise ValueError(f"it holds values of type {_type_name(text)}; an image holds integers or real numbers")


def _type_name(text: object) -> str:
    """Name a type as NumPy would, so that "<c8" reads complex64."""
    if isinstance(text, str) and len(text) <= 4:
        try:
            return str(np.dtype(text).newbyteorder("="))
        except TypeError:
            pass
    return shown(text)


def _codec_v2(item: object, known: frozenset[str]) -> str:
    name = item.get("id") if isinstance(item, Mapping) else item
    if not isinstance(item, Mapping) or not isinstance(name, str) or name not in known:
        raise ValueError(_refused_codec(name, known))
    for key in ("dtype", "astype", "encode_dtype", "decode_dtype"):
        if item.get(key) is not None:
            _dtype_v2(item[key])
    if name == "lzma" and (item.get("filters") is not None or item.get("format", 1) not in (0, 1, 2)):
        raise ValueError("its codec 'lzma' has filters of its own, which are not read here")
    return name


def _refused_codec(name: object, known: frozenset[str]) -> str:
    return (
        f"its chunks are packed by the codec {shown(name)}, which is not read here; "
        f"copy the image with one of {', '.join(sorted(known))}"
    )


def _describe_v3(document: Mapping[str, Any], shape: tuple[int, ...]) -> ArrayDescription:
    name = document.get("data_type")
    if not isinstance(name, str) or name not in NUMBERS_V3:
        raise ValueError(
            f"it holds values of type {_type_name(name)}; an image holds integers or real numbers"
        )
    grid, grid_settings = _named(document.get("chunk_grid"))
    if grid != "regular":
        raise ValueError(f"its chunk grid is {shown(grid)}; only 'regular' ones are read")
    chunks = _extents(grid_settings.get("chunk_shape"), "chunk shape", least=1, length=len(shape))
    codecs = _codec_list(document.get("codecs"))
    packing, settings = next((c for c in codecs if c[0] == "sharding_indexed"), ("", {}))
    if not packing:
        return ArrayDescription(shape, np.dtype(name), chunks, None, _check_chain(codecs, len(shape)))
    if len(codecs) > 1:
        raise ValueError("its shards are packed once more as a whole, which cannot be read in parts")
    inner = _extents(settings.get("chunk_shape"), "inner chunk shape", least=1, length=len(shape))
    _check_shards(chunks, inner)
    _check_chain(_codec_list(settings.get("index_codecs", ["bytes"])), 0, packed=frozenset({"crc32c"}))
    names = _check_chain(_codec_list(settings.get("codecs")), len(shape))
    return ArrayDescription(shape, np.dtype(name), inner, chunks, names)


def _check_shards(shards: Sequence[int], chunks: Sequence[int]) -> None:
    if any(s % c for s, c in zip(shards, chunks, strict=True)):
        raise ValueError(f"its shards {shown(shards)} do not hold whole chunks {shown(chunks)}")
    number = math.prod(s // c for s, c in zip(shards, chunks, strict=True))
    if number > MAX_CHUNKS_PER_SHARD:
        raise ValueError(f"one shard holds {number} chunks, and at most {MAX_CHUNKS_PER_SHARD} can be read")


def _named(item: object) -> tuple[str, Mapping[str, Any]]:
    """Take apart {"name": ..., "configuration": {...}}, of which a bare name is the short form."""
    name = item.get("name") if isinstance(item, Mapping) else item
    settings = item.get("configuration", {}) if isinstance(item, Mapping) else {}
    if not isinstance(name, str) or not isinstance(settings, Mapping):
        raise ValueError(f"its entry {shown(item)} does not name a codec or a grid")
    return name, settings


def _codec_list(value: object) -> list[tuple[str, Mapping[str, Any]]]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_DIMENSIONS:
        raise ValueError(f"its codecs are {shown(value)} instead of a short list")
    return [_named(item) for item in value]


def _check_chain(
    codecs: Sequence[tuple[str, Mapping[str, Any]]], ndim: int, packed: frozenset[str] = BYTES_CODECS_V3
) -> tuple[str, ...]:
    """Check a chain of codecs: transpositions, then bytes, then what packs them."""
    names = tuple(name for name, _ in codecs)
    for name, settings in codecs:
        if name not in packed | {"bytes", "transpose"}:
            raise ValueError(_refused_codec(name, packed | {"bytes", "transpose"}))
        order = settings.get("order")
        if name == "transpose" and not (
            isinstance(order, list) and all(is_whole(n) for n in order) and sorted(order) == list(range(ndim))
        ):
            raise ValueError(f"its codec 'transpose' has the order {shown(order)} for {ndim} dimensions")
    if names.count("bytes") != 1:
        raise ValueError(f"its codecs are {', '.join(names)}; exactly one of them must be bytes")
    return names
