"""Checks of the PSF: by itself, and against the image that it is said to have blurred."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigdecon.diagnosis.findings import Finding
from bigdecon.diagnosis.optics_checks import KnownOptics
from bigdecon.diagnosis.orientation import optical_axis
from bigdecon.errors import PSFError
from bigdecon.evaluation.cutoffs import optical_cutoff_per_um, transfer_function
from bigdecon.evaluation.implied_spectrum import implied_spectra
from bigdecon.optics.conditions import ImagingConditions
from bigdecon.optics.expectation import expect

__all__ = ["check_orientation", "check_psf_extent", "check_psf_width", "check_sampling"]

SHORT_ALONG_Z = 0.8  # of the lateral width: no objective resolves better along z than in the plane
UNEQUAL_LATERALLY = 1.35
LARGEST_RISE = 12.0
STEEPEST = -8.5
LEAST_SHELLS = {"wide": 4, "narrow": 8}
LITTLE_ABOVE_NYQUIST, WELL_ABOVE_NYQUIST = 1.05, 1.5
"""Voxels up to so many times Nyquist's limit are usual, and told as a note."""
PASSED_AT_NYQUIST = 0.1  # of the contrast, in the plane of focus

LARGEST_COST = 10.0
"""Voxels computed for one of the image, above which the extent of a PSF is told."""
CHEAP_VOXELS = 2**22
"""So many are computed in no time, whatever the ratio."""

DIRECTIONS = {"lateral": "in the plane", "axial": "along z"}


def check_orientation(psf_array: NDArray[Any], voxel_size_um: Sequence[float] | None) -> Finding:
    """Look whether the PSF is alike around z, longest along z, and as wide along y as along x.

    Widths are those of the squared PSF, which its skirts hardly touch.

    Parameters
    ----------
    psf_array : (z, y, x) or (y, x)
    voxel_size_um : along the same axes; None if unknown, and then z is left out
    """
    if psf_array.ndim == 3 and (axis := optical_axis(psf_array, voxel_size_um)):
        return _in_another_order(psf_array, axis)
    steps = voxel_size_um or (1.0,) * psf_array.ndim
    widths = [w * s for w, s in zip(_widths(psf_array), steps, strict=True)]
    y, x = widths[-2:]
    unit = "µm" if voxel_size_um else "voxels"
    remedy = "Check the order of the PSF's axes (z, y, x) and its voxel size."
    effect = "the result is sharpened along the wrong axis."
    if max(y, x) > UNEQUAL_LATERALLY * min(y, x):
        sentence = (
            f"The PSF is {max(y, x) / min(y, x):.1f} times as wide along {'y' if y > x else 'x'} as along "
            f"{'x' if y > x else 'y'} ({max(y, x):.2g} and {min(y, x):.2g} {unit}; up to "
            f"{UNEQUAL_LATERALLY:g} times is usual), as if its axes were in another order: {effect}"
        )
        return Finding("psf-orientation", "warning", sentence, remedy)
    if psf_array.ndim == 3 and voxel_size_um and widths[0] < SHORT_ALONG_Z * min(y, x):
        sentence = (
            f"The PSF is narrower along z ({widths[0]:.2g} µm) than in the plane ({min(y, x):.2g} µm), "
            "which no "
            f"objective does: its axes may be in another order, and {effect}"
        )
        return Finding("psf-orientation", "warning", sentence, remedy)
    return Finding("psf-orientation", "good", "The PSF's axes are in the usual order.")


def _in_another_order(psf_array: NDArray[Any], axis: int) -> Finding:
    """Name the axis that should be z."""
    widths, z = _widths(psf_array), "zyx"[axis]
    other = "zx" if axis == 1 else "zy"
    lateral = {name: f"{width:.2g}" for name, width in zip("zyx", widths, strict=True)}
    sentence = (
        f"The PSF is {lateral['y']} voxels wide along y and {lateral['x']} along x, and it is alike along "
        f"{other[0]} and {other[1]}, where it should be along y and x: its axes seem swapped, {z} for z, and "
        "the result is sharpened along the wrong axis."
    )
    remedy = (
        "A PSF file has the order z, y, x; bigdecon psf reorder PSF --axes "
        f"{'yzx' if axis == 1 else 'yxz'} -o NEW.tif makes one that has."
    )
    return Finding("psf-orientation", "warning", sentence, remedy)


