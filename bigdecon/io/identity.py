"""Recognise an input again without reading its voxels."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigdecon.errors import VolumeError
from bigdecon.io.stores import filesystem, is_url, open_store, read_key
from bigdecon.io.zarr_source import ZarrSource
from bigdecon.volume import ArraySource, Crop, Source, Take, Volume

__all__ = ["InputIdentity", "input_identity"]

METADATA_KEYS = ("zarr.json", ".zarray", ".zattrs")
REMOTE_FIELDS = ("ETag", "LastModified", "Last-Modified", "Content-MD5", "size", "mtime")


@dataclass(frozen=True)
class InputIdentity:
    """What tells one input from another.

    Attributes
    ----------
    location : path or URL
    axes : one letter an axis
    shape : extent of every axis of what was selected, in voxels
    dtype : type of the values
    voxel_size_um : along the spatial axes, in micrometres, as used
    selection : level, crops and picked channels or time points, as text
    digest : SHA-256 of metadata, sizes and times of change; of the values themselves for arrays in memory
    """

    location: str
    axes: str
    shape: tuple[int, ...]
    dtype: str
    voxel_size_um: tuple[float, ...] | None
    selection: tuple[str, ...]
    digest: str


def input_identity(volume: Volume) -> InputIdentity:
    """Describe a volume so that another input is told from it; reads metadata only.

    For Zarr the digest covers the array's metadata and the size and time of change of up to 27
    stored files spread over the array; for TIFF the file's size and time of change. On servers the
    ETag, or what else they tell about a file, takes the place of the time.

    Raises
    ------
    VolumeError
        if the server or the file system fails
    """
    base, selection = _peel(volume.source)
    try:
        digest = _digest(base, volume.location)
    except Exception as error:
        raise VolumeError(
            f"{volume.location} cannot be looked at ({type(error).__name__}: {error}); "
            "check the address and the permissions."
        ) from error
    return InputIdentity(
        location=volume.location,
        axes=volume.axes,
        shape=volume.shape,
        dtype=str(volume.dtype),
        voxel_size_um=volume.voxel_size_um,
        selection=selection,
        digest=digest,
    )


def _peel(source: Source) -> tuple[Source, tuple[str, ...]]:
    """Take off crops and selections, outermost first, and spell them out."""
    if isinstance(source, Crop):
        base, inner = _peel(source.source)
        return base, (*inner, "crop " + ",".join(f"{p.start}:{p.stop}" for p in source.box))
    if isinstance(source, Take):
        base, inner = _peel(source.source)
        return base, (*inner, f"axis {source.axis} at " + ",".join(map(str, source.positions)))
    name = source.array_path if isinstance(source, ZarrSource) else str(getattr(source, "level", ""))
    return source, (f"level {name}",)


def _digest(source: Source, location: str) -> str:
    state = hashlib.sha256(f"{type(source).__name__} {source.shape} {source.dtype}".encode())
    if isinstance(source, ArraySource):
        state.update(np.ascontiguousarray(source.array, dtype=source.dtype).data)
    elif isinstance(source, ZarrSource):
        _add_zarr(state, source)
    elif location:
        state.update(_file_state(location))
    return state.hexdigest()


def _add_zarr(state: Any, source: ZarrSource) -> None:
    store = open_store(source.address)
    for key in METADATA_KEYS:
        state.update(read_key(store, key) or b"")
    fs = filesystem(source.location) if is_url(source.location) else None
    for index in _sampled_chunks(source):
        state.update(_file_state(f"{source.address}/{source.chunk_file(index)}", fs))


def _sampled_chunks(source: ZarrSource) -> list[tuple[int, ...]]:
    """List the first, the middle and the last chunk along the three last axes; the first elsewhere."""
    counts = [-(-n // c) for n, c in zip(source.shape, source.chunks, strict=True)]
    lead = [[0]] * max(len(counts) - 3, 0)
    picked = [sorted({0, n // 2, n - 1}) for n in counts[len(lead) :]]
    return list(itertools.product(*lead, *picked))


def _file_state(path: str, fs: Any = None) -> bytes:
    """Give a file's size and time of change, or what a server tells; empty where there is no file."""
    if not is_url(path):
        try:
            status = os.stat(path)
        except OSError:
            return b""
        return f"{status.st_size} {status.st_mtime_ns}".encode()
    try:
        info = (fs or filesystem(path)).info(path)
    except FileNotFoundError:
        return b""
    told = {key: str(info[key]) for key in REMOTE_FIELDS if info.get(key) is not None}
    return json.dumps(told, sort_keys=True).encode()
