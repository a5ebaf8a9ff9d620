"""Pictures of a result for people: before, after and truth side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bigdecon.errors import OptionError, OutputError
from bigdecon.volume import Box

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["before_after_picture", "centre_box", "comparison_picture", "round_length"]

Image = NDArray[Any]

# Larger images are cropped around their centre: a screen shows no more, and details stay visible.
MAX_VOXELS = {"z": 128, "y": 384, "x": 384}
WINDOW_PERCENTILES = (1.0, 99.8)
PANEL_WIDTH_INCHES = 3.6
LABEL_BOX = {"facecolor": "black", "alpha": 0.6, "linewidth": 0, "pad": 1.0}
ROUND_LENGTHS = (1.0, 2.0, 5.0)


class _View(NamedTuple):
    """One way of looking at a volume: a row of the picture, with its two axes in it."""

    name: str
    rows: str
    columns: str


class _Column(NamedTuple):
    title: str
    image: Image


class _Picture(NamedTuple):
    """What is drawn: `step` is the voxel size of each axis by its letter, in um if `in_um`."""

    columns: tuple[_Column, ...]
    step: dict[str, float]
    in_um: bool
    psf: Image | None
    one_window: bool = False

    @property
    def views(self) -> tuple[_View, ...]:
        return VIEWS_3D if len(self.step) == 3 else VIEWS_2D


SLICE_XY = _View("slice xy", "y", "x")
SLICE_XZ = _View("slice xz", "z", "x")
MAXIMUM_XY = _View("maximum\nalong z", "y", "x")
MAXIMUM_XZ = _View("maximum\nalong y", "z", "x")
VIEWS_3D = (SLICE_XY, SLICE_XZ, MAXIMUM_XY, MAXIMUM_XZ)
VIEWS_2D = (_View("image", "y", "x"),)


def before_after_picture(
    before: Image,
    after: Image,
    path: str | Path,
    *,
    psf: Image | None = None,
    truth: Image | None = None,
    voxel_size_um: tuple[float, ...] | None = None,
    title: str | None = None,
) -> None:
    """Draw a PNG of central slices and maximum projections, before and after a deconvolution.

    Parameters
    ----------
    before, after : images of one shape, (z, y, x) or (y, x)
    path : the PNG to write
    psf : point spread function with as many axes, drawn into the slices of `before` at their scale
    truth : third column if given, same shape
    voxel_size_um : voxel size along the images' axes; gives the aspect ratio and a scale bar
    title : line above the picture

    Raises
    ------
    OptionError, OutputError
        as `comparison_picture`
    """
    images = [("before", before), ("after", after)]
    if truth is not None:
        images.append(("truth", truth))
    comparison_picture(images, path, psf=psf, voxel_size_um=voxel_size_um, title=title)


def comparison_picture(
    images: Sequence[tuple[str, Image]],
    path: str | Path,
    *,
    psf: Image | None = None,
    voxel_size_um: tuple[float, ...] | None = None,
    title: str | None = None,
    one_window: bool = False,
) -> None:
    """Draw a PNG with one column an image: central slices and, in 3D, maximum projections.

    Each panel runs from its 1st to its 99.8th percentile, so that contrasts, not gains, are compared; or,
    with one window, all panels of a row between those of the last one.
    Images above 128 x 384 x 384 voxels are cropped around their centre.

    Parameters
    ----------
    images : heading and image of every column; images of one shape, (z, y, x) or (y, x)
    path : the PNG to write
    psf : point spread function with as many axes, drawn into the first column's slices at their scale
    voxel_size_um : voxel size along the images' axes; gives the aspect ratio and a scale bar
    title : line above the picture
    one_window : whether a row shares the grey values of its last panel

    Raises
    ------
    OptionError
        if the images are not 2D or 3D, are empty, or differ in shape
    OutputError
        if the file cannot be written
    """
    columns = [_Column(heading, image) for heading, image in images]
    _check(columns)
    ndim = columns[0].image.ndim
    step = voxel_size_um or (1.0,) * ndim
    picture = _Picture(
        columns=tuple(
            _Column(column.title, column.image[centre_box(column.image.shape)]) for column in columns
        ),
        step=dict(zip("zyx"[-ndim:], step, strict=True)),
        in_um=voxel_size_um is not None,
        one_window=one_window,
        psf=None if psf is None else psf[centre_box(psf.shape)],
    )
    figure = _draw(picture, title)
    try:
        figure.savefig(path, dpi=120, format="png")
    except OSError as error:
        raise OutputError(f"the picture {path} cannot be written: {error.strerror or error}.") from error


def centre_box(shape: Sequence[int]) -> Box:
    """Give the part of a (z, y, x) or (y, x) image that a picture shows, around its centre."""
    limits = [MAX_VOXELS[axis] for axis in "zyx"[-len(shape) :]]
    starts = [max(0, (n - limit) // 2) for n, limit in zip(shape, limits, strict=True)]
    ends = zip(starts, shape, limits, strict=True)
    return tuple(slice(start, min(n, start + limit)) for start, n, limit in ends)


def _check(columns: list[_Column]) -> None:
    shape = columns[0].image.shape
    if len(shape) not in (2, 3):
        raise OptionError(f"a picture needs 2D or 3D images, not one of the shape {shape}.")
    for column in columns[1:]:
        if column.image.shape != shape:
            raise OptionError(
                f"the image {column.title!r} has the shape {column.image.shape} "
                f"and {columns[0].title!r} {shape}; they must agree."
            )
    if columns[0].image.size == 0:
        raise OptionError(f"there is nothing to draw in images of the shape {shape}.")


def _look(image: Image, view: _View) -> Image:
    """Reduce a volume to the plane of a view; the axes of the plane are those of the view."""
    if image.ndim == 2:
        return image
    axis = 0 if view.rows == "y" else 1
    if view in (MAXIMUM_XY, MAXIMUM_XZ):
        return np.asarray(image.max(axis=axis))
    return np.asarray(image.take(image.shape[axis] // 2, axis=axis))


def _draw(picture: _Picture, title: str | None) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heights = [_height(picture, view) for view in picture.views]
    size = (
        PANEL_WIDTH_INCHES * len(picture.columns) + 0.4,
        sum(heights) + 0.12 * len(heights) + (0.8 if title else 0.5),
    )
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(
        len(heights), len(picture.columns), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for view, row in zip(picture.views, panels, strict=True):
        row[0].set_ylabel(view.name)
        for axes, column in zip(row, picture.columns, strict=True):
            windowed = picture.columns[-1] if picture.one_window else column
            _draw_panel(axes, column.image, view, picture.step, _window(windowed.image, view))
    for axes, column in zip(panels[0], picture.columns, strict=True):
        axes.set_title(column.title)
    for axes, view in zip(panels[:2, 0], picture.views, strict=False):
        _draw_psf(axes, picture, view)
    _draw_scale_bar(panels[0, 0], picture)
    if title:
        figure.suptitle(title)
    figure.supxlabel(
        f"grey values: percentiles {WINDOW_PERCENTILES[0]:g} to {WINDOW_PERCENTILES[1]:g} of "
        + ("the last panel in each row" if picture.one_window else "each panel"),
        fontsize=8,
        color="0.4",
    )
    return figure


def _height(picture: _Picture, view: _View) -> float:
    """Height of a row in inches, in proportion to what it shows, within reason."""
    rows, columns = _look(picture.columns[0].image, view).shape
    ratio: float = rows * picture.step[view.rows] / (columns * picture.step[view.columns])
    return PANEL_WIDTH_INCHES * min(max(ratio, 0.15), 2.0)


def _window(image: Image, view: _View) -> tuple[float, float]:
    """Grey values from black to white."""
    low, high = np.percentile(_look(image, view).astype(np.float32), WINDOW_PERCENTILES)
    return float(low), float(high if high > low else low + 1)


def _draw_panel(
    axes: Axes, image: Image, view: _View, step: dict[str, float], window: tuple[float, float]
) -> None:
    axes.imshow(
        _look(image, view).astype(np.float32),
        cmap="gray",
        vmin=window[0],
        vmax=window[1],
        aspect=step[view.rows] / step[view.columns],
        interpolation="nearest",
    )
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_psf(axes: Axes, picture: _Picture, view: _View) -> None:
    """Put the PSF into the upper right corner, voxel for voxel; its square root, to show its skirts."""
    if picture.psf is None:
        return
    from matplotlib.patches import Rectangle

    plane = _look(picture.psf, view)
    shape = _look(picture.columns[0].image, view).shape
    trims = [max(0, n - m // 3) // 2 for n, m in zip(plane.shape, shape, strict=True)]
    plane = plane[tuple(slice(t, n - t) for t, n in zip(trims, plane.shape, strict=True))]
    rows, columns = plane.shape
    left, top = shape[1] - 1.5 - columns, 0.5
    axes.imshow(
        np.sqrt(np.maximum(plane, 0)),
        cmap="gray",
        extent=(left, left + columns, top + rows, top),
        aspect=picture.step[view.rows] / picture.step[view.columns],
        interpolation="nearest",
        zorder=2,
    )
    axes.set(xlim=(-0.5, shape[1] - 0.5), ylim=(shape[0] - 0.5, -0.5))
    axes.add_patch(Rectangle((left, top), columns, rows, fill=False, edgecolor="white", zorder=3))
    axes.text(
        left + columns / 2,
        top + rows * 1.1,
        "PSF",
        color="white",
        fontsize=8,
        ha="center",
        va="top",
        bbox=LABEL_BOX,
    )


def _draw_scale_bar(axes: Axes, picture: _Picture) -> None:
    """Draw a bar of a round length, about a fifth of the panel, into the lower right corner."""
    if not picture.in_um:
        return
    from matplotlib.patches import Rectangle

    rows, columns = _look(picture.columns[0].image, picture.views[0]).shape
    length_um = round_length(columns * picture.step["x"] / 5)
    length = length_um / picture.step["x"]
    thickness, margin = rows * 0.015, columns * 0.03
    corner = (columns - margin - length, rows * 0.96 - thickness)
    axes.add_patch(Rectangle(corner, length, thickness, color="white"))
    middle = corner[0] + length / 2
    label = f"{length_um:g} µm"
    axes.text(
        middle,
        corner[1] - 2 * thickness,
        label,
        color="white",
        ha="center",
        va="bottom",
        fontsize=9,
        bbox=LABEL_BOX,
    )


def round_length(length: float) -> float:
    """Give the largest of 1, 2, 5 times a power of ten that is not longer."""
    power: float = 10.0 ** math.floor(math.log10(length))
    return max(r * power for r in ROUND_LENGTHS if r * power <= length * (1 + 1e-9))
