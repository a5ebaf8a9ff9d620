"""Point spread functions computed from the optics.

Every model but the Gaussian is an integral over the objective's pupil, a sum over rings

    field(r, z) = Σ  weight(q) · J_m(k0 q r) · exp(i k0 z √(n² − q²)),     0 ≤ q ≤ NA,

with q the numerical aperture of a ring and k0 = 2π / wavelength. It is computed along r for every
plane z; the planes' pixels are then filled from the radial profile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import scipy.sparse
import scipy.special
from numpy.typing import NDArray

from bigdecon.errors import PSFError
from bigdecon.optics.psf import PSF, find_centre

__all__ = ["Model", "make_psf"]

Model = Literal["gaussian", "born-wolf", "gibson-lanni", "richards-wolf"]

Real = NDArray[np.float64]
Complex = NDArray[np.complex128]

LARGEST_VOXEL_UM = 100
"""Larger sizes are nanometres by mistake."""

# Spacing of the radial profiles, in wavelength / NA; joined by lines they err by less than 2e-4 of the peak.
RADIAL_STEP = 1 / 128


@dataclass(frozen=True)
class Optics:
    """What the models need to know; lengths in micrometres.

    Attributes
    ----------
    aperture : numerical aperture
    wavelength_um : of the light emitted, in vacuum
    index : refractive index of the immersion medium
    sample_index : refractive index around the emitter
    depth_um : of the emitter below the coverslip
    """

    aperture: float
    wavelength_um: float
    index: float
    sample_index: float
    depth_um: float

    @property
    def wavenumber(self) -> float:
        """2π / wavelength in vacuum, per micrometre."""
        return 2 * np.pi / self.wavelength_um


@dataclass(frozen=True)
class Grid:
    """Where the PSF is wanted; for a 2D PSF z holds one plane.

    Attributes
    ----------
    z_um : positions of the planes relative to the focus
    shape_yx : odd extents
    pixel_um : pixel size (y, x)
    integrate : whether a pixel collects the light on its whole area, as a camera's does
    """

    z_um: Real
    shape_yx: tuple[int, int]
    pixel_um: tuple[float, float]
    integrate: bool


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
    pixel_integration: bool = True,
) -> PSF:
    """Compute the widefield PSF of a fluorescence microscope.

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
    pixel_integration : average over the area of a pixel, as a camera does, instead of sampling its middle;
        planes are infinitely thin in either case

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
    _check_optics(model, optics)
    _check_grid(shape, voxel_size_um, defocus_um)
    n_planes, step = (shape[0], voxel_size_um[0]) if len(shape) == 3 else (1, 1.0)
    z = step * (np.arange(n_planes) - n_planes // 2) + defocus_um
    (ny, nx), (dy, dx) = shape[-2:], voxel_size_um[-2:]
    grid = Grid(z.astype(float), (ny, nx), (float(dy), float(dx)), pixel_integration)
    planes = _gaussian(optics, grid) if model == "gaussian" else _centred(model, optics, grid)
    array = (planes / planes.sum()).astype(np.float32).reshape(tuple(shape))
    return PSF(array, tuple(float(v) for v in voxel_size_um), model)


def _check_optics(model: str, optics: Optics) -> None:
    if model not in get_args(Model):
        raise PSFError(f"there is no PSF model {model!r}; choose from {', '.join(get_args(Model))}.")
    for name, value in (
        ("numerical aperture", optics.aperture),
        ("wavelength", optics.wavelength_um),
        ("refractive index", optics.index),
        ("sample's refractive index", optics.sample_index),
    ):
        if not (np.isfinite(value) and value > 0):
            raise PSFError(f"the {name} is {value:g}; it must be positive.")
    if optics.wavelength_um > 20:
        raise PSFError(
            f"a wavelength of {optics.wavelength_um:g} µm is not light; give micrometres, "
            f"so {optics.wavelength_um:g} nm is {optics.wavelength_um / 1000:g}."
        )
    if optics.aperture > optics.index:
        raise PSFError(
            f"the numerical aperture {optics.aperture:g} exceeds the refractive index {optics.index:g} "
            "of the immersion medium; no such objective exists (oil has 1.515, water 1.33)."
        )
    if not (np.isfinite(optics.depth_um) and optics.depth_um >= 0):
        raise PSFError(f"the emitter's depth is {optics.depth_um:g} µm; it must be 0 or more.")
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
    """Gaussian that has the curvature of the scalar focus at its peak.

    Zhang, Zerubia, Olivo-Marin, Appl. Opt. 46 (2007) 1819, their non-paraxial widefield case: with θ the
    angle of a ray, weighted by √cosθ sinθ, σ_r = 1 / (k √⟨sin²θ⟩) and σ_z = 1 / (k √(2 Var cosθ)).
    """
    theta, weight = _nodes(float(np.arcsin(optics.aperture / optics.index)), 64)
    weight = weight * np.sqrt(np.cos(theta)) * np.sin(theta)
    weight /= weight.sum()
    k = optics.wavenumber * optics.index
    mean = float((weight * np.cos(theta)).sum())
    sigma_r = 1 / (k * np.sqrt((weight * np.sin(theta) ** 2).sum()))
    sigma_z = 1 / (k * np.sqrt(2 * (weight * (np.cos(theta) - mean) ** 2).sum()))
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


def _centred(model: str, optics: Optics, grid: Grid) -> Real:
    """Compute the planes; an aberrated focus is brought to the middle plane."""
    intensity = _richards_wolf if model == "richards-wolf" else _scalar
    fill = _pixel_filler(optics, grid)
    shift = _aberrated_focus(optics, grid) if _is_aberrated(optics) else 0.0
    for _ in range(8):
        planes = fill(intensity(model, optics, grid, grid.z_um + shift))
        if not _is_aberrated(optics) or len(grid.z_um) < 3:
            break
        step = float(grid.z_um[1] - grid.z_um[0])
        error = find_centre(planes)[0] - len(planes) // 2
        shift += error * step
        if abs(error) < 2e-3:
            break
    return planes


def _is_aberrated(optics: Optics) -> bool:
    return optics.depth_um > 0 and optics.sample_index != optics.index


def _aberrated_focus(optics: Optics, grid: Grid) -> float:
    """Where the light on the axis is brightest, between the foci of the inner and the outer rays."""
    q, _ = _nodes(_aperture(optics), 256)
    n, s = optics.index, optics.sample_index
    foci = optics.depth_um * (1 - np.sqrt(n**2 - q**2) / np.sqrt(s**2 - q**2))[:-8]
    margin = 2 * n * optics.wavelength_um / optics.aperture**2
    z = np.linspace(foci.min() - margin, foci.max() + margin, 4001)
    line = _scalar("gibson-lanni", optics, grid, z, radii=np.zeros(1))[0]
    return float(z[np.argmax(line)])


def _nodes(end: float, count: int) -> tuple[Real, Real]:
    """Gauss-Legendre nodes and weights on 0 … end."""
    x, w = scipy.special.roots_legendre(count)
    return end * (x + 1) / 2, end * w / 2


def _aperture(optics: Optics) -> float:
    """Numerical aperture of the light that can leave the sample."""
    return min(optics.aperture, optics.sample_index) if _is_aberrated(optics) else optics.aperture


def _count(optics: Optics, radii: Real, z: Real) -> int:
    """Nodes that resolve the integrand: a few for each of its oscillations across the pupil."""
    n, na = optics.index, optics.aperture
    sag = (n - np.sqrt(n**2 - na**2)) * np.abs(z).max() + optics.depth_um * optics.sample_index
    return 64 + int(optics.wavenumber * (na * radii.max() + sag))


def _radii(optics: Optics, grid: Grid) -> Real:
    reach = [(n // 2 + 0.5) * p for n, p in zip(grid.shape_yx, grid.pixel_um, strict=True)]
    corner = float(np.hypot(reach[0], reach[1]))
    step = RADIAL_STEP * optics.wavelength_um / optics.aperture
    return np.asarray(step * np.arange(int(corner / step) + 3), np.float64)


def _scalar(model: str, optics: Optics, grid: Grid, z: Real, radii: Real | None = None) -> Real:
    """Intensity (radius, plane) of the scalar models.

    born-wolf: Born & Wolf, Principles of Optics, section 8.8: ∫ J0(k0 q r) exp(−i k0 z q² / 2n) q dq.
    gibson-lanni: Gibson & Lanni, J. Opt. Soc. Am. A 9 (1992) 154, with immersion and coverslip as the
    objective was designed for: the same integral with the path z √(n² − q²) + d (√(s² − q²) − √(n² − q²)),
    d the emitter's depth and s the sample's refractive index.
    """
    r = _radii(optics, grid) if radii is None else radii
    q, weight = _nodes(_aperture(optics), _count(optics, r, z))
    n, k = optics.index, optics.wavenumber
    if model == "born-wolf":
        path = -np.outer(q**2 / (2 * n), z)
    else:
        outside, inside = np.sqrt(n**2 - q**2), np.sqrt(np.maximum(optics.sample_index**2 - q**2, 0))
        path = np.outer(outside, z) + optics.depth_um * (inside - outside)[:, None]
    field = _field(scipy.special.j0(k * np.outer(r, q)) * (weight * q), np.exp(1j * k * path))
    return _squared(field)


def _richards_wolf(model: str, optics: Optics, grid: Grid, z: Real) -> Real:
    """Intensity (radius, plane) |I0|² + 2 |I1|² + |I2|² of the vectorial model.

    Richards & Wolf, Proc. R. Soc. A 253 (1959) 358, their integrals I0, I1, I2 over the angle θ of the rays
    with the apodisation √cosθ; the sum of squares is for unpolarised light, or dipoles of random orientation.
    """
    r = _radii(optics, grid)
    theta, weight = _nodes(float(np.arcsin(optics.aperture / optics.index)), _count(optics, r, z))
    sin, cos, k = np.sin(theta), np.cos(theta), optics.wavenumber * optics.index
    weight = weight * np.sqrt(cos) * sin
    wave, argument = np.exp(1j * k * np.outer(cos, z)), k * np.outer(r, sin)
    i0 = _field(scipy.special.j0(argument) * (weight * (1 + cos)), wave)
    i1 = _field(scipy.special.j1(argument) * (weight * sin), wave)
    i2 = _field(scipy.special.jv(2, argument) * (weight * (1 - cos)), wave)
    return _squared(i0) + 2 * _squared(i1) + _squared(i2)


def _field(rings: Real, wave: Complex) -> Complex:
    """Sum over the rings, as two real matrix products: twice as quick as one complex one."""
    return rings @ wave.real + 1j * (rings @ wave.imag)


def _squared(field: Complex) -> Real:
    return field.real**2 + field.imag**2


def _pixel_filler(optics: Optics, grid: Grid) -> Callable[[Real], Real]:
    """Prepare the way from profiles (radius, plane) to pixels (plane, y, x); one quadrant is computed."""
    ny, nx = grid.shape_yx
    matrix = _quadrant_weights(optics, grid)
    quadrant = (ny // 2 + 1, nx // 2 + 1)

    def fill(profiles: Real) -> Real:
        part = (matrix @ profiles).T.reshape(-1, *quadrant)
        y, x = np.abs(np.arange(ny) - ny // 2), np.abs(np.arange(nx) - nx // 2)
        return np.asarray(part[:, y[:, None], x])

    return fill


def _quadrant_weights(optics: Optics, grid: Grid) -> Any:
    """Sparse matrix (pixel of a quadrant, radius): linear interpolation, averaged over a pixel's area."""
    step = RADIAL_STEP * optics.wavelength_um / optics.aperture
    n_pixels = (grid.shape_yx[0] // 2 + 1) * (grid.shape_yx[1] // 2 + 1)
    shape = (n_pixels, len(_radii(optics, grid)))
    total = scipy.sparse.csr_matrix(shape)
    y_nodes, x_nodes = (_pixel_nodes(p, optics, grid.integrate) for p in grid.pixel_um)
    for dy, wy in zip(*y_nodes, strict=True):
        for dx, wx in zip(*x_nodes, strict=True):
            y = (np.arange(grid.shape_yx[0] // 2 + 1) + dy) * grid.pixel_um[0]
            x = (np.arange(grid.shape_yx[1] // 2 + 1) + dx) * grid.pixel_um[1]
            r = np.hypot(y[:, None], x).ravel() / step
            low = np.floor(r).astype(int)
            values = np.concatenate([1 - (r - low), r - low]) * (wy * wx)
            where = (np.tile(np.arange(n_pixels), 2), np.concatenate([low, low + 1]))
            total = total + scipy.sparse.csr_matrix((values, where), shape=shape)
    return total


def _pixel_nodes(pixel_um: float, optics: Optics, integrate: bool) -> tuple[Real, Real]:
    """Gauss-Legendre nodes in a pixel, in pixels from its middle, with weights that sum to 1."""
    if not integrate:
        return np.zeros(1), np.ones(1)
    x, w = scipy.special.roots_legendre(3 + int(4 * pixel_um * optics.aperture / optics.wavelength_um))
    return x / 2, w / 2