def _widths(psf_array: NDArray[Any]) -> list[float]:
    """Give the standard deviation of the squared PSF along every axis, in voxels, with a voxel's own."""
    squares = np.asarray(psf_array, np.float64) ** 2
    widths = []
    for axis, n in enumerate(squares.shape):
        line = squares.sum(axis=tuple(a for a in range(squares.ndim) if a != axis))
        places = np.arange(n) - np.average(np.arange(n), weights=line)
        widths.append(math.sqrt(float(np.average(places**2, weights=line)) + 1 / 12))
    return widths


def check_psf_extent(psf_shape: Sequence[int], image_shape: Sequence[int]) -> Finding:
    """Look whether the PSF is so much larger than the image that most of the work is for what lies outside.

    An object of extent N + 2 r gives an image of extent N, r being the PSF's radius, and methods work on
    the whole object. (Borders without light are cut off when a PSF is loaded.)

    Parameters
    ----------
    psf_shape, image_shape : extents in voxels, [z,] y, x; of the PSF as it is used
    """
    beyond = [a for a, (p, n) in enumerate(zip(psf_shape, image_shape, strict=True)) if p > n]
    cost = _voxels_computed(psf_shape, image_shape) / math.prod(image_shape)
    many = _voxels_computed(psf_shape, image_shape) > CHEAP_VOXELS
    if not (beyond and many and cost > LARGEST_COST):
        return Finding("psf-extent", "good", "The PSF's extent suits the image's.")
    enough = [min(p, n - 1 + n % 2) for p, n in zip(psf_shape, image_shape, strict=True)]
    less = cost * math.prod(image_shape) / _voxels_computed(enough, image_shape)
    axes = " and ".join("zyx"[-len(psf_shape) :][a] for a in beyond)
    sentence = (
        f"The PSF ({_extents(psf_shape)} voxels) is larger than the image ({_extents(image_shape)}) along "
        f"{axes}: {cost:.0f} voxels are computed for one of the image (up to {LARGEST_COST:g} is usual), and "
        "everything takes as many times longer."
    )
    remedy = (
        f"A PSF of {_extents(enough)} voxels takes {less:.1f} times less work; it leaves out only light from "
        "farther away than half of the image. Cut the file, or give bigdecon psf make a smaller --shape."
    )
    return Finding("psf-extent", "warning", sentence, remedy)


def _voxels_computed(psf_shape: Sequence[int], image_shape: Sequence[int]) -> int:
    return math.prod(n + p - 1 for p, n in zip(psf_shape, image_shape, strict=True))


