"""Limits on what a TIFF file may claim of its voxels, and on what its strips and tiles may unpack to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigdecon.errors import VolumeError
from bigdecon.io.decompression import inflates_beyond
from bigdecon.io.zarr_metadata import MAX_ARRAY_BYTES, MAX_CHUNK_BYTES
from bigdecon.tiff_safety import decoders_are_bounded

__all__ = ["SegmentLimits", "check_extent"]

STORED_GROWTH = 2
"""How much larger a packed strip or tile may be than what it unpacks to."""
STORED_SLACK = 2**16
UNBOUNDED_BYTES = 2**29
"""512 MiB: data that cannot unpack to more are not measured first, which takes time."""
LZMA = 34925
WORST_RATIO = {8: 1032, 32946: 1032, 50013: 1032, LZMA: 7000}
"""Of decoders that know no bound, by the number of the compression: the size of a result over that of the
data. Deflate's is a property of the format; lzma's the largest seen."""


@dataclass(frozen=True)
class SegmentLimits:
    """What may be read for one strip or tile (a segment), and what it may unpack to.

    Attributes
    ----------
    unpacked : bytes of a whole segment
    compression : number of the compression in the TIFF standard
    harmless : bytes of data that cannot unpack to too much; None where the decoder stops by itself
    """

    unpacked: int
    compression: int
    harmless: int | None

    @classmethod
    def of(cls, page: Any) -> SegmentLimits:
        """Take the limits from a page of an open `tifffile.TiffFile`."""
        unpacked, compression = _segment_bytes(page), int(page.compression)
        ratio = 0 if decoders_are_bounded() else WORST_RATIO.get(compression, 0)
        return cls(unpacked, compression, max(unpacked, UNBOUNDED_BYTES) // ratio if ratio else None)

    @property
    def largest_stored(self) -> int:
        """Largest segment in the file, in bytes."""
        return STORED_GROWTH * self.unpacked + STORED_SLACK

    def check(self, data: bytes) -> None:
        """Refuse a segment that would unpack to more than its size.

        Raises
        ------
        ValueError
            if it would
        """
        if self.harmless is None or len(data) <= self.harmless:
            return
        if inflates_beyond(data, self.unpacked + STORED_SLACK, as_lzma=self.compression == LZMA):
            raise ValueError(f"it would unpack to more than the {self.unpacked} bytes of a strip or tile")


def _segment_bytes(page: Any) -> int:
    """Give what one strip or tile of a page unpacks to, in bytes."""
    if page.is_tiled:
        return int(page.tilelength) * int(page.tilewidth) * int(page.dtype.itemsize)
    return (
        min(int(page.rowsperstrip), int(page.imagelength)) * int(page.imagewidth) * int(page.dtype.itemsize)
    )


def check_extent(
    location: str, shape: tuple[int, ...], dtype: np.dtype[Any], page: Any, offset: int | None
) -> None:
    """Refuse a size that cannot be true, or a strip or tile that no memory holds.

    Parameters
    ----------
    location : path or URL, for messages
    shape : extent of every axis, in voxels
    dtype : type of the values
    page : the first, of an open `tifffile.TiffFile`
    offset : byte where the voxels lie in one piece; None where they are packed

    Raises
    ------
    VolumeError
        if it is one of these
    """
    size = math.prod(shape) * dtype.itemsize
    if min(shape) < 1 or size > MAX_ARRAY_BYTES:
        raise VolumeError(f"{location} claims the shape {shape}, which cannot be true.")
    there = int(page.parent.filehandle.size)
    if offset is not None and offset + size > there:
        raise VolumeError(
            f"{location} is cut short: its shape {shape} of {dtype} takes {size} bytes from byte {offset} "
            f"on, but the file ends at {there}; copy it again."
        )
    if offset is None and _segment_bytes(page) > MAX_CHUNK_BYTES:
        raise VolumeError(
            f"{location} is packed in strips or tiles of {_segment_bytes(page) / 2**30:.3g} GiB, and at most "
            f"{MAX_CHUNK_BYTES >> 30} GiB can be unpacked at once; save it as OME-Zarr."
        )
