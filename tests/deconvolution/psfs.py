"""PSFs for tests of several methods."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def uneven(shape: tuple[int, ...], slant: float = 0.6) -> NDArray[np.float32]:
    """A PSF unlike its mirror image along every axis, of another width along each."""
    grid = np.ogrid[tuple(slice(-(n // 2), n // 2 + 1) for n in shape)]
    psf = np.exp(-sum(x**2 / (0.8 + 0.3 * a) ** 2 for a, x in enumerate(grid)) / 2)
    for axis, x in enumerate(grid):
        psf = psf * (1 + slant * np.tanh(x - 0.3 * axis))
    return (psf / psf.sum()).astype(np.float32)
