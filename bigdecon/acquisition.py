"""How an image was taken, as its metadata tell: channels with their light, and the objective."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["UNKNOWN_OBJECTIVE", "Channel", "Objective"]


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
