"""Temporary arrays of any size: in memory where they are small, else in files that vanish by themselves."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bigdecon.errors import OutputError

__all__ = ["IN_MEMORY_VOXELS", "scratch_arrays"]

IN_MEMORY_VOXELS = 2**24
"""Arrays of up to this many voxels (256 x 256 x 256) are kept in memory, in double precision."""


@contextmanager
def scratch_arrays(
    shape: Sequence[int], dtypes: Sequence[DTypeLike], *, without: str
) -> Iterator[list[NDArray[Any]]]:
    """Lend writable floating-point arrays of one shape, one for each type of the values to go into it.

    In memory they are float64. On disk, in the folder for temporary files (`tempfile.gettempdir`, which
    obeys TMPDIR), they are float32, or float64 for values that float32 cannot hold. The files have no
    name: the system takes their space back however this process ends.

    Parameters
    ----------
    shape : extent of every array, in voxels
    dtypes : type of the values, an entry for each array
    without : how to do without these arrays, for the message: "use ..."

    Raises
    ------
    OutputError
        if the disk has too little space for them, or the folder cannot be written into
    """
    if math.prod(shape) <= IN_MEMORY_VOXELS:
        yield [np.empty(shape, np.float64) for _ in dtypes]
        return
    kept = [np.result_type(dtype, np.float32) for dtype in dtypes]
    folder = _folder(without)
    _check_space(folder, math.prod(shape) * sum(dtype.itemsize for dtype in kept), without)
    with ExitStack() as files:
        try:
            arrays = [_array_on_disk(folder, shape, dtype, files) for dtype in kept]
        except OSError as error:
            raise OutputError(
                f"no temporary file can be made in {folder} ({error.strerror or error}); "
                f"set TMPDIR to another folder, or {without}."
            ) from error
        yield arrays


def _folder(without: str) -> str:
    try:
        return tempfile.gettempdir()
    except OSError as error:
        raise OutputError(
            f"there is no folder for temporary files; set TMPDIR to one, or {without}."
        ) from error


def _check_space(folder: str, needed: int, without: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"temporary files of {needed} bytes ({needed / 2**30:.1f} GiB) are needed, but {folder} has "
            f"{free} bytes ({free / 2**30:.1f} GiB) free; set TMPDIR to a folder with more space, "
            f"or {without}."
        )


def _array_on_disk(folder: str, shape: Sequence[int], dtype: np.dtype[Any], files: ExitStack) -> NDArray[Any]:
    file = files.enter_context(tempfile.TemporaryFile(dir=folder))  # noqa: SIM115 (closed by `files`)
    if hasattr(os, "posix_fallocate"):
        # Space promised now: a disk that fills up later would end the process without a word.
        os.posix_fallocate(file.fileno(), 0, math.prod(shape) * dtype.itemsize)
    return np.memmap(file, dtype, mode="w+", shape=tuple(shape))
