"""Zarr stores wherever images lie: local folders, web servers and object stores."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import zarr
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from bigdecon.errors import VolumeError
from bigdecon.storage import places, servers
from bigdecon.storage.object_path import ObjectPath
from bigdecon.storage.places import resolve
from bigdecon.storage.servers import CONNECTIONS, QUICK, ask_async, is_url
from bigdecon.untrusted import read_regular

__all__ = [
    "ReadOnlyStore",
    "RemoteStore",
    "byte_bounds",
    "filesystem",
    "is_url",
    "open_store",
    "read_key",
    "resolve",
]

NOTHING: tuple[str, ...] = ()
NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


ZARRS_OWN_CONCURRENCY = 10
"""Chunks that zarr has under way for one read or write unless it is told otherwise."""


def _hide_latency() -> None:
    """Have zarr ask a server for as many chunks at a time as there are connections, in this process.

    A request takes an object store tens of milliseconds, mostly waiting: a block of 27 chunks, ten at a time,
    would wait three times. On a disk, and in a network file system with its millisecond, zarr's own ten
    already keep all cores decoding, and more would only hold more chunks in memory. Who has set another
    number for zarr keeps it.
    """
    if zarr.config.get("async.concurrency") == ZARRS_OWN_CONCURRENCY:
        zarr.config.set({"async.concurrency": CONNECTIONS})


def filesystem(url: str) -> Any:
    """Connect anew to the server behind a URL; see `bigdecon.storage.servers.filesystem`.

    Raises
    ------
    VolumeError
        if nothing is installed that can read such URLs
    """
    try:
        return servers.filesystem(url)
    except OSError as error:
        raise VolumeError(
            f"{url} cannot be opened: {error.strerror}; give a local path or an http(s):// or s3:// address."
        ) from error


def byte_bounds(request: ByteRequest | None) -> tuple[int | None, int | None]:
    """Give the first byte asked for and the one after the last, as a slice takes them."""
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
        data = data[request.start : request.end]
    if isinstance(request, SuffixByteRequest) and len(data) > request.suffix:
        data = data[-request.suffix :]
    if isinstance(request, RangeByteRequest) and len(data) < request.end - request.start:
        asked = request.end - request.start
        raise OSError(errno.EIO, f"the server sent {len(data)} bytes where {asked} were asked for")
    return data


class ReadOnlyStore(Store):
    """A Zarr store of our own, which is read by key alone: nothing is written, nothing listed in depth.

    Zarr's LocalStore and FsspecStore have ways to read that would be inherited past the guards of a subclass.
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Read several ranges at once."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse: the store is read-only."""
        raise NotImplementedError("this store is read-only")

    async def delete(self, key: str) -> None:
        """Refuse: the store is read-only."""
        raise NotImplementedError("this store is read-only")

    async def list(self) -> AsyncIterator[str]:
        """List nothing: deep listings are never needed here."""
        for name in NOTHING:
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """List nothing: deep listings are never needed here."""
        for name in NOTHING:
            yield name


class RemoteStore(ReadOnlyStore):
    """A read-only Zarr store behind a URL.

    Other than zarr's own FsspecStore it holds no connection of its own but takes that of its process,
    repeats failed requests as `bigdecon.storage.servers` says, and understands servers that ignore byte
    ranges. Requests run on fsspec's thread, so any number of threads may read at once.
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = True
    supports_partial_writes = False

    def __init__(self, url: str, *, read_only: bool = True) -> None:
        super().__init__(read_only=read_only)
        _hide_latency()
        self.url = url
        self._is_open = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteStore) and (type(other), other.url) == (type(self), self.url)

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
        OSError
            what the server or the network answered, after some attempts
        """
        try:
            return places.read(ObjectPath(self.path(key)), attempts=QUICK)
        except FileNotFoundError:
            return None

    async def _ask(
        self,
        verb: str,
        key: str,
        options: Mapping[str, Any] = NO_OPTIONS,
        check: Callable[[Any], Any] | None = None,
    ) -> Any:
        """Call a method of fsspec's file system, on its thread, until it succeeds and passes the check."""

        async def request(fs: Any) -> Any:
            if fs.async_impl:
                coroutine = getattr(fs, f"_{verb}")(self.path(key), **options)
                found = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, fs.loop))
            else:
                found = await asyncio.to_thread(getattr(fs, verb), self.path(key), **options)
            return check(found) if check else found

        return await ask_async(self.url, request)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read a file or a range of its bytes; None where there is none."""
        start, end = byte_bounds(byte_range)
        try:
            data = await self._ask(
                "cat_file",
                key,
                options={"start": start, "end": end},
                check=lambda found: _trim(bytes(found), byte_range),
            )
        except FileNotFoundError:
            return None
        return prototype.buffer.from_bytes(data)

    async def exists(self, key: str) -> bool:
        """Whether there is a file of this name."""
        return bool(await self._ask("exists", key))

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Give the names in one folder."""
        for entry in await self._ask("ls", prefix, options={"detail": False}):
            yield str(entry).rstrip("/").rpartition("/")[2]


def open_store(location: str) -> Store:
    """Open a local folder or a URL for reading as a Zarr store."""
    return RemoteStore(location) if is_url(location) else LocalStore(location, read_only=True)


def read_key(store: Store, key: str) -> bytes | None:
    """Read one metadata file of a store; None where there is none.

    Raises
    ------
    OSError
        what the operating system, the server or the network answered
    """
    if isinstance(store, RemoteStore):
        return store.read(key)
    if not isinstance(store, LocalStore):
        raise TypeError(f"a {type(store).__name__} cannot be read here")
    try:
        return read_regular(store.root / key)
    except (FileNotFoundError, NotADirectoryError):
        return None
