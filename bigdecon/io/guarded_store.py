"""A local Zarr store that reads regular files inside its folder only, and none larger than expected."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from io import FileIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from bigdecon.io.stores import ReadOnlyStore, RemoteStore, byte_bounds, is_url, open_store
from bigdecon.untrusted import MAX_DOCUMENT_BYTES, shown

__all__ = ["GuardedStore", "open_guarded", "read_document"]

Bytes = NDArray[np.uint8]


class GuardedStore(ReadOnlyStore):
    """A folder, read-only, which differs from zarr's LocalStore in three ways.

    Links that lead out of the folder are refused unless they may be followed (the folder itself may
    be reached by a link); pipes and devices are refused at once; and no more than `limit` bytes are
    read of one file. All three raise ValueError.
    """

    def __init__(self, folder: str, *, follow_links: bool = False, limit: int = MAX_DOCUMENT_BYTES) -> None:
        super().__init__(read_only=True)
        self.base = os.path.realpath(folder)
        self.follow_links = follow_links
        self.limit = limit
        self._is_open = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GuardedStore) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __str__(self) -> str:
        return self.base

    @property
    def _identity(self) -> tuple[str, bool, int]:
        return self.base, self.follow_links, self.limit

    def read(self, key: str, byte_range: ByteRequest | None = None) -> bytes | None:
        """Read a file or a range of its bytes as `read_into` does, into memory of its own."""
        content = self.read_into(_fresh, key, byte_range)
        return None if content is None else content.tobytes()

    def read_into(
        self, memory: Callable[[int], Bytes], key: str, byte_range: ByteRequest | None = None
    ) -> Bytes | None:
        """Read a file or a range of its bytes; None where there is none.

        Parameters
        ----------
        memory : gives memory of so many bytes
        key : of the file
        byte_range : all of it by default

        Raises
        ------
        OSError
            if the system refuses
        ValueError
            if it leads out of the store, is no regular file, or is too large
        """
        path = os.path.join(self.base, key)
        try:
            self._check_inside(path)
            # Opening a pipe without a writer would wait for ever.
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        except (FileNotFoundError, NotADirectoryError):
            return None
        with os.fdopen(handle, "rb", buffering=0) as file:
            status = os.fstat(handle)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(f"{key} is a folder instead of a file")
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"{key} is no regular file but a pipe or a device")
            start, stop, _ = slice(*byte_bounds(byte_range)).indices(status.st_size)
            stop = max(start, stop)
            if stop - start > self.limit:
                raise ValueError(f"{key} takes {stop - start} bytes, and at most {self.limit} are expected")
            file.seek(start)
            content = memory(stop - start)
            return content[
                : _read_all(file, memoryview(content.data if isinstance(content, np.ndarray) else content))
            ]

    def _check_inside(self, path: str) -> None:
        real = os.path.realpath(path)
        if real == path or self.follow_links or os.path.commonpath([real, self.base]) == self.base:
            return
        raise ValueError(
            f"{shown(os.path.relpath(path, self.base))} leads out of the store by a link to {real}; "
            "copy what it leads to into the store (cp -rL copies a whole store so), or allow it with "
            "--follow-links of run and info (follow_links=True from Python)"
        )

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Read a file or a range of its bytes; None where there is none."""
        data = await asyncio.to_thread(self.read_into, _fresh, key, byte_range)
        if data is None:
            return None
        kind: type[Any] = Buffer if prototype is None else prototype.buffer
        found: Buffer = kind.from_array_like(data)
        return found

    async def exists(self, key: str) -> bool:
        """Whether there is a regular file of this name that may be read."""
        path = os.path.join(self.base, key)
        if not await asyncio.to_thread(os.path.isfile, path):
            return False
        self._check_inside(path)
        return True

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Give the names in one folder."""
        path = os.path.join(self.base, prefix)
        self._check_inside(path)
        with suppress(FileNotFoundError, NotADirectoryError):
            for name in await asyncio.to_thread(os.listdir, path):
                yield name


def _fresh(size: int) -> Bytes:
    return np.empty(size, np.uint8)


def _read_all(file: FileIO, content: memoryview) -> int:
    """Fill memory and tell how far; a single read of a file system in the network may give less."""
    end = 0
    while end < len(content) and (more := file.readinto(content[end:])):
        end += more
    return end


def open_guarded(location: str, *, follow_links: bool = False, limit: int = MAX_DOCUMENT_BYTES) -> Store:
    """Open a local folder or a URL for reading as a Zarr store; the guards are those of local folders."""
    if is_url(location):
        return open_store(location)
    return GuardedStore(location, follow_links=follow_links, limit=limit)


def read_document(store: Store, key: str) -> bytes | None:
    """Read one metadata file of a store that `open_guarded` opened; None where there is none.

    Raises
    ------
    Exception
        what the operating system, the server or the network answered
    """
    if not isinstance(store, GuardedStore | RemoteStore):
        raise TypeError(f"a {type(store).__name__} cannot be read here")
    return store.read(key)
