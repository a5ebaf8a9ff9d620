"""Scores of a result against the truth; arrays are (z, y, x) or (y, x) of one shape.

Two rows belong together. *Plain* scores compare the values as they are. *Affine* scores compare after
the scale and offset that fit the result to the truth by least squares: they forgive a camera's gain and
offset. The 3D scores of Papkov et al. 2023 are affine ones, their 2D scores plain ones.

Images larger than memory get the same scores in `boxwise.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from bigdecon.errors import VolumeError
from bigdecon.evaluation.formulas import (
    SAME,
    AffineFit,
    Moments,
    check_data_range,
    check_finite,
    check_shapes,
    constant_coefficient,
    decibels,
    extremes,
    information,
    joint_histogram,
    squared_error,
    ssim_values,
    ssim_window,
)

__all__ = [
    "AffineFit",
    "Evaluation",
    "Row",
    "Scores",
    "affine_fit",
    "evaluate",
    "evaluation_of",
    "mutual_information",
    "peak_of",
    "psnr",
    "rmse",
    "spectral_mutual_information",
    "ssim",
]

Image = NDArray[Any]


@dataclass(frozen=True)
class Scores:
    """How close a result comes to the truth; all but `rmse` are better when higher.

    Attributes
    ----------
    rmse : root mean square error, in data units
    psnr : peak signal-to-noise ratio, in decibels; infinite for equal images
    ssim : structural similarity, at most 1
    mi : mutual information of the intensities, 0 to 1
    smi : mutual information of the spectra, 0 to 1; None where it was left out
    """

    rmse: float
    psnr: float
    ssim: float
    mi: float
    smi: float | None


@dataclass(frozen=True)
class Evaluation:
    """Scores as the result is, and after the affine fit.

    Attributes
    ----------
    plain : scores of the values as they are
    affine : scores after `fit`
    fit : scale and offset used
    data_range : range of intensities that PSNR and SSIM refer to, in data units
    """

    plain: Scores
    affine: Scores
    fit: AffineFit
    data_range: float


def evaluate(result: Image, truth: Image, *, data_range: float | None = None) -> Evaluation:
    """Score a result against the truth, plain and after an affine fit; both lie in memory.

    For larger images see `bigdecon.evaluation.boxwise.evaluate_stacks`, which gives the same scores.

    Parameters
    ----------
    result, truth : images of one shape, (z, y, x) or (y, x), in the same units
    data_range : what PSNR and SSIM take as the peak; the truth's maximum minus its minimum if None.
        Papkov et al. 2023 set it to 1 for a truth scaled to [0, 1].

    Raises
    ------
    VolumeError
        if the shapes differ, a value is not finite, or the truth is constant and no range is given
    OptionError
        if `data_range` is not above 0
    """
    check_shapes(result.shape, truth.shape)
    check_data_range(data_range)
    for name, image in (("result", result), ("truth", truth)):
        check_finite(image, name)
    result, truth = result.astype(np.float64), truth.astype(np.float64)
    moments = Moments.of(result, truth)
    peak, fit = peak_of(moments, data_range), moments.fit
    window = ssim_window(result.shape)
    similar = [float(s.mean()) for s in ssim_values(result, truth, window, peak, (SAME, fit))]
    smi = _spectral_scores(result, truth, moments)
    plain = Row(moments.squared_error, similar[0], smi[0])
    affine = Row(squared_error(fit.apply(result), truth), similar[1], smi[1])
    return evaluation_of(moments, peak, mutual_information(result, truth), plain, affine)


def rmse(result: Image, truth: Image) -> float:
    """Root mean square error, in data units."""
    return math.sqrt(squared_error(result, truth) / result.size)


def psnr(result: Image, truth: Image, *, data_range: float = 1.0) -> float:
    """Peak signal-to-noise ratio in decibels, 20 log10(data_range / RMSE); infinite for equal images."""
    return decibels(rmse(result, truth), data_range)


def ssim(result: Image, truth: Image, *, data_range: float = 1.0) -> float:
    """Mean structural similarity (Wang et al. 2004) in uniform windows of 7 voxels along every axis.

    These are scikit-image's defaults, as in Papkov et al. 2023. In an image less than 7 voxels thick
    the window shrinks to the largest odd extent that fits; axes of one voxel are left out.

    Raises
    ------
    VolumeError
        if an axis has two voxels: no window fits
    """
    return float(ssim_values(result, truth, ssim_window(result.shape), data_range)[0].mean())


def mutual_information(result: Image, truth: Image) -> float:
    """Mutual information of the intensities over their joint entropy: 0 if unrelated, 1 if equal.

    Estimated from a joint histogram of 256 x 256 bins, each image between its own minimum and maximum,
    after Russakoff et al. 2004. Two constant images share no information: 0.
    """
    return information(joint_histogram(result, truth, extremes(result), extremes(truth)))


def spectral_mutual_information(result: Image, truth: Image) -> float:
    """Mutual information of the cosine transforms of both images.

    The transform is the unnormalised type-2 DCT along all axes. Royer et al. (SSI) divide each image by
    its L2 norm before; bins between the extremes do not see that, so it is left out.
    """
    spectra = (_spectrum(image, float(np.mean(image, dtype=np.float64))) for image in (result, truth))
    return mutual_information(*spectra)


def affine_fit(result: Image, truth: Image) -> AffineFit:
    """Find scale and offset that bring the result closest to the truth by least squares.

    The scale may be negative; it is 0 for a constant result.
    """
    return Moments.of(result, truth).fit


class Row(NamedTuple):
    """What a row of scores needs beside `Moments`: sum of squared errors, mean SSIM, and SMI."""

    squared_error: float
    ssim: float
    smi: float | None


def evaluation_of(moments: Moments, peak: float, mi: float, plain: Row, affine: Row) -> Evaluation:
    """Put scores together.

    Mutual information between bins that reach from minimum to maximum is that of the values on any line,
    so both rows have one `mi`; only a line of scale 0 leaves nothing to share.
    """
    fit = moments.fit
    rows = []
    for row, shared in ((plain, mi), (affine, mi if fit.scale else 0.0)):
        error = math.sqrt(row.squared_error / moments.count)
        rows.append(Scores(error, decibels(error, peak), row.ssim, shared, row.smi))
    return Evaluation(rows[0], rows[1], fit, peak)


def peak_of(moments: Moments, data_range: float | None) -> float:
    """Give the range that PSNR and SSIM refer to: as asked for, else the truth's.

    Raises
    ------
    VolumeError
        if none is asked for and the truth is constant
    """
    if data_range is not None:
        return float(data_range)
    low, high = moments.truth_range
    if low == high:
        raise VolumeError(f"the truth is {high:g} everywhere; give the data range yourself.")
    return high - low


def _spectral_scores(result: Image, truth: Image, moments: Moments) -> tuple[float, float]:
    """SMI plain and after the fit, which scales the spectrum and moves its first coefficient."""
    spectrum, true_spectrum = _spectrum(result, moments.result_mean), _spectrum(truth, moments.truth_mean)
    plain = mutual_information(spectrum, true_spectrum)
    fit = moments.fit
    spectrum *= fit.scale
    fitted_mean = fit.scale * moments.result_mean + fit.offset
    spectrum.flat[0] = constant_coefficient(fitted_mean, result.shape)
    return plain, mutual_information(spectrum, true_spectrum)


def _spectrum(image: Image, mean: float) -> Image:
    """Cosine transform; the mean, which is often large, goes straight to where it belongs."""
    spectrum: Image = scipy.fft.dctn(image.astype(np.float64) - mean)
    spectrum.flat[0] = constant_coefficient(mean, image.shape)
    return spectrum
