"""The place of an output: whether it may be written, and how to remove an earlier one safely."""

from __future__ import annotations

import glob
import os
import re
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

from bigdecon.addresses import shown_url
from bigdecon.errors import OutputError
from bigdecon.storage import places
from bigdecon.storage.object_path import ObjectPath
from bigdecon.storage.places import TEMPORARY, Place, PlaceLike, as_place
from bigdecon.storage.servers import OBJECT_STORES, QUICK, ServerFailure
from bigdecon.untrusted import MAX_DOCUMENT_BYTES, parse_json

__all__ = [
    "BOOKKEEPING",
    "FORMAT",
    "INCOMPLETE",
    "check_output_path",
    "check_writable",
    "default_output",
    "is_incomplete",
    "is_own_output",
    "is_taken",
    "output_place",
    "remove_output",
    "result_place",
]

BOOKKEEPING = "bigdecon"
"""Name of the group, and of the root attribute, that mark an output of bigdecon."""
FORMAT = 1
"""Version of the layout inside that group."""
INCOMPLETE = "incomplete"
"""Entry beside the format: the metadata are being written, in an object store, or were when that stopped."""
LEASE = "lease.json"
"""Name of the guard against two writers; in an object store it is there before the output."""
ENDINGS = (".ome.zarr", ".ome.tiff", ".ome.tif", ".zarr", ".tiff", ".tif")
METADATA_FILES = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")
UNFINISHED = re.compile(
    rf"(zarr|\.zgroup|\.zattrs|\.zmetadata)\.[0-9a-f]+\.partial|{re.escape(TEMPORARY)}(zarr\.json|\.zattrs)-[0-9a-f]+"
)
"""What zarr, or we, leave in the root when a process is killed while it writes metadata."""


def output_place(path: PlaceLike) -> Place:
    """Give the place of an output.

    Raises
    ------
    OutputError
        if `path` is the address of a server that takes no files, or names no bucket
    """
    scheme, colon, rest = str(path).partition(":")
    if colon and scheme in OBJECT_STORES and not rest.removeprefix("//").strip("/"):
        raise OutputError(f"the output {path} names no bucket; give {scheme}://bucket/name.ome.zarr.")
    if colon and scheme in OBJECT_STORES and not rest.startswith("//"):
        raise OutputError(f"the output {path} lacks a slash; give {scheme}://{rest.lstrip('/')}.")
    place = as_place(path)
    if isinstance(place, ObjectPath) and scheme not in OBJECT_STORES:
        raise OutputError(
            f"the output {place} is on a server that takes no files; results are written to local folders or "
            "object stores, such as s3://bucket/name.ome.zarr."
        )
    return place


def _attributes(root: Place) -> dict[str, Any]:
    """Read the root group's attributes; empty where there are none.

    Raises
    ------
    OutputError
        if a server does not tell whether there are any, or access is denied
    """
    for name in ("zarr.json", ".zattrs"):
        try:
            parsed = parse_json(places.read(root / name, attempts=QUICK, limit=MAX_DOCUMENT_BYTES))
        except (ServerFailure, PermissionError) as error:
            raise _out_of_reach(root, error) from error
        except (OSError, ValueError):
            continue
        if not isinstance(parsed, dict):
            continue
        found = parsed.get("attributes", {}) if name == "zarr.json" else parsed
        return found if isinstance(found, dict) else {}
    return {}


def _mark(root: Place) -> dict[str, Any] | None:
    """Give what bigdecon left of itself in the root attributes."""
    mark = _attributes(root).get(BOOKKEEPING)
    return mark if isinstance(mark, dict) else None


def is_own_output(path: PlaceLike) -> bool:
    """Whether bigdecon wrote the image at a path: it left its mark in the root attributes.

    Raises
    ------
    OutputError
        if a server does not tell
    """
    return _mark(as_place(path)) is not None


def result_place(path: PlaceLike) -> Place:
    """Give the place of an output of bigdecon that is there.

    Raises
    ------
    OutputError
        if there is none
    """
    root = output_place(path)
    if not is_own_output(root):
        why = "is not a result of bigdecon" if places.exists(root) else "does not exist"
        raise OutputError(f"{root} {why}; give the folder that bigdecon run wrote.")
    return root


def is_incomplete(path: PlaceLike) -> bool:
    """Whether the making of an output's metadata was interrupted: it holds nothing yet."""
    return bool((_mark(as_place(path)) or {}).get(INCOMPLETE))


def _entries(root: Place) -> list[str]:
    """List what an output's place holds, leaving out what guards and probes it in an object store.

    Raises
    ------
    OutputError
        if it cannot be listed
    """
    if isinstance(root, Path) and not root.is_dir():
        return []
    try:
        found = places.names(root, attempts=QUICK)
        if isinstance(root, ObjectPath):
            found = [name for name in found if not name.startswith(TEMPORARY)]
            if found == [BOOKKEEPING]:
                inside = places.names(root / BOOKKEEPING, attempts=QUICK)
                found = found if any(n != LEASE and not n.startswith(TEMPORARY) for n in inside) else []
    except OSError as error:
        if isinstance(root, Path):
            raise
        raise _out_of_reach(root, error) from error
    return found


def is_taken(path: PlaceLike) -> bool:
    """Whether something lies in the place of an output; an empty folder is nothing.

    Raises
    ------
    OutputError
        if a server does not tell
    """
    return bool(_entries(as_place(path)))


def _out_of_reach(root: Place, error: OSError) -> OutputError:
    remedy = "its permissions" if isinstance(root, Path) else "the address, the credentials and the network"
    return OutputError(f"{root} cannot be looked at ({error.strerror or error}); check {remedy}.")


