"""A point spread function measured on images of beads.

    find maxima → alone? whole? saturated? → cut out, background off → dim? another shape? → register → mean

Lengths are micrometres, or voxels where a name says nothing; axes are (z, y, x), or (y, x) for a flat image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bigdecon.errors import PSFError
from bigdecon.optics.bead_finding import Candidate, find_candidates, judge_places, read_around
from bigdecon.optics.bead_measuring import (
    BeadShape,
    cut_out,
    is_dim,
    is_saturated,
    odd_shapes,
    odd_values,
    shape_of,
    typical_width,
)
from bigdecon.optics.bead_registration import BeadImage, Registered, register
from bigdecon.optics.bead_size import without_bead
from bigdecon.optics.conditions import ImagingConditions
from bigdecon.optics.expectation import Expectation, bead_widening, expect
from bigdecon.optics.microscopes import Microscope
from bigdecon.optics.psf import PSF
from bigdecon.optics.psf_corrections import without_noise
from bigdecon.optics.psf_origin import PSFOrigin
from bigdecon.optics.widths import asymmetries, fwhm
from bigdecon.volume import Stack, Volume

__all__ = ["Bead", "BeadPSF", "Reason", "Rejection", "psf_from_beads"]

Sizes = tuple[float, ...]
Reason = Literal["crowded", "cut by the border", "saturated", "too dim", "of another shape"]

WINDOW_IN_WIDTHS = 4
"""Half of the PSF's extent in FWHM, where nobody asks for another."""
UNLIKE = 0.1
"""Part by which a bead may differ from the mean however alike the others are."""
FEWEST_FOR_SHAPES = 4
"""Beads from which on the shape of most is known."""


@dataclass(frozen=True)
class Rejection:
    """How many beads were left out for one reason."""

    reason: Reason
    count: int


@dataclass(frozen=True)
class Bead:
    """A bead that was used.

    Attributes
    ----------
    position : its centre in the image, in voxels
    brightness : its peak above the background, in data units
    signal_to_noise : brightness over the noise of its background
    difference : how far it differs from the mean beyond its noise; 0.1 is a tenth
    """

    position: Sizes
    brightness: float
    signal_to_noise: float
    difference: float


@dataclass(frozen=True, eq=False)
class BeadPSF:
    """A measured PSF and how it came about.

    Attributes
    ----------
    psf : ready for use; `bigdecon.save_psf` writes it
    beads : those that were averaged
    rejections : those left out, one entry a reason, in the order of the checks
    unused : good beads beyond the number asked for
    fwhm_um : widths of `psf`; None along an axis where it is wider than its array
    width_spread : standard deviation of the single beads' widths over their mean, for every axis
    asymmetry : for every axis, how far the PSF is from its mirror image, see `widths.asymmetries`
    expectation : what theory says of a point; None where the optics are unknown
    conditions : the optics; None where unknown
    bead_diameter_um : as given
    widening : factors by which the beads' own size has widened `psf`; None where their size is unknown, ones
        where it was corrected
    bead_size_corrected : whether the beads' own size was taken out of `psf`
    """

    psf: PSF
    beads: tuple[Bead, ...]
    rejections: tuple[Rejection, ...]
    unused: int
    fwhm_um: tuple[float | None, ...]
    width_spread: Sizes
    asymmetry: Sizes
    expectation: Expectation | None
    conditions: ImagingConditions | None
    bead_diameter_um: float | None
    widening: Sizes | None
    bead_size_corrected: bool

    @property
    def n_used(self) -> int:
        """Number of beads averaged."""
        return len(self.beads)

    @property
    def n_found(self) -> int:
        """Number of beads seen in the image, good or not."""
        return self.n_used + self.unused + sum(rejection.count for rejection in self.rejections)


@dataclass(frozen=True)
class _Search:
    """Beads that are good by themselves, and what became of the others."""

    images: list[BeadImage]
    shapes: list[BeadShape]
    places: list[tuple[int, ...]]
    rejected: dict[Reason, int]
    unused: int


