"""Take the size of a bead out of its image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from bigdecon.errors import PSFError
from bigdecon.optics.conditions import ImagingConditions

__all__ = ["ball_transfer", "without_bead"]

WEAKEST = 0.3
"""Contrast of the finest details in a bead's image below which dividing by it would mostly raise noise."""


def ball_transfer(frequency: NDArray[np.float64], diameter_um: float) -> NDArray[np.float64]:
    """Give the Fourier transform of a ball of volume 1: 3 (sin u − u cos u) / u³, u = π d f; f per µm."""
    u = np.maximum(np.pi * diameter_um * frequency, 1e-3)
    return np.asarray(3 * (np.sin(u) - u * np.cos(u)) / u**3)


def without_bead(
    array: NDArray[np.float32],
    voxel_size_um: Sequence[float],
    diameter_um: float,
    conditions: ImagingConditions | None,
) -> NDArray[np.float32]:
    """Deconvolve the image of a bead by the bead, a ball, within the frequencies that the optics let pass.

    Parameters
    ----------
    array : image of a bead, odd extents, centred, dark at its border
    voxel_size_um : along every axis
    diameter_um : of the bead
    conditions : the optics; without them all frequencies of the voxels are taken to pass

    Raises
    ------
    PSFError
        if the bead is so large that it hides details that the optics would show
    """
    limits = [0.5 / v for v in voxel_size_um]
    if conditions is not None:
        sharper = 1 if conditions.microscope.kind in ("widefield", "light-sheet") else 2
        microscope, wavelength = conditions.microscope, conditions.wavelength_um
        if microscope.kind == "two-photon" and microscope.excitation_um is not None:
            wavelength = microscope.excitation_um  # the excitation, squared, makes the image
        lateral = 2 * conditions.numerical_aperture / wavelength
        passing = (conditions.axial_term / wavelength, lateral, lateral)[-len(limits) :]
        limits = [min(limit, sharper * p) for limit, p in zip(limits, passing, strict=True)]
    axes = [scipy.fft.fftfreq(n, v) for n, v in zip(array.shape, voxel_size_um, strict=True)]
    grid = np.meshgrid(*axes, indexing="ij", sparse=True)
    # An ellipsoid holds the optics' pass-band, and no corner of the voxels' box that is empty of signal.
    within = sum((f / limit) ** 2 for f, limit in zip(grid, limits, strict=True)) <= 1
    transfer = ball_transfer(np.sqrt(sum(f**2 for f in grid)), diameter_um)
    weakest = float(transfer[within].min())
    if weakest < WEAKEST:
        largest = _reach(WEAKEST) / (np.pi * max(limits))
        raise PSFError(
            f"beads of {diameter_um:g} µm hide the finest details of this microscope (they keep "
            f"{max(weakest, 0):.0%} of their contrast, and {WEAKEST:.0%} is the least that can be undone); "
            f"use beads of {largest:.2g} µm or less, or leave --correct-bead-size out."
        )
    spectrum = scipy.fft.fftn(array.astype(np.float64))
    return np.asarray(scipy.fft.ifftn(np.where(within, spectrum / transfer, spectrum)).real, np.float32)


def _reach(contrast: float) -> float:
    """Argument u at which the ball's transform has fallen to a contrast."""
    u = np.linspace(0.01, 4.4, 4400)
    return float(u[int(np.argmax(3 * (np.sin(u) - u * np.cos(u)) / u**3 < contrast))])
