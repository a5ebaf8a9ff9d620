"""What `bigdecon convert` was asked for, and what of it can be refused at once, without opening the image."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bigdecon.errors import OptionError, OutputError
from bigdecon.io.image_paths import check_image_path, is_pattern, is_tiff_folder, stack_files
from bigdecon.io.output_folder import check_output_path, check_writable, is_own_output, output_place
from bigdecon.storage.object_path import ObjectPath
from bigdecon.storage.places import Place, as_place

__all__ = ["TIFF_NAMES", "Conversion", "check_conversion", "check_tiff_target", "names_tiff", "taken"]

TIFF_NAMES = (".tif", ".tiff", ".btf", ".tf8")


@dataclass(frozen=True)
class Conversion:
    """Everything that `bigdecon convert` was asked for; attributes carry the names of its flags.

    Attributes
    ----------
    input, output : path or address; the ending of the output (.tif, .zarr) says the format
    stack : axes of the numbers in the names of a series of files, such as "tz"
    level, channel, timepoint, roi, voxel_size, follow_links : as for `bigdecon run`
    dtype : type of the values; None keeps the input's
    ome_version : of an OME-Zarr
    tiled : write an OME-TIFF with compressed tiles and a pyramid of every plane
    overwrite : replace what is there
    cluster, workers, threads, memory_limit : who copies, for OME-Zarr
    """

    input: str
    output: str
    stack: str | None = None
    level: int = 0
    channel: tuple[str, ...] = ()
    timepoint: int | None = None
    roi: str | None = None
    voxel_size: tuple[float, ...] | None = None
    follow_links: bool = False
    dtype: str | None = None
    ome_version: Literal["0.5", "0.4"] = "0.5"
    tiled: bool = False
    overwrite: bool = False
    cluster: str = "local"
    workers: int | None = None
    threads: int | None = None
    memory_limit: str | None = None


def check_conversion(config: Conversion) -> None:
    """Refuse what can be refused without opening a file; what lies on servers is left to them.

    Raises
    ------
    InputError
        one of its kinds; nothing has been written
    """
    is_tiff, target = names_tiff(config), output_place(config.output)
    check_image_path(config.input)
    if not isinstance(target, Path):
        return
    if is_tiff:
        check_tiff_target(target, config)
    elif not is_own_output(target):
        check_output_path(target, overwrite=config.overwrite, input_location=config.input)


def names_tiff(config: Conversion) -> bool:
    """Whether the output is a TIFF file, by its name; else it is an OME-Zarr.

    Raises
    ------
    OptionError, OutputError
        if the name tells neither, or the format is not written there, or not as asked for
    """
    target = output_place(config.output)
    name = target.name.lower()
    if name.endswith(TIFF_NAMES):
        if isinstance(target, ObjectPath):
            raise OutputError(
                f"{target} is in an object store, and TIFF files are written to disks; write .zarr there."
            )
        return True
    if not name.endswith(".zarr"):
        raise OutputError(
            f"the name {target.name} does not tell the format; let it end in .ome.zarr or .ome.tif."
        )
    if config.tiled:
        raise OptionError("--tiled belongs to an output whose name ends in .tif.")
    return False


def check_tiff_target(target: Path, config: Conversion) -> None:
    """Refuse a place where no TIFF file can be written, or that is a part of the input.

    Raises
    ------
    OutputError
        if it is one
    """
    source = as_place(config.input)
    if target.is_dir():
        raise OutputError(f"{target} is a folder; choose another name for the file.")
    if target.exists() and isinstance(source, Path) and source.exists() and target.samefile(source):
        raise OutputError(f"the output {target} is the input; choose another name.")
    if target.exists() and target.resolve() in _files_of_series(config.input):
        raise OutputError(f"the output {target} is one of the files of the input; choose another name.")
    if target.exists() and not config.overwrite:
        raise taken(target)
    check_writable(target)


def _files_of_series(location: str) -> set[Path]:
    """Find the files of which a series of TIFFs is made; none for any other input."""
    if is_pattern(location) or (os.path.isdir(location) and is_tiff_folder(location)):
        return {Path(file).resolve() for file in stack_files(location)}
    return set()


def taken(target: Place) -> OutputError:
    """Say that an output exists already."""
    return OutputError(f"{target} exists already; --overwrite replaces it, or choose another output.")
