"""How a volume looks in a notebook: a table, and a thumbnail that reads at most a few megabytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from bigdecon.addresses import shown_url
from bigdecon.notebook_html import card, grey_picture

if TYPE_CHECKING:
    from bigdecon.volume import Source, Volume

__all__ = ["DisplayedVolume", "describe_volume", "thumbnail"]

MOST_BYTES = 8 * 2**20
"""That a thumbnail reads, in whole chunks."""

LAZY = "Nothing has been computed yet. A crop computes the blocks that it touches, and no others:"
CROP = "numpy.asarray(volume.crop((slice(0, 16), slice(0, 256), slice(0, 256))))"


class DisplayedVolume:
    """What a volume says of itself, as text and in notebooks; its voxels are not computed for it."""

    def __repr__(self) -> str:
        """Describe the volume in a line."""
        volume = cast("Volume", self)
        size = "unknown voxel size" if volume.voxel_size_um is None else f"voxels of {_size(volume)}"
        lazy = ", computed when sliced" if _is_computed_by_dask(volume) else ""
        return f"<Volume {volume.name}: {volume.axes} {_times(volume.shape)}, {volume.dtype}, {size}{lazy}>"

    def _repr_html_(self) -> str:
        """Show a table and a thumbnail."""
        volume = cast("Volume", self)
        crop = CROP if len(volume.spatial_axes) == 3 else CROP.replace("slice(0, 16), ", "")
        hint = (LAZY, crop) if _is_computed_by_dask(volume) else ()
        return card(f"Volume {volume.name}", describe_volume(volume), thumbnail(volume), *hint)


def describe_volume(volume: Volume) -> list[tuple[str, str]]:
    """Give a volume as pairs of a heading and a text."""
    gigabytes = math.prod(volume.shape) * volume.dtype.itemsize
    rows = [
        ("shape", f"{_times(volume.shape)} ({', '.join(volume.axes)})"),
        ("type", f"{volume.dtype}, {_bytes(gigabytes)} in all"),
        ("voxel size", "unknown" if volume.voxel_size_um is None else _size(volume)),
    ]
    if volume.voxel_size_um is not None:
        pairs = zip(volume.spatial_shape, volume.voxel_size_um, strict=True)
        rows.append(("extent", " × ".join(f"{n * s:.4g}" for n, s in pairs) + " µm"))
    rows.append(("chunks", _times(volume.source.chunks)))
    names = [channel.name for channel in volume.channels if channel.name]
    if names:
        rows.append(("channels", ", ".join(names[:16]) + ", …" * (len(names) > 16)))
    if volume.location:
        rows.append(("from", shown_url(volume.location)))
    return rows


def thumbnail(volume: Volume) -> str:
    """Draw the middle plane of the first channel at the first time point; "" where that is not cheap.

    A coarser level is read where there is one, else the middle of the plane. What lies on a server, or
    Dask has yet to compute, is not read.
    """
    if _is_computed_by_dask(volume) or "://" in volume.location:
        return ""
    try:
        return _draw(volume)
    except Exception:  # a picture is not worth an error: whoever reads the image will be told
        return ""


def _draw(volume: Volume) -> str:
    stack = volume.stack()
    root, place = stack.locate(tuple(slice(0, n) for n in stack.shape))
    finer = root.shape
    plane = _middle(place, root, stack.axes)
    words = "middle plane" if "z" in stack.axes else ""
    levels = getattr(root, "coarser_levels", list)
    for source in (root, *(levels() if _cost(root, plane) > MOST_BYTES else ())):
        scaled = [
            slice(p.start * n // m, max(p.start * n // m + 1, p.stop * n // m))
            for p, n, m in zip(place, source.shape, finer, strict=True)
        ]
        plane = _middle(scaled, source, stack.axes)
        if _cost(source, plane) <= MOST_BYTES:
            return _picture(source, plane, words, volume)
    while _cost(root, plane := _middle(place, root, stack.axes)) > MOST_BYTES:
        if all(part.stop - part.start < 4 for part in place[-2:]):
            return ""  # chunks too large even for a look
        place = tuple(_halved(part) if a in "yx" else part for a, part in zip(stack.axes, place, strict=True))
        words = "middle of the middle plane"
    return _picture(root, plane, words, volume)


def _picture(source: Source, plane: Sequence[slice], words: str, volume: Volume) -> str:
    data = source[tuple(plane)]
    image: NDArray[Any] = np.asarray(data).reshape(data.shape[-2:])
    size = volume.voxel_size_um
    return grey_picture(image, words, size[-2] / size[-1] if size else 1.0)


def _middle(place: Sequence[slice], source: Source, axes: str) -> list[slice]:
    """Keep the middle of z."""
    middle = [(part.start + part.stop - 1) // 2 for part in place]
    return [slice(m, m + 1) if a == "z" else p for a, p, m in zip(axes, place, middle, strict=True)]


def _halved(part: slice) -> slice:
    quarter = (part.stop - part.start) // 4
    return slice(part.start + quarter, part.stop - quarter)


def _cost(source: Source, selection: Sequence[slice]) -> int:
    """Count the bytes of the chunks that a selection touches."""
    sides = (
        (-(-part.stop // chunk) - part.start // chunk) * chunk
        for part, chunk in zip(selection, source.chunks, strict=True)
    )
    return int(math.prod(sides) * source.dtype.itemsize)


def _is_computed_by_dask(volume: Volume) -> bool:
    source: Any = volume.source
    while hasattr(source, "source"):  # crops and picks
        source = source.source
    return bool(getattr(source, "computes", False))


def _times(numbers: Sequence[int]) -> str:
    return " × ".join(str(n) for n in numbers)


def _size(volume: Volume) -> str:
    return " × ".join(f"{s:g}" for s in volume.voxel_size_um or ()) + " µm"


def _bytes(number: float) -> str:
    units = ("bytes", "kB", "MB", "GB", "TB")
    power = min(len(units) - 1, int(math.log(max(1, number), 1000)))
    return f"{number / 1000**power:.4g} {units[power]}"
