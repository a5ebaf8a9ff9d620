"""Volume: a lazy image with the names and sizes of its axes.

A `Volume` wraps a *source*: anything that has a shape and a dtype and can be sliced, and that
pickles to a small description (a path, not the voxels). Nothing is read before it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bigdecon.acquisition import UNKNOWN_OBJECTIVE, Channel, Objective
from bigdecon.errors import VolumeError
from bigdecon.volume_display import DisplayedVolume

__all__ = ["ArraySource", "Box", "Channel", "Crop", "Objective", "Source", "Stack", "Take", "Volume"]

Box = tuple[slice, ...]
"""One slice with explicit start and stop for every spatial axis, in voxels."""

SPATIAL_AXES = "zyx"


@runtime_checkable
class Source(Protocol):
    """What a Volume can wrap: sliceable, with a shape, a dtype and a natural unit of reading."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of every axis, in voxels."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Native-endian type of the values that slicing returns."""

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of the unit in which the source is best read, one entry an axis."""

    def __getitem__(self, selection: Box, /) -> NDArray[Any]:
        """Read the voxels of one slice (step 1) per axis; no axis is dropped."""


@dataclass(frozen=True)
class Crop:
    """A rectangular part of a source; itself a source.

    Attributes
    ----------
    source : what is cropped
    box : one slice with explicit bounds for every axis of the source
    """

    source: Source
    box: Box

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of every axis, in voxels."""
        return tuple(part.stop - part.start for part in self.box)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self.source.dtype

    @property
    def chunks(self) -> tuple[int, ...]:
        """Unit of reading of the source, no larger than the crop."""
        return tuple(min(c, s) for c, s in zip(self.source.chunks, self.shape, strict=True))

    def __getitem__(self, selection: Box, /) -> NDArray[Any]:
        """Read a part of the crop."""
        inner = (part.indices(size) for part, size in zip(selection, self.shape, strict=True))
        starts_stops = [(start, max(start, stop)) for start, stop, _ in inner]
        return self.source[
            tuple(
                slice(part.start + start, part.start + stop)
                for part, (start, stop) in zip(self.box, starts_stops, strict=True)
            )
        ]


@dataclass(frozen=True)
class Take:
    """Some positions along one axis of a source, in any order; itself a source.

    Attributes
    ----------
    source : what is picked from
    axis : index of the axis
    positions : indices along that axis
    """

    source: Source
    axis: int
    positions: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of every axis, in voxels."""
        return (*self.source.shape[: self.axis], len(self.positions), *self.source.shape[self.axis + 1 :])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self.source.dtype

    @property
    def chunks(self) -> tuple[int, ...]:
        """Unit of reading; one position at a time along the picked axis."""
        return (*self.source.chunks[: self.axis], 1, *self.source.chunks[self.axis + 1 :])

    def __getitem__(self, selection: Box, /) -> NDArray[Any]:
        """Read a part."""
        parts = [
            self.source[(*selection[: self.axis], slice(p, p + 1), *selection[self.axis + 1 :])]
            for p in self.positions[selection[self.axis]]
        ]
        return np.concatenate(parts, axis=self.axis)


def cut_faces(source: Source) -> tuple[tuple[bool, bool], ...]:
    """Tell for every axis whether the low and the high face were cut by a crop: the image goes on beyond."""
    if isinstance(source, Take):
        return cut_faces(source.source)
    if isinstance(source, Crop):
        sides = zip(source.box, source.source.shape, cut_faces(source.source), strict=True)
        return tuple((low or b.start > 0, high or b.stop < n) for b, n, (low, high) in sides)
    return ((False, False),) * len(source.shape)


