"""OME-Zarr metadata, versions 0.4 and 0.5: from a planned output to JSON attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bigdecon.io.layout import LevelLayout, OutputLayout
from bigdecon.io.ome_metadata import clean_color
from bigdecon.io.optics_metadata import optics_attributes
from bigdecon.volume import Volume

__all__ = ["DisplayWindow", "image_attributes", "placeholder_windows", "window_json"]


class DisplayWindow(NamedTuple):
    """Contrast limits of a channel, in data units: the slider's bounds, and the range shown."""

    minimum: float
    maximum: float
    start: float
    end: float


def placeholder_windows(layout: OutputLayout) -> tuple[DisplayWindow, ...]:
    """Give windows that serve until real percentiles are known: the range of the type, or 0 to 1."""
    dtype = np.dtype(layout.dtype)
    low, high = 0.0, 1.0
    if dtype.kind in "ui":
        low, high = float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
    return (DisplayWindow(low, high, low, high),) * layout.n_channels


def image_attributes(
    volume: Volume, layout: OutputLayout, windows: Sequence[DisplayWindow], name: str
) -> dict[str, Any]:
    """Give the attributes of an image's group, as the OME-Zarr version has them.

    Parameters
    ----------
    volume : gives units, time step and channels
    layout : the planned arrays
    windows : one for every channel
    name : of the image
    """
    multiscale: dict[str, Any] = {
        "name": name,
        "axes": _axes(volume),
        "datasets": [_dataset(volume, level) for level in layout.levels],
        "type": "local mean",
    }
    omero = {
        "channels": [
            {
                "label": channel.name or f"channel {i}",
                "color": clean_color(channel.color),
                "active": True,
                "window": window_json(window),
            }
            for i, (channel, window) in enumerate(zip(volume.channels, windows, strict=True))
        ],
        "rdefs": {
            "defaultT": 0,
            "defaultZ": volume.spatial_shape[0] // 2 if "z" in volume.axes else 0,
            "model": "color",
        },
    }
    if layout.ome_version == "0.4":
        old = {"multiscales": [{"version": "0.4", **multiscale}], "omero": {"version": "0.4", **omero}}
        return {**old, **optics_attributes(volume)}
    return {
        "ome": {"version": "0.5", "multiscales": [multiscale], "omero": omero},
        **optics_attributes(volume),
    }


def window_json(window: DisplayWindow) -> dict[str, float]:
    """Spell a window the way OME-Zarr does."""
    return {"min": window.minimum, "max": window.maximum, "start": window.start, "end": window.end}


def _axes(volume: Volume) -> list[dict[str, str]]:
    """Spell out the axes; an unknown size has no unit, so that it is not taken for a micrometre."""
    described = []
    for axis in volume.axes:
        kind = {"t": "time", "c": "channel"}.get(axis, "space")
        entry = {"name": axis, "type": kind}
        if kind == "space" and volume.voxel_size_um is not None:
            entry["unit"] = "micrometer"
        if kind == "time" and volume.time_step is not None:
            entry["unit"] = volume.time_unit
        described.append(entry)
    return described


def _dataset(volume: Volume, level: LevelLayout) -> dict[str, Any]:
    lead = volume.axes[: -len(level.factors)]
    scale = [volume.time_step or 1.0 if axis == "t" else 1.0 for axis in lead]
    size = level.voxel_size_um or tuple(float(f) for f in level.factors)
    return {
        "path": level.path,
        "coordinateTransformations": [
            {"type": "scale", "scale": [*scale, *size]},
            {"type": "translation", "translation": [*(0.0 for _ in lead), *level.translation_um]},
        ],
    }
