"""OME-XML for TIFF files: what a volume knows of itself, in the words of the OME data model (2016-06)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np

from bigdecon.acquisition import UNKNOWN_OBJECTIVE, Objective
from bigdecon.io.ome_metadata import TIME_UNITS, clean_color
from bigdecon.io.tiff_metadata import NAMESPACE
from bigdecon.untrusted import clean_text
from bigdecon.volume import Volume

__all__ = ["OME_TYPES", "lost_in_ome_xml", "ome_xml"]

SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
OME_TYPES = {
    **{name: name for name in ("int8", "int16", "int32", "uint8", "uint16", "uint32")},
    "float32": "float",
    "float64": "double",
}
"""Types of values that OME-TIFF has, by their names in NumPy."""
SYMBOLS = {name: symbol for symbol, name in reversed(TIME_UNITS.items())}
"""Symbols of the units of time that OME-XML has, by full name."""


def lost_in_ome_xml(volume: Volume) -> list[str]:
    """Say, in sentences, what of a volume OME-XML cannot hold."""
    lost = []
    if volume.time_step is not None and volume.time_unit not in SYMBOLS:
        lost.append(
            f"OME-TIFF has no unit of time {volume.time_unit!r}: "
            f"the time step of {volume.time_step:g} is lost."
        )
    return lost


def ome_xml(volume: Volume, dtype: str, name: str) -> str:
    """Describe an image whose planes follow one another with z fastest, then c, then t.

    An annotation of ours holds what the model has no place for: which axes of one voxel there are, and the
    origin, to the last digit; the origin is also the position of the first plane, for others.

    Parameters
    ----------
    volume : gives extents, voxel size, origin, channels and time step
    dtype : one of `OME_TYPES`
    name : of the image
    """
    root = ElementTree.Element("OME", {"xmlns": SCHEMA, "Creator": "bigdecon"})
    if volume.objective != UNKNOWN_OBJECTIVE:
        instrument = ElementTree.SubElement(root, "Instrument", ID="Instrument:0")
        ElementTree.SubElement(instrument, "Objective", _objective(volume.objective))
    image = ElementTree.SubElement(root, "Image", ID="Image:0", Name=clean_text(name))
    if volume.objective != UNKNOWN_OBJECTIVE:
        ElementTree.SubElement(image, "InstrumentRef", ID="Instrument:0")
        ElementTree.SubElement(image, "ObjectiveSettings", _objective_settings(volume.objective))
    pixels = ElementTree.SubElement(image, "Pixels", _pixels(volume, dtype))
    for i, channel in enumerate(volume.channels):
        color = str(_signed_color(channel.color))
        attributes = {
            "ID": f"Channel:0:{i}",
            "Name": clean_text(channel.name),
            "Color": color,
            "SamplesPerPixel": "1",
        }
        if not channel.name:
            del attributes["Name"]
        if channel.emission_um is not None:
            nanometres = repr(round(1000 * channel.emission_um, 6))
            attributes |= {"EmissionWavelength": nanometres, "EmissionWavelengthUnit": "nm"}
        ElementTree.SubElement(pixels, "Channel", attributes)
    ElementTree.SubElement(pixels, "TiffData")
    if volume.voxel_size_um is not None and any(volume.translation_um):
        ElementTree.SubElement(pixels, "Plane", _first_plane(volume))
    _annotate(root, {"axes": volume.axes, "origin": _numbers(volume.translation_um)})
    return '<?xml version="1.0" encoding="UTF-8"?>' + ElementTree.tostring(root, encoding="unicode")


def _pixels(volume: Volume, dtype: str) -> dict[str, str]:
    extent = dict(zip(volume.axes, volume.shape, strict=True))
    attributes: dict[str, Any] = {
        "ID": "Pixels:0",
        "DimensionOrder": "XYZCT",
        "Type": OME_TYPES[np.dtype(dtype).name],
        "BigEndian": "false",
        **{f"Size{axis.upper()}": str(extent.get(axis, 1)) for axis in "xyzct"},
    }
    if volume.voxel_size_um is not None:
        for axis, size in zip(volume.spatial_axes, volume.voxel_size_um, strict=True):
            attributes |= {
                f"PhysicalSize{axis.upper()}": repr(float(size)),
                f"PhysicalSize{axis.upper()}Unit": "µm",
            }
    if volume.time_step is not None and volume.time_unit in SYMBOLS:
        step, unit = repr(float(volume.time_step)), SYMBOLS[volume.time_unit]
        attributes |= {"TimeIncrement": step, "TimeIncrementUnit": unit}
    return attributes


def _objective(objective: Objective) -> dict[str, str]:
    aperture = objective.numerical_aperture
    return {"ID": "Objective:0"} | ({} if aperture is None else {"LensNA": repr(aperture)})


def _objective_settings(objective: Objective) -> dict[str, str]:
    index = objective.refractive_index
    return {"ID": "Objective:0"} | ({} if index is None else {"RefractiveIndex": repr(index)})


def _first_plane(volume: Volume) -> dict[str, str]:
    plane = {"TheZ": "0", "TheC": "0", "TheT": "0"}
    for axis, place in zip(volume.spatial_axes, volume.translation_um, strict=True):
        plane |= {f"Position{axis.upper()}": repr(float(place)), f"Position{axis.upper()}Unit": "µm"}
    return plane


def _annotate(root: ElementTree.Element, entries: dict[str, str]) -> None:
    annotations = ElementTree.SubElement(root, "StructuredAnnotations")
    ours = {"ID": "Annotation:0", "Namespace": NAMESPACE}
    value = ElementTree.SubElement(ElementTree.SubElement(annotations, "MapAnnotation", ours), "Value")
    for key, text in entries.items():
        ElementTree.SubElement(value, "M", K=key).text = text


def _numbers(values: Sequence[float]) -> str:
    return " ".join(repr(float(value)) for value in values)


def _signed_color(color: str) -> int:
    """Give red, green, blue and an opaque alpha as the signed 32-bit number that OME-XML holds."""
    number = int(clean_color(color) + "FF", 16)
    return number - 2**32 if number >= 2**31 else number
