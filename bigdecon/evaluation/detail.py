"""Which of the detail that an image holds beyond its noise its result still carries.

The result is blurred again, so that both can be compared at every frequency. With the spectra Y of the
image and M of the result blurred again, and the power N of the noise, over the frequencies of a band:

    signal = mean |Y|² - N          what the image holds beyond its noise
    kept   = mean Re(Y M*) / signal

    the truth                      M = Y - noise, so kept is 1 however noisy the image
    the best linear estimate       M = Y · signal / (signal + N), and kept is 1 as well (Wiener)
    a result that follows noise    kept is above 1
    a result that is too smooth    kept falls to 0 where its detail ends

Noise that went into the result only raises `kept`: the measure may miss a loss, and makes up none. A PSF
that is too wide lowers it, because no result blurred by it can hold the image's detail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import reduce
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bigdecon.evaluation.bands import (
    BANDS,
    LEAST_EXTENT,
    bands_of,
    faded_spectrum,
    fading_lines,
    fading_window,
    independent_share,
)
from bigdecon.evaluation.noise import NoiseModel

__all__ = ["LEAST_KEPT", "DetailCurve", "DetailSums", "detail_curves", "detail_sums"]

Floats = NDArray[np.float64]

LEAST_SIGNAL = 1.0
"""Of the noise's power: from here on the best linear estimate shows half of the signal and more."""
LEAST_KEPT = 0.5
"""Of the signal: what is carried less than this is lost."""
SURE = 2.0  # standard errors
NOISE_KNOWN = 0.1  # of its variance, see `estimate_noise`
SECTION_DEGREES = 15.0
INNER = 0.75  # of the lateral reach: above, a microscope passes little along z
LIT = 0.1  # of the signal of the brightest box


