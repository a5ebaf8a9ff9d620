"""Light near the focus, as rings around the axis: integrals over the objective's pupil.

Every model but the Gaussian is a sum over rings of the pupil

    field(r, z) = Σ  weight(q) · J_m(k0 q r) · exp(i k0 z √(n² − q²)),     0 ≤ q ≤ NA,

with q the numerical aperture of a ring and k0 = 2π / wavelength. Intensities are arrays (radius, plane);
their scale is that of the field and the same in every plane.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.special
from numpy.typing import NDArray

__all__ = ["Optics", "aberrated_focus", "gaussian_sigmas", "intensity", "light_of_a_plane", "nodes"]

Real = NDArray[np.float64]
Complex = NDArray[np.complex128]


@dataclass(frozen=True)
class Optics:
    """What the models need to know of the objective and the light; lengths in micrometres.

    Attributes
    ----------
    aperture : numerical aperture
    wavelength_um : in vacuum, of the light emitted, or of that which excites
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

    @property
    def is_aberrated(self) -> bool:
        """Whether the emitter lies in a medium that the objective was not made for."""
        return self.depth_um > 0 and self.sample_index != self.index

    @property
    def open_aperture(self) -> float:
        """Numerical aperture of the light that can leave the sample."""
        return min(self.aperture, self.sample_index) if self.is_aberrated else self.aperture

    def at(self, wavelength_um: float) -> Optics:
        """Give the same optics for light of another wavelength."""
        return replace(self, wavelength_um=wavelength_um)


def intensity(model: str, optics: Optics, radii: Real, z: Real) -> Real:
    """Compute the intensity (radius, plane) around the axis.

    Parameters
    ----------
    model : one of `models.Model`
    optics : objective and light
    radii : distances from the axis, from 0, in micrometres
    z : distances of the planes from the focal plane, in micrometres
    """
    if model == "gaussian":
        sigma_z, sigma_r = gaussian_sigmas(optics)
        return np.outer(np.exp(-0.5 * (radii / sigma_r) ** 2), np.exp(-0.5 * (z / sigma_z) ** 2))
    if model == "richards-wolf":
        return _richards_wolf(optics, radii, z)
    return _scalar(model, optics, radii, z)


def light_of_a_plane(model: str, optics: Optics) -> float:
    """Integrate the intensity over a whole plane; by Parseval's theorem it is the same in every plane.

    Scalar models: π NA² / k0². Vectorial model: 8π (1 − cos α) / (k0 n)², with sin α = NA / n.
    """
    if model == "richards-wolf":
        cos = np.sqrt(1 - (optics.aperture / optics.index) ** 2)
        return float(8 * np.pi * (1 - cos) / (optics.wavenumber * optics.index) ** 2)
    return float(np.pi * optics.open_aperture**2 / optics.wavenumber**2)


def gaussian_sigmas(optics: Optics) -> tuple[float, float]:
    """Give the standard deviations (z, r) of the Gaussian that has the curvature of the scalar focus.

    Zhang, Zerubia, Olivo-Marin, Appl. Opt. 46 (2007) 1819, their non-paraxial widefield case: with θ the
    angle of a ray, weighted by √cosθ sinθ, σ_r = 1 / (k √⟨sin²θ⟩) and σ_z = 1 / (k √(2 Var cosθ)).
    """
    theta, weight = nodes(float(np.arcsin(optics.aperture / optics.index)), 64)
    weight = weight * np.sqrt(np.cos(theta)) * np.sin(theta)
    weight /= weight.sum()
    k = optics.wavenumber * optics.index
    mean = float((weight * np.cos(theta)).sum())
    sigma_r = 1 / (k * np.sqrt((weight * np.sin(theta) ** 2).sum()))
    sigma_z = 1 / (k * np.sqrt(2 * (weight * (np.cos(theta) - mean) ** 2).sum()))
    return float(sigma_z), float(sigma_r)


