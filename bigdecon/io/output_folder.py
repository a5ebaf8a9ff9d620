"""The place of an output: whether it may be written, and how to remove an earlier one safely."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from bigdecon.errors import OutputError
from bigdecon.io.stores import is_url, local_output_path, resolve

__all__ = ["BOOKKEEPING", "FORMAT", "check_output_path", "is_own_output", "remove_output"]

BOOKKEEPING = "bigdecon"
"""Name of the group, and of the root attribute, that mark an output of bigdecon."""
FORMAT = 1
"""Version of the layout inside that group."""
METADATA_FILES = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")


def _attributes(root: Path) -> dict[str, Any]:
    """Read the root group's attributes; empty where there are none."""
    for name in ("zarr.json", ".zattrs"):
        try:
            parsed = json.loads((root / name).read_bytes())
        except (OSError, ValueError):
            continue
        found = parsed.get("attributes", {}) if name == "zarr.json" else parsed
        return found if isinstance(found, dict) else {}
    return {}


def is_own_output(path: str | os.PathLike[str]) -> bool:
    """Whether bigdecon wrote the image at a path: it left its mark in the root attributes."""
    return isinstance(_attributes(local_output_path(path)).get(BOOKKEEPING), dict)


def check_output_path(
    path: str | os.PathLike[str], *, overwrite: bool = False, input_location: str = ""
) -> None:
    """Find out before any work whether an output can be written to a path.

    Parameters
    ----------
    path : where the output should go
    overwrite : whether an earlier output of bigdecon may be replaced
    input_location : path or URL of the input; empty where it lies in memory

    Raises
    ------
    OutputError
        if the path is taken, lies inside the input or around it, or its folder cannot be written
    """
    target = local_output_path(path)
    if input_location and not is_url(input_location):
        _check_apart(target, Path(resolve(input_location)))
    if target.is_dir() and any(target.iterdir()):
        if not is_own_output(target):
            raise OutputError(f"{target} exists and was not written by bigdecon; choose another output.")
        if not overwrite:
            raise OutputError(
                f"{target} exists already; --overwrite replaces it (overwrite=True from Python), "
                "or choose another output."
            )
        _check_nothing_unknown(target)
    elif os.path.lexists(target) and not target.is_dir():
        raise OutputError(f"{target} exists and is not a folder; choose another output.")
    _check_writable(target)


def _check_apart(target: Path, source: Path) -> None:
    target, source = target.resolve(), source.resolve()
    if target == source or target.is_relative_to(source):
        raise OutputError(f"the output {target} lies inside the input {source}; choose a place beside it.")
    if source.is_relative_to(target):
        raise OutputError(f"the input {source} lies inside the output {target}; choose another output.")


def _check_writable(target: Path) -> None:
    """Try to make a folder where the output will be: permissions alone do not tell (read-only disks)."""
    folder = target if target.is_dir() else target.parent
    while not os.path.lexists(folder):
        folder = folder.parent
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".bigdecon-", dir=folder))
    except OSError as error:
        cause = error.strerror or type(error).__name__
        raise OutputError(
            f"the folder {folder} cannot be written ({cause}); choose another output."
        ) from error


def _level_names(root: Path) -> list[str]:
    """Give the paths of the levels that the root attributes list, first folder only."""
    attributes = _attributes(root)
    ome = attributes.get("ome", attributes)
    paths = [d["path"] for m in ome.get("multiscales", []) for d in m.get("datasets", [])]
    return [str(p) for p in paths if str(p).isdigit()]


def _check_nothing_unknown(root: Path) -> None:
    own = {BOOKKEEPING, *METADATA_FILES, *_level_names(root)}
    unknown = sorted(entry.name for entry in root.iterdir() if entry.name not in own)
    if unknown:
        raise OutputError(
            f"{root} also holds {', '.join(unknown[:5])}, which bigdecon did not write; "
            "move that away or choose another output."
        )


def remove_output(path: str | os.PathLike[str]) -> None:
    """Remove an earlier output: its levels, its metadata files and the bigdecon group, nothing else.

    The record of finished parts goes first and the mark of bigdecon last, so that an interrupted
    removal neither passes for a finished run nor for a stranger's folder.

    Raises
    ------
    OutputError
        if bigdecon did not write it, if it holds anything else, or if it cannot be removed
    """
    root = local_output_path(path)
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return
    if not is_own_output(root):
        raise OutputError(f"{root} was not written by bigdecon and is left as it is; choose another output.")
    _check_nothing_unknown(root)
    try:
        for name in (BOOKKEEPING, *_level_names(root)):
            if (root / name).exists():
                shutil.rmtree(root / name)
        for name in reversed(METADATA_FILES):
            (root / name).unlink(missing_ok=True)
        root.rmdir()
    except OSError as error:
        raise OutputError(f"{root} cannot be removed ({error.strerror or error}).") from error
