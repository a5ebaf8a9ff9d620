"""Point spread functions: read, correct, describe and save them.

The way of a measured or computed PSF, each step leaving one sentence in `PSF.corrections`:

    file → numbers checked → background off → centre found → [shift, resample, cut: one interpolation] → sum 1

Arrays are (z, y, x) or (y, x); the centre of an axis of extent n is voxel n // 2. Files are
the matter of `psf_file`, the corrections that of `psf_corrections`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigdecon.optics.psf_corrections import (
    SIZES_UNKNOWN,
    background_sentence,
    centre_sentence,
    checked_numbers,
    checked_sizes,
    find_background,
    find_centre,
    half_extents,
    resample,
    size_sentences,
    smoothed,
    voxel_size_ratio,
    without_background,
)
from bigdecon.optics.psf_file import read_psf_file, read_psf_origin, write_psf_file
from bigdecon.optics.psf_origin import PSFOrigin
from bigdecon.optics.widths import fwhm

__all__ = [
    "PSF",
    "PSFReport",
    "PSFSymmetries",
    "check_psf",
    "find_centre",
    "load_psf",
    "psf_from_array",
    "read_psf_file",
    "save_psf",
    "symmetries",
]

Array = NDArray[np.float32]
Sizes = tuple[float, ...]

SYMMETRIC_WITHIN = 0.05  # L1 distance to the mirrored PSF, as a part of the energy


@dataclass(frozen=True, eq=False)
class PSF:
    """A point spread function that is ready for use.

    Attributes
    ----------
    array : (z, y, x) or (y, x), odd extents, not negative, sums to 1, centred at n // 2
    voxel_size_um : size of a voxel along every axis, in micrometres; None where unknown
    name : what to call it in messages
    corrections : what loading changed, one sentence each
    origin : how it was made, where that is known
    source_voxel_size_um : voxel size that the file was taken to have; None where unknown
    source_shape : extents in the file; empty where it was made here
    source_fwhm : full widths at half maximum there, in its voxels; None where wider than the array
    sha256 : identity of the final array and voxel size, as hexadecimal digits
    """

    array: Array
    voxel_size_um: Sizes | None = None
    name: str = "array"
    corrections: tuple[str, ...] = ()
    origin: PSFOrigin | None = None
    source_voxel_size_um: Sizes | None = None
    source_shape: tuple[int, ...] = ()
    source_fwhm: tuple[float | None, ...] = ()
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        """Compute the identity."""
        data = np.ascontiguousarray(self.array, dtype="<f4")
        head = (
            f"{data.shape} {None if self.voxel_size_um is None else [float(v) for v in self.voxel_size_um]}"
        )
        digest = hashlib.sha256(head.encode() + data.tobytes()).hexdigest()
        object.__setattr__(self, "sha256", digest)

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return self.array.ndim

    @property
    def radius(self) -> tuple[int, ...]:
        """Voxels on either side of the centre, for every axis."""
        return tuple(n // 2 for n in self.array.shape)

    def __repr__(self) -> str:
        """Describe the PSF in a line."""
        size = self.voxel_size_um
        voxels = (
            "unknown voxel size" if size is None else f"voxels of {' × '.join(f'{s:g}' for s in size)} µm"
        )
        return f"<PSF {self.name}: {' × '.join(map(str, self.array.shape))}, {voxels}>"

    def _repr_html_(self) -> str:
        """Show sections and a table in notebooks."""
        from bigdecon.optics.psf_display import psf_html

        return psf_html(self)


@dataclass(frozen=True)
class PSFSymmetries:
    """Under which turns of the image the blur stays the same.

    Attributes
    ----------
    flips : for every axis, whether mirroring it leaves the PSF as it is
    rot90 : whether a quarter turn in the yx plane leaves it as it is
    """

    flips: tuple[bool, ...]
    rot90: bool


@dataclass(frozen=True)
class PSFReport:
    """What a PSF looks like before loading, and what loading would do to it.

    Attributes
    ----------
    shape : extents in voxels
    voxel_size_um : its own voxel size; None where unknown
    centre_offset : centre minus the middle voxel n // 2 along every axis, in voxels
    background : level of the border in the file's units; 0 where it is no offset
    peak : highest value, in the file's units
    core_energy : part of the energy within one full width at half maximum of the centre (after corrections)
    fwhm_voxels : full width at half maximum along every axis; None where the PSF is wider than the array
    fwhm_um : the same in micrometres; None where the voxel size is unknown
    symmetries : see PSFSymmetries
    loaded_shape : extents after loading
    corrections : what loading would correct, one sentence each
    """

    shape: tuple[int, ...]
    voxel_size_um: Sizes | None
    centre_offset: Sizes
    background: float
    peak: float
    core_energy: float
    fwhm_voxels: tuple[float | None, ...]
    fwhm_um: tuple[float | None, ...] | None
    symmetries: PSFSymmetries
    loaded_shape: tuple[int, ...]
    corrections: tuple[str, ...]


def load_psf(
    path: str | os.PathLike[str],
    *,
    voxel_size_um: Sequence[float] | None = None,
    psf_voxel_size_um: Sequence[float] | None = None,
    ndim: int | None = None,
    max_shape: Sequence[int] | None = None,
) -> PSF:
    """Read a PSF from TIFF, ImageJ TIFF, OME-TIFF or .npy and make it ready for use.

    Parameters
    ----------
    path : the file
    voxel_size_um : the volume's voxel size, which the PSF is resampled to; None if unknown
    psf_voxel_size_um : the PSF's voxel size; None to take it from the file
    ndim : number of dimensions of the volume, if it must be checked
    max_shape : the largest useful extents (2N − 1 for a volume of extent N)

    Raises
    ------
    PSFError
        if the file cannot be read, or for the reasons given at `psf_from_array`
    """
    array, size_in_file = read_psf_file(path)
    psf = psf_from_array(
        array,
        voxel_size_um=voxel_size_um,
        psf_voxel_size_um=psf_voxel_size_um or size_in_file,
        ndim=ndim,
        max_shape=max_shape,
        name=Path(path).name,
    )
    return replace(psf, origin=read_psf_origin(path))


def psf_from_array(
    array: NDArray[Any],
    *,
    voxel_size_um: Sequence[float] | None = None,
    psf_voxel_size_um: Sequence[float] | None = None,
    ndim: int | None = None,
    max_shape: Sequence[int] | None = None,
    name: str = "array",
) -> PSF:
    """Make an array ready for use as a PSF; parameters as for `load_psf`.

    Shifting, resampling and cutting are one interpolation with quintic splines, in which an offset of
    the centre becomes a choice of sampling points, so that nothing wraps around.

    Raises
    ------
    PSFError
        if it has NaN, infinities, no energy or the wrong number of dimensions, or if a voxel size is
        known for only one of PSF and volume
    """
    data, scale = checked_numbers(
        array, ndim or (None if voxel_size_um is None else len(voxel_size_um)), name
    )
    own = checked_sizes(psf_voxel_size_um, data.ndim, f"the PSF {name}")
    wanted = checked_sizes(voxel_size_um, data.ndim, "the volume")
    notes = []
    level = find_background(data)
    if level:
        clean = without_background(data, level)
        notes.append(background_sentence(data, clean, level, scale))
        data = clean
    ratio, ratio_note = voxel_size_ratio(own, wanted, data.ndim, name)
    centre = find_centre(data)
    half = half_extents(data, centre, ratio, max_shape)
    result = resample(data, centre, ratio, half)
    notes += [centre_sentence(data.shape, centre), ratio_note, *size_sentences(data, centre, ratio, half)]
    total = float(result.sum(dtype=np.float64))
    result *= np.float32(scale if abs(total * scale - 1) < 1e-6 else 1 / total)
    kept = tuple(note for note in notes if note)
    return PSF(
        result,
        wanted or own,
        name,
        kept,
        source_voxel_size_um=own,
        source_shape=data.shape,
        source_fwhm=fwhm(data),
    )


def save_psf(psf: PSF, path: str | os.PathLike[str]) -> None:
    """Write a PSF as float32 TIFF that ImageJ opens, with its voxel size and how it was made.

    Raises
    ------
    OSError
        if the file cannot be written
    """
    write_psf_file(path, psf.array, psf.voxel_size_um, psf.origin)


def symmetries(psf: PSF) -> PSFSymmetries:
    """Measure under which mirrorings and turns a PSF stays the same.

    Two PSFs count as the same if the L1 distance between them, lightly smoothed against noise, is below
    5 % of the energy; a centre wrong by 0.02 voxel changes a PSF of 2.4 voxels FWHM by 3 %.
    """
    data = smoothed(psf.array)
    flips = tuple(_alike(data, np.flip(data, axis)) for axis in range(data.ndim))
    y, x = data.shape[-2:]
    side = max(y, x)
    pad = [(0, 0)] * (data.ndim - 2) + [((side - n) // 2,) * 2 for n in (y, x)]
    square = np.pad(data, pad)
    return PSFSymmetries(flips, _alike(square, np.rot90(square, axes=(-2, -1))))


def check_psf(
    array: NDArray[Any],
    voxel_size_um: Sequence[float] | None = None,
    *,
    volume_voxel_size_um: Sequence[float] | None = None,
    name: str = "array",
) -> PSFReport:
    """Describe a PSF and what loading would correct in it.

    Parameters
    ----------
    array : (z, y, x) or (y, x)
    voxel_size_um : the PSF's own voxel size; None if unknown
    volume_voxel_size_um : the volume's; None to leave the sampling out of the question
    name : what to call it in messages

    Raises
    ------
    PSFError
        as `psf_from_array`
    """
    data, scale = checked_numbers(array, None, name)
    own = checked_sizes(voxel_size_um, data.ndim, f"the PSF {name}")
    image_known = volume_voxel_size_um is not None  # a PSF by itself has nothing to be equal to
    level = find_background(data)
    clean = without_background(data, level)
    psf = psf_from_array(
        array, voxel_size_um=volume_voxel_size_um or own, psf_voxel_size_um=own, ndim=data.ndim, name=name
    )
    centre, widths = find_centre(clean), fwhm(clean)
    reach = [n if w is None else w for n, w in zip(clean.shape, widths, strict=True)]
    return PSFReport(
        shape=data.shape,
        voxel_size_um=own,
        centre_offset=tuple(c - n // 2 for c, n in zip(centre, data.shape, strict=True)),
        background=level * scale,
        peak=float(np.max(array)),
        core_energy=_energy_within(clean, centre, reach),
        fwhm_voxels=widths,
        fwhm_um=own and tuple(w and w * s for w, s in zip(widths, own, strict=True)),
        symmetries=symmetries(psf),
        loaded_shape=psf.array.shape,
        corrections=tuple(text for text in psf.corrections if image_known or text != SIZES_UNKNOWN),
    )


def _alike(a: Array, b: Array) -> bool:
    return bool(np.abs(a - b).sum(dtype=np.float64) < SYMMETRIC_WITHIN * a.sum(dtype=np.float64))


def _energy_within(data: Array, centre: Sizes, reach: Sequence[float]) -> float:
    box = tuple(
        slice(max(0, int(np.ceil(c - r))), int(np.floor(c + r)) + 1)
        for c, r in zip(centre, reach, strict=True)
    )
    return float(data[box].sum(dtype=np.float64) / data.sum(dtype=np.float64))
