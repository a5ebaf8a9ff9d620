"""The pages of a TIFF file: opened with care, and decoded strip by strip or tile by tile.

What was found out about a file is kept for its size and time of change: a file that has been replaced is
looked through again, and refused if its image is another kind.
"""

from __future__ import annotations

import os
import threading
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray

from bigdecon.errors import ReadError, VolumeError
from bigdecon.io.remote_file import RemoteFile
from bigdecon.io.stores import is_url
from bigdecon.io.tiff_limits import SegmentLimits
from bigdecon.tiff_safety import check_ome_xml, check_pages, open_quietly, why_no_tiff
from bigdecon.untrusted import check_regular, reason

__all__ = ["PackedPages", "TiffSeries", "open_binary", "packed_pages", "parse_tiff"]


class TiffSeries(NamedTuple):
    """One image of a TIFF file, as it was when it was first looked at.

    Attributes
    ----------
    location : local path or URL
    series, level : which image of the file, and which resolution level of it
    shape : extent of every axis of the file, in voxels
    dtype : native-endian type of the values
    """

    location: str
    series: int
    level: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class _Version(NamedTuple):
    """What tells a file from one that has replaced it; size -1 behind a URL, where the file stays open."""

    size: int
    changed_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> _Version:
        """Take it from what the file system tells."""
        return cls(found.st_size, found.st_mtime_ns)


def open_binary(location: str) -> Any:
    """Open a file or URL for reading bytes, without a buffer."""
    if is_url(location):
        return RemoteFile(location)
    return open(location, "rb", buffering=0)