@dataclass(frozen=True)
class Stack:
    """One channel at one time point: the spatial image that the methods work on.

    Pickles to a small description if its source does. Axes are (z, y, x) or (y, x).
    """

    source: Source
    axes: str
    timepoint: int = 0
    channel: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of the spatial axes, in voxels."""
        pairs = zip(self.axes, self.source.shape, strict=True)
        return tuple(size for axis, size in pairs if axis in SPATIAL_AXES)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Unit of reading along the spatial axes, in voxels."""
        pairs = zip(self.axes, self.source.chunks, strict=True)
        return tuple(size for axis, size in pairs if axis in SPATIAL_AXES)

    @property
    def cut(self) -> tuple[tuple[bool, bool], ...]:
        """Whether the image goes on beyond the low and the high face of every spatial axis."""
        pairs = zip(self.axes, cut_faces(self.source), strict=True)
        return tuple(faces for axis, faces in pairs if axis in SPATIAL_AXES)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self.source.dtype

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return len(self.shape)

    def __getitem__(self, box: Box, /) -> NDArray[Any]:
        """Read a box of voxels; the result has the spatial axes only."""
        data = np.asarray(self.source[self._selection(box)])
        return data.reshape([n for a, n in zip(self.axes, data.shape, strict=True) if a in SPATIAL_AXES])

    def locate(self, box: Box) -> tuple[Source, Box]:
        """Follow crops and picks down to the source that holds the voxels, and say where in it a box lies."""
        source, selection = self.source, list(self._selection(box))
        while isinstance(source, Crop | Take):
            if isinstance(source, Crop):
                selection = [
                    slice(outer.start + inner.start, outer.start + inner.stop)
                    for outer, inner in zip(source.box, selection, strict=True)
                ]
            else:
                position = source.positions[selection[source.axis].start]
                selection[source.axis] = slice(position, position + 1)
            source = source.source
        return source, tuple(selection)

    def _selection(self, box: Box) -> Box:
        """Add the time point and the channel to a box."""
        fixed, spatial = {"t": self.timepoint, "c": self.channel}, iter(box)
        return tuple(slice(fixed[a], fixed[a] + 1) if a in fixed else next(spatial) for a in self.axes)