def check_output_path(path: PlaceLike, *, overwrite: bool = False, input_location: str = "") -> None:
    """Find out before any work whether an output can be written to a path.

    Parameters
    ----------
    path : where the output should go
    overwrite : whether an earlier output of bigdecon may be replaced
    input_location : path or URL of the input; empty where it lies in memory

    Raises
    ------
    OutputError
        if the path is taken, lies inside the input or around it, or its folder cannot be written
    """
    target = output_place(path)
    if input_location:
        _check_apart(target, as_place(input_location))
    if is_taken(target):
        if not is_own_output(target):
            raise OutputError(f"{target} exists and was not written by bigdecon; choose another output.")
        if not overwrite and not is_incomplete(target):
            raise OutputError(
                f"{target} exists already; --overwrite replaces it (overwrite=True from Python), "
                "or choose another output."
            )
        _check_nothing_unknown(target)
    elif isinstance(target, Path) and os.path.lexists(target) and not target.is_dir():
        raise OutputError(f"{target} exists and is not a folder; choose another output.")
    if isinstance(target, Path):
        check_writable(target)
    else:
        _check_puts(target)


def _check_apart(target: Place, source: Place) -> None:
    if isinstance(target, Path) and isinstance(source, Path):
        target, source = target.resolve(), source.resolve()
        inside, around = target.is_relative_to(source), source.is_relative_to(target)
    elif isinstance(target, ObjectPath) and isinstance(source, ObjectPath):
        inside, around = target.is_relative_to(source), source.is_relative_to(target)
    else:
        return
    if inside:
        raise OutputError(f"the output {target} lies inside the input {source}; choose a place beside it.")
    if around:
        raise OutputError(f"the input {source} lies inside the output {target}; choose another output.")


def check_writable(target: Path) -> None:
    """Try to make a folder where the output will be: permissions alone do not tell (read-only disks).

    Raises
    ------
    OutputError
        if that cannot be done
    """
    folder = target if target.is_dir() else target.parent
    while not os.path.lexists(folder):
        folder = folder.parent
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".bigdecon-", dir=folder))
    except OSError as error:
        cause = error.strerror or type(error).__name__
        raise OutputError(
            f"the folder {folder} cannot be written ({cause}); choose another output, "
            "in bigdecon run with -o FOLDER/NAME.ome.zarr."
        ) from error


def _check_puts(target: ObjectPath) -> None:
    """Put an object where the output will be, and remove it: nothing else tells what credentials allow."""
    probe = target / f"{TEMPORARY}{uuid4().hex}"
    try:
        places.write(probe, b"", attempts=QUICK)
        places.delete(probe, attempts=QUICK)
    except OSError as error:
        raise OutputError(
            f"{target} cannot be written ({error.strerror or error}); choose another output, or see to the "
            "bucket and the credentials."
        ) from error


def _level_names(root: Place) -> list[str]:
    """Give the paths of the levels that the root attributes list, first folder only."""
    attributes = _attributes(root)
    ome = attributes.get("ome", attributes)
    try:
        paths = [d["path"] for m in ome.get("multiscales", []) for d in m.get("datasets", [])]
    except (AttributeError, KeyError, TypeError):
        return []
    return [p for p in paths if isinstance(p, str) and p.isdecimal()]


def _check_nothing_unknown(root: Place) -> None:
    levels = _level_names(root)
    if is_incomplete(root):  # its levels are not told yet
        levels = [name for name in _entries(root) if name.isdigit()]
    own = {BOOKKEEPING, *METADATA_FILES, *levels}
    unknown = [name for name in _entries(root) if name not in own and not UNFINISHED.fullmatch(name)]
    if unknown:
        raise OutputError(
            f"{root} also holds {', '.join(unknown[:5])}, which bigdecon did not write; "
            "move that away or choose another output."
        )


def remove_output(path: PlaceLike) -> None:
    """Remove an earlier output: its levels, its metadata files and the bigdecon group, nothing else.

    The record of finished parts goes first and the mark of bigdecon last, so that an interrupted
    removal neither passes for a finished run nor for a stranger's folder. In an object store a lease stays.

    Raises
    ------
    OutputError
        if bigdecon did not write it, if it holds anything else, or if it cannot be removed
    """
    root = output_place(path)
    if not is_taken(root) and (isinstance(root, ObjectPath) or root.is_dir() or not root.exists()):
        return
    if not is_own_output(root):
        raise OutputError(f"{root} was not written by bigdecon and is left as it is; choose another output.")
    _check_nothing_unknown(root)
    levels = _level_names(root) or [name for name in _entries(root) if name.isdigit()]
    try:
        places.remove_all(root / BOOKKEEPING, but=(LEASE,))
        for name in levels:
            places.remove_all(root / name)
        for name in filter(UNFINISHED.fullmatch, _entries(root)):
            places.delete(root / name)
        for name in reversed(METADATA_FILES):
            places.delete(root / name)
        if isinstance(root, Path):
            root.rmdir()
    except OSError as error:
        raise OutputError(f"{root} cannot be removed ({error.strerror or error}).") from error


def default_output(location: str) -> Path:
    """Name the result: NAME.deconvolved.ome.zarr beside a local input, in this folder for a URL.

    A pattern for a series of files takes the name of their folder.
    """
    location = location.removeprefix("file://")
    remote = "://" in location
    while glob.has_magic(location) and not remote and not os.path.exists(location):
        location = os.path.dirname(os.path.abspath(location))
    name = PurePosixPath(shown_url(location).rstrip("/")).name if remote else Path(location).resolve().name
    for ending in ENDINGS:
        if name.lower().endswith(ending):
            name = name[: -len(ending)]
            break
    folder = Path() if remote else Path(location).resolve().parent
    return folder / f"{name}.deconvolved.ome.zarr"
