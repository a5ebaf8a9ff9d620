"""Open images of any supported format as volumes; nothing is read before it is asked for."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bigdecon.acquisition import UNKNOWN_OBJECTIVE, Channel, Objective
from bigdecon.addresses import shown_url
from bigdecon.errors import OptionError, VolumeError
from bigdecon.io.image_file import ImageFile, ImageInfo
from bigdecon.io.image_paths import TIFF_ENDINGS, check_image_path, is_pattern, is_tiff_folder
from bigdecon.io.stores import is_url, resolve
from bigdecon.io.tiff_source import open_tiff_image
from bigdecon.io.tiff_stack import open_tiff_stack
from bigdecon.io.zarr_image import open_zarr_image
from bigdecon.io.zarr_source import ZarrSource
from bigdecon.volume import Box, Source, Volume

__all__ = [
    "ChannelChoice",
    "LevelSummary",
    "VolumeSummary",
    "choose_channels",
    "inspect_volume",
    "open_volume",
    "parse_roi",
]

ChannelChoice = int | str | Sequence[int | str]
"""One channel or several, by index from 0 or by name."""

FILES_TO_COUNT = 20_000


def open_volume(
    path: str | os.PathLike[str],
    *,
    level: int = 0,
    channel: ChannelChoice | None = None,
    timepoint: int | None = None,
    voxel_size_um: Sequence[float] | None = None,
    follow_links: bool = False,
    stack: str | None = None,
) -> Volume:
    """Open an OME-Zarr, plain Zarr, TIFF, OME-TIFF or ImageJ TIFF image, or a series of TIFFs, lazily.

    Parameters
    ----------
    path : local path, or http(s):// or s3:// address (S3 without credentials is read anonymously); for a
        series of TIFF files their folder, or a pattern such as "planes/*.tif"
    level : resolution level, 0 the finest
    channel : which channels to keep, by index from 0 or by name; all by default. The axis stays.
    timepoint : which time point to keep, from 0; all by default. The axis stays.
    voxel_size_um : size along the spatial axes (z, y, x or y, x), in micrometres, at this level;
        goes before what the file says
    follow_links : whether links inside a local Zarr store may lead out of it; the store itself may always
        be reached by one
    stack : for a series of files, what the numbers in their names mean, in their order: t, c or z each, such
        as "tz"; told by the names if it is not given

    Raises
    ------
    VolumeError
        if there is no readable image, or no such level, channel or time point
    OptionError
        if the names of a series do not tell what their numbers mean
    """
    image = open_image(path, follow_links=follow_links, stack=stack)
    info = image.info
    if not 0 <= level < len(info.levels):
        raise VolumeError(
            f"{info.location} has no level {level}; it has {_count(len(info.levels), 'level')} (from 0)."
        )
    source = image.source(level)
    size_um, shift = info.levels[level].voxel_size_um, info.levels[level].translation_um
    if voxel_size_um is not None:
        given = _checked_size(voxel_size_um, info)
        if size_um is None:  # the shift is in voxels then
            shift = tuple(n * step for n, step in zip(shift, given, strict=True))
        size_um = given
    volume = Volume(
        source=source,
        axes=info.axes,
        voxel_size_um=size_um,
        translation_um=shift,
        channels=_channels(info, source),
        name=info.name or os.path.basename(shown_url(info.location)),
        location=info.location,
        time_step=info.time_step,
        time_unit=info.time_unit,
        objective=info.objective,
    )
    return _select(volume, channel, timepoint)


def open_image(
    path: str | os.PathLike[str], *, follow_links: bool = False, stack: str | None = None
) -> ImageFile:
    """Find out what kind of image lies at a path or URL and read its metadata.

    Raises
    ------
    VolumeError
        if there is nothing, or no image
    """
    location = resolve(path)
    if is_url(location):
        is_tiff = urlsplit(location).path.lower().endswith(TIFF_ENDINGS)
        return open_tiff_image(location) if is_tiff else open_zarr_image(location)
    if is_pattern(location):
        return open_tiff_stack(location, stack)
    check_image_path(location)
    if os.path.isdir(location):
        if os.access(location, os.R_OK) and is_tiff_folder(location):
            return open_tiff_stack(location, stack)
        return open_zarr_image(location, follow_links=follow_links)
    if os.path.basename(location) in ("zarr.json", ".zattrs", ".zgroup", ".zarray"):
        return open_zarr_image(os.path.dirname(location), follow_links=follow_links)
    return open_tiff_image(location)


def parse_roi(text: str, axes: str) -> Box:
    """Read a region of interest, "z0:z1,y0:y1,x0:x1"; a bound that is left out is the image's edge.

    Raises
    ------
    OptionError
        if it is not of that form
    """
    parts = [part.split(":") for part in text.split(",")]
    try:
        bounds = [tuple(int(b) if b.strip() else None for b in part) for part in parts]
        if len(bounds) != len(axes) or any(len(b) != 2 for b in bounds):
            raise ValueError
    except ValueError:
        form = ",".join(f"{axis}0:{axis}1" for axis in axes)
        raise OptionError(
            f"the ROI {text!r} is not understood; give {form} in voxels, counted from 0."
        ) from None
    return tuple(slice(*b) for b in bounds)


def choose_channels(typed: Sequence[str]) -> ChannelChoice | None:
    """Turn channels as typed, names or indices, into a choice; none means all."""
    return [int(c) if c.isdecimal() else c for c in typed] or None


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _checked_size(voxel_size_um: Sequence[float], info: ImageInfo) -> tuple[float, ...]:
    axes = "".join(axis for axis in info.axes if axis in "zyx")
    size = tuple(float(v) for v in voxel_size_um)
    if len(size) == 3 and axes == "yx":  # the command line's form, whose z means nothing here
        size = size[1:]
    if len(size) != len(axes) or not all(math.isfinite(v) and v > 0 for v in size):
        raise VolumeError(
            f"the voxel size {' '.join(f'{v:g}' for v in size)} does not fit {info.location}: "
            f"it takes {len(axes)} numbers above 0, one for each of {', '.join(axes)}, in micrometres."
        )
    return size


def _channels(info: ImageInfo, source: Source) -> tuple[Channel, ...]:
    """Name every channel: by the file, else by its index."""
    n = source.shape[info.axes.index("c")] if "c" in info.axes else 1
    if "c" not in info.axes and not info.channels:
        return (Channel(""),)
    return (*info.channels[:n], *(Channel(f"channel {i}") for i in range(len(info.channels), n)))


def _select(volume: Volume, channel: ChannelChoice | None, timepoint: int | None) -> Volume:
    if timepoint is not None and not 0 <= timepoint < volume.n_timepoints:
        raise VolumeError(
            f"{volume.location} has no time point {timepoint}; "
            f"it has {_count(volume.n_timepoints, 'time point')} (from 0)."
        )
    chosen = None
    if channel is not None:
        wanted = [channel] if isinstance(channel, int | str) else list(channel)
        chosen = [_channel_index(volume, one) for one in wanted] or None
    if chosen is None and timepoint is None:
        return volume
    return volume.select(channels=chosen, timepoint=timepoint)


def _channel_index(volume: Volume, wanted: int | str) -> int:
    """Find a channel by name, else by index (a number in a text counts as an index)."""
    names = [channel.name for channel in volume.channels]
    if isinstance(wanted, str) and names.count(wanted) == 1:
        return names.index(wanted)
    try:
        index = int(wanted)
    except ValueError:
        index = -1
    if 0 <= index < len(names) and not (isinstance(wanted, str) and wanted in names):
        return index
    listed = ", ".join(f"{i} {name!r}" if name else str(i) for i, name in enumerate(names))
    problem = "more than one channel" if names.count(str(wanted)) > 1 else "no channel"
    raise VolumeError(f"{volume.location} has {problem} {wanted!r}; its channels are {listed}.")


@dataclass(frozen=True)
class LevelSummary:
    """One resolution level, for people.

    Attributes
    ----------
    path : name of the level inside the file
    shape, chunks, shards : one entry an axis, in voxels; no shards where chunks are single files
    dtype : type of the values
    voxel_size_um : along the spatial axes, in micrometres; None where unknown
    translation_um : place of the first voxel's centre, in micrometres
    """

    path: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    dtype: str
    voxel_size_um: tuple[float, ...] | None
    translation_um: tuple[float, ...]


@dataclass(frozen=True)
class VolumeSummary:
    """What `bigdecon info` shows.

    Attributes
    ----------
    location : absolute path or URL
    format : name and version of the format
    axes : one letter an axis
    levels : from fine to coarse
    channels : names and colours
    time_step : interval between time points in `time_unit`; None where unknown
    time_unit : full name of a unit of time
    stored_bytes : size on disk; None for URLs and very many files
    voxel_bytes : size of the finest level in memory
    notes : sentences about what was assumed or left out
    objective : that took the image, as far as the file tells
    """

    location: str
    format: str
    axes: str
    levels: tuple[LevelSummary, ...]
    channels: tuple[Channel, ...]
    time_step: float | None
    time_unit: str
    stored_bytes: int | None
    voxel_bytes: int
    notes: tuple[str, ...]
    objective: Objective = UNKNOWN_OBJECTIVE

    def as_dict(self) -> dict[str, Any]:
        """Give plain JSON types."""
        return asdict(self)


def inspect_volume(
    path: str | os.PathLike[str], *, follow_links: bool = False, stack: str | None = None
) -> VolumeSummary:
    """Read an image's metadata, and no voxels; parameters as for `open_volume`.

    Raises
    ------
    VolumeError
        if there is no readable image
    """
    image = open_image(path, follow_links=follow_links, stack=stack)
    info = image.info
    sources = [image.source(i) for i in range(len(info.levels))]
    levels = tuple(
        LevelSummary(
            level.path,
            source.shape,
            source.chunks,
            source.shards if isinstance(source, ZarrSource) else None,
            str(source.dtype),
            level.voxel_size_um,
            level.translation_um,
        )
        for level, source in zip(info.levels, sources, strict=True)
    )
    return VolumeSummary(
        location=shown_url(info.location),
        format=info.format,
        axes=info.axes,
        levels=levels,
        channels=_channels(info, sources[0]),
        time_step=info.time_step,
        time_unit=info.time_unit,
        stored_bytes=_stored_bytes(info.location),
        voxel_bytes=math.prod(sources[0].shape) * sources[0].dtype.itemsize,
        notes=(*info.notes, *_oddities(levels)),
        objective=info.objective,
    )


def _oddities(levels: Sequence[LevelSummary]) -> list[str]:
    """Say what is strange about a pyramid; each level can be read all the same."""
    found = []
    for index, (finer, coarser) in enumerate(pairwise(levels)):
        if any(c > f for f, c in zip(finer.shape, coarser.shape, strict=True)):
            found.append(f"Level {index + 1} is larger than level {index}.")
        if finer.dtype != coarser.dtype:
            found.append(f"Level {index + 1} holds {coarser.dtype}, level {index} {finer.dtype}.")
    return found


def _stored_bytes(location: str) -> int | None:
    """Add up the sizes of the files; None for URLs, and where there are too many to look at."""
    if is_url(location):
        return None
    root = Path(location)
    if root.is_file():
        return root.stat().st_size
    if not root.is_dir():  # a pattern
        return None
    total, count = 0, 0
    for folder, _, names in os.walk(root):
        count += len(names)
        if count > FILES_TO_COUNT:
            return None
        try:
            total += sum(os.stat(os.path.join(folder, name)).st_size for name in names)
        except OSError:  # a link to nothing, or a part that may not be looked at
            return None
    return total
