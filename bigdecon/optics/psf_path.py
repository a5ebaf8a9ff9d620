"""Whether a path can be that of a PSF file, told without opening it."""

from __future__ import annotations

import os
from pathlib import Path

from bigdecon.errors import PSFError

__all__ = ["READABLE_PSF", "check_psf_path"]

READABLE_PSF = "a TIFF, OME-TIFF or .npy file"


def check_psf_path(path: str | os.PathLike[str]) -> None:
    """Refuse a path that leads to no file.

    Raises
    ------
    PSFError
        if there is nothing, or a folder
    """
    if not Path(path).is_file():
        what = f"{path} is a folder" if Path(path).is_dir() else f"there is no PSF file {path}"
        raise PSFError(f"{what}; as a PSF, give {READABLE_PSF}.")
