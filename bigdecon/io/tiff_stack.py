"""A series of TIFF files as one image: a folder, or a pattern such as planes/*.tif."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigdecon.errors import ReadError, VolumeError
from bigdecon.io.image_file import ImageInfo, LevelInfo, check_planes
from bigdecon.io.image_paths import stack_files
from bigdecon.io.stack_names import StackNames, arrange_names
from bigdecon.io.tiff_source import TiffImage, TiffSource, open_tiff_image
from bigdecon.untrusted import reason
from bigdecon.volume import Box, Channel

__all__ = ["TiffStackImage", "TiffStackSource", "open_tiff_stack"]

FILES_TO_CHECK = 200
"""Files whose shape is looked at before the work starts; every file is looked at when it is read."""
SOURCES_KEPT = 2**14


@dataclass(frozen=True)
class TiffStackSource:
    """Files of one shape and type, one beside the other; read when it is sliced.

    Pickles to these few values: each process lists the files once, and refuses if they are others by then.

    Attributes
    ----------
    location : folder, or pattern
    order : axes of the numbers in the names, as told; None where the names tell
    digest : hash of the names
    file_axes : axes of each file
    axes : of all files together, in the order tczyx
    shape : extent of every axis, in voxels
    dtype : native-endian type of the values
    chunks : unit of reading
    """

    location: str
    order: str | None
    digest: str
    file_axes: str
    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]

    def __getitem__(self, selection: Box, /) -> NDArray[Any]:
        """Read the voxels of one slice (step 1) per axis.

        Raises
        ------
        ReadError
            if a file cannot be read, or is not like the others; the message says which one
        """
        bounds = [slice(*part.indices(n)[:2]) for part, n in zip(selection, self.shape, strict=True)]
        out = np.zeros([max(0, part.stop - part.start) for part in bounds], self.dtype)
        if out.size == 0:
            return out
        within = tuple(part for axis, part in zip(self.axes, bounds, strict=True) if axis in self.file_axes)
        ranges = [
            range(part.start, part.stop) if axis not in self.file_axes else (None,)
            for axis, part in zip(self.axes, bounds, strict=True)
        ]
        for index in itertools.product(*ranges):
            place = tuple(
                slice(None) if i is None else i - part.start for i, part in zip(index, bounds, strict=True)
            )
            out[place] = self._file(tuple(i for i in index if i is not None))[within]
        return out

    def file(self, index: tuple[int, ...]) -> str:
        """Give the path of the file at a place along the axes that the files make."""
        extents = [n for axis, n in zip(self.axes, self.shape, strict=True) if axis not in self.file_axes]
        number = 0
        for i, n in zip(index, extents, strict=True):
            number = number * n + i
        return _listed(self).names[number]

    def name(self, index: tuple[int, ...]) -> str:
        """Give the same path as seen from the folder that holds all files."""
        return os.path.relpath(self.file(index), _root(_listed(self).names))

    def _file(self, index: tuple[int, ...]) -> TiffSource:
        path = self.file(index)
        try:
            state = os.stat(path)
        except OSError as error:
            raise ReadError(
                f"{path} is gone ({reason(error)}); with it the same command continues."
            ) from error
        source = _file_source(path, (state.st_size, state.st_mtime_ns))
        expected = tuple(n for axis, n in zip(self.axes, self.shape, strict=True) if axis in self.file_axes)
        if (source.axes, source.shape, source.dtype) != (self.file_axes, expected, self.dtype):
            raise ReadError(
                f"{path} holds {source.dtype} of shape {source.shape}, and the other files {self.dtype} of "
                f"shape {expected}; all files of a series are alike."
            )
        return source


@lru_cache(maxsize=SOURCES_KEPT)
def _file_source(path: str, state: tuple[int, int]) -> TiffSource:
    """Look at a file, once a process and state (size and time of change)."""
    try:
        return open_tiff_image(path).sources[0]
    except VolumeError as error:
        raise ReadError(str(error)) from error


@lru_cache(maxsize=8)
def _listed(source: TiffStackSource) -> StackNames:
    """List the files of a source, once a process."""
    try:
        found = _arrange(source.location, source.file_axes, source.order)
    except VolumeError as error:
        raise ReadError(str(error)) from error
    if _digest(found.names) != source.digest:
        raise ReadError(
            f"the files of {source.location} are not those that were there when it was opened; "
            "put them back and the same command continues."
        )
    return found


@dataclass(frozen=True)
class TiffStackImage:
    """A series of TIFF files that has been looked at.

    Attributes
    ----------
    info : what the first file, and the names, say of the image
    stack : all files as one array
    """

    info: ImageInfo
    stack: TiffStackSource

    def source(self, level: int) -> TiffStackSource:
        """Describe the array; there is level 0 alone."""
        return self.stack


def open_tiff_stack(location: str, order: str | None = None) -> TiffImage | TiffStackImage:
    """Look at a series of TIFF files; one file alone is an image of its own.

    Parameters
    ----------
    location : folder, or pattern with * and ?
    order : axes of the numbers in the names, such as "tz"; told by the names if it is not given

    Raises
    ------
    VolumeError
        if there are no files, some are missing, or they are not alike
    OptionError
        if the names do not tell what their numbers mean
    """
    paths = stack_files(location)
    first = open_tiff_image(paths[0])
    if len(paths) == 1:
        return first
    names = _arrange(location, first.info.axes, order)
    first = open_tiff_image(names.names[0])
    image = _combine(location, order, names, first)
    every = max(1, len(names.names) // FILES_TO_CHECK)
    try:
        for number in {*range(0, len(names.names), every), len(names.names) - 1}:
            image.stack._file(tuple(int(i) for i in np.unravel_index(number, names.shape)))
    except ReadError as error:
        raise VolumeError(str(error)) from error
    return image


def _combine(location: str, order: str | None, names: StackNames, first: TiffImage) -> TiffStackImage:
    inner = first.sources[0]
    extent = dict(zip(names.axes, names.shape, strict=True)) | dict(zip(inner.axes, inner.shape, strict=True))
    chunk = dict(zip(inner.axes, inner.chunks, strict=True))
    axes = "".join(axis for axis in "tczyx" if axis in extent)
    shape = tuple(extent[axis] for axis in axes)
    chunks = tuple(chunk.get(axis, 1) for axis in axes)
    check_planes(location, axes, shape)
    dtype = inner.dtype
    source = TiffStackSource(location, order, _digest(names.names), inner.axes, axes, shape, dtype, chunks)
    return TiffStackImage(_describe(location, axes, names, first), source)


def _describe(location: str, axes: str, names: StackNames, first: TiffImage) -> ImageInfo:
    spatial = [axis for axis in axes if axis in "zyx"]
    sizes = dict(zip("zyx", first.size_um, strict=True))
    known = tuple(size for axis in spatial if (size := sizes[axis]) is not None)
    notes = [*names.notes, *first.info.notes]
    if 0 < len(known) < len(spatial):
        told = ", ".join(f"{axis} {sizes[axis]:g} µm" for axis in spatial if sizes[axis] is not None)
        notes.append(f"The files tell the voxel size along {told} alone; --voxel-size gives it whole.")
    level = LevelInfo("0", known if len(known) == len(spatial) else None, (0.0,) * len(spatial))
    channels = first.info.channels
    if names.channels:
        channels = tuple(Channel(name) for name in names.channels)
    return replace(
        first.info,
        location=location,
        format=f"{math.prod(names.shape)} files, {first.info.format}",
        axes=axes,
        levels=(level,),
        channels=channels,
        name="",
        time_step=first.time_step if "t" in axes else None,
        notes=tuple(notes),
    )


def _arrange(location: str, file_axes: str, order: str | None) -> StackNames:
    paths = stack_files(location)
    root = _root(paths)
    names = [os.path.relpath(path, root) for path in paths]
    found = arrange_names(names, location, file_axes, order)
    return replace(found, names=tuple(os.path.join(root, name) for name in found.names))


def _digest(names: tuple[str, ...]) -> str:
    """Hash the names as seen from the folder of all files: a copy of it elsewhere is the same."""
    root = _root(names)
    text = "\0".join(os.path.relpath(name, root) for name in names)
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _root(paths: Sequence[str]) -> str:
    return os.path.commonpath({os.path.dirname(path) for path in paths})
