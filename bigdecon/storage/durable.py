"""Small local files that are whole or absent, whatever dies and whenever."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

__all__ = ["TEMPORARY", "write_durably"]

TEMPORARY = ".tmp-"
"""How the names of files begin that are not finished."""


def write_durably(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step, on disk before the name changes.

    Raises
    ------
    OSError
        if the folder is missing, not writable or full; `path` is then as it was
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{uuid4().hex}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


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
