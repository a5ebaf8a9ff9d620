"""What the readers of different file formats have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bigdecon.acquisition import UNKNOWN_OBJECTIVE, Channel, Objective
from bigdecon.errors import VolumeError
from bigdecon.volume import Crop, Source, Take

__all__ = ["ImageFile", "ImageInfo", "LevelInfo", "check_planes", "decoded_chunk_bytes"]

MAX_CHANNELS = 2**16
"""A hundred times the bands of a hyperspectral camera; every channel gets a name and a plan of its own."""
MAX_STACKS = 2**24
"""Channels times time points: a camera of 1000 images a second records four hours."""


@dataclass(frozen=True)
class LevelInfo:
    """One resolution level of an image file.

    Attributes
    ----------
    path : name of the level inside the file
    voxel_size_um : along every spatial axis, in micrometres; None where unknown
    translation_um : place of the first voxel's centre along every spatial axis, in micrometres;
        in voxels of this level where their size is unknown
    """

    path: str
    voxel_size_um: tuple[float, ...] | None
    translation_um: tuple[float, ...]


@dataclass(frozen=True)
class ImageInfo:
    """What an image file says about itself.

    Attributes
    ----------
    location : absolute path or URL
    format : name and version of the format, for people
    axes : one letter an axis, from "tczyx" in this order
    levels : from fine to coarse
    channels : names and colours as far as the file has them; fewer than the channels where it has not
    name : of the image
    time_step : interval between time points in `time_unit`; None where unknown
    time_unit : full name of a unit of time
    notes : sentences about what was assumed or left out
    objective : that took the image, as far as the file tells
    """

    location: str
    format: str
    axes: str
    levels: tuple[LevelInfo, ...]
    channels: tuple[Channel, ...] = ()
    name: str = ""
    time_step: float | None = None
    time_unit: str = "second"
    notes: tuple[str, ...] = ()
    objective: Objective = UNKNOWN_OBJECTIVE


class ImageFile(Protocol):
    """An image file that has been looked at, but whose voxels have not been read."""

    @property
    def info(self) -> ImageInfo:
        """What the file says about itself."""

    def source(self, level: int) -> Source:
        """Describe the array of one level, for reading."""


def check_planes(address: str, axes: str, shape: Sequence[int]) -> None:
    """Refuse more channels or time points than anything could list.

    Raises
    ------
    VolumeError
        if there are too many
    """
    extent = dict(zip(axes, shape, strict=True))
    channels, times = extent.get("c", 1), extent.get("t", 1)
    if channels > MAX_CHANNELS or channels * times > MAX_STACKS:
        raise VolumeError(
            f"{address} has {channels} channels and {times} time points; at most {MAX_CHANNELS} channels and "
            f"{MAX_STACKS} of both together are read: check its axes {axes} and its shape."
        )


def decoded_chunk_bytes(source: Source) -> int:
    """Give the memory that the smallest readable unit of a source takes once it is decoded, in bytes.

    A worker that reads even one voxel holds at least this much, whatever the size of its block: a plan
    compares it with the worker's memory. Crops and selections still read whole chunks of their source.
    """
    while isinstance(source, Crop | Take):
        source = source.source
    return math.prod(source.chunks) * source.dtype.itemsize
