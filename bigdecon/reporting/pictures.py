"""Pictures of a place before and after: planes of voxels as grey values, with their sizes in micrometres.

A plane keeps its voxels; whoever shows it stretches them to their true proportions. Before and after share
one window of grey values, so that what looks brighter is brighter. Deconvolution gathers light, so the image
before is often dark in that window; it then has a second picture, in a window of its own.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bigdecon.diagnosis.shared_reads import read_boxes
from bigdecon.errors import ReadError
from bigdecon.evaluation.pictures import round_length
from bigdecon.volume import Box, Stack

__all__ = [
    "Pair",
    "Plane",
    "Views",
    "Window",
    "colour_plane",
    "data_uri",
    "detail_boxes",
    "detail_views",
    "grey_plane",
    "grey_value",
    "projection_views",
    "psf_planes",
    "scale_bar",
    "shrunk",
    "window_of",
]

Image = NDArray[Any]

WINDOW_PERCENTILES = (0.5, 99.8)
JPEG_QUALITY = 92
FAINT = 0.002
"""Of the PSF's peak: what is below is black in its picture."""
DIM = 1.5
"""An image whose own window is narrower than the common one by this factor has a picture in it as well."""
COLOURS = {"residual": "PiYG", "psf": "viridis"}
"""Magenta to green about white for what has a sign; viridis for what has none."""


class Window(NamedTuple):
    """Values that become black and white, in data units."""

    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Plane:
    """A picture.

    Attributes
    ----------
    pixels : rows and columns, uint8; a third axis holds red, green and blue
    width, height : in micrometres, or in voxels where their size is unknown
    in_um : which of the two
    """

    pixels: NDArray[np.uint8]
    width: float
    height: float
    in_um: bool


class Pair(NamedTuple):
    """One view, before and after.

    Attributes
    ----------
    name : "xy", "xz" or "yz"
    before, after : in the common window; `before` is None where the input cannot be had
    brighter : `before` in its own window; None where the common one shows it well
    """

    name: str
    before: Plane | None
    after: Plane
    brighter: Plane | None = None


@dataclass(frozen=True, eq=False)
class Views:
    """Views that share one window.

    Attributes
    ----------
    pairs : the views
    window : of their grey values
    unit : of lengths, "µm" or "voxels"
    own_window : of the pictures `brighter`; None where there are none
    """

    pairs: tuple[Pair, ...]
    window: Window
    unit: str
    own_window: Window | None = None


class _View(NamedTuple):
    name: str
    fixed: int
    rows: int
    columns: int


VIEWS = {
    3: (_View("xy", 0, 1, 2), _View("xz", 1, 0, 2), _View("yz", 2, 1, 0)),
    2: (_View("xy", -1, 0, 1),),
}
"""By the number of axes: which axis is fixed, and which run down and across; y runs down in yz, too."""


def detail_views(
    before: Stack | None,
    after: Stack,
    place: Sequence[int],
    voxel_size_um: tuple[float, ...] | None,
    side: int,
    offset: float = 0.0,
) -> Views:
    """Cut planes along the axes through one place.

    Parameters
    ----------
    before, after : images of one shape
    place : voxel that the planes go through
    voxel_size_um : along the spatial axes; None where unknown
    side : longest side of a plane, in voxels
    offset : was taken off `after`, and is put back, in data units

    Raises
    ------
    ReadError
        if a plane cannot be read
    """
    views = VIEWS[after.ndim]
    boxes = detail_boxes(after.shape, place, side)
    read = [read_boxes(stack, boxes) for stack in (before, after) if stack is not None]
    planes = []
    for view, *images in zip(views, *read, strict=True):
        known = [image for image in images if image is not None]
        if len(known) < len(images):
            raise ReadError(f"the plane {view.name} cannot be read.")
        planes.append([_flat(image, view) for image in known])
    return _paired(views, planes, voxel_size_um, before is not None, offset)


def detail_boxes(shape: Sequence[int], place: Sequence[int], side: int) -> list[Box]:
    """Give the boxes of the planes that `detail_views` cuts."""
    return [_around(shape, place, view, side) for view in VIEWS[len(shape)]]


def projection_views(
    before: Image | None, after: Image, voxel_size_um: tuple[float, ...] | None, offset: float = 0.0
) -> Views:
    """Take the maximum along each axis of two volumes of one shape; parameters as for `detail_views`."""
    views = VIEWS[after.ndim]
    read = [
        [_flat(_maximum(image, view), view) for image in (before, after) if image is not None]
        for view in views
    ]
    return _paired(views, read, voxel_size_um, before is not None, offset)


