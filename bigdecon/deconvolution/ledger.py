"""Ledger: the record on disk of what has been written.

    ledger/                       one folder for one output
        lease.json                who is writing now; see lease.py
        3f/                       256 subfolders, chosen by a hash of the file name
            l0.t0.c0.0-256.0-512.0-512.json      one immutable object a finished region

A region is entered after its shards are on disk, by writing a temporary file beside the final name
and renaming it. An entry is therefore whole or absent; entering a region twice (a task that ran
twice) replaces an object by an equal one. No file is ever appended to or locked, so local disks,
NFS, Lustre and object stores all serve. In an object store an entry is one put, and the whole ledger is
one listing in pages with many small reads at a time, most of them spared by ledger_summary.py.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from bigdecon.deconvolution.lease import Lease
from bigdecon.deconvolution.ledger_summary import read_entries
from bigdecon.errors import OutputError, WriteError
from bigdecon.storage import places
from bigdecon.storage.durable import TEMPORARY
from bigdecon.storage.object_path import ObjectPath
from bigdecon.storage.places import Place
from bigdecon.storage.servers import ServerFailure
from bigdecon.untrusted import is_whole, parse_json, shown
from bigdecon.volume import Box

__all__ = ["Extent", "Fault", "Ignored", "Lease", "Ledger", "LedgerScan", "RegionKey", "RegionRecord"]

FORMAT = "bigdecon-ledger"
VERSION = 3
"""Version 1 knew no blocks that could not be restored, version 2 no digests but BLAKE2b; both are read."""
READABLE = (1, 2, 3)
READERS = 8


class Extent(NamedTuple):
    """A box that can be a key: its first voxel, and the one after its last, per spatial axis."""

    start: tuple[int, ...]
    stop: tuple[int, ...]

    @classmethod
    def from_box(cls, box: Box) -> Extent:
        """Take the bounds of slices with explicit start and stop."""
        return cls(tuple(part.start for part in box), tuple(part.stop for part in box))

    @property
    def box(self) -> Box:
        """The same as slices."""
        return tuple(slice(start, stop) for start, stop in zip(self.start, self.stop, strict=True))


class RegionKey(NamedTuple):
    """Which region of the output: resolution level, time point, channel, and its box in voxels.

    `start` and `stop` have one entry per spatial axis, in the order of the axes.
    """

    level: int
    timepoint: int
    channel: int
    start: tuple[int, ...]
    stop: tuple[int, ...]

    @classmethod
    def from_box(cls, box: Box, *, level: int = 0, timepoint: int = 0, channel: int = 0) -> RegionKey:
        """Name the region that `box` (slices with explicit bounds) cuts from the output."""
        return cls(level, timepoint, channel, *Extent.from_box(box))

    @property
    def box(self) -> Box:
        """The region as slices over the spatial axes."""
        return Extent(self.start, self.stop).box

    @property
    def voxels(self) -> int:
        """How many voxels it has."""
        return math.prod(stop - start for start, stop in zip(self.start, self.stop, strict=True))

    @property
    def name(self) -> str:
        """A name for files and tasks, the same in every run: "l0.t0.c0.0-256.0-512.0-512"."""
        sides = (f"{start}-{stop}" for start, stop in zip(self.start, self.stop, strict=True))
        return ".".join([f"l{self.level}", f"t{self.timepoint}", f"c{self.channel}", *sides])


class Fault(NamedTuple):
    """A block that could not be restored: its core, and why. Its voxels are 0 until a later run."""

    extent: Extent
    reason: str


@dataclass(frozen=True)
class RegionRecord:
    """What is known of a region once it is written.

    Attributes
    ----------
    digests : of the decoded values of every written unit (shard), as `bigdecon.io.boxes.digest` gives them
    clipped : voxels whose value was cut to fit the output's type
    minimum : smallest value written, in output units
    maximum : largest value written, in output units
    seconds : wall time from the first task of the region to its last
    faults : blocks that could not be restored; as long as there are any, the region is not finished. In a
        coarser level it is regions made from such blocks that have one
    skipped : blocks for which the method was not asked, as they were constant or dim
    """

    digests: Mapping[Extent, str]
    clipped: int
    minimum: float
    maximum: float
    seconds: float
    faults: tuple[Fault, ...] = ()
    skipped: int = 0


class Ignored(NamedTuple):
    """A file of the ledger that counts as absent, and why."""

    path: Place
    reason: str


@dataclass(frozen=True)
class LedgerScan:
    """All that one look at the ledger found.

    Attributes
    ----------
    finished : the record of every finished region
    faulty : the record of every region that is written but for some blocks
    ignored : files that are torn or foreign; their regions count as not finished
    """

    finished: dict[RegionKey, RegionRecord]
    faulty: dict[RegionKey, RegionRecord]
    ignored: tuple[Ignored, ...]


@dataclass(frozen=True)
class Ledger:
    """The finished regions of one output.

    Attributes
    ----------
    folder : where the entries lie; a local one is made when the first region is entered
    """

    folder: Place

    def mark(self, key: RegionKey, record: RegionRecord) -> None:
        """Enter a region as written; call it after the region's last shard is on disk.

        Raises
        ------
        WriteError
            if the entry cannot be written, as on a full disk
        """
        path = self._path(key)
        try:
            places.make_folder(path.parent)
            places.write(path, _encode(key, record))
        except OSError as error:
            remedy = "make room or mend the folder" if isinstance(path, Path) else "mend that"
            raise WriteError(
                f"the ledger entry {path} cannot be written ({error.strerror or error}); "
                f"what was finished is kept: {remedy}, then run the same command again."
            ) from error

    def finished(self, key: RegionKey) -> bool:
        """Tell whether a whole entry for the region exists, and no block is missing in it.

        Raises
        ------
        OutputError
            if another version of bigdecon wrote it in a format that this one does not know
        """
        entry = _load(self._path(key))
        return not isinstance(entry, Ignored) and not entry[1].faults

    def forget(self, key: RegionKey) -> None:
        """Strike a region off: a later run computes it again.

        Raises
        ------
        WriteError
            if the file system refuses
        """
        path = self._path(key)
        try:
            places.delete(path)
        except OSError as error:
            raise WriteError(f"the ledger entry {path} cannot be removed ({error.strerror}).") from error

    def read(self) -> dict[RegionKey, RegionRecord]:
        """Give the record of every finished region; see `scan` for what was passed over.

        Raises
        ------
        OutputError
            if another version of bigdecon wrote an entry in a format that this one does not know
        """
        return self.scan().finished

    def scan(self) -> LedgerScan:
        """Read every entry, and list the files that could not be used.

        Raises
        ------
        OutputError
            if the folder cannot be listed, or holds a format that this version does not know
        """
        if isinstance(self.folder, Path):
            # Threads hide the latency of a network file system; on a local disk they cost nothing.
            with ThreadPoolExecutor(READERS, thread_name_prefix="ledger") as pool:
                entries = list(chain.from_iterable(pool.map(_load_shelf, _shelves(self.folder))))
        else:
            contents = read_entries(self.folder, _objects(self.folder))
            entries = [_parse(self.folder / name, data) for name, data in contents.items()]
        ignored = tuple(entry for entry in entries if isinstance(entry, Ignored))
        whole = dict(entry for entry in entries if not isinstance(entry, Ignored))
        finished = {key: record for key, record in whole.items() if not record.faults}
        faulty = {key: record for key, record in whole.items() if record.faults}
        return LedgerScan(finished, faulty, ignored)

    def sweep(self) -> int:
        """Remove temporary files that a killed process left; only for the one that holds the lease.

        Returns
        -------
        int
            how many were removed; none in an object store, which keeps no half-written objects
        """
        if not isinstance(self.folder, Path):
            return 0
        stale = [path for shelf in _shelves(self.folder) for path in shelf.glob(f"{TEMPORARY}*")]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    def _path(self, key: RegionKey) -> Place:
        """Spread entries over 256 subfolders: large folders are slow on network file systems."""
        shelf = blake2b(key.name.encode(), digest_size=1).hexdigest()
        return self.folder / shelf / f"{key.name}.json"


def _shelves(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as found:
            return sorted(Path(entry.path) for entry in found if len(entry.name) == 2 and entry.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(folder, error) from error


def _objects(folder: ObjectPath) -> dict[str, str]:
    """List the entries in an object store, by pages; their names and ETags."""
    try:
        found = places.file_names(folder)
    except OSError as error:
        raise _unreadable(folder, error) from error
    return {name: stamp for name, stamp in found.items() if name[2:3] == "/"}


def _unreadable(place: Place, error: OSError) -> OutputError:
    return OutputError(f"the ledger {place} cannot be read ({error.strerror or error}).")


def _encode(key: RegionKey, record: RegionRecord) -> bytes:
    text = json.dumps(
        {
            "format": FORMAT,
            "version": VERSION,
            "region": key._asdict(),
            "digests": [[*extent, digest] for extent, digest in record.digests.items()],
            "clipped": int(record.clipped),
            "minimum": float(record.minimum),
            "maximum": float(record.maximum),
            "seconds": float(record.seconds),
            "faults": [[*fault.extent, fault.reason] for fault in record.faults],
            "skipped": int(record.skipped),
        },
        separators=(",", ":"),
    )
    return text.encode() + b"\n"


def _decode(entry: dict[str, Any]) -> tuple[RegionKey, RegionRecord]:
    """Read an entry; whoever wrote it, what comes back is of the types that it has here.

    Raises
    ------
    ValueError, KeyError, TypeError
        if it is damaged
    """
    region = entry["region"]
    level, timepoint, channel = (_whole(region[name]) for name in ("level", "timepoint", "channel"))
    key = RegionKey(level, timepoint, channel, *_extent(region["start"], region["stop"]))
    digests = {_extent(start, stop): _text(digest) for start, stop, digest in entry["digests"]}
    clipped, skipped = _whole(entry["clipped"]), _whole(entry.get("skipped", 0))
    minimum, maximum, seconds = (_real(entry[name]) for name in ("minimum", "maximum", "seconds"))
    faults = tuple(Fault(_extent(start, stop), _text(why)) for start, stop, why in entry.get("faults", ()))
    return key, RegionRecord(digests, clipped, minimum, maximum, seconds, faults, skipped)


def _whole(value: object) -> int:
    if not isinstance(value, int) or not is_whole(value):
        raise ValueError(f"{shown(value)} is no count")
    return value


def _real(value: object) -> float:
    """Take a number; statistics may be NaN or infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{shown(value)} is no number")
    return float(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is no text")
    return value


def _extent(start: object, stop: object) -> Extent:
    if not isinstance(start, list) or not isinstance(stop, list) or len(start) != len(stop):
        raise ValueError(f"{shown(start)} to {shown(stop)} is no box")
    box = Extent(tuple(map(_whole, start)), tuple(map(_whole, stop)))
    if not all(first < last for first, last in zip(*box, strict=True)):
        raise ValueError(f"the box from {shown(start)} to {shown(stop)} is empty")
    return box


def _load_shelf(shelf: Path) -> list[tuple[RegionKey, RegionRecord] | Ignored]:
    try:
        with os.scandir(shelf) as found:
            names: Iterable[str] = sorted(entry.name for entry in found)
    except OSError as error:
        return [Ignored(shelf, f"cannot be listed: {error.strerror or error}")]
    return [_load(shelf / name) for name in names if not name.startswith(TEMPORARY)]


def _load(path: Place) -> tuple[RegionKey, RegionRecord] | Ignored:
    try:
        return _parse(path, places.read(path))
    except OSError as error:
        return _parse(path, error)


def _parse(path: Place, data: bytes | OSError) -> tuple[RegionKey, RegionRecord] | Ignored:
    """Understand one entry; anything but an unknown version makes it count as absent."""
    if isinstance(data, ServerFailure):  # not gone, only out of reach: it must not be done again
        raise _unreadable(path, data)
    if isinstance(data, OSError):
        return Ignored(path, f"cannot be read: {data.strerror or data}")
    try:
        entry = parse_json(data)
        if not isinstance(entry, dict) or entry.get("format") != FORMAT:
            return Ignored(path, "not an entry of a bigdecon ledger")
        _check_version(path, entry.get("version"))
        key, record = _decode(entry)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
        return Ignored(path, "torn or damaged")
    if path.name != f"{key.name}.json":
        return Ignored(path, f"holds the entry of another region, {key.name}")
    return key, record


def _check_version(path: Place, version: object) -> None:
    if not is_whole(version):
        raise ValueError("an entry without a version is damaged")
    if version not in READABLE:
        raise OutputError(
            f"{path} is in version {version} of the ledger's format, this bigdecon reads up to {VERSION}; "
            "continue with the version that began the run, or begin again with --overwrite."
        )
