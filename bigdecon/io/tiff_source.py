"""TIFF files as sources of voxels, read in place: rows of plain files, strips or tiles of packed ones."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bigdecon.errors import ReadError, VolumeError
from bigdecon.io.image_file import ImageInfo, LevelInfo, check_planes
from bigdecon.io.stores import is_url
from bigdecon.io.tiff_axes import known_axes
from bigdecon.io.tiff_limits import check_extent
from bigdecon.io.tiff_metadata import TiffMetadata, read_tiff_metadata
from bigdecon.io.tiff_pages import PackedPages, TiffSeries, open_binary, packed_pages, parse_tiff
from bigdecon.tiff_safety import open_quietly
from bigdecon.untrusted import reason
from bigdecon.volume import Box

__all__ = ["TiffImage", "TiffSource", "open_tiff_image"]


class PlainData(NamedTuple):
    """Where uncompressed voxels lie in one piece: byte offset, and type as stored."""

    offset: int
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class TiffSource:
    """One image of a TIFF file, read when it is sliced; the file is open only while it is being read.

    Attributes
    ----------
    location : local path or URL
    series : index of the image in the file; the first is taken
    level : resolution level, for pyramidal files
    file_axes : letters of the axes as the file stores them
    axes : letters as this source gives them, in the order tczyx
    shape : extent of every axis, in voxels
    dtype : native-endian type of the values
    chunks : unit of reading
    plain : place of the voxels, where they lie uncompressed in one piece
    """

    location: str
    series: int
    level: int
    file_axes: str
    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    plain: PlainData | None = None

    @property
    def decoded(self) -> tuple[int, ...]:
        """What is read for a single voxel: a row where voxels lie uncompressed in one piece, else a chunk."""
        return (*(1,) * (len(self.shape) - 1), self.shape[-1]) if self.plain else self.chunks

    def __getitem__(self, selection: Box, /) -> NDArray[Any]:
        """Read the voxels of one slice (step 1) per axis.

        Raises
        ------
        ReadError
            if a plane cannot be read or decoded; the message says which one
        """
        ranges = [range(*part.indices(size)[:2]) for part, size in zip(selection, self.shape, strict=True)]
        out = np.zeros([len(r) for r in ranges], self.dtype)
        if out.size == 0:
            return out
        lead, (rows, columns) = ranges[:-2], ranges[-2:]
        with _plane_reader(self) as read_plane:
            for index in itertools.product(*lead):
                place = tuple(i - r.start for i, r in zip(index, lead, strict=True))
                self._read_into(out[place], read_plane, index, rows, columns)
        return out

    def _read_into(
        self, out: NDArray[Any], read_plane: Any, index: tuple[int, ...], rows: range, columns: range
    ) -> None:
        try:
            read_plane(self._plane_number(index), rows, columns, out)
        except Exception as error:
            plane = ", ".join(f"{axis}={i}" for axis, i in zip(self.axes, index, strict=False)) or "0"
            raise ReadError(
                f"plane {plane} of {self.location} cannot be read ({reason(error)}): "
                "the file is damaged or out of reach; with a sound copy the same command continues."
            ) from error

    def _plane_number(self, index: tuple[int, ...]) -> int:
        """Give the position of a plane in the file, whose axes may be in another order."""
        at = dict(zip(self.axes, index, strict=False))
        extent = dict(zip(self.axes, self.shape, strict=True))
        number = 0
        for axis in self.file_axes[:-2]:
            number = number * extent[axis] + at[axis]
        return number


@contextmanager
def _plane_reader(source: TiffSource) -> Iterator[Any]:
    """Give a function (plane number, rows, columns, out) that fills `out`."""
    if source.plain is None:
        yield _packed_pages(source).read_plane
        return
    try:
        handle = open_binary(source.location)
    except Exception as error:
        raise ReadError(f"{source.location} cannot be opened any more ({error}).") from error
    with handle:
        yield _PlainPlanes(source, source.plain, handle).read_plane


def _packed_pages(source: TiffSource) -> PackedPages:
    extent = dict(zip(source.axes, source.shape, strict=True))
    shape = tuple(extent[axis] for axis in source.file_axes)
    return packed_pages(TiffSeries(source.location, source.series, source.level, shape, source.dtype))


class _PlainPlanes:
    """Reads whole rows straight from the file and keeps the columns asked for."""

    def __init__(self, source: TiffSource, plain: PlainData, handle: Any) -> None:
        self.height, self.width = source.shape[-2:]
        self.plain = plain
        self.handle = handle

    def read_plane(self, number: int, rows: range, columns: range, out: NDArray[Any]) -> None:
        row_bytes = self.width * self.plain.dtype.itemsize
        wanted = len(rows) * row_bytes
        self.handle.seek(self.plain.offset + (number * self.height + rows.start) * row_bytes)
        buffer = bytearray()
        while len(buffer) < wanted:
            piece = self.handle.read(wanted - len(buffer))
            if not piece:
                raise EOFError(f"the file ends {wanted - len(buffer)} bytes too early")
            buffer += piece
        data = np.frombuffer(buffer, self.plain.dtype).reshape(len(rows), self.width)
        out[...] = data[:, columns.start : columns.stop]


@dataclass(frozen=True)
class TiffImage:
    """A TIFF file whose metadata has been read.

    Attributes
    ----------
    info : what the file says about itself
    sources : one for each level
    size_um : of a voxel along z, y and x in micrometres, as far as the file tells, which may be less or more
        than its axes
    time_step : interval between time points, whether or not there are several in this file
    """

    info: ImageInfo
    sources: tuple[TiffSource, ...]
    size_um: tuple[float | None, float | None, float | None] = (None, None, None)
    time_step: float | None = None

    def source(self, level: int) -> TiffSource:
        """Describe the array of one level."""
        return self.sources[level]


def open_tiff_image(location: str) -> TiffImage:
    """Look at a TIFF, OME-TIFF or ImageJ TIFF file; the first image in it is taken.

    Raises
    ------
    VolumeError
        if it is missing, no TIFF, in colour, or has axes that make no image
    """
    with parse_tiff(location) as tiff, open_quietly():
        try:
            series = tiff.series[0]
            metadata = read_tiff_metadata(tiff, series)
            described = (_describe(location, s, i) for i, s in enumerate(series.levels))
            sources = tuple(_with_axes(source, metadata.axes) for source in described)
            if is_url(location):  # some servers only send whole files: find out now
                sources[0][tuple(slice(n - 1, n) for n in sources[0].shape)]
        except VolumeError:
            raise
        except Exception as error:
            raise VolumeError(f"{location} is damaged or no image ({reason(error)}).") from error
        n_images = len(tiff.series)
        notes = (f"The file holds {n_images} images; the first is taken.",) if n_images > 1 else ()
        kind = {"ome": "OME-TIFF", "imagej": "ImageJ TIFF"}.get(series.kind, "TIFF")
    info = _info(location, kind, metadata, sources, notes)
    return TiffImage(info, sources, metadata.size_um, metadata.time_step)


def _info(
    location: str, kind: str, metadata: TiffMetadata, sources: tuple[TiffSource, ...], notes: tuple[str, ...]
) -> ImageInfo:
    axes = sources[0].axes
    n_spatial = sum(axis in "zyx" for axis in axes)
    sizes = metadata.size_um[-n_spatial:]
    known = tuple(size for size in sizes if size is not None)
    levels = []
    for source in sources:
        ratio = [full / size for full, size in zip(sources[0].shape, source.shape, strict=True)][-n_spatial:]
        size_um = tuple(s * r for s, r in zip(known, ratio, strict=True)) if len(known) == n_spatial else None
        origin = metadata.origin if len(metadata.origin) == n_spatial else (0.0,) * n_spatial
        step = known if size_um is not None else (1.0,) * n_spatial
        shift = tuple(o + (r - 1) / 2 * s for o, s, r in zip(origin, step, ratio, strict=True))
        if size_um is None:  # the shift is in voxels of this level then
            shift = tuple(s / r for s, r in zip(shift, ratio, strict=True))
        levels.append(LevelInfo(str(source.level), size_um, shift))
    name, step_t = os.path.basename(location), metadata.time_step if "t" in axes else None
    about = (step_t, metadata.time_unit, notes, metadata.objective)
    return ImageInfo(location, kind, axes, tuple(levels), metadata.channels, name, *about)


def _describe(location: str, series: Any, level: int) -> TiffSource:
    file_axes = known_axes(location, series)
    extent = dict(zip(file_axes, series.shape, strict=True))
    axes = "".join(axis for axis in "tczyx" if axis in extent)
    shape = tuple(int(extent[axis]) for axis in axes)
    dtype = np.dtype(series.dtype)
    if dtype.kind not in "uif":
        raise VolumeError(
            f"{location} holds values of type {dtype}; an image holds integers or real numbers."
        )
    page = series.keyframe
    check_planes(location, axes, shape)
    check_extent(location, shape, dtype, page, None if series.dataoffset is None else int(series.dataoffset))
    plain = None
    if series.dataoffset is not None:
        plain = PlainData(int(series.dataoffset), dtype.newbyteorder(page.parent.byteorder))
    elif series.transform is not None or page.imagedepth > 1 or page.samplesperpixel > 1:
        raise VolumeError(
            f"{location} packs its voxels in a way that cannot be read here; save it as OME-TIFF."
        )
    else:
        _try_to_decode(location, page)
    tile = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, shape[-1])
    unit = shape[-2:] if plain else tuple(min(t, n) for t, n in zip(tile, shape[-2:], strict=True))
    chunks = (*(1,) * (len(shape) - 2), *unit)
    return TiffSource(location, 0, level, file_axes, axes, shape, dtype.newbyteorder("="), chunks, plain)


def _with_axes(source: TiffSource, axes: str) -> TiffSource:
    """Give a source axes of one voxel that tifffile leaves out, where the file says that they are there."""
    if not set(source.axes) < set(axes):
        return source
    extent = dict(zip(source.axes, source.shape, strict=True))
    chunk = dict(zip(source.axes, source.chunks, strict=True))
    shape, chunks = tuple(extent.get(a, 1) for a in axes), tuple(chunk.get(a, 1) for a in axes)
    return replace(source, axes=axes, shape=shape, chunks=chunks)


def _try_to_decode(location: str, page: Any) -> None:
    """Find out before the work starts whether a decoder for the compression is installed."""
    try:
        page.decode(None, 0)
    except Exception as error:
        raise VolumeError(
            f"{location} is compressed in a way that cannot be read here ({reason(error)}); "
            "install the package imagecodecs, or save the image uncompressed or as OME-Zarr."
        ) from error