def _extents(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def check_psf_width(image: NDArray[Any], psf_array: NDArray[Any]) -> Finding:
    """Compare what the PSF lets pass with what the image holds beyond its noise.

    The specimen's spectrum that both imply falls with frequency for nearly any specimen. If it rises, the
    image holds detail that the PSF would have stopped: it is too wide. If it falls faster than frequency to
    the power of -8.5, the PSF may be too narrow, or the specimen smooth. Both limits were set by simulated
    specimens and real images, so that a true PSF stays clear of them; factors of 2 are found
    where the image has the light for it, smaller ones rarely.

    Parameters
    ----------
    image : (z, y, x) or (y, x), a part with signal, larger than the PSF's core
    psf_array : along the same axes, with the same voxel size

    Returns
    -------
    Finding
        "psf-too-wide", "psf-too-narrow", or a good "psf-width"
    """
    spectra = implied_spectra(image, psf_array)
    for spectrum in spectra:
        if len(spectrum.power) >= LEAST_SHELLS["wide"] and spectrum.rise > LARGEST_RISE:
            return _too_wide(DIRECTIONS[spectrum.direction], spectrum.rise)
    for spectrum in spectra:
        if len(spectrum.power) >= LEAST_SHELLS["narrow"] and spectrum.slope < STEEPEST:
            return _too_narrow(DIRECTIONS[spectrum.direction], spectrum.slope)
    return Finding("psf-width", "good", "The PSF is as wide as the image allows, as far as its noise tells.")


def _too_wide(where: str, rise: float) -> Finding:
    sentence = (
        f"The PSF is too wide {where}: the image holds fine detail that this PSF would have stopped (the "
        f"specimen would have to get {rise:.2g} times stronger towards fine detail, and {LARGEST_RISE:g} "
        "times "
        "is the limit), so the result will have rings and exaggerated detail."
    )
    remedy = (
        "Check the voxel sizes of image and PSF, the NA and the wavelength; bigdecon psf make gives the PSF "
        "of your microscope."
    )
    return Finding("psf-too-wide", "warning", sentence, remedy)


def _too_narrow(where: str, slope: float) -> Finding:
    sentence = (
        f"The PSF seems too narrow {where}: it would let pass fine detail that the image does not hold (the "
        f"spectrum falls with the power {slope:.1f} of frequency, and {STEEPEST:g} is the limit), so blur "
        "will "
        "stay in the result. A specimen that is smooth everywhere looks alike."
    )
    remedy = (
        "Check the voxel sizes of image and PSF, the focus, and whether the PSF has the sample's aberration."
    )
    return Finding("psf-too-narrow", "warning", sentence, remedy)


def check_sampling(
    voxel_size_um: Sequence[float] | None,
    psf_array: NDArray[Any] | None = None,
    known: KnownOptics = KnownOptics(),  # noqa: B008  (frozen)
) -> Finding | None:
    """Hold the voxel size against Nyquist's limit: the one judgement of it, for whoever asks.

    It is wavelength / (4 NA) in the plane, and wavelength / (2 n (1 - cos a)) along z, with sin a = NA / n;
    where a beam is scanned, or pinholes sharpen, half of the width by theory. Where NA and wavelength are
    unknown, the PSF tells: its transfer function should have ended before the
    highest frequency that the voxels hold. That is a note, and no warning, whatever the number.

    Parameters
    ----------
    voxel_size_um : (z, y, x) or (y, x); None if unknown
    psf_array : along the same axes; used where the optics are unknown
    known : of the optics; without the refractive index the axial limit is left out

    Returns
    -------
    None if nothing is known to hold it against
    """
    if voxel_size_um is not None and known.conditions is not None:
        return _by_optics(voxel_size_um, known)
    if psf_array is not None:
        return _by_psf(psf_array)
    return None


def _limits_um(voxel_size_um: Sequence[float], conditions: ImagingConditions) -> Sequence[float]:
    try:
        if conditions.microscope.kind not in ("widefield", "light-sheet"):
            return expect(conditions, voxel_size_um).sampling_um
    except PSFError:  # settings of a microscope that are not all there
        pass
    na, wavelength, index = (
        conditions.numerical_aperture,
        conditions.wavelength_um,
        conditions.refractive_index,
    )
    return [0.5 / cutoff for cutoff in optical_cutoff_per_um(na, wavelength, index, len(voxel_size_um))]


def _by_optics(voxel_size_um: Sequence[float], known: KnownOptics) -> Finding:
    conditions, ndim = known.conditions, len(voxel_size_um)
    if conditions is None:
        raise ValueError("the optics are not known")
    limits = _limits_um(voxel_size_um, conditions)
    axes = [a for a in range(ndim) if known.refractive_index is not None or a >= ndim - 2]
    worst = max(axes, key=lambda a: voxel_size_um[a] / limits[a])
    ratio = voxel_size_um[worst] / limits[worst]
    # The plane's axes are alike in most images: name both, or a reader looks for what is wrong with one.
    alike = [a for a in axes if voxel_size_um[a] == voxel_size_um[worst] and limits[a] == limits[worst]]
    name = " and ".join("zyx"[-ndim:][a] for a in alike)
    light = f"NA {conditions.numerical_aperture:g} and light of {conditions.wavelength_um:g} µm"
    if ratio <= LITTLE_ABOVE_NYQUIST:
        return Finding("undersampling", "good", f"The voxels are small enough for {light}.")
    sentence = (
        f"The voxels are too large: {voxel_size_um[worst]:g} µm along {name}, and Nyquist's limit for "
        f"{light} is {limits[worst]:.3g} µm; finer detail is recorded as coarser, and cannot be restored."
    )
    remedy = (
        f"Record with at most {limits[worst]:.3g} µm along {name}; here, read details of few voxels with "
        "care."
    )
    return Finding("undersampling", "warning" if ratio > WELL_ABOVE_NYQUIST else "note", sentence, remedy)


def _by_psf(psf_array: NDArray[Any]) -> Finding:
    plane = psf_array if psf_array.ndim == 2 else psf_array[psf_array.shape[0] // 2]
    rows, columns = (2 * max(n, 16) for n in plane.shape)
    modulus = transfer_function(plane, (rows, columns))
    share = max(float(modulus[rows // 2, 0]), float(modulus[0, columns // 2]))
    if share < PASSED_AT_NYQUIST:
        return Finding("undersampling", "good", "The voxels hold all detail that the PSF lets pass.")
    sentence = (
        f"The voxels are large for the PSF: in focus it still passes {share:.0%} of the contrast at the "
        "finest "
        f"detail that they hold, and {PASSED_AT_NYQUIST:.0%} is the limit; still finer detail is recorded as "
        "coarser, and cannot be restored."
    )
    remedy = "Record with smaller voxels; here, read details of few voxels with care."
    return Finding("undersampling", "note", sentence, remedy)
