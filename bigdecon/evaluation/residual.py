"""What a result leaves unexplained: the image less the result blurred again, measured against the noise.

A result that explains the image to its noise leaves white noise of the noise's own variance. What is left
of structure says that the PSF, the background or the method's settings do not suit the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from bigdecon.errors import OptionError
from bigdecon.evaluation.noise import NoiseModel
from bigdecon.volume import Box

__all__ = ["Residual", "residual_of"]

Floats = NDArray[np.float64]

KNOWN_ENERGY = 0.99  # of the PSF along an axis: a result known so far around a voxel tells its blur
BANDS = 16


@dataclass(frozen=True, eq=False)
class Residual:
    """What is left of an image when its result, blurred again, is taken off.

    Attributes
    ----------
    box : the part of the box given in which the blur is known; all else refers to this part
    expected : the result blurred again, in data units, of the part's shape
    normalised : residual over the noise's standard deviation, of the part's shape
    chi_square : mean of its square; 1 where noise is all that is left
    unexplained : part of the image's variation, beyond noise, that the result does not account for; 0 to 1
    correlation : of neighbouring voxels of the residual, along every axis; 0 for white noise
    frequency : middles of 16 bands up to 0.5 periods a voxel, by the largest over all axes
    spectrum : power of the normalised residual there; 1 where noise is all that is left
    coverage : the least part of the PSF, over the voxels of the part, that lies within the box given
    kept : intensity kept: sum of the result above the background, blurred again so that light is counted
        where the image has it, over that of the image; NaN if the image has nothing above it
    """

    box: Box
    expected: Floats
    normalised: Floats
    chi_square: float
    unexplained: float
    correlation: tuple[float, ...]
    frequency: Floats
    spectrum: Floats
    coverage: float
    kept: float


def residual_of(
    image: NDArray[Any], result: NDArray[Any], psf_array: NDArray[Any], noise: NoiseModel
) -> Residual:
    """Compare an image with its result, blurred again.

    The blur of a voxel needs the result around it. Voxels whose PSF reaches beyond the box with more than
    1 % of its energy along an axis are left out, but at most a quarter of the box at each end; where
    that does not suffice, the result is continued by its faces, and `coverage` is below 0.99 by axis.

    Parameters
    ----------
    image, result : the same box of both, (z, y, x) or (y, x), in data units, background included
    psf_array : PSF of odd extents along the same axes, summing to 1
    noise : of the image, with its background

    Raises
    ------
    OptionError
        if the shapes differ
    """
    if image.shape != result.shape or image.ndim != psf_array.ndim:
        raise OptionError(
            f"image, result and PSF have the shapes {image.shape}, {result.shape} and {psf_array.shape}; "
            "image and result must be one box, and the PSF have as many dimensions."
        )
    blurred, covered = _blurred_again(result, psf_array)
    box = tuple(_known_part(psf_array, axis, n) for axis, n in enumerate(image.shape))
    expected = blurred[box]
    deviation = noise.deviation_at(expected)
    known = np.asarray(image, np.float64)[box]
    left = (known - expected) / deviation
    all_there_is = float((((known - known.mean()) / deviation) ** 2).mean())
    chi_square = float((left**2).mean())
    frequency, spectrum = _radial_spectrum(left)
    return Residual(
        box=box,
        expected=expected,
        normalised=left,
        chi_square=chi_square,
        unexplained=min(1.0, max(0.0, chi_square - 1) / max(all_there_is - 1, 1.0)),
        correlation=tuple(_lag_one(left, axis) for axis in range(left.ndim)),
        frequency=frequency,
        spectrum=spectrum,
        coverage=float(covered[box].min()),
        kept=_intensity_kept(known, expected, noise.background),
    )


def _blurred_again(result: NDArray[Any], psf_array: NDArray[Any]) -> tuple[Floats, Floats]:
    """Blur a result continued by its faces; and tell which part of the PSF found the result itself."""
    import torch

    from bigdecon.optics.blur import Blur

    blur = Blur(np.asarray(psf_array, np.float32))
    # Single precision keeps seven digits: those of the differences, not of a camera's offset.
    level = float(np.median(result))
    values = torch.from_numpy(np.ascontiguousarray(np.asarray(result, np.float64) - level, np.float32))
    blurred = blur.forward(values[None, None], "replicate")[0, 0].numpy().astype(np.float64)
    covered = blur.forward(torch.ones_like(values)[None, None])[0, 0].numpy().astype(np.float64)
    return blurred + level * float(np.sum(psf_array, dtype=np.float64)), covered


def _known_part(psf_array: NDArray[Any], axis: int, n: int) -> slice:
    """Give the voxels of an axis around which the PSF's energy lies within the box."""
    others = tuple(a for a in range(psf_array.ndim) if a != axis)
    profile = np.asarray(psf_array, np.float64).sum(axis=others)
    middle = len(profile) // 2
    reach = middle
    while reach > 0 and profile[middle - reach + 1 : middle + reach].sum() >= KNOWN_ENERGY * profile.sum():
        reach -= 1
    margin = min(reach, n // 4)
    return slice(margin, n - margin)


def _lag_one(left: Floats, axis: int) -> float:
    n = left.shape[axis]
    centred = left - left.mean()
    power = float((centred**2).mean())
    if n < 2 or power == 0:
        return float("nan")
    first, second = np.take(centred, range(n - 1), axis), np.take(centred, range(1, n), axis)
    return float((first * second).mean()) / power


def _radial_spectrum(left: Floats) -> tuple[Floats, Floats]:
    """Mean power in bands of the frequency, taken as the largest over the axes: cubes in the spectrum."""
    power = np.abs(scipy.fft.rfftn(left)) ** 2 / left.size
    lines = [np.abs(scipy.fft.fftfreq(n)) for n in left.shape[:-1]]
    lines.append(scipy.fft.rfftfreq(left.shape[-1]))
    largest = np.zeros(power.shape)
    for axis, line in enumerate(lines):
        largest = np.maximum(largest, line.reshape([-1 if a == axis else 1 for a in range(left.ndim)]))
    band = np.minimum((largest * 2 * BANDS).astype(np.int64), BANDS - 1)
    sums = np.bincount(band.ravel(), power.ravel(), minlength=BANDS)
    counts = np.bincount(band.ravel(), minlength=BANDS)
    spectrum = np.divide(sums, counts, out=np.full(BANDS, np.nan), where=counts > 0)
    return (np.arange(BANDS) + 0.5) / (2 * BANDS), spectrum


def _intensity_kept(image: NDArray[Any], expected: Floats, background: float) -> float:
    before = float((np.asarray(image, np.float64) - background).sum())
    after = float((expected - background).sum())
    return after / before if before > 0 else float("nan")
