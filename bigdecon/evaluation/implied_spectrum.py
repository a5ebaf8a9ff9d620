"""The specimen's spectrum as an image and a PSF together imply it: power beyond noise over transfer.

```text
image power - noise              true PSF:   falls with frequency, as specimens do
-------------------    over f    too wide:   rises: what the PSF is said to stop is there all the same
|transfer function|^2            too narrow: falls too fast: what the PSF lets pass is not there
```
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from bigdecon.evaluation.cutoffs import tapered, transfer_function

__all__ = ["ImpliedSpectrum", "implied_spectra"]

Floats = NDArray[np.float64]

LEAST_TRANSFER = 1e-5  # of squared modulus: below, a PSF's own noise and cutting are all that is left
FIRST_SHELL = 3  # what the window leaks of frequency 0 ends here
LEAST_EXCESS = 0.5  # of the noise's power
SURE = 4.0  # standard deviations of the noise's power
INDEPENDENT = 0.1  # part of the frequencies under the window
LEAST_PLANES = 16


@dataclass(frozen=True, eq=False)
class ImpliedSpectrum:
    """Spectrum of the specimen along one direction, up to where the image is lost in its noise.

    Attributes
    ----------
    direction : in the plane, or along z
    frequency : in periods a voxel
    power : implied, in units of the noise's power
    """

    direction: Literal["lateral", "axial"]
    frequency: Floats
    power: Floats

    @property
    def rise(self) -> float:
        """Factor from the median of the lower third to the highest stretch above; of specimens, below 5."""
        n = len(self.power)
        third = max(2, n // 3)
        stretches = [np.median(self.power[i : i + 3]) for i in range(third, max(third + 1, n - 2))]
        return float(max(stretches) / np.median(self.power[:third]))

    @property
    def slope(self) -> float:
        """Exponent of the frequency over the upper octave; specimens have -1 to -5."""
        upper = self.frequency >= self.frequency[-1] / 2
        return float(np.polyfit(np.log(self.frequency[upper]), np.log(self.power[upper]), 1)[0])


def implied_spectra(image: NDArray[Any], psf_array: NDArray[Any]) -> list[ImpliedSpectrum]:
    """Divide an image's spectrum by the squared transfer function, laterally and, in 3D, axially.

    The noise is taken from the highest lateral frequencies, in which a microscope passes next to nothing.
    Axially, the lateral frequencies around half of those that can be told from noise count, since a
    widefield microscope passes nothing along z alone.

    Parameters
    ----------
    image : (z, y, x) or (y, x)
    psf_array : along the same axes
    """
    power = _power(np.asarray(image, np.float64))
    transfer = transfer_function(tapered(psf_array), image.shape) ** 2
    lines = [np.abs(scipy.fft.fftfreq(n)) for n in image.shape[:-1]] + [scipy.fft.rfftfreq(image.shape[-1])]
    grid = list(np.ix_(*lines))
    radius = np.sqrt(grid[-1] ** 2 + grid[-2] ** 2)
    corner = np.broadcast_to(radius > 0.47, power.shape)
    floor = float(np.median(power[corner])) / np.log(2)  # an exponential distribution's mean by its median
    if floor <= 0:
        return []
    shells = _Shells(power / floor, transfer)
    level = np.ones_like(radius, bool) if image.ndim == 2 else grid[0] <= 2 / image.shape[0]
    lateral = shells.spectrum("lateral", radius, level, max(image.shape[-2:]))
    if image.ndim == 2 or image.shape[0] < LEAST_PLANES or len(lateral.frequency) == 0:
        return [lateral]
    reach = lateral.frequency[-1]
    band = (radius >= 0.25 * reach) & (radius <= 0.75 * reach)
    return [lateral, shells.spectrum("axial", grid[0], band, image.shape[0])]


def _power(image: Floats) -> Floats:
    faded = image - image.mean()
    for axis, n in enumerate(image.shape):
        window = np.blackman(n + 2)[1:-1]
        faded *= window.reshape([-1 if a == axis else 1 for a in range(image.ndim)])
    return np.asarray(np.abs(scipy.fft.rfftn(faded)) ** 2, np.float64)


@dataclass(frozen=True, eq=False)
class _Shells:
    """Power over noise, and squared transfer, at all frequencies of `rfftn`."""

    power: Floats
    transfer: Floats

    def spectrum(
        self,
        direction: Literal["lateral", "axial"],
        frequency: Floats,
        chosen: NDArray[np.bool_],
        extent: int,
    ) -> ImpliedSpectrum:
        """Average over shells, and divide, as far as the image stands out of its noise."""
        shell = np.rint(np.broadcast_to(frequency, self.power.shape) * extent).astype(np.int64)
        within = np.broadcast_to(chosen, shell.shape) & (shell <= extent // 2)
        index, length = shell[within], extent // 2 + 1
        counts = np.maximum(np.bincount(index, minlength=length), 1)
        excess = np.bincount(index, self.power[within], minlength=length) / counts - 1
        transfer = np.bincount(index, self.transfer[within], minlength=length) / counts
        spread = 1 / np.sqrt(np.maximum(counts * INDEPENDENT, 1))
        sure = excess > np.maximum(LEAST_EXCESS, SURE * spread)
        end = _first_false(sure, FIRST_SHELL)
        part = slice(FIRST_SHELL, end)
        implied = np.maximum(excess[part], 1e-300) / np.maximum(transfer[part], LEAST_TRANSFER)
        return ImpliedSpectrum(direction, np.arange(length)[part] / extent, np.asarray(implied, np.float64))


def _first_false(flags: Sequence[bool] | NDArray[np.bool_], start: int) -> int:
    for i in range(start, len(flags)):
        if not flags[i]:
            return i
    return max(start, len(flags))
