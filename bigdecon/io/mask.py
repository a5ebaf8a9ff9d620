"""Masks: which part of an image is to be restored, given as an image of any resolution.

A voxel is wanted where the mask's nearest voxel is not 0; nothing is wanted beyond the mask's edges.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from bigdecon.errors import VolumeError
from bigdecon.io.identity import input_identity
from bigdecon.io.reading import open_volume
from bigdecon.volume import Box, Crop, Source, Stack, Take, Volume

__all__ = ["Mask", "open_mask"]

STRIP = 2**24
"""Voxels of a mask that are looked at in one go, about."""
HASHED = 2**32
"""Voxels of a mask that is recognised by all of them."""


@dataclass(frozen=True)
class Mask:
    """Tells which voxels of a stack are wanted; a small description, read where it is asked.

    Attributes
    ----------
    stack : the mask's own voxels
    scale : voxels of the mask for one voxel of the image, along every spatial axis
    offset : where in the mask the image's first voxel has its centre, in voxels of the mask
    digest : tells one mask from another
    """

    stack: Stack
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    digest: str = ""

    def __getitem__(self, box: Box, /) -> NDArray[np.bool_]:
        """Give True for every voxel of a box of the image that is wanted."""
        nearest = [self._nearest(axis, np.arange(p.start, p.stop)) for axis, p in enumerate(box)]
        inside = [(at >= 0) & (at < n) for at, n in zip(nearest, self.stack.shape, strict=True)]
        result = np.zeros([len(at) for at in nearest], bool)
        if not all(some.any() for some in inside):
            return result
        held = [at[some] for at, some in zip(nearest, inside, strict=True)]
        part = self.stack[tuple(slice(int(at[0]), int(at[-1]) + 1) for at in held)] != 0
        result[np.ix_(*inside)] = part[np.ix_(*(at - at[0] for at in held))]
        return result

    def touches(self, box: Box) -> bool:
        """Whether any voxel of a box of the image is wanted; looks at the mask's voxels only."""
        bounds = []
        for axis, (part, n) in enumerate(zip(box, self.stack.shape, strict=True)):
            first, last = self._nearest(axis, np.array([part.start, part.stop - 1]))
            bounds.append(slice(max(0, int(first)), min(n, int(last) + 1)))
        if any(part.start >= part.stop for part in bounds):
            return False
        return any((self.stack[piece] != 0).any() for piece in _pieces(tuple(bounds), self.stack.chunks))

    def covers(self, shape: Sequence[int]) -> bool:
        """Whether the mask reaches over a whole image of this shape, but for one voxel at each end."""
        ends = zip(shape, self.scale, self.offset, self.stack.shape, strict=True)
        return all(offset > -1.5 and (n - 1) * scale + offset < size + 0.5 for n, scale, offset, size in ends)

    def _nearest(self, axis: int, index: NDArray[np.int_]) -> NDArray[np.int_]:
        """Find the mask's nearest voxel; of two that are as near, the later."""
        nearest: NDArray[np.int_] = np.floor(index * self.scale[axis] + self.offset[axis] + 0.5).astype(int)
        return nearest


def open_mask(path: str, volume: Volume, *, by_shape: bool = False) -> Mask:
    """Open a mask for an image.

    Where both tell their voxel size the mask lies where its metadata place it, else it covers the whole
    image, whatever has been cropped from it.

    Parameters
    ----------
    path : OME-Zarr or TIFF with one channel and one time point
    volume : what is to be restored, already cropped
    by_shape : take the mask to cover the whole image whatever the metadata say

    Raises
    ------
    VolumeError
        if it has other spatial axes, several channels, or lies beside the image
    """
    mask = open_volume(path)
    if mask.n_channels > 1 or mask.n_timepoints > 1:
        raise VolumeError(
            f"the mask {path} has {mask.n_channels} channels and {mask.n_timepoints} time points; "
            "a mask has one of each, for all channels and time points of the image."
        )
    if mask.spatial_axes != volume.spatial_axes:
        raise VolumeError(
            f"the mask {path} has the axes {mask.spatial_axes}, but the image {volume.spatial_axes}; "
            "give a mask with the same axes."
        )
    place = None if by_shape else _by_metadata(mask, volume)
    scale, offset = place or _by_extent(mask, volume)
    found = Mask(mask.stack(), scale, offset, _digest(mask))
    if not found.touches(tuple(slice(0, n) for n in volume.spatial_shape)):
        raise VolumeError(
            f"the mask {path} selects nothing of the image: either all of it is 0, or its place (scale and "
            "translation in its metadata) is another."
        )
    return found


def _by_metadata(mask: Volume, volume: Volume) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    if mask.voxel_size_um is None or volume.voxel_size_um is None:
        return None
    sizes = list(zip(volume.voxel_size_um, mask.voxel_size_um, strict=True))
    places = zip(volume.translation_um, mask.translation_um, sizes, strict=True)
    return tuple(v / m for v, m in sizes), tuple((v - m) / size for v, m, (_, size) in places)


def _by_extent(mask: Volume, volume: Volume) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Stretch the mask over the whole image, edge to edge."""
    first, whole = _uncropped(volume.source)
    n = len(volume.spatial_axes)
    scale = tuple(m / w for m, w in zip(mask.spatial_shape, whole[-n:], strict=True))
    return scale, tuple((start + 0.5) * s - 0.5 for start, s in zip(first[-n:], scale, strict=True))


def _uncropped(source: Source) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Give the first voxel of a source within the image that it was cropped from, and that image's shape."""
    if isinstance(source, Take):
        return _uncropped(source.source)
    if isinstance(source, Crop):
        first, whole = _uncropped(source.source)
        return tuple(f + part.start for f, part in zip(first, source.box, strict=True)), whole
    return (0,) * len(source.shape), source.shape


def _digest(mask: Volume) -> str:
    """Hash all of a mask, for a stroke of the brush may change any chunk; a huge one by its metadata."""
    identity = input_identity(mask)
    state = hashlib.sha256(" ".join([identity.digest, *(file.state for file in identity.files)]).encode())
    shape = mask.spatial_shape
    if math.prod(shape) <= HASHED:
        stack = mask.stack()
        for piece in _pieces(tuple(slice(0, n) for n in shape), stack.chunks):
            state.update(np.packbits(stack[piece] != 0).data)
    return state.hexdigest()


def _pieces(box: Box, chunks: Sequence[int]) -> Iterator[Box]:
    """Cut a box into whole chunks, some at a time along the last axis, so that each is read once."""
    along = max(1, STRIP // math.prod(chunks))
    steps = (*chunks[:-1], chunks[-1] * along)

    def cut(part: slice, step: int) -> list[slice]:
        starts = range(part.start // step * step, part.stop, step)
        return [slice(max(start, part.start), min(start + step, part.stop)) for start in starts]

    return product(*(cut(part, step) for part, step in zip(box, steps, strict=True)))