@dataclass(frozen=True, eq=False)
class DetailSums:
    """Sums over the frequencies of every band (axial, lateral) of one box; those of boxes add up.

    Attributes
    ----------
    count : frequencies
    power, common, noise : of the image, of image and blurred result, and of the noise
    power_squared, product, common_squared : of the parts of the sums, for their standard errors
    """

    count: Floats
    power: Floats
    common: Floats
    noise: Floats
    power_squared: Floats
    product: Floats
    common_squared: Floats

    def __add__(self, other: DetailSums) -> DetailSums:
        return DetailSums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def signal(self) -> float:
        """Power beyond the noise in the lower bands, where specimens have most, without those of the mean."""
        low = slice(0, BANDS // 4)
        return float((self.power - self.noise)[low, 1 : BANDS // 4].sum())


@dataclass(frozen=True, eq=False)
class DetailCurve:
    """What a result carries of the image's detail, over frequency in one direction.

    Attributes
    ----------
    direction : in the plane, or along z
    frequency : upper ends of the bands, in periods per micrometre, or per voxel where sizes are 1
    signal : of the image, in units of the noise's power
    kept : part of the signal in the result; NaN where the image has too little to tell
    error : standard error of `kept`
    image_reach : frequency up to which the image holds signal of the noise's power and more; None where
        it never does
    result_reach : frequency up to which the result carries half of it, at most `image_reach`; 0 where it
        carries less from the start
    """

    direction: Literal["lateral", "axial"]
    frequency: Floats
    signal: Floats
    kept: Floats
    error: Floats
    image_reach: float | None
    result_reach: float | None

    @property
    def lost(self) -> float:
        """Part of the frequencies that the image supports and the result lacks, 0 to 1."""
        if not self.image_reach or self.result_reach is None:
            return 0.0
        return 1 - self.result_reach / self.image_reach


def detail_sums(
    image: NDArray[Any], expected: NDArray[Any], noise: NoiseModel, voxel_size_um: Sequence[float]
) -> DetailSums | None:
    """Sum up the spectra of an image and of its result blurred again.

    Parameters
    ----------
    image : (z, y, x) or (y, x), in data units
    expected : the result blurred again, see `Residual.expected`
    noise : of the image
    voxel_size_um : along the same axes; only their ratios matter here

    Returns
    -------
    None if the box has fewer than 16 pixels along y or x
    """
    if min(image.shape[-2:]) < LEAST_EXTENT:
        return None
    first, second = (faded_spectrum(np.asarray(a, np.float64)) for a in (image, expected))
    # Not `variance_at`: cut off at the background, it would be too high on average where the image is dark.
    values = noise.gain * (np.asarray(image, np.float64) - noise.background) + noise.variance
    level = max(0.0, float((fading_window(image.shape) ** 2 * values).sum()))
    axial, lateral = bands_of(image.shape, voxel_size_um)
    within = lateral < BANDS
    index = (axial * BANDS + lateral)[within]
    weights = np.full(first.shape, 1.0)
    weights[..., 0] = 0.5  # a frequency and its mirror image are both there
    if image.shape[-1] % 2 == 0:
        weights[..., -1] = 0.5
    weights = weights[within]
    power = np.abs(first[within]) ** 2 / image.size
    common = (first[within] * second[within].conj()).real / image.size
    excess = power - level / image.size
    # A window ties neighbouring frequencies together, so that fewer are independent.
    tied = weights / independent_share(fading_lines(image.shape))
    parts = (
        weights,
        weights * power,
        weights * common,
        weights * (level / image.size),
        tied * excess**2,
        tied * excess * common,
        tied * common**2,
    )
    sums = [np.asarray(np.bincount(index, p, minlength=BANDS**2), np.float64) for p in parts]
    return DetailSums(*(one.reshape(BANDS, BANDS) for one in sums))


def detail_curves(
    boxes: Sequence[DetailSums],
    voxel_size_um: Sequence[float],
    cutoff_per_um: Sequence[float] | None = None,
) -> tuple[DetailCurve, ...]:
    """Give what a result carries, over the boxes that hold light: laterally and, in 3D, axially.

    Parameters
    ----------
    boxes : of one image
    voxel_size_um : (z, y, x) or (y, x); all 1 where unknown
    cutoff_per_um : highest frequencies that the PSF passes along the same axes, see `cutoffs`; what an image
        holds beyond them is none of the specimen. None to go by the sampling alone

    Returns
    -------
    tuple
        empty where no box has signal
    """
    brightest = max((box.signal for box in boxes), default=0.0)
    lit = [box for box in boxes if box.signal >= LIT * brightest > 0]
    if not lit:
        return ()
    sums = reduce(DetailSums.__add__, lit)
    size = tuple(float(s) for s in voxel_size_um)
    band = np.arange(BANDS)
    ends = tuple(cutoff_per_um) if cutoff_per_um is not None else (np.inf,) * len(size)
    nyquist = 0.5 / max(size[-2:])
    if len(size) == 2:
        return (_curve("lateral", sums, np.ones((BANDS, BANDS), bool), nyquist, min(ends)),)
    steepness = np.tan(np.deg2rad(SECTION_DEGREES)) * nyquist / (0.5 / size[0])
    section = band[:, None] <= steepness * (band[None, :] + 0.5)
    lateral = _curve("lateral", sums, section, nyquist, min(ends[-2:]))
    if lateral.image_reach is None or (sums.count.sum(axis=1) > 0).sum() < LEAST_EXTENT // 2:
        return (lateral,)
    inner = np.broadcast_to((band + 1) * nyquist / BANDS <= INNER * lateral.image_reach, (BANDS, BANDS))
    return lateral, _curve("axial", sums, inner, 0.5 / size[0], ends[0])


def _curve(
    direction: Literal["lateral", "axial"],
    sums: DetailSums,
    chosen: NDArray[np.bool_],
    nyquist: float,
    bound: float,
) -> DetailCurve:
    """Sum over the bands of the other direction, and divide."""
    across = 0 if direction == "lateral" else 1
    part = DetailSums(*(np.where(chosen, getattr(sums, f.name), 0.0).sum(axis=across) for f in fields(sums)))
    frequency = (np.arange(BANDS) + 1) * nyquist / BANDS
    seen = np.flatnonzero((part.count > 0) & (frequency <= bound * (1 + 1e-9)))
    if len(seen) == 0:
        empty = np.zeros(0)
        return DetailCurve(direction, empty, empty, empty, empty, None, None)
    part = DetailSums(*(getattr(part, f.name)[seen] for f in fields(part)))
    frequency = frequency[seen]
    excess = part.power - part.noise
    signal = np.divide(excess, part.noise, out=np.zeros_like(excess), where=part.noise > 0)
    sure = np.maximum(LEAST_SIGNAL, 2 * SURE / np.sqrt(np.maximum(part.count, 1)))
    known = (signal > sure) & (seen > 0)
    kept = np.divide(part.common, excess, out=np.full(len(seen), np.nan), where=known)
    scatter = part.common_squared - 2 * kept * part.product + kept**2 * part.power_squared
    relative = np.divide(np.maximum(scatter, 0), excess**2, out=np.full(len(seen), np.nan), where=known)
    error = np.sqrt(relative + (kept * NOISE_KNOWN / np.where(known, signal, 1.0)) ** 2)
    first = int(seen[0] == 0)
    image_end = _last_of(known, first)
    result_end = min(image_end, _last_of(known & (kept + SURE * error >= LEAST_KEPT), first))
    ends = [float(frequency[end]) if end >= 0 else 0.0 for end in (image_end, result_end)]
    reach = ends if image_end >= 0 else [None, None]
    return DetailCurve(direction, frequency, signal, kept, error, reach[0], reach[1])


def _last_of(flags: NDArray[np.bool_], start: int) -> int:
    """Give the last place before two that fail one after the other; -1 if that is at once."""
    last = -1
    for i in range(start, len(flags)):
        if flags[i]:
            last = i
        elif not flags[i : i + 2].any():
            break
    return last
