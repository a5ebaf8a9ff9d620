"""Places: where results lie, on a local disk or in an object store, behind one small set of functions.

A place is a `Path` (local, absolute) or an `ObjectPath` (s3://bucket/name and the like). Small objects are
written whole or not at all on either, and a reader finds the old content or the new:

    local          a temporary file beside it, flushed to the disk, renamed; folders are made first
    object store   one request; there are no folders, only names with slashes

All functions raise `OSError`, with the cause as a part of a sentence in `strerror`. Requests to servers are
repeated as `bigdecon.storage.servers` says.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname
from uuid import uuid4

from bigdecon.storage.durable import TEMPORARY, write_durably
from bigdecon.storage.object_path import ObjectPath
from bigdecon.storage.servers import PATIENT, ask, is_url
from bigdecon.untrusted import read_regular

__all__ = [
    "TEMPORARY",
    "Place",
    "PlaceLike",
    "as_place",
    "create",
    "delete",
    "exists",
    "file_names",
    "files_below",
    "make_folder",
    "names",
    "put_options",
    "read",
    "read_many",
    "remove_all",
    "resolve",
    "seconds_since",
    "write",
]

Place = Path | ObjectPath
"""Where something lies, on a disk or in an object store."""
PlaceLike = str | os.PathLike[str] | ObjectPath
"""What a user may give for a place."""

READERS = 32
"""Small objects read at a time: their latency, not their size, is what takes time."""
ONE_PUT = 2**33
"""Above any object that is written here: a put is one request, and never an upload in parts."""
ONE_DELETION = 1000
"""Objects that S3 deletes at one request, at most."""


def resolve(path: PlaceLike) -> str:
    """Give an absolute local path, or a URL without a slash at its end."""
    text = path.url if isinstance(path, ObjectPath) else os.fspath(path)
    if text.startswith("file://"):
        text = url2pathname(urlsplit(text).path)
    if is_url(text):
        return text.rstrip("/")
    return os.path.abspath(os.path.expanduser(text))


def as_place(path: PlaceLike) -> Place:
    """Give the place of a path or URL; local paths become absolute."""
    if isinstance(path, ObjectPath):
        return path
    text = resolve(path)
    return ObjectPath(text) if is_url(text) else Path(text)


def read(place: Place, *, attempts: int = PATIENT, limit: int = ONE_PUT) -> bytes:
    """Read an object of at most `limit` bytes; a pipe or a device in place of a file is never waited for.

    Raises
    ------
    FileNotFoundError
        if there is none
    OSError
        if it cannot be read, or is larger
    """
    if not isinstance(place, Path):
        data = bytes(ask(place.url, lambda fs: fs.cat_file(place.url), attempts=attempts))
        if len(data) > limit:
            raise OSError(errno.EFBIG, f"it has {len(data)} bytes, and at most {limit} are read")
        return data
    try:
        return read_regular(place, limit)
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error)) from error


def read_many(places: Sequence[Place]) -> list[bytes | OSError]:
    """Read many small objects at a time; gives the content of each, or why it cannot be read."""
    with ThreadPoolExecutor(READERS, thread_name_prefix="read") as pool:
        return list(pool.map(_read_or_error, places))


def _read_or_error(place: Place) -> bytes | OSError:
    try:
        return read(place)
    except OSError as error:
        return error


def write(place: Place, data: bytes, *, attempts: int = PATIENT) -> None:
    """Replace an object in one step; its folder exists.

    Raises
    ------
    OSError
        if it cannot be written; it is then as it was
    """
    if isinstance(place, Path):
        write_durably(place, data)
        return
    _put(place, lambda fs: fs.pipe_file(place.url, data, **put_options(place)), attempts)


def create(place: Place, data: bytes, *, attempts: int = PATIENT) -> bool:
    """Write an object unless there is one; False if there was. Of several that try at once one succeeds.

    Some object stores do not know how to write on this condition. On these two may succeed, and the later
    one's content remains. In an object store the content must be unlike that of all others: an object with
    the same content is taken for one whose creation was not answered.

    Raises
    ------
    OSError
        if it cannot be written
    """
    if isinstance(place, Path):
        return _create_file(place, data)

    def put(fs: Any) -> None:
        try:
            fs.pipe_file(place.url, data, mode="create", **put_options(place))
        except Exception as error:
            if _exists_already(error):
                raise FileExistsError(errno.EEXIST, "exists already") from error
            raise

    try:
        _put(place, put, attempts)
    except FileExistsError:
        try:
            return read(place, attempts=attempts) == data
        except FileNotFoundError:
            return False
    return True


def _create_file(path: Path, data: bytes) -> bool:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    with open(handle, "wb") as file:
        file.write(data)
    return True


def _exists_already(error: Exception) -> bool:
    """Whether a condition kept an object from being written; not all servers say which one it was."""
    answer = getattr(error.__cause__, "response", None) or {}
    return isinstance(error, FileExistsError) or answer.get("Error", {}).get("Code") in (
        "PreconditionFailed",
        "412",
    )


def _put(place: ObjectPath, put: Any, attempts: int) -> None:
    try:
        ask(place.url, put, attempts=attempts)
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, f"there is no bucket {place.bucket!r}") from error


def put_options(place: ObjectPath) -> dict[str, int]:
    """Give the options with which fsspec writes an object in one request."""
    return {"chunksize": ONE_PUT} if _is_s3(place) else {}


def _is_s3(place: ObjectPath) -> bool:
    return urlsplit(place.url).scheme in ("s3", "s3a")


def delete(place: Place, *, attempts: int = PATIENT) -> None:
    """Remove an object; nothing happens where there is none.

    Raises
    ------
    OSError
        if it cannot be removed
    """
    if isinstance(place, Path):
        place.unlink(missing_ok=True)
        return
    with suppress(FileNotFoundError):
        ask(place.url, lambda fs: fs.rm_file(place.url), attempts=attempts)


def exists(place: Place) -> bool:
    """Whether there is an object, or in an object store one below it.

    Raises
    ------
    OSError
        if a server does not tell
    """
    if isinstance(place, Path):
        return place.exists()
    return bool(ask(place.url, lambda fs: fs.exists(place.url)))


def names(folder: Place, *, attempts: int = PATIENT) -> list[str]:
    """List what a folder holds, sorted, without what lies deeper; nothing where there is no folder.

    Raises
    ------
    OSError
        if it cannot be listed
    """
    try:
        if isinstance(folder, Path):
            return sorted(os.listdir(folder))
        if _is_s3(folder):
            return sorted(ask(folder.url, lambda fs: _s3_names(fs, folder), attempts=attempts))
        found = ask(folder.url, lambda fs: fs.ls(folder.url, detail=False), attempts=attempts)
    except FileNotFoundError:
        return []
    # A store may list the folder itself: as an object of that name, or of one that ends with a slash.
    ends = (str(one).rstrip("/").rpartition("/") for one in found)
    return sorted({name for parent, _, name in ends if parent.endswith(folder.key)})


def _s3_names(fs: Any, folder: ObjectPath) -> set[str]:
    """List one level of a prefix. The file system's own `ls` goes on to the parent where it finds nothing."""
    return {key.rstrip("/") for key, _ in _s3_listing(fs, folder, "/")}


