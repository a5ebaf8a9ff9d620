"""What a path to an image names: an address, a file, a folder, or a series of TIFF files; opens none of them.

Nothing here needs more than the standard library: a path that leads nowhere is refused in no time.
"""

from __future__ import annotations

import glob
import os

from bigdecon.errors import VolumeError
from bigdecon.io.stack_names import natural_key
from bigdecon.storage.places import PlaceLike, resolve
from bigdecon.storage.servers import is_url
from bigdecon.untrusted import reason

__all__ = ["TIFF_ENDINGS", "check_image_path", "is_pattern", "is_tiff_folder", "stack_files"]

TIFF_ENDINGS = (".tif", ".tiff", ".btf", ".tf2", ".tf8", ".lsm", ".stk")
MAX_FILES = 2**20


def check_image_path(path: PlaceLike) -> None:
    """Refuse a path of this machine that leads to nothing; addresses are left to their servers.

    Raises
    ------
    VolumeError
        if there is no file or folder, or no TIFF file that a pattern matches
    """
    location = resolve(path)
    if is_url(location):
        return
    if is_pattern(location):
        stack_files(location)
    elif not os.path.exists(location):
        raise VolumeError(f"there is no file or folder {location}.")


def is_pattern(location: str) -> bool:
    """Whether a path is a pattern for names rather than a file that exists."""
    return glob.has_magic(location) and not os.path.exists(location)


def is_tiff_folder(folder: str) -> bool:
    """Whether a folder holds TIFF files, and no Zarr."""
    if any(os.path.exists(os.path.join(folder, n)) for n in ("zarr.json", ".zattrs", ".zgroup", ".zarray")):
        return False
    with os.scandir(folder) as entries:
        return any(_is_tiff(entry.name) for entry in entries)


def stack_files(location: str) -> list[str]:
    """List TIFF files of a folder or pattern, in natural order.

    Raises
    ------
    VolumeError
        if there are none, too many, or the folder cannot be listed
    """
    try:
        if os.path.isdir(location):
            found = [os.path.join(location, name) for name in os.listdir(location) if _is_tiff(name)]
        else:
            found = [path for path in glob.iglob(location) if _is_tiff(os.path.basename(path))]
    except OSError as error:
        raise VolumeError(f"{location} cannot be listed ({reason(error)}).") from error
    if not found:
        raise VolumeError(
            f"no TIFF file matches {location}; give a folder or a pattern such as 'planes/*.tif'."
        )
    if len(found) > MAX_FILES:
        raise VolumeError(f"{location} has {len(found)} files, and at most {MAX_FILES} make one image.")
    return sorted(found, key=natural_key)


def _is_tiff(name: str) -> bool:
    return name.lower().endswith(TIFF_ENDINGS) and not name.startswith(".")
