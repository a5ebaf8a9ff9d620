"""A user's own image as the specimen of a simulation: scaled to 0..1, its edges repeated for ever."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigdecon.errors import VolumeError
from bigdecon.optics.specimens import cells_reaching, extent, intersect
from bigdecon.volume import ArraySource, Box, Source

__all__ = ["ImageSpecimen", "image_specimen"]

SCAN_SIDE = {2: 2048, 3: 256}


@dataclass(frozen=True, eq=False)
class ImageSpecimen:
    """An image as a function of box and seed, like the other specimens; the seed changes nothing.

    Pickles to a small description if its image does.

    Attributes
    ----------
    image : source with the axes (z, y, x) or (y, x), in any units
    low, high : the values that become 0 and 1
    """

    image: Source
    low: float
    high: float

    def __call__(self, box: Box, seed: int) -> NDArray[np.float32]:
        """Give a box as float32 from 0 to 1; voxels beyond the image equal the nearest one of its edge."""
        if min(extent(box)) < 1:
            return np.zeros(extent(box), np.float32)
        bounds = tuple(_nearest(part, n) for part, n in zip(box, self.image.shape, strict=True))
        values = np.asarray(self.image[bounds], np.float64)
        scaled = ((values - self.low) / (self.high - self.low)).clip(0, 1).astype(np.float32)
        before = [max(0, b.start - p.start) for b, p in zip(bounds, box, strict=True)]
        total = zip(before, scaled.shape, extent(box), strict=True)
        # A box that lies wholly beyond the image got one voxel, which may stand at either end.
        widths = [(min(b, wanted - n), max(0, wanted - n - b)) for b, n, wanted in total]
        return np.pad(scaled, widths, mode="edge")

    def read_once(self, box: Box) -> ImageSpecimen:
        """Hold the part of the image that a box needs in memory; the result is good for that box only.

        Neighbouring cells need overlapping parts, and a packed plane or chunk would be unpacked for each.
        """
        bounds = tuple(_nearest(part, n) for part, n in zip(box, self.image.shape, strict=True))
        corner = tuple(part.start for part in bounds)
        return replace(self, image=_Window(np.asarray(self.image[bounds]), corner, self.image.shape))


@dataclass(frozen=True, eq=False)
class _Window:
    """Part of a source, in memory, with the coordinates of the whole."""

    array: NDArray[Any]
    corner: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    @property
    def chunks(self) -> tuple[int, ...]:
        return self.array.shape

    def __getitem__(self, selection: Box, /) -> NDArray[Any]:
        return self.array[
            tuple(slice(p.start - c, p.stop - c) for p, c in zip(selection, self.corner, strict=True))
        ]


def image_specimen(image: Source | NDArray[Any], name: str = "the image") -> ImageSpecimen:
    """Make a specimen whose 0 and 1 are the image's minimum and maximum; it is read once to find them.

    Parameters
    ----------
    image : array or source with the axes (z, y, x) or (y, x), in any units
    name : what to call the image in messages

    Raises
    ------
    VolumeError
        if it has other than 2 or 3 dimensions, NaN or infinity, or one value only
    """
    source = ArraySource(image) if isinstance(image, np.ndarray) else image
    if len(source.shape) not in (2, 3) or min(source.shape) < 1:
        raise VolumeError(f"{name} has the shape {source.shape}; a 2D or 3D image is needed.")
    low, high = _range(source)
    if not np.isfinite([low, high]).all():
        raise VolumeError(f"{name} holds NaN or infinity; replace such voxels first.")
    if low == high:
        raise VolumeError(f"every voxel of {name} has the value {low:g}; nothing can be simulated from it.")
    return ImageSpecimen(source, low, high)


def _range(source: Source) -> tuple[float, float]:
    """Minimum and maximum over all voxels; NaN where there is one."""
    whole = tuple(slice(0, n) for n in source.shape)
    side = SCAN_SIDE[len(whole)]
    lows, highs = [], []
    for cell in cells_reaching(whole, side, 0):
        part = source[intersect(tuple(slice(c * side, (c + 1) * side) for c in cell), whole)]
        lows.append(float(part.min()))
        highs.append(float(part.max()))
    return float(np.min(lows)), float(np.max(highs))


def _nearest(part: slice, n: int) -> slice:
    """Give the image's voxels from which those of a range are made: at least one."""
    start = min(max(part.start, 0), n - 1)
    return slice(start, max(start + 1, min(part.stop, n)))
