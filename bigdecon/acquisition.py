"""How an image was taken, as its metadata tell: channels with their light, and the objective.

The ranges stand for whatever names optics: metadata, options, and the files of PSFs.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "LARGEST_INDEX",
    "LEAST_APERTURE",
    "LEAST_INDEX",
    "LIGHT_UM",
    "MICROSCOPE_UM",
    "UNKNOWN_OBJECTIVE",
    "Channel",
    "Objective",
]

LIGHT_UM = (0.2, 2.0)
"""Wavelengths in vacuum, from ultraviolet to the infrared of two-photon excitation."""
LEAST_INDEX, LARGEST_INDEX = 1.0, 2.0
"""Refractive indices of what an objective looks through; no aperture is larger either."""
LEAST_APERTURE = 0.01
MICROSCOPE_UM = (1e-4, 1000.0)
"""Lengths in a specimen that a microscope's parts have there: pinholes, their distance, a light sheet."""


@dataclass(frozen=True)
class Channel:
    """Name, display colour and light of a channel.

    Attributes
    ----------
    name : label as the microscope software gave it
    color : six hexadecimal digits, RRGGBB
    emission_um : wavelength of the light that was recorded, in micrometres; None where unknown
    """

    name: str
    color: str = "FFFFFF"
    emission_um: float | None = None


@dataclass(frozen=True)
class Objective:
    """The objective that took an image, as its metadata tell.

    Attributes
    ----------
    numerical_aperture : None where unknown
    refractive_index : of the immersion medium; None where unknown
    """

    numerical_aperture: float | None = None
    refractive_index: float | None = None


UNKNOWN_OBJECTIVE = Objective()
