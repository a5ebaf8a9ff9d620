"""Voxel sizes, channels and times from TIFF metadata: OME-XML, ImageJ tags, resolution tags."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from typing import Any

from bigdecon.acquisition import UNKNOWN_OBJECTIVE, Channel, Objective
from bigdecon.io.ome_metadata import TIME_UNITS, UM_PER_UNIT, clean_color
from bigdecon.io.optics_metadata import ome_emission_um, ome_objective
from bigdecon.untrusted import clean_text

__all__ = ["NAMESPACE", "TiffMetadata", "read_tiff_metadata"]

NAMESPACE = "bigdecon"
"""Of the annotation, in the OME-XML of TIFF files that bigdecon wrote, with what OME-XML has no place for."""

PLAUSIBLE_PIXEL_UM = (1e-4, 100.0)
"""Resolution tags outside this range describe a print (72 dots an inch), not a microscope image."""


@dataclass(frozen=True)
class TiffMetadata:
    """What a TIFF file says beside its voxels.

    Attributes
    ----------
    size_um : (z, y, x) in micrometres; None for each that is unknown
    channels : names and colours, as far as given
    time_step : interval between time points in `time_unit`
    time_unit : full name of a unit of time
    axes : letters of all axes, those of one voxel as well; empty where the file does not tell
    origin : place of the first voxel's centre along the spatial axes, in micrometres, or in voxels where
        their size is unknown; empty where the file does not tell
    objective : that took the image
    """

    size_um: tuple[float | None, float | None, float | None] = (None, None, None)
    channels: tuple[Channel, ...] = ()
    time_step: float | None = None
    time_unit: str = "second"
    axes: str = ""
    origin: tuple[float, ...] = ()
    objective: Objective = UNKNOWN_OBJECTIVE


def read_tiff_metadata(tiff: Any, series: Any) -> TiffMetadata:
    """Take the metadata of one image (series) of an open `tifffile.TiffFile`.

    OME-XML goes before ImageJ tags, which go before the resolution tags of plain TIFF.
    """
    if series.kind == "ome" and tiff.ome_metadata:
        return _from_ome(tiff.ome_metadata)
    if series.kind == "imagej" and tiff.imagej_metadata:
        return _from_imagej(tiff.imagej_metadata, series.keyframe)
    x, y = (_plausible(_resolution_um(series.keyframe, axis, None)) for axis in "XY")
    return TiffMetadata(size_um=(None, y, x))


def _positive(value: object) -> float | None:
    """Give a finite number above 0, or None."""
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None


def _plausible(size_um: float | None) -> float | None:
    low, high = PLAUSIBLE_PIXEL_UM
    return size_um if size_um is not None and low <= size_um <= high else None


def _resolution_um(page: Any, axis: str, unit: str | None) -> float | None:
    """Give the pixel size from XResolution or YResolution (pixels a unit) in micrometres.

    `unit` names the unit of length; None takes the tag ResolutionUnit (2 inch, 3 centimetre).
    """
    tag = page.tags.get(f"{axis}Resolution")
    if unit is None:
        unit_tag = page.tags.get("ResolutionUnit")
        unit = {2: "inch", 3: "cm"}.get(int(unit_tag.value) if unit_tag else 1)
    factor = UM_PER_UNIT.get(unit.lower()) if unit else None
    if tag is None or factor is None:
        return None
    numerator, denominator = tag.value
    return factor * denominator / numerator if numerator > 0 and denominator > 0 else None


def _from_imagej(metadata: dict[str, Any], page: Any) -> TiffMetadata:
    """Read ImageJ's description: unit and spacing there, x and y in the resolution tags."""
    unit = str(metadata.get("unit") or "") or None
    factor = UM_PER_UNIT.get(unit.lower()) if unit else None
    x, y = (_resolution_um(page, axis, unit) for axis in "XY")
    spacing = _positive(metadata.get("spacing"))
    if unit is None:
        x, y = _plausible(x), _plausible(y)
    z = None if spacing is None or factor is None else spacing * factor
    luts = metadata.get("LUTs") or []
    colors = ["".join(f"{int(value):02X}" for value in lut[:, -1]) for lut in luts if len(lut) == 3]
    n_channels = int(metadata.get("channels", 1))
    labels = [clean_text(str(label)) for label in metadata.get("Labels") or []]
    names = labels if len(labels) == n_channels else [f"channel {i}" for i in range(n_channels)]
    channels = tuple(
        Channel(n, clean_color(colors[i] if i < len(colors) else "")) for i, n in enumerate(names)
    )
    interval = _positive(metadata.get("finterval"))
    time_unit = clean_text(str(metadata.get("tunit") or "second"))
    return TiffMetadata((z, y, x), channels, interval, TIME_UNITS.get(time_unit, time_unit))


def _from_ome(xml: str) -> TiffMetadata:
    """Read the Pixels and Channel elements of the first image of an OME-XML text."""
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return TiffMetadata()
    images = root.findall("{*}Image")
    pixels = images[0].find("{*}Pixels") if images else None
    if pixels is None:
        return TiffMetadata()
    unit = clean_text(pixels.get("TimeIncrementUnit", "s"))
    own = _own_notes(root)
    axes = own.get("axes", "")
    return TiffMetadata(
        size_um=(_ome_size(pixels, "Z"), _ome_size(pixels, "Y"), _ome_size(pixels, "X")),
        channels=tuple(_ome_channel(c, i) for i, c in enumerate(pixels.findall("{*}Channel"))),
        time_step=_positive(pixels.get("TimeIncrement")),
        time_unit=TIME_UNITS.get(unit, unit),
        axes=axes if axes.endswith("yx") and axes == "".join(a for a in "tczyx" if a in axes) else "",
        origin=_numbers(own.get("origin", "")),
        objective=ome_objective(root, images[0]),
    )


def _own_notes(root: ElementTree.Element) -> dict[str, str]:
    """Read what bigdecon notes in its own files, for which OME-XML has no place."""
    for annotation in root.findall("{*}StructuredAnnotations/{*}MapAnnotation"):
        if annotation.get("Namespace") == NAMESPACE:
            entries = annotation.findall("{*}Value/{*}M")
            return {str(entry.get("K")): clean_text(entry.text or "") for entry in entries}
    return {}


def _numbers(text: str) -> tuple[float, ...]:
    """Read finite numbers between spaces; none where there is anything else."""
    try:
        numbers = tuple(float(part) for part in text.split())
    except ValueError:
        return ()
    return numbers if all(map(math.isfinite, numbers)) else ()


def _ome_size(pixels: ElementTree.Element, axis: str) -> float | None:
    """Give PhysicalSizeX, Y or Z in micrometres; the unit is micrometres unless it says otherwise."""
    size = _positive(pixels.get(f"PhysicalSize{axis}"))
    factor = UM_PER_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm").lower())
    return None if size is None or factor is None else size * factor


def _ome_channel(element: ElementTree.Element, index: int) -> Channel:
    """Read a Channel element; its Color is a signed 32-bit number, RGBA."""
    color = element.get("Color")
    try:
        digits = "FFFFFF" if color is None else f"{int(color) & 0xFFFFFFFF:08X}"[:6]
    except ValueError:
        digits = "FFFFFF"
    name = clean_text(element.get("Name") or "") or f"channel {index}"
    return Channel(name, digits, ome_emission_um(element))
