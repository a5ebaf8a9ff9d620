"""What a report measures in worker processes: plain functions that take and give what pickles well.

look_at_box      noise of the image, its contrast, its brightest place
measure_box      residual: image minus the result blurred again, in units of the noise; the detail kept
cut_residual     the same, as pictures of its planes
repeat_box       the run's own method on two halves of the data, and their Fourier shell correlation

A box is read with the PSF's radius about it, where the image goes on: the residual is exact inside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from bigdecon.deconvolution.recovery import restore_within_memory
from bigdecon.deconvolution.tiling import grow, trim
from bigdecon.diagnosis.findings import Finding
from bigdecon.diagnosis.result_checks import check_noise_amplification
from bigdecon.distributed.device_failure import device_watched
from bigdecon.errors import NonFiniteError, ReadError
from bigdecon.evaluation.cutoffs import psf_cutoff_per_um
from bigdecon.evaluation.detail import DetailSums, detail_sums
from bigdecon.evaluation.fourier_shell import FourierShellCorrelation, fourier_shell_correlation
from bigdecon.evaluation.noise import NoiseModel, estimate_noise, noise_correlation
from bigdecon.evaluation.residual import Residual, residual_of
from bigdecon.evaluation.thinning import thin
from bigdecon.reporting.method_recipe import MethodRecipe
from bigdecon.volume import Box

__all__ = [
    "Halves",
    "Look",
    "Measured",
    "Pairing",
    "ResidualPlanes",
    "Voxels",
    "cut_residual",
    "examine_box",
    "look_at_box",
    "measure_box",
    "repeat_box",
]

LEAST_SIDE = 5
"""Voxels along an axis that the measures need; z may be a single plane."""
LEAST_FOR_SHELLS = 8


class Voxels(Protocol):
    """What boxes are cut from: a `Stack`, or a part of one that was read before."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of the spatial axes, in voxels."""

    def __getitem__(self, box: Box, /) -> NDArray[Any]:
        """Give a box of voxels."""


