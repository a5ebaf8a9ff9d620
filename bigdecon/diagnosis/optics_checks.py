"""Checks of the optics: whether the PSF, the image's metadata and theory speak of one microscope."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bigdecon.acquisition import UNKNOWN_OBJECTIVE, Channel, Objective
from bigdecon.diagnosis.findings import Finding
from bigdecon.errors import PSFError
from bigdecon.optics.conditions import ImagingConditions
from bigdecon.optics.expectation import expect
from bigdecon.optics.microscopes import Microscope
from bigdecon.optics.psf import PSF
from bigdecon.optics.widths import fwhm

__all__ = [
    "KnownOptics",
    "check_psf_optics",
    "check_psf_plausibility",
    "check_psf_theory",
    "check_psf_voxel_size",
]

UNNAMED = Channel("")
SAME_SIZE = 1.02
"""Voxel sizes that differ by less are the same, rounded."""
SAME_APERTURE, SAME_INDEX = 1.03, 1.03
SAME_LIGHT_UM = 0.025
"""An emission is given by its peak, or by the middle of a filter."""
NARROWEST_UM = 0.1
"""FWHM in the plane; 0.11 µm is confocal with a closed pinhole, NA 1.49 and violet light, in theory."""
SHORTEST_LIGHT_UM = 0.13
"""Wavelength in the medium; violet light in oil has 0.25."""
SHARP_UM, LONGER_THAN_WIDE = 0.22, 1.6
"""A PSF so narrow in the plane belongs to a high aperture, and is then at least so much longer along z."""
LATERAL_BY_THEORY, AXIAL_BY_THEORY = (0.57, 1.6), (0.57, 1.8)
"""Parts of the width by theory; pinholes and aberrations of usable objectives lie within."""
FINE = 4
"""Voxels to a width by theory."""
LEAST_WIDTH = 1.3
"""Voxels; a narrower PSF says little of its width."""
VOXEL_VARIANCE = 8 * math.log(2) / 12
"""Of a voxel's side, in units of a Gaussian's FWHM²."""


@dataclass(frozen=True)
class KnownOptics:
    """What is known of how an image was taken; None for what is not. Lengths in micrometres.

    Attributes
    ----------
    numerical_aperture, wavelength_um, refractive_index, microscope : as in `ImagingConditions`
    """

    numerical_aperture: float | None = None
    wavelength_um: float | None = None
    refractive_index: float | None = None
    microscope: Microscope | None = None

    @classmethod
    def of_image(cls, objective: Objective = UNKNOWN_OBJECTIVE, channel: Channel = UNNAMED) -> KnownOptics:
        """Take what an image's metadata tell."""
        return cls(objective.numerical_aperture, channel.emission_um, objective.refractive_index)

    @classmethod
    def of(cls, conditions: ImagingConditions | None) -> KnownOptics:
        """Take all of some conditions."""
        if conditions is None:
            return cls()
        c = conditions
        return cls(c.numerical_aperture, c.wavelength_um, c.refractive_index, c.microscope)

    def filled_by(self, other: KnownOptics) -> KnownOptics:
        """Take from another what is not known here."""
        return KnownOptics(
            self.numerical_aperture or other.numerical_aperture,
            self.wavelength_um or other.wavelength_um,
            self.refractive_index or other.refractive_index,
            self.microscope or other.microscope,
        )

    @property
    def conditions(self) -> ImagingConditions | None:
        """All of it, where NA and wavelength are known; an unknown immersion is that of the aperture."""
        na, wavelength = self.numerical_aperture, self.wavelength_um
        if na is None or wavelength is None:
            return None
        usual = next(index for index in (1.0, 1.333, 1.515, 1.02 * na) if index > na)
        index = self.refractive_index or usual
        return ImagingConditions(na, wavelength, index, self.microscope or Microscope())


