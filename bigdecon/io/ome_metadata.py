"""OME-Zarr metadata, versions 0.1 to 0.5: from JSON attributes to image information."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bigdecon.errors import VolumeError
from bigdecon.io.image_file import ImageInfo, LevelInfo
from bigdecon.io.zarr_metadata import check_level_path
from bigdecon.untrusted import clean_text, is_number, shown
from bigdecon.volume import Channel

__all__ = ["TIME_UNITS", "UM_PER_UNIT", "clean_color", "parse_multiscale", "plain_axes"]

UM_PER_UNIT: dict[str, float] = {
    **dict.fromkeys(("micrometer", "micrometre", "micron", "microns", "um", "µm", "μm", "\\u00b5m"), 1.0),
    **dict.fromkeys(("nanometer", "nanometre", "nm"), 1e-3),
    **dict.fromkeys(("picometer", "pm"), 1e-6),
    **dict.fromkeys(("angstrom", "å", "\u212b"), 1e-4),
    **dict.fromkeys(("millimeter", "millimetre", "mm"), 1e3),
    **dict.fromkeys(("centimeter", "centimetre", "cm"), 1e4),
    **dict.fromkeys(("inch", "in"), 25400.0),
    **dict.fromkeys(("meter", "metre", "m"), 1e6),
}
"""Micrometres in one of each unit of length, by its lower-case name."""

TIME_UNITS: dict[str, str] = {
    "s": "second",
    "sec": "second",
    "ms": "millisecond",
    "µs": "microsecond",
    "us": "microsecond",
    "ns": "nanosecond",
    "min": "minute",
    "h": "hour",
    "d": "day",
}
"""Full names of abbreviated units of time."""

MAX_LEVELS = 64
"""Each level halves the one before, at the least by a little: 64 would make one voxel of any image."""
MAX_AXES = 5
MAX_TRANSFORMS = 16
LABELS_NOTE = "These are labels of a segmentation, not measured intensities."
VOXEL_RANGE_UM = (1e-6, 1e6)
"""A picometre to a metre: whatever a microscope, or a telescope, may have recorded."""


def clean_color(color: object) -> str:
    """Give six upper-case hexadecimal digits; white for anything else."""
    text = str(color).lstrip("#")[:6].upper()
    return text if len(text) == 6 and all(c in "0123456789ABCDEF" for c in text) else "FFFFFF"


def plain_axes(ndim: int, names: Sequence[str | None] | None, location: str) -> str:
    """Guess the axes of an array without image metadata: by its dimension names, else by their number.

    Raises
    ------
    VolumeError
        if the number of dimensions is below 2 or above 5
    """
    letters = "".join(name.lower() for name in names or () if isinstance(name, str))
    if len(letters) == ndim and letters.endswith("yx") and _in_order(letters):
        return letters
    axes = {2: "yx", 3: "zyx", 4: "czyx", 5: "tczyx"}.get(ndim)
    if axes is None:
        raise VolumeError(f"{location} has {ndim} dimensions; an image has 2 to 5 (of t, c, z, y, x).")
    return axes


def _in_order(letters: str) -> bool:
    return letters == "".join(axis for axis in "tczyx" if axis in letters)


def _axis_letter(axis: Any) -> str:
    """Give t, c, z, y or x for an axis in any of the versions' notations; its name if unclear."""
    name = str(axis.get("name", "") if isinstance(axis, Mapping) else axis).lower()
    kind = str(axis.get("type", "") if isinstance(axis, Mapping) else "").lower()
    if name in "tczyx" and len(name) == 1:
        return name
    return {"time": "t", "channel": "c"}.get(kind, name)


def _axes_of(multiscale: Mapping[str, Any], location: str) -> tuple[str, tuple[str | None, ...]]:
    """Give the letters and the units of the axes; versions 0.1 and 0.2 always have tczyx."""
    listed = multiscale.get("axes") or list("tczyx")
    if not isinstance(listed, Sequence) or len(listed) > MAX_AXES:
        raise VolumeError(f"{location} has the axes {shown(listed)}; they must be some of t, c, z, y, x.")
    letters = [_axis_letter(axis) for axis in listed]
    axes = "".join(letters)
    if any(len(a) != 1 for a in letters) or not _in_order(axes) or not axes.endswith("yx"):
        raise VolumeError(
            f"{location} has the axes {clean_text(', '.join(letters))}; "
            "they must be some of t, c, z, y, x, in this order, with y, x at the end."
        )
    units = [axis.get("unit") if isinstance(axis, Mapping) else None for axis in listed]
    return axes, tuple(None if unit is None else clean_text(unit) for unit in units)


def _scale_and_translation(
    transforms: Sequence[Mapping[str, Any]], ndim: int, location: str
) -> tuple[list[float], list[float]]:
    """Combine coordinate transformations, in their order, into one scale and one translation."""
    scale, translation = [1.0] * ndim, [0.0] * ndim
    if len(transforms) > MAX_TRANSFORMS:
        raise VolumeError(
            f"{location} has {len(transforms)} coordinate transformations; one or two are usual."
        )
    for transform in transforms:
        kind = transform.get("type")
        if kind == "identity":
            continue
        values = transform.get(kind) if kind in ("scale", "translation") else None
        if not isinstance(values, list) or len(values) != ndim or not all(map(is_number, values)):
            raise VolumeError(
                f"{location} has a coordinate transformation that cannot be used: {shown(dict(transform))}; "
                f"a scale or a translation has {ndim} numbers, one an axis."
            )
        if kind == "scale":
            scale = [a * v for a, v in zip(scale, values, strict=True)]
            translation = [a * v for a, v in zip(translation, values, strict=True)]
        else:
            translation = [a + v for a, v in zip(translation, values, strict=True)]
    return scale, translation


