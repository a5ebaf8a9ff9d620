"""A file behind a URL that is read here and there, over connections that may break."""

from __future__ import annotations

import io
from typing import Any

from bigdecon.storage.servers import QUICK, ask

__all__ = ["RemoteFile"]


class RemoteFile(io.RawIOBase):
    """A binary file on a server; each read is repeated as `bigdecon.storage.servers` says.

    Parameters
    ----------
    url : of the file

    Raises
    ------
    FileNotFoundError
        if there is none
    OSError
        if the server does not give it
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self.name = url
        self._url = url
        self._position = 0
        self._file: Any = None
        self._size = int(ask(url, self._look, attempts=QUICK))

    def _look(self, fs: Any) -> int:
        self._file = fs.open(self._url, "rb")
        size = self._file.size
        return -1 if size is None else int(size)

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be read anywhere."""
        return True

    def tell(self) -> int:
        """Give the place of the next read, in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, in bytes from the start, from here, or from the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from here on; gives how many bytes there were."""
        view = memoryview(buffer).cast("B")

        def fetch(fs: Any) -> bytes:
            if self._file is None:
                self._file = fs.open(self._url, "rb")
            try:
                self._file.seek(self._position)
                return bytes(self._file.read(len(view)))
            except Exception:
                self._file = None  # what it has cached of a broken answer is not to be trusted
                raise

        data = ask(self._url, fetch)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        """Forget what is cached."""
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()
