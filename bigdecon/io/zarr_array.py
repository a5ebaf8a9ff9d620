"""Open a Zarr array so that no chunk, whatever it claims, unpacks to more than a chunk's size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numcodecs
import zarr
from zarr.codecs import ShardingCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore, StorePath

from bigdecon.io.chunk_pipeline import BoundedBytes, BoundedNumcodec, ShardsSideBySide, ThreadedPipeline
from bigdecon.io.decompression import TooLargeError
from bigdecon.io.guarded_store import open_guarded, read_document
from bigdecon.io.zarr_metadata import (
    COMPRESSORS,
    FILTER_GROWTH,
    FILTERS,
    ArrayDescription,
    decoded_bytes,
    describe_array,
)
from bigdecon.untrusted import parse_json

__all__ = ["BoundedArray", "check_bounds", "open_bounded"]

STORED_GROWTH = 2
"""How much larger than its decoded chunks a stored file may be: packing noise adds 1 %, and shards that
were written in pieces may hold gaps."""
STORED_SLACK = 2**20
PROBES: Mapping[int, Mapping[str, Any]] = {
    2: {
        "zarr_format": 2,
        "shape": [4],
        "chunks": [4],
        "dtype": "|u1",
        "compressor": {"id": "zstd", "level": 1},
        "filters": None,
        "fill_value": 0,
        "order": "C",
    },
    3: {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [4],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4]}},
        "chunk_key_encoding": {"name": "default"},
        "fill_value": 0,
        "codecs": [
            {"name": "bytes"},
            {"name": "zstd", "configuration": {"level": 1, "checksum": False}},
        ],
        "attributes": {},
    },
}
"""Arrays of four bytes, for `check_bounds`."""
INDEX_BYTES = 16
"""A shard's index holds offset and length of every chunk."""


@dataclass(frozen=True)
class BoundedArray:
    """An open array.

    Attributes
    ----------
    array : zarr's own, whose codecs are bounded
    description : its metadata
    """

    array: Any
    description: ArrayDescription


@lru_cache
def check_bounds(zarr_format: int) -> None:
    """Let this process's zarr read a chunk that unpacks to too much, to see that the bounds are in its way.

    The codecs are exchanged inside zarr, whose next version may take them from elsewhere.

    Raises
    ------
    ValueError
        if the chunk was unpacked
    """
    chunk = default_buffer_prototype().buffer.from_bytes(numcodecs.Zstd().encode(bytes(2**16)))
    store = MemoryStore({"c/0": chunk, "0": chunk})
    document = PROBES[zarr_format]
    array = zarr.Array.from_dict(StorePath(store, ""), dict(document))
    try:
        _with_bounded_codecs(array, describe_array(document, zarr_format))[:]
    except TooLargeError:
        return
    except Exception:
        pass
    raise ValueError(
        f"zarr {zarr.__version__} unpacks chunks without the bounds that keep a damaged or hostile file from "
        "taking all memory; install zarr 3.1"
    )


def open_bounded(
    location: str, array_path: str, zarr_format: int, *, follow_links: bool = False
) -> BoundedArray:
    """Check an array's metadata and open it.

    Raises
    ------
    ValueError
        if the metadata describe no array of numbers that can be read safely
    Exception
        what the operating system, the server, the network or zarr answered
    """
    key = "zarr.json" if zarr_format == 3 else ".zarray"
    key = f"{array_path}/{key}" if array_path else key
    data = read_document(open_guarded(location, follow_links=follow_links), key)
    if data is None:
        raise ValueError(f"there is no {key}")
    document = parse_json(data)
    if not isinstance(document, Mapping):
        raise ValueError(f"{key} holds a {type(document).__name__} instead of metadata")
    if zarr_format == 3 and document.get("node_type") != "array":
        raise ValueError(f"{key} does not describe an array")
    description = describe_array(document, zarr_format)
    check_bounds(zarr_format)
    store = open_guarded(location, follow_links=follow_links, limit=_largest_file(description))
    document = dict(document)
    if zarr_format == 2:
        document["filters"] = document.get("filters") or None  # zarr warns of an empty list
    array = zarr.Array.from_dict(StorePath(store, array_path), document)
    return BoundedArray(_with_bounded_codecs(array, description), description)


def _largest_file(found: ArrayDescription) -> int:
    """Give how large a stored chunk or shard can be, in bytes."""
    stored = found.shards or found.chunks
    growth = FILTER_GROWTH if set(found.codecs) & (FILTERS - COMPRESSORS) else STORED_GROWTH
    index = INDEX_BYTES * math.prod(s // c for s, c in zip(stored, found.chunks, strict=True))
    return growth * decoded_bytes(stored, found.dtype) + index + STORED_SLACK


def _with_bounded_codecs(array: Any, found: ArrayDescription) -> Any:
    """Exchange what unpacks chunks, in the pipeline alone: the metadata stay what they are."""
    codecs = array.metadata.codecs if array.metadata.zarr_format == 3 else array._async_array.codec_pipeline
    if array.metadata.zarr_format == 3:
        bounded = [_bounded_v3(codec) for codec in codecs]
    else:
        bounded = [_bounded_v2(codec, found) for codec in codecs]
    # The dataclass is frozen, and making a new one would set up the pipeline anew.
    object.__setattr__(array._async_array, "codec_pipeline", ThreadedPipeline.from_codecs(bounded))
    return array


def _bounded_v3(codec: Any) -> Any:
    if isinstance(codec, ShardingCodec):
        inner = tuple(_bounded_v3(c) for c in codec.codecs)
        return ShardsSideBySide(
            chunk_shape=codec.chunk_shape,
            codecs=inner,
            index_codecs=codec.index_codecs,
            index_location=codec.index_location,
        )
    name = codec.to_dict()["name"]
    return BoundedBytes(name) if name in COMPRESSORS else codec


def _bounded_v2(codec: Any, found: ArrayDescription) -> Any:
    """Bound the one codec that stands for compressor and filters of Zarr 2."""
    size = decoded_bytes(found.chunks, found.dtype)
    largest = size * FILTER_GROWTH if codec.filters else size

    def bound(one: Any) -> Any:
        return BoundedNumcodec(one.codec_id, largest) if one.codec_id in COMPRESSORS else one

    compressor = None if codec.compressor is None else bound(codec.compressor)
    filters = None if codec.filters is None else tuple(bound(f) for f in codec.filters)
    return replace(codec, compressor=compressor, filters=filters)
