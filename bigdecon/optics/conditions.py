"""How an image was taken: objective, light, immersion, and the kind of microscope."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bigdecon.acquisition import LARGEST_INDEX, LEAST_APERTURE, LEAST_INDEX, LIGHT_UM
from bigdecon.errors import PSFError
from bigdecon.optics.microscopes import Microscope, check_microscope
from bigdecon.optics.pupil import Optics

__all__ = ["ImagingConditions", "check_optics"]


@dataclass(frozen=True)
class ImagingConditions:
    """What theory needs to know of how an image was taken; lengths in micrometres.

    Attributes
    ----------
    numerical_aperture : of the objective
    wavelength_um : of the emitted light, in vacuum
    refractive_index : of the immersion medium
    microscope : its kind
    """

    numerical_aperture: float
    wavelength_um: float
    refractive_index: float
    microscope: Microscope = field(default_factory=Microscope)

    @classmethod
    def from_numbers(
        cls,
        numerical_aperture: float | None,
        wavelength_um: float | None,
        refractive_index: float | None,
        microscope: Microscope | None = None,
    ) -> ImagingConditions | None:
        """Take all three numbers, or none of them.

        Raises
        ------
        PSFError
            if some are given and some are not
        """
        if numerical_aperture is not None and wavelength_um is not None and refractive_index is not None:
            microscope = microscope or Microscope()
            return cls(numerical_aperture, wavelength_um, refractive_index, microscope)
        numbers = (numerical_aperture, wavelength_um, refractive_index)
        if any(number is not None for number in numbers) or microscope:
            names = ("the numerical aperture", "the wavelength", "the refractive index")
            missing = [name for name, number in zip(names, numbers, strict=True) if number is None]
            raise PSFError(
                f"theory needs numerical aperture, wavelength and refractive index; {' and '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} missing (--na, --wavelength, --refractive-index)."
            )
        return None

    def check(self) -> None:
        """Refuse what no microscope has, for which theory would divide by zero or take all memory.

        Raises
        ------
        PSFError
            if so; the message names the number
        """
        index = self.refractive_index
        optics = Optics(self.numerical_aperture, self.wavelength_um, index, index, 0.0)
        check_optics(optics)
        check_microscope(self.microscope, "richards-wolf", optics)

    @property
    def axial_term(self) -> float:
        """Return n − √(n² − NA²), on which resolution along z depends."""
        n, na = self.refractive_index, self.numerical_aperture
        return float(n - np.sqrt(max(n**2 - na**2, 0.0)))


def check_optics(optics: Optics) -> None:
    """Refuse an objective or light that there is not.

    Raises
    ------
    PSFError
        if so; the message names the number and its range
    """
    low, high = LIGHT_UM
    if not low <= optics.wavelength_um <= high:
        example = f"; {optics.wavelength_um:g} nm is {optics.wavelength_um / 1000:g}"
        raise PSFError(
            f"the wavelength is {optics.wavelength_um:g}; give that of light in micrometres, between {low:g} "
            f"and {high:g}{example if optics.wavelength_um > high else ''}."
        )
    for name, value, least, largest in (
        ("numerical aperture", optics.aperture, LEAST_APERTURE, LARGEST_INDEX),
        ("refractive index", optics.index, LEAST_INDEX, LARGEST_INDEX),
        ("sample's refractive index", optics.sample_index, LEAST_INDEX, LARGEST_INDEX),
    ):
        if not least <= value <= largest:
            raise PSFError(f"the {name} is {value:g}; it must be between {least:g} and {largest:g}.")
    if optics.aperture > optics.index:
        raise PSFError(
            f"the numerical aperture {optics.aperture:g} exceeds the refractive index {optics.index:g} "
            "of the immersion medium; no such objective exists (oil has 1.515, water 1.33)."
        )
