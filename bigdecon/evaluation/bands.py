"""Bands of axial and lateral frequency, and the spectra of boxes that are summed up in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce

import numpy as np
import scipy.fft
from numpy.typing import NDArray

__all__ = [
    "BANDS",
    "LEAST_EXTENT",
    "bands_of",
    "faded_spectrum",
    "fading_lines",
    "fading_window",
    "independent_share",
]

Floats = NDArray[np.float64]

BANDS = 32
"""Up to Nyquist's frequency, along either direction."""
LEAST_EXTENT = 16
"""Voxels along y and x: below, a band is hardly wider than what the window leaks."""


def fading_window(shape: Sequence[int]) -> Floats:
    """Give a window that fades out towards all faces of a box (Blackman): little leaks between bands."""
    return np.asarray(reduce(np.multiply, np.ix_(*fading_lines(shape))), np.float64)


def fading_lines(shape: Sequence[int]) -> list[Floats]:
    """Give the same window along every axis."""
    return [np.asarray(np.blackman(n + 2)[1:-1], np.float64) for n in shape]


def faded_spectrum(image: Floats) -> NDArray[np.complex128]:
    """Transform a box (`rfftn`), faded out towards its faces, without its mean under the window."""
    window = fading_window(image.shape)
    level = float((image * window).sum() / window.sum())
    spectrum: NDArray[np.complex128] = scipy.fft.rfftn((image - level) * window)
    return spectrum


def independent_share(lines: Iterable[Floats]) -> float:
    """Part of the frequencies that are independent: a window ties neighbours together.

    Parameters
    ----------
    lines : the window along every axis; it is their outer product
    """
    share = 1.0
    for line in lines:
        squares = line**2
        share *= float(squares.mean() ** 2 / (squares**2).mean())
    return share


def bands_of(
    shape: Sequence[int], voxel_size_um: Sequence[float]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give the band of every frequency of `rfftn`, axially and laterally.

    Parameters
    ----------
    shape : of the box, (z, y, x) or (y, x)
    voxel_size_um : along the same axes; only the ratio of y and x matters

    Returns
    -------
    axial and lateral band, from 0; laterally, the corners of the spectrum are in bands of 32 and more
    """
    coarsest = max(voxel_size_um[-2:])
    y = scipy.fft.fftfreq(shape[-2], voxel_size_um[-2] / coarsest)
    x = scipy.fft.rfftfreq(shape[-1], voxel_size_um[-1] / coarsest)
    full = (*shape[:-1], shape[-1] // 2 + 1)
    lateral = np.broadcast_to(_band(np.sqrt(y[:, None] ** 2 + x[None, :] ** 2)), full)
    if len(shape) == 2:
        return np.zeros(full, np.int64), lateral
    axial = _band(np.abs(scipy.fft.fftfreq(shape[0])))
    return np.broadcast_to(axial[:, None, None], full), lateral


def _band(frequency: Floats) -> NDArray[np.int64]:
    return np.maximum(np.ceil(frequency * 2 * BANDS - 1e-9).astype(np.int64) - 1, 0)