def _s3_listing(fs: Any, folder: ObjectPath, delimiter: str) -> Iterator[tuple[str, str]]:
    """Give the names below a prefix, relative to it, and their ETags; by pages of a thousand."""
    bucket, _, prefix = f"{folder.key}/".partition("/")
    token: dict[str, str] = {}
    while True:
        page = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, Delimiter=delimiter, **token)
        for one in page.get("Contents", ()):
            if one["Key"] != prefix:
                yield one["Key"].removeprefix(prefix), one.get("ETag", "")
        for one in page.get("CommonPrefixes", ()):
            yield one["Prefix"].removeprefix(prefix), ""
        if not page.get("IsTruncated"):
            return
        token = {"ContinuationToken": page["NextContinuationToken"]}


def files_below(folder: Place) -> Sequence[Place]:
    """List all objects in a folder and its subfolders, in the order of their names; none where there is none.

    Raises
    ------
    OSError
        if it cannot be listed
    """
    if isinstance(folder, Path):
        return sorted(path for path in folder.rglob("*") if path.is_file())
    return [folder / name for name in file_names(folder)]


def file_names(folder: ObjectPath) -> dict[str, str]:
    """List all objects below a prefix: a listing by pages, and nothing else.

    Returns
    -------
    dict
        by the name relative to the prefix, in order, what changes with the object's content (its ETag);
        empty where the store does not tell that

    Raises
    ------
    OSError
        if it cannot be listed
    """
    try:
        if _is_s3(folder):
            found = ask(folder.url, lambda fs: dict(_s3_listing(fs, folder, "")))
        else:
            paths = ask(folder.url, lambda fs: fs.find(folder.url))
            found = {str(path).partition(f"{folder.key}/")[2]: "" for path in paths}
    except FileNotFoundError:
        return {}
    return {name: found[name] for name in sorted(found) if name and not name.endswith("/")}


