"""Point spread functions computed from the optics.

The light around the focus is the matter of `pupil`, the kinds of microscopes that of `microscopes`; here
settings are checked, and the profiles around the axis that these give are turned into voxels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import scipy.special
from numpy.typing import NDArray

from bigdecon.errors import PSFError
from bigdecon.optics.conditions import ImagingConditions, check_optics
from bigdecon.optics.microscopes import Microscope, check_microscope, profiles, ring_step
from bigdecon.optics.psf import PSF, find_centre
from bigdecon.optics.psf_corrections import LARGEST_VOXEL_UM
from bigdecon.optics.psf_origin import PSFOrigin
from bigdecon.optics.pupil import Optics, aberrated_focus, gaussian_sigmas
from bigdecon.optics.rings import Grid, pixel_filler

__all__ = ["Model", "make_psf"]

Model = Literal["gaussian", "born-wolf", "gibson-lanni", "richards-wolf"]

Real = NDArray[np.float64]

MAX_VOXELS = 2**28
"""1 GiB of float32, or 645 voxels a side."""
DEEPEST_UM = 1000.0


def make_psf(
    model: Model,
    *,
    numerical_aperture: float,
    wavelength_um: float,
    refractive_index: float,
    voxel_size_um: Sequence[float],
    shape: Sequence[int],
    sample_refractive_index: float | None = None,
    emitter_depth_um: float = 0.0,
    defocus_um: float = 0.0,
    pixel_integration: bool | None = None,
    microscope: Microscope | None = None,
) -> PSF:
    """Compute the PSF of a fluorescence microscope.

    Parameters
    ----------
    model : "gaussian" (Zhang et al. 2007), "born-wolf" (scalar, paraxial), "gibson-lanni" (scalar, with the
        spherical aberration of an emitter in a medium other than the immersion's) or "richards-wolf"
        (vectorial, for high apertures; dipoles of random orientation)
    numerical_aperture : of the objective, at most the refractive index
    wavelength_um : of the emitted light in vacuum, in micrometres
    refractive_index : of the immersion medium, for which the objective is corrected
    voxel_size_um : (z, y, x), or (y, x) for a 2D PSF
    shape : odd extents (z, y, x), or (y, x) for a single plane
    sample_refractive_index : around the emitter (gibson-lanni only); None for that of the immersion
    emitter_depth_um : below the coverslip (gibson-lanni only)
    defocus_um : distance of a 2D PSF's plane from the best focus
    pixel_integration : average over the area of a pixel, as a camera does, instead of sampling its middle, as
        a scanned beam does; None for what the microscope does. Planes are infinitely thin in either case.
    microscope : its kind and what that needs; None for widefield

    Returns
    -------
    PSF
        sums to 1. With an aberration the focus lies elsewhere than the emitter; it is then moved so that
        its centre, as `find_centre` defines it for measured PSFs, is the middle voxel.

    Raises
    ------
    PSFError
        if a number is impossible; the message names it

    Notes
    -----
    Of light that meets the coverslip at more than the sample's critical angle (NA above the sample's
    index) nothing is counted: it reaches only emitters within a wavelength of the glass.
    """
    sample = refractive_index if sample_refractive_index is None else sample_refractive_index
    optics = Optics(numerical_aperture, wavelength_um, refractive_index, sample, emitter_depth_um)
    microscope = microscope or Microscope()
    _check_optics(model, optics)
    check_microscope(microscope, model, optics)
    _check_grid(shape, voxel_size_um, defocus_um)
    n_planes, step = (shape[0], voxel_size_um[0]) if len(shape) == 3 else (1, 1.0)
    z = step * (np.arange(n_planes) - n_planes // 2) + defocus_um
    (ny, nx), (dy, dx) = shape[-2:], voxel_size_um[-2:]
    integrate = not microscope.scans if pixel_integration is None else pixel_integration
    grid = Grid(z.astype(float), (ny, nx), (float(dy), float(dx)), integrate)
    simple = model == "gaussian" and microscope.kind == "widefield"
    planes = _gaussian(optics, grid) if simple else _centred(model, microscope, optics, grid)
    array = (planes / planes.sum()).astype(np.float32).reshape(tuple(shape))
    size = tuple(float(v) for v in voxel_size_um)
    conditions = ImagingConditions(numerical_aperture, wavelength_um, refractive_index, microscope)
    return PSF(array, size, model, origin=PSFOrigin(model, size, tuple(shape), conditions))


def _check_optics(model: str, optics: Optics) -> None:
    if model not in get_args(Model):
        raise PSFError(f"there is no PSF model {model!r}; choose from {', '.join(get_args(Model))}.")
    check_optics(optics)
    if not 0 <= optics.depth_um <= DEEPEST_UM:
        raise PSFError(
            f"the emitter's depth is {optics.depth_um:g}; it is in micrometres, from 0 to {DEEPEST_UM:g}."
        )
    if model != "gibson-lanni" and (optics.depth_um or optics.sample_index != optics.index):
        raise PSFError(f"the model {model} knows no emitter depth or sample index; use gibson-lanni.")


def _check_grid(shape: Sequence[int], voxel_size_um: Sequence[float], defocus_um: float) -> None:
    if len(shape) not in (2, 3) or len(voxel_size_um) != len(shape):
        raise PSFError(
            f"shape {tuple(shape)} and voxel size {tuple(voxel_size_um)} must both have 2 or both 3 numbers."
        )
    if any(n < 1 or n % 2 == 0 for n in shape):
        odd = tuple(max(1, n + 1 - n % 2) for n in shape)
        raise PSFError(
            f"the shape {tuple(shape)} has no middle voxel; all extents must be odd, such as {odd}."
        )
    if math.prod(shape) > MAX_VOXELS:
        raise PSFError(
            f"a PSF of the shape {tuple(shape)} takes {4 * math.prod(shape) / 2**30:.3g} GiB, and at most "
            f"{4 * MAX_VOXELS // 2**30} GiB are computed; give the part that holds light, such as 65 65 65."
        )
    if not all(np.isfinite(v) and v > 0 for v in voxel_size_um):
        raise PSFError(f"the voxel size is {tuple(voxel_size_um)}; it must be positive, in µm.")
    if max(voxel_size_um) > LARGEST_VOXEL_UM:
        raise PSFError(
            f"a voxel of {max(voxel_size_um):g} µm is none of a microscope; give micrometres, "
            f"so {max(voxel_size_um):g} nm is {max(voxel_size_um) / 1000:g}."
        )
    if not np.isfinite(defocus_um) or (defocus_um and len(shape) == 3):
        raise PSFError(
            f"a defocus of {defocus_um:g} µm makes sense for a 2D PSF only; a 3D one holds all planes."
        )


def _gaussian(optics: Optics, grid: Grid) -> Real:
    """Widefield Gaussian; see `pupil.gaussian_sigmas`."""
    sigma_z, sigma_r = gaussian_sigmas(optics)
    y, x = (
        _gaussian_line(n, step / sigma_r, grid.integrate)
        for n, step in zip(grid.shape_yx, grid.pixel_um, strict=True)
    )
    # Relative to the plane nearest to focus, which alone may be far outside.
    z = np.exp(-0.5 * (grid.z_um**2 - np.min(grid.z_um**2)) / sigma_z**2)
    return np.asarray(z[:, None, None] * y[:, None] * x)


def _gaussian_line(n: int, step: float, integrate: bool) -> Real:
    """Gaussian of standard deviation 1 at n pixels of size `step`, sampled or integrated."""
    at = step * (np.arange(n) - n // 2)
    if not integrate:
        return np.asarray(np.exp(-0.5 * at**2))
    edges = np.append(at - step / 2, at[-1] + step / 2) / np.sqrt(2)
    return np.diff(scipy.special.erf(edges))


def _centred(model: str, microscope: Microscope, optics: Optics, grid: Grid) -> Real:
    """Compute the planes; an aberrated focus is brought to the middle plane."""
    fill = pixel_filler(grid, ring_step(microscope, optics), 4 * optics.aperture / optics.wavelength_um)
    shift = aberrated_focus(optics) if optics.is_aberrated else 0.0
    for _ in range(8):
        planes = fill(profiles(model, microscope, optics, grid, shift))
        if not optics.is_aberrated or len(grid.z_um) < 3:
            break
        step = float(grid.z_um[1] - grid.z_um[0])
        error = find_centre(planes)[0] - len(planes) // 2
        shift += error * step
        if abs(error) < 2e-3:
            break
    return planes