def _micrometres(unit: str | None) -> float | None:
    """Micrometres in a unit; a missing unit counts as micrometres, an unknown one gives None."""
    return 1.0 if unit is None else UM_PER_UNIT.get(str(unit).lower())


def _level(
    dataset: Mapping[str, Any],
    shared: Sequence[Mapping[str, Any]],
    units: Sequence[str | None],
    n_spatial: int,
    known: bool,
    location: str,
) -> LevelInfo:
    """Describe one level; `units` of all axes, of which the last `n_spatial` are spatial."""
    path = check_level_path(dataset.get("path"))
    transforms = [*dataset.get("coordinateTransformations", []), *shared]
    scale, translation = _scale_and_translation(transforms, len(units), f"level {path!r} of {location}")
    scale, translation = scale[-n_spatial:], translation[-n_spatial:]
    if min(scale) <= 0:
        raise VolumeError(
            f"level {path!r} of {location} has the scale {scale} along its spatial axes; "
            "the size of a voxel is above 0: mend the metadata."
        )
    factors = [_micrometres(unit) for unit in units[-n_spatial:]]
    if not known or any(f is None for f in factors):
        return LevelInfo(path, None, tuple(t / s for t, s in zip(translation, scale, strict=True)))
    size = tuple(s * (f or 1.0) for s, f in zip(scale, factors, strict=True))
    shift = tuple(t * (f or 1.0) for t, f in zip(translation, factors, strict=True))
    low, high = VOXEL_RANGE_UM
    if not all(low <= s <= high for s in size) or not all(map(is_number, shift)):
        raise VolumeError(
            f"level {path!r} of {location} has voxels of {' x '.join(f'{s:g}' for s in size)} µm at "
            f"{', '.join(f'{t:g}' for t in shift)} µm; a voxel has at least {low:g} µm and at most "
            f"{high:g} µm: mend the metadata."
        )
    return LevelInfo(path, size, shift)


def _time_step(scale: float, unit: str | None) -> tuple[float | None, str]:
    """Give the interval and its unit's full name; a scale of 1 without a unit says nothing."""
    if not (is_number(scale) and scale > 0) or (unit is None and scale == 1):
        return None, "second"
    name = unit or "second"
    return scale, TIME_UNITS.get(name, name)


def _channels(omero: object) -> tuple[Channel, ...]:
    """Read names and colours from the `omero` block, where there is one."""
    listed = omero.get("channels") if isinstance(omero, Mapping) else None
    return tuple(
        Channel(clean_text(entry.get("label") or "") or f"channel {i}", clean_color(entry.get("color")))
        for i, entry in enumerate(listed if isinstance(listed, list) else ())
        if isinstance(entry, Mapping)
    )


def parse_multiscale(attributes: Mapping[str, Any], location: str, zarr_format: int) -> ImageInfo:
    """Understand the attributes of a multiscale image's group.

    The voxel size is unknown (None) where no spatial axis of the first level has a unit and the
    scale is 1, and where a unit is no length. A scale other than 1 without a unit is in micrometres.

    Parameters
    ----------
    attributes : of the group; for Zarr 3 the content of its "ome" entry
    location : path or URL, for messages
    zarr_format : 2 or 3

    Raises
    ------
    VolumeError
        if the axes or the coordinate transformations make no image
    ValueError
        with the part that is malformed
    """
    multiscale = attributes["multiscales"][0]
    axes, units = _axes_of(multiscale, location)
    n_spatial = sum(axis in "zyx" for axis in axes)
    shared = multiscale.get("coordinateTransformations", [])
    datasets = multiscale.get("datasets", [])
    if not isinstance(datasets, list) or not 0 < len(datasets) <= MAX_LEVELS:
        number = len(datasets) if isinstance(datasets, list) and datasets else "no"
        raise VolumeError(f"{location} lists {number} resolution levels; an image has 1 to {MAX_LEVELS}.")
    first = [*datasets[0].get("coordinateTransformations", []), *shared]
    scale, _ = _scale_and_translation(first, len(axes), location)
    known = any(units[-n_spatial:]) or any(s != 1 for s in scale[-n_spatial:])
    step, time_unit = _time_step(scale[0], units[0]) if axes[0] == "t" else (None, "second")
    version = attributes.get("version") or multiscale.get("version") or ("0.5" if zarr_format == 3 else "0.4")
    return ImageInfo(
        location=location,
        format=f"OME-Zarr {clean_text(version)}",
        axes=axes,
        levels=tuple(_level(d, shared, units, n_spatial, known, location) for d in datasets),
        channels=_channels(attributes.get("omero")),
        name=clean_text(multiscale.get("name") or ""),
        time_step=step,
        time_unit=time_unit,
        notes=(LABELS_NOTE,) if "image-label" in attributes else (),
    )