@dataclass(frozen=True, eq=False)
class Pairing:
    """One channel at one time point, before and after; pickles to a small description.

    Attributes
    ----------
    image, result : stacks of one shape
    psf : blurs the result
    background : camera's offset, in data units
    offset : was taken off the result, in data units
    """

    image: Voxels
    result: Voxels
    psf: NDArray[Any]
    background: float
    offset: float = 0.0

    def read(self, box: Box) -> tuple[NDArray[Any], NDArray[Any]]:
        """Read a box of both, the offset put back."""
        return self.image[box], self.result[box] + np.float32(self.offset)

    def around(self, box: Box) -> Box:
        """Add the PSF's radius to a box, as far as the image reaches."""
        return grow(box, [n // 2 for n in self.psf.shape], self.image.shape)


class Look(NamedTuple):
    """A first look at a box.

    Attributes
    ----------
    noise : of the image
    correlation : of neighbouring voxels' noise, along every axis
    contrast : standard deviation of the smoothed image, in data units
    place : its brightest place, in voxels of the stack
    empty : whether the result is 0 in a part of the box, as outside a mask
    """

    noise: NoiseModel
    correlation: tuple[float, ...]
    contrast: float
    place: tuple[int, ...]
    empty: bool


class Measured(NamedTuple):
    """The residual of a box, in numbers; see `evaluation.residual.Residual`.

    `signal` is the image's sum above the background, `voxels` how many were compared, `detail` what is summed
    over boxes to tell which detail was kept (None in a box that is too small).
    """

    chi_square: float
    correlation: tuple[float, ...]
    frequency: NDArray[Any]
    spectrum: NDArray[Any]
    unexplained: float
    kept: float
    signal: float
    voxels: int
    detail: DetailSums | None = None


class ResidualPlanes(NamedTuple):
    """Planes of the residual through the middle of a box, in units of the noise; xz is None in 2D.

    `before` and `after` are the image and the result in the plane xy.
    """

    before: NDArray[Any]
    after: NDArray[Any]
    xy: NDArray[Any]
    xz: NDArray[Any] | None
    whole: Residual


class Halves(NamedTuple):
    """Fourier shell correlation of two halves of the data, as they are and deconvolved; and their noise."""

    before: FourierShellCorrelation
    after: FourierShellCorrelation
    amplification: Finding


def look_at_box(pair: Pairing, box: Box) -> Look | None:
    """Look at a box for the first time; None if it cannot be read."""
    try:
        image, result = pair.read(box)
    except (ReadError, NonFiniteError):
        return None
    if not _measurable(image):
        return None
    # By the image, not the result, so that all methods are shown at one place; and smoothed, as a single
    # bright voxel, of a broken pixel say, is no interesting place.
    smooth = gaussian_filter(image.astype(np.float32), 1.5)
    peak = np.unravel_index(int(smooth.argmax()), smooth.shape)
    return Look(
        estimate_noise(image, pair.background),
        noise_correlation(image),
        float(smooth.std()),
        tuple(part.start + int(i) for part, i in zip(box, peak, strict=True)),
        bool(np.mean(result == pair.offset) > 0.01),
    )


def _measurable(image: NDArray[Any]) -> bool:
    long_enough = all(n >= LEAST_SIDE for n in image.shape[-2:])
    return long_enough and bool(np.isfinite(image).all()) and float(image.std()) > 0


def measure_box(
    pair: Pairing, box: Box, noise: NoiseModel, voxel_size_um: Sequence[float] | None = None
) -> Measured | None:
    """Measure the residual of a box, and the detail kept; None if it cannot be read."""
    found = examine_box(pair, box, noise, voxel_size_um)
    return None if found is None else found[0]


def cut_residual(pair: Pairing, box: Box, noise: NoiseModel) -> ResidualPlanes | None:
    """Cut planes of the residual through the middle of a box; None if it cannot be read."""
    found = examine_box(pair, box, noise)
    return None if found is None else found[1]


def examine_box(
    pair: Pairing, box: Box, noise: NoiseModel, voxel_size_um: Sequence[float] | None = None
) -> tuple[Measured, ResidualPlanes] | None:
    """Measure the residual of a box and the detail kept, and cut its planes; None if it cannot be read."""
    try:
        image, result = pair.read(pair.around(box))
        residual = residual_of(image, result, pair.psf, noise)
    except (ReadError, NonFiniteError):
        return None
    known = image[residual.box].astype(np.float64)
    detail = detail_sums(known, residual.expected, noise, voxel_size_um or (1.0,) * known.ndim)
    signal = float((known - pair.background).sum())
    return _measured(residual, signal, detail), _planes(image, result, residual)


def _measured(residual: Residual, signal: float, detail: DetailSums | None) -> Measured:
    return Measured(
        residual.chi_square,
        residual.correlation,
        residual.frequency,
        residual.spectrum,
        residual.unexplained,
        residual.kept,
        signal,
        residual.normalised.size,
        detail,
    )


def _planes(image: NDArray[Any], result: NDArray[Any], residual: Residual) -> ResidualPlanes:
    known, inner = residual.normalised, residual.box
    if known.ndim == 2:
        return ResidualPlanes(image[inner], result[inner], known, None, residual)
    z, y = known.shape[0] // 2, known.shape[1] // 2
    return ResidualPlanes(image[inner][z], result[inner][z], known[z], known[:, y], residual)


def repeat_box(
    pair: Pairing,
    box: Box,
    noise: NoiseModel,
    recipe: MethodRecipe,
    voxel_size_um: Sequence[float],
    seed: int,
) -> Halves | None:
    """Give the method two halves of a box's light, and see up to which frequency the results agree.

    Parameters
    ----------
    pair : before and after
    box : what is compared; the method gets its halo as well
    noise : of the image, for the halves to be those of two shorter exposures
    recipe : the run's own method
    voxel_size_um : along the spatial axes; all 1 where unknown
    seed : of the division

    Returns
    -------
    None if the box cannot be read
    """
    method = recipe.build()
    reach = [-(-h // method.alignment) * method.alignment for h in method.halo]
    grown = grow(_aligned(box, method.alignment), reach, pair.image.shape)
    try:
        image = pair.image[grown]
    except ReadError:
        return None
    if not _measurable(image) or min(part.stop - part.start for part in box[-2:]) < LEAST_FOR_SHELLS:
        return None
    # Twice a half is in the units of the whole, as settings and networks expect.
    halves = [2 * half for half in thin(image, noise, np.random.default_rng(seed))]
    with device_watched():
        restored = [restore_within_memory(method, half.astype(np.float32)) for half in halves]
    inner = trim(box, grown)
    size = tuple(voxel_size_um)
    cutoff = psf_cutoff_per_um(pair.psf, size)
    before, after = (
        fourier_shell_correlation(one[inner], other[inner], size, cutoff_per_um=cutoff)
        for one, other in (halves, restored)
    )
    whole, result = pair.read(box)
    ends = restored[0][inner], restored[1][inner]
    return Halves(before, after, check_noise_amplification(whole, result, noise, ends))


def _aligned(box: Box, alignment: int) -> Box:
    """Have a box begin where blocks may."""
    return tuple(slice(math.floor(part.start / alignment) * alignment, part.stop) for part in box)