def aberrated_focus(optics: Optics) -> float:
    """Where the light on the axis is brightest, between the foci of the inner and the outer rays."""
    q, _ = nodes(optics.open_aperture, 256)
    n, s = optics.index, optics.sample_index
    foci = optics.depth_um * (1 - np.sqrt(n**2 - q**2) / np.sqrt(s**2 - q**2))[:-8]
    margin = 2 * n * optics.wavelength_um / optics.aperture**2
    z = np.linspace(foci.min() - margin, foci.max() + margin, 4001)
    line = _scalar("gibson-lanni", optics, np.zeros(1), z)[0]
    return float(z[np.argmax(line)])


def nodes(end: float, count: int) -> tuple[Real, Real]:
    """Gauss-Legendre nodes and weights on 0 … end."""
    x, w = scipy.special.roots_legendre(count)
    return end * (x + 1) / 2, end * w / 2


def _count(optics: Optics, radii: Real, z: Real) -> int:
    """Nodes that resolve the integrand: a few for each of its oscillations across the pupil."""
    n, na = optics.index, optics.aperture
    sag = (n - np.sqrt(n**2 - na**2)) * np.abs(z).max() + optics.depth_um * optics.sample_index
    return 64 + int(optics.wavenumber * (na * radii.max() + sag))


def _scalar(model: str, optics: Optics, radii: Real, z: Real) -> Real:
    """Intensity (radius, plane) of the scalar models.

    born-wolf: Born & Wolf, Principles of Optics, section 8.8: ∫ J0(k0 q r) exp(−i k0 z q² / 2n) q dq.
    gibson-lanni: Gibson & Lanni, J. Opt. Soc. Am. A 9 (1992) 154, with immersion and coverslip as the
    objective was designed for: the same integral with the path z √(n² − q²) + d (√(s² − q²) − √(n² − q²)),
    d the emitter's depth and s the sample's refractive index.
    """
    q, weight = nodes(optics.open_aperture, _count(optics, radii, z))
    n, k = optics.index, optics.wavenumber
    if model == "born-wolf":
        path = -np.outer(q**2 / (2 * n), z)
    else:
        outside, inside = np.sqrt(n**2 - q**2), np.sqrt(np.maximum(optics.sample_index**2 - q**2, 0))
        path = np.outer(outside, z) + optics.depth_um * (inside - outside)[:, None]
    field = _field(scipy.special.j0(k * np.outer(radii, q)) * (weight * q), np.exp(1j * k * path))
    return _squared(field)


def _richards_wolf(optics: Optics, radii: Real, z: Real) -> Real:
    """Intensity (radius, plane) |I0|² + 2 |I1|² + |I2|² of the vectorial model.

    Richards & Wolf, Proc. R. Soc. A 253 (1959) 358, their integrals I0, I1, I2 over the angle θ of the rays
    with the apodisation √cosθ; the sum of squares is for unpolarised light, or dipoles of random orientation.
    """
    theta, weight = nodes(float(np.arcsin(optics.aperture / optics.index)), _count(optics, radii, z))
    sin, cos, k = np.sin(theta), np.cos(theta), optics.wavenumber * optics.index
    weight = weight * np.sqrt(cos) * sin
    wave, argument = np.exp(1j * k * np.outer(cos, z)), k * np.outer(radii, sin)
    i0 = _field(scipy.special.j0(argument) * (weight * (1 + cos)), wave)
    i1 = _field(scipy.special.j1(argument) * (weight * sin), wave)
    i2 = _field(scipy.special.jv(2, argument) * (weight * (1 - cos)), wave)
    return _squared(i0) + 2 * _squared(i1) + _squared(i2)


def _field(rings: Real, wave: Complex) -> Complex:
    """Sum over the rings, as two real matrix products: twice as quick as one complex one."""
    return rings @ wave.real + 1j * (rings @ wave.imag)


def _squared(field: Complex) -> Real:
    return field.real**2 + field.imag**2