def _around(shape: Sequence[int], place: Sequence[int], view: _View, side: int) -> Box:
    """Give the box of a plane through a place, no longer than `side`, within the image."""
    box = []
    for axis, (n, at) in enumerate(zip(shape, place, strict=True)):
        if axis == view.fixed:
            box.append(slice(at, at + 1))
            continue
        start = max(0, min(at - side // 2, n - side))
        box.append(slice(start, min(n, start + side)))
    return tuple(box)


def _maximum(image: Image, view: _View) -> Image:
    return image if view.fixed < 0 else image.max(axis=view.fixed, keepdims=True)


def _flat(image: Image, view: _View) -> Image:
    """Drop the fixed axis, and have `rows` run down."""
    flat = image if view.fixed < 0 else image.squeeze(view.fixed)
    return np.asarray(flat.T if view.rows > view.columns else flat, np.float32)


def _paired(
    views: Sequence[_View],
    read: Sequence[Sequence[Image]],
    voxel_size_um: tuple[float, ...] | None,
    has_before: bool,
    offset: float,
) -> Views:
    read = [[*planes[:-1], planes[-1] + np.float32(offset)] for planes in read]
    window = window_of([plane for planes in read for plane in planes])
    own = window_of([planes[0] for planes in read])
    dim = has_before and DIM * (own.high - own.low) < window.high - window.low
    step, in_um = voxel_size_um or (1.0,) * 3, voxel_size_um is not None
    pairs = []
    for view, planes in zip(views, read, strict=True):
        size = step[view.rows], step[view.columns]
        drawn = [grey_plane(plane, window, size, in_um=in_um) for plane in planes]
        brighter = grey_plane(planes[0], own, size, in_um=in_um) if dim else None
        pairs.append(Pair(view.name, drawn[0] if has_before else None, drawn[-1], brighter))
    return Views(tuple(pairs), window, "µm" if in_um else "voxels", own if dim else None)


def window_of(images: Sequence[Image]) -> Window:
    """Choose one window for all images: from the darkest one's dark to the brightest one's bright."""
    known = [image[np.isfinite(image)] for image in images]
    ends = [np.percentile(values, WINDOW_PERCENTILES) for values in known if values.size]
    if not ends:
        return Window(0.0, 1.0)
    low, high = min(float(e[0]) for e in ends), max(float(e[1]) for e in ends)
    return Window(low, high if high > low else low + 1)


def grey_plane(image: Image, window: Window, size: Sequence[float], *, in_um: bool) -> Plane:
    """Turn values into grey; `size` is that of a voxel, down and across."""
    scaled = (np.nan_to_num(image) - window.low) / (window.high - window.low)
    pixels = np.round(scaled.clip(0, 1) * 255).astype(np.uint8)
    return _plane(pixels, size, in_um)


def colour_plane(image: Image, window: Window, size: Sequence[float], colours: str, *, in_um: bool) -> Plane:
    """Turn values into colours of `COLOURS`."""
    from matplotlib import colormaps

    scaled = (np.nan_to_num(image) - window.low) / (window.high - window.low)
    pixels = colormaps[COLOURS[colours]](scaled.clip(0, 1), bytes=True)[..., :3]
    return _plane(np.ascontiguousarray(pixels), size, in_um)


def _plane(pixels: NDArray[np.uint8], size: Sequence[float], in_um: bool) -> Plane:
    rows, columns = pixels.shape[:2]
    return Plane(pixels, columns * size[1], rows * size[0], in_um)


def psf_planes(psf: Image, voxel_size_um: tuple[float, ...] | None) -> dict[str, Plane]:
    """Cut a PSF through its centre: xy, and xz where it has depth; square roots, to show the skirts."""
    step, planes = voxel_size_um or (1.0,) * psf.ndim, {}
    psf = _bright_part(psf)
    for view in VIEWS[psf.ndim][:2]:
        cut = psf if view.fixed < 0 else psf.take(psf.shape[view.fixed] // 2, axis=view.fixed)
        root = np.sqrt(np.maximum(cut, 0))
        size = step[view.rows], step[view.columns]
        window = Window(0.0, float(root.max()) or 1.0)
        planes[view.name] = colour_plane(root, window, size, "psf", in_um=voxel_size_um is not None)
    return planes


def _bright_part(psf: Image) -> Image:
    """Leave out what is too faint to be seen all around, the same number of voxels at both ends."""
    kept = []
    for axis, n in enumerate(psf.shape):
        profile = psf.max(axis=tuple(a for a in range(psf.ndim) if a != axis))
        seen = np.flatnonzero(profile > FAINT * profile.max())
        margin = min(seen[0], n - 1 - seen[-1]) if len(seen) else 0
        kept.append(slice(margin, n - margin))
    return psf[tuple(kept)]


def scale_bar(plane: Plane) -> float:
    """Choose the length of a scale bar: a round number, at most a quarter of the width."""
    return round_length(plane.width / 4)


def grey_value(value: float) -> str:
    """Put a value of the image into a few digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def data_uri(plane: Plane, *, exact: bool = False) -> str:
    """Put a picture into an address that holds it: JPEG, or PNG where every pixel counts."""
    from PIL import Image as Pictures

    buffer = io.BytesIO()
    picture = Pictures.fromarray(plane.pixels)
    if exact:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    kind = "png" if exact else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def shrunk(views: Views, side: int) -> Views:
    """Average neighbouring pixels until no picture is longer than `side`; lengths stay as they are."""
    pairs = tuple(
        Pair(
            pair.name,
            pair.before and _smaller(pair.before, side),
            _smaller(pair.after, side),
            pair.brighter and _smaller(pair.brighter, side),
        )
        for pair in views.pairs
    )
    return replace(views, pairs=pairs)


def _smaller(plane: Plane, side: int) -> Plane:
    rows, columns = plane.pixels.shape[:2]
    factors = -(-rows // side), -(-columns // side)
    if factors == (1, 1):
        return plane
    sums: Image = plane.pixels.astype(np.float32)
    for axis, (factor, n) in enumerate(zip(factors, (rows, columns), strict=True)):
        starts = np.arange(0, n, factor)
        counts = np.diff([*starts, n]).reshape((-1, 1) if axis == 0 else (1, -1))
        sums = np.add.reduceat(sums, starts, axis=axis) / counts
    return Plane(sums.round().astype(np.uint8), plane.width, plane.height, plane.in_um)
