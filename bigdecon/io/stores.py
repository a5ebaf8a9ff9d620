"""Where images lie: local paths, web servers and object stores, behind one small set of functions."""

from __future__ import annotations

import asyncio
import importlib
import os
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from bigdecon.errors import OutputError, VolumeError

__all__ = [
    "RemoteStore",
    "filesystem",
    "is_denied",
    "is_url",
    "local_output_path",
    "open_store",
    "read_key",
    "resolve",
]

ATTEMPTS = 3
"""How often a request to a server is made before its failure counts."""
FIRST_PAUSE_S = 0.1
"""Pause after the first failure; four times as long after the next."""


def is_url(location: str) -> bool:
    """Whether a location has a scheme such as s3:// or https://."""
    scheme = urlsplit(location).scheme
    return "://" in location and len(scheme) > 1


def resolve(path: str | os.PathLike[str]) -> str:
    """Give an absolute local path, or a URL without a slash at its end."""
    text = os.fspath(path)
    if text.startswith("file://"):
        text = url2pathname(urlsplit(text).path)
    if is_url(text):
        return text.rstrip("/")
    return os.path.abspath(os.path.expanduser(text))


def local_output_path(path: str | os.PathLike[str]) -> Path:
    """Give the absolute local path of an output.

    Raises
    ------
    OutputError
        if `path` is a URL: results are written to local folders only
    """
    text = resolve(path)
    if is_url(text):
        raise OutputError(f"the output {text} is a URL; results are written to local folders only.")
    return Path(text)


def _has_s3_credentials() -> bool:
    session = importlib.import_module("botocore.session")
    return session.get_session().get_credentials() is not None


def filesystem(url: str) -> Any:
    """Connect to the server behind a URL, without credentials where there are none.

    Each call makes a new fsspec file system: the settings may have changed, and connections must
    not be shared between processes.

    Raises
    ------
    VolumeError
        if nothing is installed that can read such URLs
    """
    import fsspec

    protocol = urlsplit(url).scheme
    try:
        if protocol in ("s3", "s3a"):
            return fsspec.filesystem("s3", anon=not _has_s3_credentials(), skip_instance_cache=True)
        return fsspec.filesystem(protocol, skip_instance_cache=True)
    except (ImportError, ValueError) as error:
        raise VolumeError(
            f"{url} cannot be opened: nothing here reads {protocol}:// addresses ({error}); "
            "give a local path or an http(s):// or s3:// address."
        ) from error


def _bounds(request: ByteRequest | None) -> tuple[int | None, int | None]:
    if isinstance(request, RangeByteRequest):
        return request.start, request.end
    if isinstance(request, OffsetByteRequest):
        return request.offset, None
    if isinstance(request, SuffixByteRequest):
        return -request.suffix, None
    return None, None


def _trim(data: bytes, request: ByteRequest | None) -> bytes:
    """Cut out the range asked for when a server sent the whole file (Python's http.server does)."""
    if isinstance(request, RangeByteRequest) and len(data) > request.end - request.start:
        return data[request.start : request.end]
    if isinstance(request, SuffixByteRequest) and len(data) > request.suffix:
        return data[-request.suffix :]
    return data


def is_denied(error: BaseException) -> bool:
    """Whether a server refused for good. Some say so of files that do not exist (S3 without listing)."""
    return isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403)


NOTHING: tuple[str, ...] = ()


class RemoteStore(Store):
    """A read-only Zarr store behind a URL.

    Other than zarr's own FsspecStore it closes its connections, repeats failed requests, and
    understands servers that ignore byte ranges. Requests run on fsspec's thread, so any number of
    threads may read at once.
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = True
    supports_partial_writes = False

    def __init__(self, url: str) -> None:
        super().__init__(read_only=True)
        self.url = url
        self.fs = filesystem(url)
        self._is_open = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteStore) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __str__(self) -> str:
        return self.url

    def path(self, key: str) -> str:
        """Give the full URL of a key."""
        return f"{self.url}/{key}" if key else self.url

    def read(self, key: str) -> bytes | None:
        """Read a small file; None where there is none.

        Raises
        ------
        Exception
            whatever the server or the network answered, after some attempts
        """
        for attempt in range(ATTEMPTS):
            try:
                data: bytes = self.fs.cat_file(self.path(key))
                return data
            except FileNotFoundError:
                return None
            except Exception as error:
                if attempt == ATTEMPTS - 1 or is_denied(error):
                    raise
                time.sleep(FIRST_PAUSE_S * 4**attempt)
        return None

    async def _request(self, key: str, start: int | None, end: int | None) -> bytes:
        if not self.fs.async_impl:
            return bytes(await asyncio.to_thread(self.fs.cat_file, self.path(key), start, end))
        coroutine = self.fs._cat_file(self.path(key), start=start, end=end)
        return bytes(await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.fs.loop)))

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read a file or a range of its bytes; None where there is none."""
        start, end = _bounds(byte_range)
        for attempt in range(ATTEMPTS):
            try:
                data = await self._request(key, start, end)
                return prototype.buffer.from_bytes(_trim(data, byte_range))
            except FileNotFoundError:
                return None
            except Exception as error:
                if attempt == ATTEMPTS - 1 or is_denied(error):
                    raise
                await asyncio.sleep(FIRST_PAUSE_S * 4**attempt)
        return None

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Read several ranges at once."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Whether there is a file of this name."""
        return bool(await asyncio.to_thread(self.fs.exists, self.path(key)))

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse: the store is read-only."""
        raise NotImplementedError("a remote store is read-only")

    async def delete(self, key: str) -> None:
        """Refuse: the store is read-only."""
        raise NotImplementedError("a remote store is read-only")

    async def list(self) -> AsyncIterator[str]:
        """List nothing: deep listings of a remote store are never needed here."""
        for name in NOTHING:
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """List nothing: deep listings of a remote store are never needed here."""
        for name in NOTHING:
            yield name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Give the names in one folder."""
        entries = await asyncio.to_thread(self.fs.ls, self.path(prefix), False)
        for entry in entries:
            yield str(entry).rstrip("/").rpartition("/")[2]


def open_store(location: str) -> Store:
    """Open a local folder or a URL for reading as a Zarr store."""
    return RemoteStore(location) if is_url(location) else LocalStore(location, read_only=True)


def read_key(store: Store, key: str) -> bytes | None:
    """Read one metadata file of a store; None where there is none.

    Raises
    ------
    Exception
        what the operating system, the server or the network answered
    """
    if isinstance(store, RemoteStore):
        return store.read(key)
    if not isinstance(store, LocalStore):
        raise TypeError(f"a {type(store).__name__} cannot be read here")
    try:
        return (store.root / key).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
