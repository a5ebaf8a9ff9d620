"""How a PSF looks in a notebook: sections through its centre, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bigdecon.notebook_html import card, grey_picture
from bigdecon.optics.widths import fwhm

if TYPE_CHECKING:
    from bigdecon.optics.psf import PSF

__all__ = ["psf_html"]

MOST_PIXELS = 160
SCALE = '<div style="font-size:85%;opacity:.7">brightness by its square root</div>'
MOST_VOXELS = 2**24
"""Of larger PSFs the widths are not measured."""


def psf_html(psf: PSF) -> str:
    """Describe a PSF for a notebook: xy and xz sections, brightness by its square root."""
    size = psf.voxel_size_um
    rows = [("shape", " × ".join(map(str, psf.array.shape)) + (" (z, y, x)" if psf.ndim == 3 else " (y, x)"))]
    rows.append(("voxel size", "unknown" if size is None else " × ".join(f"{s:g}" for s in size) + " µm"))
    if psf.array.size <= MOST_VOXELS:
        rows.append(("full width at half maximum", _widths(fwhm(psf.array), size)))
    rows += [("corrected" if i == 0 else "", sentence) for i, sentence in enumerate(psf.corrections)]
    return card(f"PSF {psf.name}", rows, _sections(psf))


def _sections(psf: PSF) -> str:
    array, size = np.sqrt(np.maximum(psf.array, 0)), psf.voxel_size_um or (1.0,) * psf.ndim
    middle = [n // 2 for n in array.shape]
    if psf.ndim == 2:
        return grey_picture(array, "brightness by its square root", size[0] / size[1])
    lateral, axial = array[middle[0]], array[:, middle[1]]
    width = array.shape[2] * size[2]
    scale = MOST_PIXELS / max(width, *(n * s for n, s in zip(array.shape, size, strict=True)))
    xy = grey_picture(lateral, "xy", size[1] / size[2], round(scale * max(width, array.shape[1] * size[1])))
    xz = grey_picture(axial, "xz", size[0] / size[2], round(scale * max(width, array.shape[0] * size[0])))
    return f'<div style="display:flex;gap:8px;align-items:flex-start">{xy}{xz}</div>{SCALE}'


def _widths(widths: Sequence[float | None], size: Sequence[float] | None) -> str:
    steps = size or (1.0,) * len(widths)
    unit = "voxels" if size is None else "µm"
    known = ["beyond the array" if w is None else f"{w * s:.3g}" for w, s in zip(widths, steps, strict=True)]
    return " × ".join(known) + f" {unit}"
