"""Objective and light in metadata: in OME-XML, and in an attribute of our own in OME-Zarr, which has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

from bigdecon.acquisition import (
    LARGEST_INDEX,
    LEAST_APERTURE,
    LEAST_INDEX,
    LIGHT_UM,
    UNKNOWN_OBJECTIVE,
    Channel,
    Objective,
)
from bigdecon.untrusted import is_number
from bigdecon.volume import Volume

__all__ = [
    "ome_emission_um",
    "ome_objective",
    "optics_attributes",
    "with_emission",
    "zarr_objective",
]

ATTRIBUTE = "bigdecon_optics"
IMMERSION = {"Oil": 1.515, "Water": 1.333, "WaterDipping": 1.333, "Air": 1.0, "Glycerol": 1.47}
"""Refractive indices of OME's immersion media."""
UM_PER_UNIT = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "m": 1e6, "Å": 1e-4, "pm": 1e-6}


def ome_objective(root: ElementTree.Element, image: ElementTree.Element) -> Objective:
    """Find the objective of an image in OME-XML: the one it refers to, else the only one there is."""
    settings = image.find("{*}ObjectiveSettings")
    listed = root.findall("{*}Instrument/{*}Objective")
    wanted = None if settings is None else settings.get("ID")
    chosen = [one for one in listed if one.get("ID") == wanted] if wanted else listed
    if len(chosen) != 1:
        return UNKNOWN_OBJECTIVE
    index = _number(None if settings is None else settings.get("RefractiveIndex"), LEAST_INDEX, LARGEST_INDEX)
    aperture = _number(chosen[0].get("LensNA"), LEAST_APERTURE, LARGEST_INDEX)
    return Objective(aperture, index or IMMERSION.get(chosen[0].get("Immersion", "")))


def ome_emission_um(channel: ElementTree.Element) -> float | None:
    """Read the wavelength of emission of a channel of OME-XML, in micrometres; it is in nm by default."""
    factor = UM_PER_UNIT.get(channel.get("EmissionWavelengthUnit", "nm"), 0.0)
    value = _number(channel.get("EmissionWavelength"), 0.0, 1e9)
    return None if value is None else _light(value * factor)


def optics_attributes(volume: Volume) -> dict[str, Any]:
    """Give the attribute `ATTRIBUTE` of an OME-Zarr image: objective and light; none where all is unknown."""
    light = [channel.emission_um for channel in volume.channels]
    known = {
        "numerical_aperture": volume.objective.numerical_aperture,
        "refractive_index": volume.objective.refractive_index,
        "emission_um": light if any(light) else None,
    }
    entries = {name: value for name, value in known.items() if value is not None}
    return {ATTRIBUTE: entries} if entries else {}


def zarr_objective(attributes: Mapping[str, Any]) -> Objective:
    """Read the objective that `optics_attributes` wrote."""
    entries = _entries(attributes)
    return Objective(
        _number(entries.get("numerical_aperture"), LEAST_APERTURE, LARGEST_INDEX),
        _number(entries.get("refractive_index"), LEAST_INDEX, LARGEST_INDEX),
    )


def with_emission(channels: tuple[Channel, ...], attributes: Mapping[str, Any]) -> tuple[Channel, ...]:
    """Add the wavelengths that `optics_attributes` wrote."""
    light = _entries(attributes).get("emission_um")
    if not isinstance(light, list) or len(light) != len(channels):
        return channels
    return tuple(
        replace(channel, emission_um=_light(value) if is_number(value) else None)
        for channel, value in zip(channels, light, strict=True)
    )


def _entries(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    entries = attributes.get(ATTRIBUTE)
    return entries if isinstance(entries, Mapping) else {}


def _light(wavelength_um: float) -> float | None:
    """Give a wavelength of light to nine figures; None for anything else."""
    low, high = LIGHT_UM
    return float(f"{wavelength_um:.9g}") if low <= wavelength_um <= high else None


def _number(value: object, low: float, high: float) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if low <= number <= high else None
