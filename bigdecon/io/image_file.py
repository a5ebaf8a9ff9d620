"""What the readers of different file formats have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bigdecon.volume import Channel, Source

__all__ = ["ImageFile", "ImageInfo", "LevelInfo"]


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


class ImageFile(Protocol):
    """An image file that has been looked at, but whose voxels have not been read."""

    @property
    def info(self) -> ImageInfo:
        """What the file says about itself."""

    def source(self, level: int) -> Source:
        """Describe the array of one level, for reading."""
