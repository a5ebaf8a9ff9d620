"""Where a microscope's transfer function ends: from its optics, or from a PSF."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

__all__ = ["optical_cutoff_per_um", "psf_cutoff_per_um", "tapered", "transfer_function"]

CUTOFF_LEVEL = 0.01
"""The transfer function is taken to end where it stays below this part of its value at 0."""

LEAST_TAPERED = 9  # voxels; the taper of a smaller PSF would be narrower than the PSF itself


def optical_cutoff_per_um(
    numerical_aperture: float, wavelength_um: float, refractive_index: float, ndim: int = 3
) -> tuple[float, ...]:
    """Give the highest frequencies that a widefield microscope passes along every axis.

    Laterally 2 NA / wavelength, axially n (1 - cos a) / wavelength with sin a = NA / n (Streibl 1985).
    A voxel of half the inverse is the largest that samples them (Nyquist).

    Parameters
    ----------
    numerical_aperture : of the objective; at most the refractive index
    wavelength_um : of the emitted light in vacuum, in micrometres
    refractive_index : of the immersion medium
    ndim : 3 for (z, y, x), 2 for (y, x)

    Returns
    -------
    tuple
        in periods per micrometre, (z, y, x) or (y, x)
    """
    lateral = 2 * numerical_aperture / wavelength_um
    sine = min(1.0, numerical_aperture / refractive_index)
    axial = refractive_index * (1 - math.sqrt(1 - sine**2)) / wavelength_um
    return (axial, lateral, lateral)[-ndim:]


def transfer_function(psf_array: NDArray[Any], shape: Sequence[int]) -> NDArray[np.float64]:
    """Give the modulus of a PSF's transfer function at the frequencies of an image, 1 at frequency 0.

    Parameters
    ----------
    psf_array : (z, y, x) or (y, x)
    shape : of the image; a PSF that is larger is wrapped around, which keeps the values at these frequencies

    Returns
    -------
    array of the shape of `scipy.fft.rfftn` of the image
    """
    wrapped = np.asarray(psf_array, np.float64)
    for axis, n in enumerate(shape):
        count = -(-wrapped.shape[axis] // n)
        pad = [(0, count * n - m if a == axis else 0) for a, m in enumerate(wrapped.shape)]
        whole = np.pad(wrapped, pad)
        split = (*whole.shape[:axis], count, n, *whole.shape[axis + 1 :])
        wrapped = whole.reshape(split).sum(axis=axis)
    modulus = np.abs(scipy.fft.rfftn(wrapped))
    scaled: NDArray[np.float64] = modulus / modulus.flat[0]
    return scaled


def psf_cutoff_per_um(psf_array: NDArray[Any], voxel_size_um: Sequence[float]) -> tuple[float, ...]:
    """Give the frequencies along every axis where a PSF's transfer function ends, at most Nyquist's.

    Along an axis, the largest modulus over all frequencies of the other axes counts: a widefield microscope
    passes its highest axial frequencies together with lateral ones only.

    Parameters
    ----------
    psf_array : (z, y, x) or (y, x)
    voxel_size_um : along the same axes

    Returns
    -------
    tuple
        in periods per micrometre; half a period a voxel where the transfer function does not end before
    """
    shape = [scipy.fft.next_fast_len(max(2 * n, 32), real=True) for n in psf_array.shape]
    modulus = transfer_function(tapered(psf_array), shape)
    ends = []
    for axis, (n, step) in enumerate(zip(shape, voxel_size_um, strict=True)):
        others = tuple(a for a in range(modulus.ndim) if a != axis)
        line = modulus.max(axis=others)[: n // 2 + 1]
        passed = np.flatnonzero(line >= CUTOFF_LEVEL)
        extent = psf_array.shape[axis]
        widening = 1 / extent if extent >= LEAST_TAPERED else 0.0
        end = (passed[-1] + 1) / n
        ends.append((0.5 if end >= 0.5 else max(1 / n, end - widening)) / step)
    return tuple(ends)


def tapered(psf_array: NDArray[Any]) -> NDArray[np.float64]:
    """Let a PSF fade out: where it was cut off sharply, its transfer function would never end."""
    faded = np.asarray(psf_array, np.float64)
    for axis, n in enumerate(psf_array.shape):
        if n >= LEAST_TAPERED:
            taper = np.hanning(n + 2)[1:-1]
            faded = faded * taper.reshape([-1 if a == axis else 1 for a in range(faded.ndim)])
    return faded