def check_psf_voxel_size(psf: PSF) -> Finding | None:
    """Compare the voxel size that a PSF was made with to that which it is taken to have.

    None where the file does not tell: one of another extent than it was made with was cut or resampled since.
    """
    name = "psf-voxel-size"
    origin, taken = psf.origin, psf.source_voxel_size_um
    if origin is None or taken is None or psf.source_shape != origin.shape:
        return None
    ratios = [t / m for t, m in zip(taken, origin.voxel_size_um, strict=True)]
    worst = max(range(len(ratios)), key=lambda a: abs(math.log(ratios[a])))
    if max(ratios[worst], 1 / ratios[worst]) <= SAME_SIZE:
        return Finding(name, "good", "The PSF has the voxel size that it was made with.")
    axis = "zyx"[-len(ratios) :][worst]
    sentence = (
        f"The PSF was made with voxels of {_sizes(origin.voxel_size_um)} µm, and is taken to have "
        f"{_sizes(taken)} µm, which makes it {ratios[worst]:.3g} times as wide along {axis}; the result "
        f"will {'have rings and exaggerated detail' if ratios[worst] > 1 else 'stay blurred'}."
    )
    remedy = "Leave --psf-voxel-size out: the file knows its voxel size, and is resampled to the image's."
    return Finding(name, "warning", sentence, remedy)


def check_psf_optics(psf: PSF, image: KnownOptics) -> Finding | None:
    """Compare the optics that a PSF was made for to what the image's metadata tell, if both are known."""
    name = "psf-optics"
    made = None if psf.origin is None else psf.origin.conditions
    if made is None or not any((image.wavelength_um, image.numerical_aperture, image.refractive_index)):
        return None
    apart = []
    light = image.wavelength_um
    if light is not None and abs(light - made.wavelength_um) > SAME_LIGHT_UM:
        apart.append(("light of", f"{made.wavelength_um:g} µm", f"{light:g} µm"))
    for what, own, told, same in (
        ("an NA of", made.numerical_aperture, image.numerical_aperture, SAME_APERTURE),
        ("an immersion of index", made.refractive_index, image.refractive_index, SAME_INDEX),
    ):
        if told is not None and max(own / told, told / own) > same:
            apart.append((what, f"{own:g}", f"{told:g}"))
    if not apart:
        return Finding(name, "good", "The PSF was made for the optics of the image.")
    said = ", and ".join(f"{what} {own} where the image has {told}" for what, own, told in apart)
    remedy = "Take the PSF of this channel and objective, or make one with bigdecon psf make."
    return Finding(name, "warning", f"The PSF was made for {said}.", remedy)


def check_psf_plausibility(psf: PSF) -> Finding | None:
    """Look whether light and lenses can make a PSF of these widths, whatever the microscope.

    None where the widths are not known in micrometres.

    For a microscope whose lateral and axial FWHM are 0.51 λ / NA and 0.88 λ / (n - √(n² - NA²)), their
    ratio gives NA / n = sin a by cot(a / 2), and then the lateral one λ / n. Pinholes narrow both alike, a
    light sheet shortens the axial one, aberrations lengthen it: limits leave room for these. Widths are those
    in the PSF's file, before it was resampled.
    """
    name = "psf-implausible"
    good = Finding(name, "good", "The PSF's widths can be true.")
    *axial, y, x = [None, None, *_widths_um(psf)][-psf.ndim :]
    if y is None or x is None:
        return None
    lateral = (y + x) / 2
    remedy = "Check the PSF's voxel size, in micrometres and in the order z, y, x; is it that of the sample?"
    if lateral < NARROWEST_UM:
        sentence = (
            f"The PSF is only {lateral:.2g} µm wide in the plane (FWHM), and no objective images more "
            f"sharply than {NARROWEST_UM:g} µm without super-resolution: its voxel size seems too small."
        )
        return Finding(name, "warning", sentence, remedy)
    if not axial or axial[0] is None:
        return good
    ratio = axial[0] / lateral
    if lateral < SHARP_UM and ratio < LONGER_THAN_WIDE:
        sentence = (
            f"The PSF is {lateral:.2g} µm wide in the plane and {axial[0]:.2g} µm along z (FWHM), "
            f"{ratio:.2g} times as much; an objective of such a high aperture makes it at least "
            f"{LONGER_THAN_WIDE:g} times as long as wide: the voxel size along z seems too small."
        )
        return Finding(name, "warning", sentence, remedy)
    half_angle = 2 * math.atan(0.88 / 0.51 / ratio)
    light = lateral * math.sin(half_angle) / 0.51
    if half_angle < math.pi / 2 and light < SHORTEST_LIGHT_UM:
        sentence = (
            f"The PSF is {lateral:.2g} µm wide in the plane and {axial[0]:.2g} µm along z (FWHM), which goes "
            f"together for light of a wavelength of {light:.2g} µm in the medium alone, and what is visible "
            "has 0.25 µm or more: a voxel size seems too small in the plane, or too large along z."
        )
        return Finding(name, "warning", sentence, remedy)
    return good