@dataclass(frozen=True, repr=False)
class Volume(DisplayedVolume):
    """A lazy microscope image.

    Attributes
    ----------
    source : where the voxels come from
    axes : one letter an axis, a subset of "tczyx" in this order, ending in "zyx" or "yx"
    voxel_size_um : size along every spatial axis, in micrometres; None where unknown
    translation_um : place of the first voxel's centre along every spatial axis, in micrometres
    channels : one entry for every channel (one unnamed entry where there is no channel axis)
    name : what to call the image in messages
    location : path or URL, and level, that it was opened from; empty for arrays in memory
    time_step : interval between time points in `time_unit`; None where unknown
    time_unit : full name of a unit, as OME-Zarr spells it
    objective : that took the image, as far as the file tells
    """

    source: Source
    axes: str
    voxel_size_um: tuple[float, ...] | None = None
    translation_um: tuple[float, ...] = ()
    channels: tuple[Channel, ...] = (Channel(""),)
    name: str = "array"
    location: str = ""
    time_step: float | None = None
    time_unit: str = "second"
    objective: Objective = UNKNOWN_OBJECTIVE

    def __post_init__(self) -> None:
        """Refuse axes that make no image."""
        letters = [axis for axis in "tczyx" if axis in self.axes]
        if "".join(letters) != self.axes or not self.axes.endswith("yx"):
            raise VolumeError(
                f"{self.name} has the axes {self.axes!r}; "
                "they must be a subset of 'tczyx', in this order, with 'yx' at the end."
            )
        if len(self.axes) != len(self.source.shape):
            raise VolumeError(
                f"{self.name} has {len(self.source.shape)} dimensions {self.source.shape} "
                f"but {len(self.axes)} axes {self.axes!r}."
            )
        if not self.translation_um:
            object.__setattr__(self, "translation_um", (0.0,) * len(self.spatial_axes))

    @classmethod
    def from_array(
        cls,
        array: NDArray[Any],
        axes: str | None = None,
        *,
        voxel_size_um: Sequence[float] | None = None,
        name: str = "array",
    ) -> Volume:
        """Wrap an array in memory; `axes` defaults to yx, zyx, czyx or tczyx by the number of dimensions."""
        axes = axes or {2: "yx", 3: "zyx", 4: "czyx", 5: "tczyx"}.get(array.ndim)
        if axes is None:
            raise VolumeError(
                f"{name} has {array.ndim} dimensions; an image has 2 to 5, in the order t, c, z, y, x."
            )
        channels: tuple[Channel, ...] = (Channel(""),)
        if "c" in axes:
            channels = tuple(Channel(f"channel {i}") for i in range(array.shape[axes.index("c")]))
        size = None if voxel_size_um is None else tuple(float(v) for v in voxel_size_um)
        return cls(ArraySource(array), axes, size, channels=channels, name=name)

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of every axis, in voxels."""
        return self.source.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Native-endian type of the values."""
        return self.source.dtype

    @property
    def spatial_axes(self) -> str:
        """Give "zyx" or "yx"."""
        return "".join(axis for axis in self.axes if axis in SPATIAL_AXES)

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """Extent of the spatial axes, in voxels."""
        return self.shape[-len(self.spatial_axes) :]

    @property
    def n_timepoints(self) -> int:
        """Number of time points; 1 where there is no time axis."""
        return self.shape[self.axes.index("t")] if "t" in self.axes else 1

    @property
    def n_channels(self) -> int:
        """Number of channels; 1 where there is no channel axis."""
        return self.shape[self.axes.index("c")] if "c" in self.axes else 1

    def stack(self, *, timepoint: int = 0, channel: int = 0) -> Stack:
        """Take one channel at one time point, by index."""
        if not (0 <= timepoint < self.n_timepoints and 0 <= channel < self.n_channels):
            raise VolumeError(
                f"{self.name} has {self.n_timepoints} time points and {self.n_channels} channels; "
                f"there is no time point {timepoint} of channel {channel} (both count from 0)."
            )
        return Stack(self.source, self.axes, timepoint, channel)

    def crop(self, box: Box) -> Volume:
        """Cut out a box of the spatial axes; its place in space is kept, nothing is read.

        Raises
        ------
        VolumeError
            if a slice is empty or reaches outside the image
        """
        bounds = []
        for axis, part, size in zip(self.spatial_axes, box, self.spatial_shape, strict=True):
            start = 0 if part.start is None else part.start
            stop = size if part.stop is None else part.stop
            if start >= stop and 0 <= start <= size:
                raise VolumeError(
                    f"the range {start}:{stop} along {axis} of {self.name} is empty; "
                    f"give two increasing numbers from 0 to {size}."
                )
            if not 0 <= start < stop <= size:
                raise VolumeError(
                    f"the range {start}:{stop} along {axis} does not lie within {self.name}, "
                    f"whose {axis} runs from 0 to {size}."
                )
            bounds.append(slice(start, stop))
        lead = tuple(slice(0, n) for n in self.shape[: -len(bounds)])
        step = self.voxel_size_um or (1.0,) * len(bounds)
        moved = tuple(t + b.start * s for t, b, s in zip(self.translation_um, bounds, step, strict=True))
        return replace(self, source=Crop(self.source, (*lead, *bounds)), translation_um=moved)

    def select(self, *, channels: Sequence[int] | None = None, timepoint: int | None = None) -> Volume:
        """Keep some channels (by index, in the order given) and one time point; the axes stay.

        Raises
        ------
        VolumeError
            if a channel or time point does not exist
        """
        chosen = range(self.n_channels) if channels is None else channels
        times = range(self.n_timepoints) if timepoint is None else [timepoint]
        for t in times:
            for c in chosen:
                self.stack(timepoint=t, channel=c)
        source = self.source
        if timepoint is not None and "t" in self.axes:
            source = Take(source, self.axes.index("t"), (timepoint,))
        if channels is not None and "c" in self.axes:
            source = Take(source, self.axes.index("c"), tuple(channels))
        return replace(self, source=source, channels=tuple(self.channels[c] for c in chosen))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Read everything into memory."""
        data = np.asarray(self.source[tuple(slice(0, n) for n in self.shape)])
        return data if dtype is None else data.astype(dtype)


@dataclass(frozen=True)
class ArraySource:
    """An array in memory as a source; big-endian values are made native on reading."""

    array: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of every axis, in voxels."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Native-endian type of the values."""
        return self.array.dtype.newbyteorder("=")

    @property
    def chunks(self) -> tuple[int, ...]:
        """At most 128 voxels an axis."""
        return tuple(min(128, n) for n in self.shape)

    def __getitem__(self, selection: Box, /) -> NDArray[Any]:
        """Read a part, native-endian."""
        return np.ascontiguousarray(self.array[selection], dtype=self.dtype)
