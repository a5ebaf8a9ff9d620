"""What a PSF should look like by theory: how wide it is, and how finely it must be sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bigdecon.optics.conditions import ImagingConditions
from bigdecon.optics.models import make_psf
from bigdecon.optics.widths import fwhm

__all__ = ["Expectation", "bead_widening", "expect"]

Sizes = tuple[float, ...]

BEAD_VARIANCE = 8 * np.log(2) / 20
"""A ball of diameter d has the variance d² / 20 along any axis; a Gaussian's FWHM² is 8 ln 2 times that."""
COARSE = 8
"""Voxels of so many widths by theory hold nearly all of the PSF, or are not the image's."""


@dataclass(frozen=True)
class Expectation:
    """What theory says; all along (z, y, x), or (y, x), in micrometres.

    Attributes
    ----------
    fwhm_um : full widths at half maximum of the vectorial model, at the voxels of the image
    sampling_um : the largest voxels that lose nothing
    """

    fwhm_um: Sizes
    sampling_um: Sizes


def expect(conditions: ImagingConditions, voxel_size_um: Sequence[float]) -> Expectation:
    """Compute what a PSF should be like at voxels of a given size.

    The widths are those of the computed PSF (Richards-Wolf), measured as those of any other. The sampling
    is the Nyquist limit where a camera takes the image: λ / (4 NA) and λ / (2 (n − √(n² − NA²))); where
    pinholes or a second photon sharpen it the limit is half of that, but hardly anything near it can be seen:
    half of the width is taken.

    Raises
    ------
    PSFError
        if a number is impossible
    """
    na, wavelength = conditions.numerical_aperture, conditions.wavelength_um
    conditions.check()
    axial = 0.88 * wavelength / conditions.axial_term
    reach = (2.0 * axial, *[1.5 * wavelength / na] * 2)
    size = [float(v) for v in voxel_size_um]
    rough = (axial, 0.51 * wavelength / na, 0.51 * wavelength / na)[-len(size) :]
    lateral = wavelength / (4 * na)
    sampling = (wavelength / (2 * conditions.axial_term), lateral, lateral)[-len(size) :]
    scans = conditions.microscope.kind not in ("widefield", "light-sheet")
    if any(v > COARSE * r for v, r in zip(size, rough, strict=True)):
        # A PSF within a voxel is as wide as that; to compute its mean over it would take hours.
        coarse = tuple(max(v, r) for v, r in zip(size, rough, strict=True))
        return Expectation(coarse, tuple(r / 2 for r in rough) if scans else sampling)
    shape = [
        2 * int(np.clip(np.ceil(r / v) + 2, 3, 40)) + 1 if v > 0 else 3
        for r, v in zip(reach[-len(voxel_size_um) :], voxel_size_um, strict=True)
    ]
    psf = make_psf(
        "richards-wolf",
        numerical_aperture=na,
        wavelength_um=wavelength,
        refractive_index=conditions.refractive_index,
        voxel_size_um=voxel_size_um,
        shape=shape,
        microscope=conditions.microscope,
    )
    # Wider than its array is only what is sampled very finely; the formula serves there.
    widths = [r if w is None else w * v for w, v, r in zip(fwhm(psf.array), size, rough, strict=True)]
    if scans:
        sampling = tuple(w / 2 for w in widths)
    return Expectation(tuple(widths), sampling)


def bead_widening(fwhm_um: Sequence[float], bead_diameter_um: float) -> Sizes:
    """Tell by which factors a bead's own size has widened its image.

    Variances add, so that the width without the bead is √(FWHM² − 0.277 d²); good to about a
    percent for beads up to half as large as the image is wide.

    Parameters
    ----------
    fwhm_um : widths of the bead's image
    bead_diameter_um : diameter d of the bead

    Returns
    -------
    tuple
        one factor an axis, 1 or more; infinite where the bead alone would be as wide as its image
    """
    squares = [width**2 - BEAD_VARIANCE * bead_diameter_um**2 for width in fwhm_um]
    return tuple(
        float(width / np.sqrt(square)) if square > 0 else float("inf")
        for width, square in zip(fwhm_um, squares, strict=True)
    )