def psf_from_beads(
    volume: Volume | NDArray[Any],
    *,
    voxel_size_um: Sequence[float] | None = None,
    channel: int = 0,
    timepoint: int = 0,
    numerical_aperture: float | None = None,
    wavelength_um: float | None = None,
    refractive_index: float | None = None,
    microscope: Microscope | None = None,
    bead_diameter_um: float | None = None,
    correct_bead_size: bool = False,
    shape: Sequence[int] | None = None,
    max_beads: int = 100,
) -> BeadPSF:
    """Measure the PSF on an image of beads.

    Parameters
    ----------
    volume : image of beads, (z, y, x) or (y, x); read piece by piece
    voxel_size_um : of the image; None to take it from the volume
    channel, timepoint : which image of a volume that has several
    numerical_aperture, wavelength_um, refractive_index : of objective, emission and immersion; all three or
        none. With them the result is compared with theory.
    microscope : a `Microscope`; None for widefield
    bead_diameter_um : diameter of the beads; with it the report says how much they widen the PSF
    correct_bead_size : take their size out of the PSF
    shape : odd extents of the PSF; None for four times its width to either side, or what the beads allow
    max_beads : the brightest good ones are used; each takes memory a few times as large as the PSF

    Returns
    -------
    BeadPSF
        the PSF, odd-sized, centred, not negative, of sum 1; what was used, what was left out and why

    Raises
    ------
    PSFError
        if there is no bead to use, or the voxel size is unknown, or a setting is impossible
    VolumeError
        if a voxel is NaN or infinite
    """
    volume = volume if isinstance(volume, Volume) else Volume.from_array(np.asarray(volume))
    stack, size = volume.stack(channel=channel, timepoint=timepoint), _voxel_size(volume, voxel_size_um)
    _check(stack, shape, max_beads, bead_diameter_um, correct_bead_size)
    conditions = ImagingConditions.from_numbers(
        numerical_aperture, wavelength_um, refractive_index, microscope
    )
    expectation = None if conditions is None else expect(conditions, size)
    search, width = _search(stack, expectation, size, shape, max_beads)
    registered, search, shapes = _register(search, width)
    array = registered.mean
    if correct_bead_size and bead_diameter_um is not None:
        array = without_bead(array, size, bead_diameter_um, conditions)
    array = without_noise(array)
    normal = np.ascontiguousarray(array / array.sum(dtype=np.float64), np.float32)
    psf = PSF(normal, size, "beads", origin=PSFOrigin("beads", size, normal.shape, conditions))
    widths = fwhm(psf.array)
    known = [w or n for w, n in zip(widths, psf.array.shape, strict=True)]
    widened = None if bead_diameter_um is None else _widening(widths, size, bead_diameter_um)
    return BeadPSF(
        psf=psf,
        beads=_beads(registered, search),
        rejections=tuple(Rejection(reason, count) for reason, count in search.rejected.items() if count),
        unused=search.unused,
        fwhm_um=tuple(w and w * s for w, s in zip(widths, size, strict=True)),
        width_spread=_spread([shape.widths for shape in shapes]),
        asymmetry=asymmetries(psf.array, known),
        expectation=expectation,
        conditions=conditions,
        bead_diameter_um=bead_diameter_um,
        widening=tuple(1.0 for _ in size) if widened and correct_bead_size else widened,
        bead_size_corrected=correct_bead_size and bead_diameter_um is not None,
    )


def _voxel_size(volume: Volume, given: Sequence[float] | None) -> Sizes:
    ndim = len(volume.spatial_axes)
    size = tuple(float(v) for v in (given or volume.voxel_size_um or ()))[-ndim:]
    if not size:
        raise PSFError(f"the voxel size of {volume.name} is unknown; give it with --voxel-size Z Y X, in µm.")
    if len(size) < ndim or not all(np.isfinite(v) and v > 0 for v in size):
        raise PSFError(f"the voxel size {size} must be {ndim} positive numbers, in µm.")
    return size


def _check(
    stack: Stack, shape: Sequence[int] | None, max_beads: int, diameter: float | None, correct: bool
) -> None:
    if max_beads < 1:
        raise PSFError(f"--max-beads is {max_beads}; at least one bead is needed.")
    if diameter is not None and not (np.isfinite(diameter) and diameter > 0):
        raise PSFError(f"the beads' diameter is {diameter:g} µm; it must be positive.")
    if correct and diameter is None:
        raise PSFError("taking the beads' size out needs to know it: give --bead-diameter, in µm.")
    if shape is None:
        return
    if len(shape) != len(stack.shape) or any(n < 3 or n % 2 == 0 for n in shape):
        raise PSFError(
            f"the shape {tuple(shape)} must be {len(stack.shape)} odd numbers of voxels, 3 or more."
        )
    if any(s > n for s, n in zip(shape, stack.shape, strict=True)):
        raise PSFError(
            f"a PSF of {' × '.join(map(str, shape))} voxels does not fit into the image of "
            f"{' × '.join(map(str, stack.shape))}; give a smaller shape."
        )


