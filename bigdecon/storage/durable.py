"""Local files that are whole or absent, whatever dies and whenever."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

__all__ = ["TEMPORARY", "write_durably"]

TEMPORARY = ".tmp-"
"""How the names of files begin that are not finished."""


def write_durably(path: Path, data: bytes | Iterable[bytes], writer: str = "") -> None:
    """Replace `path` by `data`, or its pieces, in one step, on disk before the name changes.

    The name of the unfinished file tells the writer, if there is one.

    Raises
    ------
    OSError
        if the folder is missing, not writable or full; `path` is then as it was
    """
    whose = f"{writer}-" if writer else ""
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{whose}{uuid4().hex}")
    try:
        with open(temporary, "xb") as file:
            if isinstance(data, bytes):
                file.write(data)
            else:
                _write_pieces(file, data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _write_pieces(file: BinaryIO, pieces: Iterable[bytes]) -> None:
    """Write piece after piece; the disk, where the system can be told, is at it while the next is made.

    The advice that pages are no longer needed starts to write them and returns at once. It drops only those
    that are on the disk already, which these are not.
    """
    advise = getattr(os, "posix_fadvise", None)  # neither on macOS nor on Windows
    for piece in pieces:
        start = file.tell()
        file.write(piece)
        if advise:
            with suppress(OSError):  # a file system that takes no advice
                advise(file.fileno(), start, len(piece), os.POSIX_FADV_DONTNEED)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the file system knows how."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows cannot open folders
        return
    try:
        os.fsync(handle)
    except OSError:  # nor do some network file systems sync them: their rename is durable as it is
        pass
    finally:
        os.close(handle)
