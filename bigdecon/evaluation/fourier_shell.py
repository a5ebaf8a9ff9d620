"""Fourier shell correlation: up to which detail two images of one specimen with independent noise agree.

In 2D rings are compared (Nieuwenhuizen 2013). In 3D a microscope resolves less along z than in the plane,
so that directions are kept apart: laterally, shells within a section around the plane (Koho 2019); axially,
planes of one axial frequency (Nieuwenhuizen 2013, supplement), over the lateral frequencies that are
resolved, because a widefield microscope passes nothing along z alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from bigdecon.errors import OptionError
from bigdecon.evaluation.bands import independent_share

__all__ = ["FourierShellCorrelation", "ShellCurve", "fourier_shell_correlation"]

Floats = NDArray[np.float64]

CRITERION = 1 / 7
"""Of two halves of the data: the whole then correlates with the truth by 0.5 (Rosenthal & Henderson 2003)."""
SECTION_DEGREES = 15.0
LEAST_PLANES = 8
TAPER = 0.5  # share of each axis over which the window rises and falls


@dataclass(frozen=True, eq=False)
class ShellCurve:
    """Correlation over frequency in one direction.

    Attributes
    ----------
    direction : lateral or axial
    frequency_per_um : middle of every shell, in periods per micrometre
    correlation : of the two images there, from -1 to 1
    half_bit : what a shell of its size must exceed to carry half a bit a voxel (van Heel & Schatz 2005)
    bound_per_um : the highest frequency that sampling and optics allow
    resolution_um : inverse of the frequency where the correlation falls below 1/7, for more than one shell
        of few voxels; the inverse of the bound where it does not; None where it never was above
    half_bit_resolution_um : the same for half a bit
    bounded : whether the correlation stays above 1/7 up to the bound
    """

    direction: Literal["lateral", "axial"]
    frequency_per_um: Floats
    correlation: Floats
    half_bit: Floats
    bound_per_um: float
    resolution_um: float | None
    half_bit_resolution_um: float | None
    bounded: bool


@dataclass(frozen=True)
class FourierShellCorrelation:
    """What two images of one specimen have in common.

    Attributes
    ----------
    lateral : in the plane of the image
    axial : along z; None for 2D images and for fewer than 8 planes
    """

    lateral: ShellCurve
    axial: ShellCurve | None


def fourier_shell_correlation(
    first: NDArray[Any],
    second: NDArray[Any],
    voxel_size_um: Sequence[float],
    *,
    cutoff_per_um: Sequence[float] | None = None,
) -> FourierShellCorrelation:
    """Correlate two images of one specimen over frequency.

    Their means are taken off, and a Tukey window fades them out towards their faces. The results of one
    network on two halves of the data agree also in what the network made up: between them the
    correlation measures reproducibility, not truth.

    Parameters
    ----------
    first, second : (z, y, x) or (y, x), with independent noise, see `thinning.thin`
    voxel_size_um : along the same axes
    cutoff_per_um : highest frequencies that the optics pass along the same axes, see `cutoffs`; None to go
        by the sampling alone

    Raises
    ------
    OptionError
        if the shapes differ, are not 2D or 3D, or have fewer than 8 pixels along y or x
    """
    _check(first, second)
    size = tuple(float(s) for s in voxel_size_um)
    bounds = _bounds(size, cutoff_per_um)
    spectra = [_spectrum(np.asarray(image, np.float64)) for image in (first, second)]
    frequencies = _frequencies(first.shape, size)
    independent = independent_share(_window(n) for n in first.shape)
    pairs = _Pairs(spectra[0], spectra[1], independent, first.shape[-1])
    radius = np.sqrt(frequencies[-1] ** 2 + frequencies[-2] ** 2)
    bound = min(bounds[-2:])
    step = 1 / max(n * s for n, s in zip(first.shape[-2:], size[-2:], strict=True))
    if first.ndim == 2:
        return FourierShellCorrelation(pairs.curve("lateral", radius, None, step, bound), None)
    section = np.abs(frequencies[0]) <= np.tan(np.deg2rad(SECTION_DEGREES)) * radius
    lateral = pairs.curve("lateral", radius, section, step, bound)
    if first.shape[0] < LEAST_PLANES:
        return FourierShellCorrelation(lateral, None)
    resolved = radius <= (1 / lateral.resolution_um if lateral.resolution_um else bound)
    step = 1 / (first.shape[0] * size[0])
    return FourierShellCorrelation(
        lateral, pairs.curve("axial", np.abs(frequencies[0]), resolved, step, bounds[0])
    )


def _check(first: NDArray[Any], second: NDArray[Any]) -> None:
    if first.shape != second.shape:
        raise OptionError(
            f"images of the shapes {first.shape} and {second.shape} cannot be correlated; they must agree."
        )
    if first.ndim not in (2, 3) or min(first.shape[-2:]) < LEAST_PLANES:
        raise OptionError(
            f"Fourier shells of an image of the shape {first.shape} are not defined; it takes (z, y, x) or "
            f"(y, x) with at least {LEAST_PLANES} pixels along y and x."
        )


def _bounds(size: Sequence[float], cutoff_per_um: Sequence[float] | None) -> tuple[float, ...]:
    nyquist = tuple(0.5 / s for s in size)
    if cutoff_per_um is None:
        return nyquist
    return tuple(min(pair) for pair in zip(nyquist, cutoff_per_um, strict=True))


def _spectrum(image: Floats) -> NDArray[np.complex128]:
    faded = image - image.mean()
    for axis, n in enumerate(image.shape):
        faded *= _window(n).reshape([-1 if a == axis else 1 for a in range(image.ndim)])
    spectrum: NDArray[np.complex128] = scipy.fft.rfftn(faded)
    return spectrum


def _window(n: int) -> Floats:
    """Tukey's window: flat, with half a cosine towards each end; importing SciPy's takes half a second."""
    place = np.arange(1, n + 1) / (n + 1)
    window: Floats = 0.5 - 0.5 * np.cos(np.pi * np.minimum(1, 2 * np.minimum(place, 1 - place) / TAPER))
    return window


def _frequencies(shape: Sequence[int], size: Sequence[float]) -> list[Floats]:
    """Give the frequencies of every axis, in periods per micrometre, as an open grid."""
    lines = [scipy.fft.fftfreq(n, s) for n, s in zip(shape[:-1], size[:-1], strict=True)]
    lines.append(scipy.fft.rfftfreq(shape[-1], size[-1]))
    return list(np.ix_(*lines))


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Two spectra, half of each as `rfftn` gives it, ready to be summed up in shells."""

    first: NDArray[np.complex128]
    second: NDArray[np.complex128]
    independent: float
    width: int

    def curve(
        self,
        direction: Literal["lateral", "axial"],
        frequency: Floats,
        chosen: NDArray[np.bool_] | None,
        step: float,
        bound: float,
    ) -> ShellCurve:
        """Sum up in shells of width `step` around its multiples, up to the bound."""
        shell = np.rint(np.broadcast_to(frequency, self.first.shape) / step).astype(np.int64)
        count = int(bound / step + 1e-6)
        within = (shell >= 1) & (shell <= count)
        if chosen is not None:
            within &= chosen
        index = shell[within] - 1
        doubled = self._doubled()[within]
        a, b = self.first[within], self.second[within]
        cross, one, two, voxels = (
            np.bincount(index, weights, minlength=count)
            for weights in (
                (a * b.conj()).real * doubled,
                np.abs(a) ** 2 * doubled,
                np.abs(b) ** 2 * doubled,
                doubled,
            )
        )
        power = np.sqrt(one * two)
        correlation: Floats = np.divide(cross, power, out=np.zeros(count), where=power > 0)
        half_bit = _half_bit(voxels / 2 * self.independent)
        frequencies: Floats = step * np.arange(1, count + 1, dtype=np.float64)
        resolution = _resolution(frequencies, correlation, np.full(count, CRITERION), bound)
        return ShellCurve(
            direction,
            frequencies,
            correlation,
            half_bit,
            bound,
            resolution,
            _resolution(frequencies, correlation, half_bit, bound),
            resolution == 1 / bound,
        )

    def _doubled(self) -> Floats:
        """Two for a frequency that stands for its mirrored one as well, one on the symmetry plane."""
        weights = np.full(self.first.shape, 2.0)
        weights[..., 0] = 1
        if self.width % 2 == 0:
            weights[..., -1] = 1
        return weights


def _half_bit(voxels: Floats) -> Floats:
    """Threshold of van Heel & Schatz 2005, eq. 17, for shells of so many independent complex values."""
    root = np.sqrt(np.maximum(voxels, 1))
    return (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)


def _resolution(frequency: Floats, correlation: Floats, threshold: Floats, bound: float) -> float | None:
    """Find where the correlation falls below the threshold and the next shell does not lift it again."""
    if len(frequency) == 0:
        return None
    margin = correlation - threshold
    lasting = margin + np.append(margin[1:], margin[-1])
    below = np.flatnonzero((margin < 0) & (lasting < 0))
    if len(below) == 0:
        return 1 / bound
    i = int(below[0])
    if i == 0:
        return None
    share = margin[i - 1] / (margin[i - 1] - margin[i]) if margin[i - 1] > 0 else 0.0
    return 1 / min(bound, float(frequency[i - 1] + share * (frequency[i] - frequency[i - 1])))
