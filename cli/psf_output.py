"""What the commands of `bigdecon psf` share: writing a PSF, and words for its widths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bigdecon.diagnosis.findings import Finding

__all__ = ["VOXEL_INCLUDED", "attention", "check_output", "numbers", "widths_in_words", "write_psf"]


VOXEL_INCLUDED = "the width of a voxel included"
"""Widths are those that voxels of the image show of a point of light: the optics alone are narrower."""


def check_output(path: Path, overwrite: bool) -> None:
    """Refuse a file that cannot be written, before anything is computed."""
    from bigdecon.errors import OutputError

    if path.suffix.lower() not in (".tif", ".tiff"):
        raise OutputError(f"the PSF is written as TIFF, so {path} must end in .tif.")
    if path.is_dir() or (path.exists() and not overwrite):
        raise OutputError(f"{path} exists; give another name, or --overwrite to replace a file.")
    if not path.parent.is_dir():
        raise OutputError(f"there is no folder {path.parent} to write {path.name} to.")


def write_psf(psf: object, path: Path) -> None:
    """Write a PSF; what the disk refuses ends in one sentence."""
    from bigdecon.errors import OutputError
    from bigdecon.optics.psf import save_psf

    try:
        save_psf(psf, path)  # type: ignore[arg-type]
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error


def numbers(values: Sequence[float | None], unit: str, form: str = ".3g") -> str:
    """Join numbers; None is a width that the array does not hold."""
    return ", ".join("wider than the array" if v is None else format(v, form) for v in values) + unit


def widths_in_words(widths_um: Sequence[float | None]) -> str:
    """Give widths in micrometres, axial and lateral."""
    *axial, y, x = (None if w is None else f"{w:.3g}" for w in widths_um)
    if y is None or x is None:
        lateral = "lateral wider than the array"
    else:
        lateral = f"lateral {y} µm" if y == x else f"lateral {y} (y) and {x} (x) µm"
    if not axial:
        return lateral
    return f"{lateral}, axial " + (f"{axial[0]} µm" if axial[0] else "wider than the array")


def attention(findings: Sequence[Finding]) -> list[str]:
    """Give the lines that somebody should read without having asked, and notes."""
    words = {"warning": "Warning", "distrust": "Do not use this", "note": "Note"}
    return [
        f"{words[f.severity]}: {f.sentence}" + (f" {f.remedy}" if f.remedy else "")
        for f in findings
        if f.severity in words
    ]