def _search(
    stack: Stack,
    expectation: Expectation | None,
    size: Sizes,
    shape: Sequence[int] | None,
    max_beads: int,
) -> tuple[_Search, Sizes]:
    """Find beads that are good by themselves; also gives how wide their images are."""
    sigma = (1.0,) * len(size)
    if expectation is not None:
        sigma = tuple(max(0.7, w / s / 2.355) for w, s in zip(expectation.fwhm_um, size, strict=True))
        sigma = tuple(min(s, n / 8) for s, n in zip(sigma, stack.shape, strict=True))
    found, highest = find_candidates(stack, sigma)
    if not found:
        raise PSFError(
            "no bead was found: nothing in the image rises above its noise; check the file and --channel."
        )
    width = typical_width(stack, found, highest)
    half = _half_extents(stack, found, width) if shape is None else tuple(n // 2 for n in shape)
    standing = judge_places(found, stack.shape, half, width)
    rejected: dict[Reason, int] = {
        "crowded": len(standing.crowded), "cut by the border": len(standing.cut), "saturated": 0,
        "too dim": 0, "of another shape": 0,
    }  # fmt: skip
    search = _measure(stack, standing.alone, highest, half, width, rejected, max_beads)
    if not search.images:
        told = ", ".join(f"{count} {reason}" for reason, count in rejected.items() if count)
        raise PSFError(
            f"none of the {len(found)} bright spots in the image can be used as a bead "
            f"({told or 'none stands out'}); a smaller --shape, a thinner suspension of beads "
            "or another exposure may help."
        )
    return search, width


def _half_extents(stack: Stack, found: Sequence[Candidate], width: Sizes) -> tuple[int, ...]:
    """Four widths to either side, but no more than four of five bright beads have, and at least one width."""
    bright = np.array([c.place for c in found if c.height > 0.2 * found[0].height])
    room = np.minimum(bright, np.array(stack.shape) - 1 - bright)
    halves = []
    for axis, (w, n) in enumerate(zip(width, stack.shape, strict=True)):
        allowed = int(np.quantile(room[:, axis], 0.2))
        wanted = min(int(np.ceil(WINDOW_IN_WIDTHS * w)), max(allowed, int(np.ceil(w)) + 1))
        halves.append(max(1, min(wanted, (n - 1) // 2)))
    return tuple(halves)


def _measure(
    stack: Stack,
    alone: Sequence[Candidate],
    highest: float,
    half: tuple[int, ...],
    width: Sizes,
    rejected: dict[Reason, int],
    max_beads: int,
) -> _Search:
    """Cut out beads, brightest first, until there are enough that are neither saturated nor dim."""
    images: list[BeadImage] = []
    shapes: list[BeadShape] = []
    places: list[tuple[int, ...]] = []
    for i, candidate in enumerate(alone):
        if len(images) == max_beads:
            return _Search(images, shapes, places, rejected, len(alone) - i)
        raw = read_around(stack, candidate.place, half, 0)
        if is_saturated(raw, highest):
            rejected["saturated"] += 1
            continue
        place, image = cut_out(stack, candidate.place, half, width)
        if is_dim(image, width):
            rejected["too dim"] += 1
            continue
        images.append(image)
        shapes.append(shape_of(image, width))
        places.append(place)
    return _Search(images, shapes, places, rejected, 0)


def _register(search: _Search, width: Sizes) -> tuple[Registered, _Search, list[BeadShape]]:
    """Leave out beads of another shape than the others, by their widths and then by what is left of them."""
    keep = list(range(len(search.images)))
    if len(keep) >= FEWEST_FOR_SHAPES:
        bright = [float(image.data.max()) for image in search.images]
        keep = [i for i, odd in enumerate(odd_shapes(search.shapes, bright)) if not odd]
    registered = register([search.images[i] for i in keep], width)
    if len(keep) >= FEWEST_FOR_SHAPES:
        bright = [bead.scale for bead in registered.beads]
        odd = odd_values(registered.residuals, bright, UNLIKE)
        if odd.any():
            keep = [i for i, is_odd in zip(keep, odd, strict=True) if not is_odd]
            registered = register([search.images[i] for i in keep], width)
    search.rejected["of another shape"] += len(search.images) - len(keep)
    kept = replace(
        search,
        images=[search.images[i] for i in keep],
        shapes=[search.shapes[i] for i in keep],
        places=[search.places[i] for i in keep],
    )
    return registered, kept, kept.shapes


def _beads(registered: Registered, search: _Search) -> tuple[Bead, ...]:
    return tuple(
        Bead(
            tuple(float(p + o) for p, o in zip(place, bead.offset, strict=True)),
            bead.scale,
            bead.scale / bead.noise if bead.noise else float("inf"),
            residual,
        )
        for place, bead, residual in zip(search.places, registered.beads, registered.residuals, strict=True)
    )


def _spread(widths: Sequence[Sizes]) -> Sizes:
    array = np.array(widths)
    return tuple(float(s) for s in array.std(axis=0) / array.mean(axis=0))


def _widening(widths: Sequence[float | None], size: Sizes, diameter: float) -> Sizes:
    known = [np.inf if w is None else w * s for w, s in zip(widths, size, strict=True)]
    finite = [1e9 if np.isinf(w) else w for w in known]
    return bead_widening(finite, diameter)
