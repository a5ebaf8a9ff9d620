"""How an image was taken: objective, light, immersion, and the kind of microscope."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bigdecon.errors import PSFError
from bigdecon.optics.microscopes import Microscope

__all__ = ["ImagingConditions"]


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

    @property
    def axial_term(self) -> float:
        """Return n − √(n² − NA²), on which resolution along z depends."""
        n, na = self.refractive_index, self.numerical_aperture
        return float(n - np.sqrt(max(n**2 - na**2, 0.0)))
