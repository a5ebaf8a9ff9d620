"""Scores of a result against the truth; arrays are (z, y, x) or (y, x) of one shape.

Two rows belong together. *Plain* scores compare the values as they are. *Affine* scores compare after
the scale and offset that fit the result to the truth by least squares: they forgive a camera's gain and
offset. The 3D scores of Papkov et al. 2023 are affine ones, their 2D scores plain ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from bigdecon.errors import OptionError, VolumeError

__all__ = [
    "AffineFit",
    "Evaluation",
    "Scores",
    "affine_fit",
    "evaluate",
    "mutual_information",
    "psnr",
    "rmse",
    "spectral_mutual_information",
    "ssim",
]

Image = NDArray[Any]

SSIM_WINDOW = 7
BINS = 256


@dataclass(frozen=True)
class Scores:
    """How close a result comes to the truth; all but `rmse` are better when higher.

    Attributes
    ----------
    rmse : root mean square error, in data units
    psnr : peak signal-to-noise ratio, in decibels; infinite for equal images
    ssim : structural similarity, at most 1
    mi : mutual information of the intensities, 0 to 1
    smi : mutual information of the spectra, 0 to 1
    """

    rmse: float
    psnr: float
    ssim: float
    mi: float
    smi: float


@dataclass(frozen=True)
class AffineFit:
    """The line scale * result + offset that comes closest to the truth."""

    scale: float
    offset: float

    def apply(self, result: Image) -> Image:
        """Put a result, of any shape, on the truth's scale; float64."""
        fitted: Image = self.scale * result.astype(np.float64) + self.offset
        return fitted


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
    """Score a result against the truth, plain and after an affine fit.

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
    _check(result, truth)
    peak = _range_of(truth) if data_range is None else float(data_range)
    if not 0 < peak < float("inf"):
        raise OptionError(f"the data range is {peak:g}; it must be finite and above 0.")
    result, truth = result.astype(np.float64), truth.astype(np.float64)
    fit = affine_fit(result, truth)
    return Evaluation(_score(result, truth, peak), _score(fit.apply(result), truth, peak), fit, peak)


def rmse(result: Image, truth: Image) -> float:
    """Root mean square error, in data units."""
    difference = np.subtract(result, truth, dtype=np.float64)
    return float(np.sqrt(np.mean(difference**2)))


def psnr(result: Image, truth: Image, *, data_range: float = 1.0) -> float:
    """Peak signal-to-noise ratio in decibels, 20 log10(data_range / RMSE); infinite for equal images."""
    error = rmse(result, truth)
    return float("inf") if error == 0 else float(20 * np.log10(data_range / error))


def ssim(result: Image, truth: Image, *, data_range: float = 1.0) -> float:
    """Mean structural similarity (Wang et al. 2004) in uniform windows of 7 voxels along every axis.

    These are scikit-image's defaults, as in Papkov et al. 2023. In an image less than 7 voxels thick
    the window shrinks to the largest odd extent that fits; axes of one voxel are left out.

    Raises
    ------
    VolumeError
        if an axis has two voxels: no window fits
    """
    from skimage.metrics import structural_similarity

    result, truth = np.squeeze(result), np.squeeze(truth)
    smallest = min(truth.shape, default=0)
    if smallest < 3:
        raise VolumeError(
            f"SSIM needs at least 3 voxels along every axis; the image has the shape {truth.shape}."
        )
    window = min(SSIM_WINDOW, smallest - 1 + smallest % 2)
    score: Any = structural_similarity(truth, result, data_range=data_range, win_size=window)  # type: ignore[no-untyped-call]
    return float(score)


def mutual_information(result: Image, truth: Image) -> float:
    """Mutual information of the intensities over their joint entropy: 0 if unrelated, 1 if equal.

    Estimated from a joint histogram of 256 x 256 bins, each image between its own minimum and maximum,
    after Russakoff et al. 2004. Two constant images share no information: 0.
    """
    counts, _, _ = np.histogram2d(np.ravel(result), np.ravel(truth), bins=BINS)
    joint = _entropy(counts)
    if joint == 0:
        return 0.0
    return (_entropy(counts.sum(axis=0)) + _entropy(counts.sum(axis=1)) - joint) / joint


def spectral_mutual_information(result: Image, truth: Image) -> float:
    """Mutual information of the cosine transforms of both images, each divided by its L2 norm.

    The transform is the unnormalised type-2 DCT along all axes, as in Royer et al. (SSI).
    """
    return mutual_information(_spectrum(result), _spectrum(truth))


def affine_fit(result: Image, truth: Image) -> AffineFit:
    """Find scale and offset that bring the result closest to the truth by least squares.

    The scale may be negative; it is 0 for a constant result.
    """
    x, y = np.ravel(result).astype(np.float64), np.ravel(truth).astype(np.float64)
    centred = x - x.mean()
    spread = float(centred @ centred)
    scale = float(centred @ y) / spread if spread > 0 else 0.0
    return AffineFit(scale, float(y.mean() - scale * x.mean()))


def _score(result: Image, truth: Image, data_range: float) -> Scores:
    return Scores(
        rmse=rmse(result, truth),
        psnr=psnr(result, truth, data_range=data_range),
        ssim=ssim(result, truth, data_range=data_range),
        mi=mutual_information(result, truth),
        smi=spectral_mutual_information(result, truth),
    )


def _check(result: Image, truth: Image) -> None:
    if result.shape != truth.shape:
        raise VolumeError(
            f"the result has the shape {result.shape} and the truth {truth.shape}; they must agree."
        )
    for name, image in (("result", result), ("truth", truth)):
        if not np.isfinite(image).all():
            place = tuple(int(i) for i in np.argwhere(~np.isfinite(image))[0])
            raise VolumeError(f"the {name} is not finite at the voxel {place}.")


def _range_of(truth: Image) -> float:
    span = float(truth.max()) - float(truth.min())
    if span == 0:
        raise VolumeError(f"the truth is {float(truth.max()):g} everywhere; give the data range yourself.")
    return span


def _entropy(counts: NDArray[np.floating]) -> float:
    """Shannon entropy of a histogram, in nats."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def _spectrum(image: Image) -> Image:
    values = image.astype(np.float64)
    norm = float(np.linalg.norm(values.ravel()))
    spectrum: Image = scipy.fft.dctn(values / norm if norm > 0 else values)
    return spectrum