def make_folder(folder: Place) -> None:
    """Make a folder and those above it, where there are folders.

    Raises
    ------
    OSError
        if that cannot be done
    """
    if isinstance(folder, Path):
        folder.mkdir(parents=True, exist_ok=True)


def remove_all(folder: Place, *, but: Iterable[str] = ()) -> None:
    """Remove a folder with everything in it; in an object store objects of some names may be kept.

    Raises
    ------
    OSError
        if something cannot be removed
    """
    if isinstance(folder, Path):
        if folder.exists():
            shutil.rmtree(folder)
        return
    kept = set(but)
    doomed = [name for name in file_names(folder) if name not in kept]
    if not _is_s3(folder):
        with ThreadPoolExecutor(READERS, thread_name_prefix="delete") as pool:
            list(pool.map(lambda name: delete(folder / name), doomed))
        return
    for some in (doomed[i : i + ONE_DELETION] for i in range(0, len(doomed), ONE_DELETION)):
        ask(folder.url, partial(_delete_s3, folder=folder, names=some))


def _delete_s3(fs: Any, folder: ObjectPath, names: Sequence[str]) -> None:
    """Delete objects by their literal names: `fs.rm` takes "*", "?" and "[" in names for patterns."""
    bucket, _, prefix = folder.key.partition("/")
    prefix = f"{prefix}/" if prefix else ""
    keys = {"Objects": [{"Key": f"{prefix}{name}"} for name in names], "Quiet": True}
    answer = fs.call_s3("delete_objects", Bucket=bucket, Delete=keys)
    for one in answer.get("Errors", ()):  # an answer of success all the same
        told = f"{one.get('Key')}: {one.get('Message') or one.get('Code')}"
        if one.get("Code") == "AccessDenied":
            raise PermissionError(errno.EACCES, told)
        raise OSError(errno.EIO, told)


def seconds_since(place: Place) -> float | None:
    """Give the time since an object was written, by the clock of its server alone; None if it is gone.

    The clocks of two machines may differ by more than a minute. A probe written now beside the object gets
    its time from the same server as the object did.

    Raises
    ------
    OSError
        if the probe cannot be written or the server does not tell
    """
    probe = place.parent / f"{TEMPORARY}{uuid4().hex}"
    try:
        if isinstance(probe, Path):
            probe.write_bytes(b"now")
        else:
            write(probe, b"now")
        return max(0.0, _written_at(probe) - _written_at(place))
    except FileNotFoundError:
        return None
    finally:
        delete(probe)


def _written_at(place: Place) -> float:
    if isinstance(place, Path):
        return place.stat().st_mtime
    moment = ask(place.url, lambda fs: fs.modified(place.url))
    return float(moment.timestamp()) if hasattr(moment, "timestamp") else time.time()