def check_psf_theory(psf: PSF, image: KnownOptics) -> Finding | None:
    """Hold the widths of a PSF against theory, for the optics that are known of the image.

    None where too little is known of them, or no microscope has them.

    The axial one is held against it only as too long where the kind of microscope is not known, since a
    light sheet shortens it. If it is too long and nothing else is odd, that is a note: a focus in a medium of
    another index than the immersion's becomes as long, some micrometres deep. Widths are those in the PSF's
    file, before it was resampled.
    """
    name = "psf-width-by-theory"
    conditions = image.conditions
    widths = _widths_um(psf)
    if conditions is None or not widths:
        return None
    try:
        theory = _theory_um(conditions, len(widths))
    except PSFError:  # metadata that no microscope has
        return None
    odd = []
    for axis, (width, wanted) in enumerate(zip(widths, theory, strict=True)):
        axial = len(theory) == 3 and axis == 0
        low, high = AXIAL_BY_THEORY if axial else LATERAL_BY_THEORY
        if axial and image.microscope is None:
            low = 0.0
        unknown = width is None or (axial and image.refractive_index is None)
        if width is None or unknown or low <= width / wanted <= high:
            continue
        usual = f"{low:g} to {high:g}" if low else f"up to {high:g}"
        sentence = (
            f"The PSF is {width:.2g} µm wide along {'zyx'[-len(theory) :][axis]} (FWHM), and by theory it is "
            f"{wanted:.2g} µm for NA {conditions.numerical_aperture:g} and light of "
            f"{conditions.wavelength_um:g} µm, as the image has them; {usual} times that is usual."
        )
        odd.append((axial and width > wanted, sentence))
    if not odd:
        return Finding(name, "good", "The PSF is as wide as theory has it.")
    if all(long for long, _ in odd):
        remedy = (
            "If the PSF was measured or computed some micrometres deep in a medium of another index than the "
            "immersion's, spherical aberration makes it that long, and it is right for this depth. If not, "
            "check its voxel size along z."
        )
        return Finding(name, "note", odd[0][1], remedy)
    remedy = (
        "Check the voxel size of the PSF, in micrometres, and which objective was used; deep in a medium of "
        "another index than the immersion's, spherical aberration widens it as well."
    )
    return Finding(name, "warning", next(sentence for long, sentence in odd if not long), remedy)


def _theory_um(conditions: ImagingConditions, ndim: int) -> Sequence[float]:
    """Give the widths by theory, at voxels that are small enough not to add to them."""
    lateral = 0.51 * conditions.wavelength_um / conditions.numerical_aperture / FINE
    axial = 0.88 * conditions.wavelength_um / max(conditions.axial_term, 1e-9) / FINE
    return expect(conditions, (axial, lateral, lateral)[-ndim:]).fwhm_um


def _widths_um(psf: PSF) -> list[float | None]:
    """Give FWHM in micrometres, as in the file, without what the voxels in the plane added to it.

    None for an axis along which the PSF does not end or is hardly wider than a voxel; none at all where the
    voxel size is unknown.
    """
    size, widths = psf.source_voxel_size_um or psf.voxel_size_um, psf.source_fwhm
    if size is None:
        return []
    if not psf.source_shape:
        widths = fwhm(psf.array)
    found: list[float | None] = []
    for axis, (width, step) in enumerate(zip(widths, size, strict=True)):
        own = VOXEL_VARIANCE if axis >= psf.ndim - 2 else 0.0
        known = width is not None and width >= LEAST_WIDTH
        found.append(step * math.sqrt(width**2 - own) if width is not None and known else None)
    return found


def _sizes(sizes: Sequence[float]) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)
