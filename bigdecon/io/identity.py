"""Recognise an input again without reading its voxels."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bigdecon.errors import VolumeError
from bigdecon.io.stores import is_url, open_store, read_key
from bigdecon.io.tiff_stack import TiffStackSource
from bigdecon.io.zarr_source import ZarrSource
from bigdecon.storage.servers import ask
from bigdecon.untrusted import parse_json
from bigdecon.volume import ArraySource, Crop, Source, Take, Volume

__all__ = ["InputIdentity", "StoredFile", "input_identity"]

METADATA_KEYS = ("zarr.json", ".zarray")
ENDS = 2**16
"""Bytes that are hashed at both ends of a stored file, and at places between."""
PLACES = 8
REMOTE_FIELDS = ("ETag", "LastModified", "Last-Modified", "Content-MD5", "size", "mtime")


class StoredFile(NamedTuple):
    """A stored file that was looked at.

    Attributes
    ----------
    name : within the array's folder; "" for an image that is one file
    state : size, and hash of its ends; what a server tells; "" where there is none
    start, stop : voxels of the array that it holds
    """

    name: str
    state: str
    start: tuple[int, ...]
    stop: tuple[int, ...]


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
    digest : SHA-256 of the metadata; of the values themselves for arrays in memory
    files : some of the stored files
    """

    location: str
    axes: str
    shape: tuple[int, ...]
    dtype: str
    voxel_size_um: tuple[float, ...] | None
    selection: tuple[str, ...]
    digest: str
    files: tuple[StoredFile, ...] = ()

    def changed_files(self, earlier: Sequence[Sequence[Any]]) -> list[StoredFile]:
        """Give the files that are not as they were, by an earlier record of them (plain JSON values)."""
        before = {str(name): state for name, state, *_ in earlier}
        return [file for file in self.files if before.get(file.name) != file.state]


def input_identity(volume: Volume) -> InputIdentity:
    """Describe a volume so that another input is told from it; reads metadata only.

    For Zarr these are the array's metadata, and size and parts of up to 27 stored files spread over what is
    used, of the first and the last channel and time point; for TIFF size and parts of the file, or of some of
    the files. On servers
    the ETag, or what else they tell about a file, takes the place of its content.

    Raises
    ------
    VolumeError
        if the server or the file system fails
    """
    base, selection = _peel(volume.source)
    try:
        digest = _digest(base)
        files = _stored_files(base, _positions(volume.source), volume.location)
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
        files=files,
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


def _digest(source: Source) -> str:
    state = hashlib.sha256(f"{type(source).__name__} {source.shape} {source.dtype}".encode())
    if isinstance(source, ArraySource):
        state.update(np.ascontiguousarray(source.array, dtype=source.dtype).data)
    elif isinstance(source, TiffStackSource):
        state.update(source.digest.encode())
    elif isinstance(source, ZarrSource):
        store = open_store(source.address)
        for key in METADATA_KEYS:
            state.update(_without_attributes(read_key(store, key) or b""))
    return state.hexdigest()


def _without_attributes(document: bytes) -> bytes:
    """Leave out what says nothing of the voxels, and may be added to at any time."""
    if not document:
        return b""
    values = parse_json(document)
    if isinstance(values, dict):
        values.pop("attributes", None)
    return json.dumps(values, sort_keys=True).encode()


def _stored_files(
    source: Source, positions: Sequence[Sequence[int]], location: str
) -> tuple[StoredFile, ...]:
    if isinstance(source, ZarrSource):
        chunks = _sampled_chunks(source, positions)
        return tuple(dict.fromkeys(_stored_file(source, index) for index in chunks))
    if isinstance(source, TiffStackSource):
        return _files_of_stack(source, positions)
    if isinstance(source, ArraySource) or not location:
        return ()
    return (StoredFile("", _file_state(location), (0,) * len(source.shape), source.shape),)


def _files_of_stack(source: TiffStackSource, positions: Sequence[Sequence[int]]) -> tuple[StoredFile, ...]:
    """Look at the first, the middle and the last file of those used, along every axis that files make."""
    paired = list(zip(source.axes, positions, strict=True))
    picked = [
        sorted({used[0], used[len(used) // 2], used[-1]})
        for axis, used in paired
        if axis not in source.file_axes
    ]
    found = []
    for index in itertools.product(*picked):
        left = iter(index)
        start = tuple(0 if axis in source.file_axes else next(left) for axis in source.axes)
        stop = tuple(
            n if axis in source.file_axes else first + 1
            for axis, n, first in zip(source.axes, source.shape, start, strict=True)
        )
        path = source.file(index)
        found.append(StoredFile(source.name(index), _file_state(path), start, stop))
    return tuple(found)


def _stored_file(source: ZarrSource, index: tuple[int, ...]) -> StoredFile:
    name = source.chunk_file(index)
    stored = source.shards or source.chunks
    first = tuple(i * c // s * s for i, c, s in zip(index, source.chunks, stored, strict=True))
    last = tuple(min(f + s, n) for f, s, n in zip(first, stored, source.shape, strict=True))
    return StoredFile(name, _file_state(f"{source.address}/{name}"), first, last)


def _positions(source: Source) -> list[Sequence[int]]:
    """Give the indices along every axis of the stored array that are used, crops and selections applied."""
    if isinstance(source, Crop):
        inner = _positions(source.source)
        return [axis[part] for axis, part in zip(inner, source.box, strict=True)]
    if isinstance(source, Take):
        inner = _positions(source.source)
        inner[source.axis] = sorted(inner[source.axis][p] for p in source.positions)
        return inner
    return [range(n) for n in source.shape]


def _sampled_chunks(source: ZarrSource, positions: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """List chunks of what is used: first, middle and last along three axes, first and last along others."""
    picked = []
    for axis, (used, chunk) in enumerate(zip(positions, source.chunks, strict=True)):
        spatial = axis >= len(positions) - 3
        middle = [used[len(used) // 2]] if spatial else []
        picked.append(sorted({at // chunk for at in (used[0], *middle, used[-1])}))
    return list(itertools.product(*picked))


def _file_state(path: str) -> str:
    """Give a file's size and a hash of its ends, or what a server tells; empty where there is no file."""
    if not is_url(path):
        try:
            return _content_state(path)
        except OSError:
            return ""
    try:
        info = ask(path, lambda fs: fs.info(path))
    except FileNotFoundError:
        return ""
    # A tag that follows from the content tells more than times do, which a copy changes.
    fields = ("ETag", "size") if info.get("ETag") else REMOTE_FIELDS
    told = {key: str(info[key]) for key in fields if info.get(key) is not None}
    return json.dumps(told, sort_keys=True)


def _content_state(path: str) -> str:
    """Hash both ends of a file, and some places between: not its time of change, which a copy loses."""
    size = os.stat(path).st_size
    state = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        for start in sorted({min(i * size // PLACES, max(0, size - ENDS)) for i in range(PLACES + 1)}):
            file.seek(start)
            state.update(file.read(ENDS))
    return f"{size} {state.hexdigest()}"