class PackedPages:
    """The pages of a compressed or scattered file; the handle is closed between reads.

    Bytes are read under a lock (a file handle has one position), decoded outside it. Pages may lie in several
    files (OME-TIFF); `outdated` tells that one of them was replaced, and all are to be looked through again.

    Raises
    ------
    VolumeError
        if the file cannot be opened
    ReadError
        if its image is no longer the one that is expected
    """

    def __init__(self, wanted: TiffSeries, version: _Version) -> None:
        self.lock = threading.Lock()
        self.outdated = False
        self.stays_open = is_url(wanted.location)  # a connection cannot be opened again, a file can
        tiff = parse_tiff(wanted.location)
        try:
            self.series = _expected(tiff, wanted)
            self.versions = {} if self.stays_open else _versions(tiff, self.series, version)
        finally:
            if not self.stays_open:
                tiff.close()
        self.keyframe = self.series.keyframe
        self.limits = SegmentLimits.of(self.keyframe)

    def read_plane(self, number: int, rows: range, columns: range, out: NDArray[Any]) -> None:
        """Decode a rectangle of one plane into `out`."""
        for segment, data in self._raw_segments(number, rows, columns):
            self.limits.check(data)
            decoded, (_, _, y, x, _), (_, height, width, _) = self.keyframe.decode(data, segment)
            if decoded is None:
                continue
            y0, y1 = max(y, rows.start), min(y + height, rows.stop)
            x0, x1 = max(x, columns.start), min(x + width, columns.stop)
            if y0 < y1 and x0 < x1:
                part = decoded[0, y0 - y : y1 - y, x0 - x : x1 - x, 0]
                out[y0 - rows.start : y1 - rows.start, x0 - columns.start : x1 - columns.start] = part

    def _raw_segments(self, number: int, rows: range, columns: range) -> list[tuple[int, bytes]]:
        with self.lock:
            page = self.series[number]
            if page is None:
                return []
            handle = page.parent.filehandle
            if not self.stays_open:
                handle.open()
            try:
                if not self.stays_open:
                    self._check_version(handle)
                offsets, counts = page.dataoffsets, page.databytecounts
                chosen = [i for i in self._segments_in(rows, columns) if i < len(offsets) and counts[i]]
                largest = self.limits.largest_stored
                return [(i, _read_exactly(handle, offsets[i], counts[i], largest)) for i in chosen]
            finally:
                if not self.stays_open:
                    handle.close()

    def _check_version(self, handle: Any) -> None:
        """Refuse a file that was replaced since its pages were looked up: they lie elsewhere now."""
        if _Version.of(os.fstat(handle._fh.fileno())) != self.versions[handle.path]:
            self.outdated = True
            raise ValueError("it was changed while it was being read")

    def _segments_in(self, rows: range, columns: range) -> list[int]:
        """List the strips or tiles that a rectangle touches."""
        page = self.keyframe
        if not page.is_tiled:
            step = page.rowsperstrip
            return list(range(rows.start // step, (rows.stop - 1) // step + 1))
        across = -(-page.imagewidth // page.tilewidth)
        return [
            i * across + j
            for i in range(rows.start // page.tilelength, (rows.stop - 1) // page.tilelength + 1)
            for j in range(columns.start // page.tilewidth, (columns.stop - 1) // page.tilewidth + 1)
        ]


def _read_exactly(handle: Any, offset: int, count: int, largest: int) -> bytes:
    if count > largest:
        raise ValueError(f"a strip or tile claims {count} bytes, and at most {largest} are expected")
    handle.seek(offset)
    data: bytes = handle.read(count)
    if len(data) != count:
        raise EOFError(f"the file ends {count - len(data)} bytes too early")
    return data


def _expected(tiff: Any, wanted: TiffSeries) -> Any:
    try:
        found = tiff.series[wanted.series].levels[wanted.level]
        same = tuple(found.shape) == wanted.shape and np.dtype(found.dtype).newbyteorder("=") == wanted.dtype
    except IndexError:
        same = False
    if not same:
        raise ReadError(
            f"{wanted.location} no longer holds the image for which it was opened: it was replaced or cut "
            "short; with the first file in its place the same command continues."
        )
    return found


def _versions(tiff: Any, series: Any, version: _Version) -> dict[str, _Version]:
    """Give the version of every file that an image lies in, by its path; that of the first is known."""
    known = {tiff.filehandle.path: version}
    if series.is_multifile:
        paths = {page.parent.filehandle.path for page in series if page is not None}
        known |= {path: _Version.of(os.stat(path)) for path in paths - known.keys()}
    return known


def packed_pages(wanted: TiffSeries) -> PackedPages:
    """Look through a file, once in a process as long as the file stays as it is.

    Raises
    ------
    ReadError
        if it cannot be opened any more, or holds another image now
    """
    version = _Version(-1, 0)
    try:
        if not is_url(wanted.location):
            version = _Version.of(os.stat(wanted.location))
        found = _looked_through(wanted, version, os.getpid())
        if found.outdated:  # a further file of the image was replaced, and the first one is as it was
            _looked_through.cache_clear()
            found = _looked_through(wanted, version, os.getpid())
        return found
    except OSError as error:
        raise ReadError(f"{wanted.location} cannot be opened any more ({reason(error)}).") from error
    except VolumeError as error:
        raise ReadError(str(error)) from error


@lru_cache(maxsize=16)
def _looked_through(wanted: TiffSeries, version: _Version, pid: int) -> PackedPages:
    return PackedPages(wanted, version)


def parse_tiff(location: str) -> Any:
    """Open a TIFF file; the caller closes it.

    Raises
    ------
    VolumeError
        if it is missing, unreadable or no TIFF
    """
    try:
        return _parse_checked(location)
    except (OSError, ReadError) as error:
        raise VolumeError(f"{location} cannot be opened ({reason(error)}).") from error
    except Exception as error:
        raise VolumeError(
            f"{location} cannot be read as an image: {why_no_tiff(location, error)}."
        ) from error


def _parse_checked(location: str) -> Any:
    remote = is_url(location)
    if not remote:
        check_regular(location)
    with open_quietly():
        handle = open_binary(location) if remote else location
        tiff = tifffile.TiffFile(handle)
        try:
            check_pages(tiff)
            check_ome_xml(tiff.ome_metadata, None if remote else os.path.dirname(location))
            loose = _is_loose_stack(tiff)
        except BaseException:
            tiff.close()
            raise
        if loose:
            tiff.close()
            tiff = tifffile.TiffFile(handle, is_shaped=False)
    return tiff


def _is_loose_stack(tiff: Any) -> bool:
    """Whether planes of one shape and type were added to a file one by one: they make one stack."""
    kinds = {(s.kind, s.axes, s.shape, s.dtype) for s in tiff.series}
    return len(tiff.series) > 1 and len(kinds) == 1 and next(iter(kinds))[:2] == ("shaped", "YX")
