"""The block engine: any method, block by block, as one lazy array.

Two engines give the same bytes. *direct* is one task a block, which reads core and halo from a store
itself. *map-overlap* is `dask.array.map_overlap`: every voxel is read once and blocks exchange
their halos, at some 35 tasks a block; it serves any array, the result of other Dask work included.

    direct        store ──> [read core + halo, deconvolve, trim]
    map-overlap   source ──> [read core] ──> [join the neighbours' edges] ──> [deconvolve, trim]

Nothing here knows a method: a `Deconvolver` is whatever has a halo and turns a block into a block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any, Literal, Protocol, runtime_checkable
from uuid import uuid4

import dask.array as da
import numpy as np
from dask.delayed import Delayed, delayed
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from bigdecon.config import Engine
from bigdecon.deconvolution.tiling import BlockGrid, trim
from bigdecon.errors import NonFiniteError, OptionError
from bigdecon.volume import ArraySource, Box, Crop, Source, Stack, Take, Volume

__all__ = [
    "BlockNeeds",
    "DaskSource",
    "Deconvolver",
    "choose_engine",
    "deconvolve",
    "deconvolve_stack",
    "plan_grid",
    "read_block",
]


class BlockNeeds(Protocol):
    """What a method needs of the blocks; for a network this is known before it is trained."""

    @property
    def name(self) -> str:
        """What to call the method."""

    @property
    def halo(self) -> tuple[int, ...]:
        """Voxels needed on each side of a block, for every spatial axis."""

    @property
    def alignment(self) -> int:
        """Blocks start at multiples of this, in voxels."""


@runtime_checkable
class Deconvolver(BlockNeeds, Protocol):
    """A method: pickles to a worker, turns one block with its halo into a block of the same shape."""

    def __call__(self, block: NDArray[Any], /) -> NDArray[np.float32]:
        """Restore a block ([z,] y, x) as read, halo included; the result has its shape and its units."""


@dataclass(frozen=True, eq=False)
class DaskSource:
    """A Dask array as a source: slicing computes what the slice touches and nothing else.

    Attributes
    ----------
    array : the lazy array, one axis for every axis of the volume
    """

    array: da.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of every axis, in voxels."""
        return tuple(int(n) for n in self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values, native-endian."""
        dtype: np.dtype[Any] = np.dtype(self.array.dtype)
        return dtype.newbyteorder("=")

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of the first chunk; the last along an axis may be larger or smaller."""
        return tuple(int(sizes[0]) for sizes in self.array.chunks)

    def __getitem__(self, selection: Box, /) -> NDArray[Any]:
        """Compute a part."""
        return np.asarray(self.array[selection].compute(), dtype=self.dtype)


def choose_engine(stack: Stack, engine: Engine = "auto") -> Literal["map-overlap", "direct"]:
    """Choose how blocks get their halo.

    "auto" is "direct" where the image lies in a store, which any task can open by its path, and
    "map-overlap" for arrays in memory and results of Dask, whose voxels would have to travel with every task.

    Raises
    ------
    OptionError
        if "direct" is asked for an image that Dask has yet to compute
    """
    root, _ = _locate(stack, tuple(slice(0, n) for n in stack.shape))
    if engine == "direct" and isinstance(root, DaskSource):
        raise OptionError(
            "the engine direct reads blocks from a store, but this image is computed by Dask; "
            "use the engine map-overlap, or write the image to a store first."
        )
    if engine == "auto":
        return "map-overlap" if isinstance(root, ArraySource | DaskSource) else "direct"
    return engine


def plan_grid(
    shape: Sequence[int],
    deconvolvers: Sequence[BlockNeeds],
    *,
    block: int | Sequence[int] = 128,
    halo: int | Sequence[int] | None = None,
) -> BlockGrid:
    """Cut a volume into blocks that suit every one of some methods.

    Parameters
    ----------
    shape : extent of the spatial axes, in voxels
    deconvolvers : one, or one for every channel
    block : extent of a core; one number for all axes or one for each
    halo : context on each side, rounded up to the methods' alignment; None takes what they need

    Raises
    ------
    OptionError
        if the halo is smaller than a method needs, or the block is no multiple of the alignment
        or smaller than the halo
    """
    alignment = math.lcm(*(d.alignment for d in deconvolvers))
    needed = tuple(max(sides) for sides in zip(*(d.halo for d in deconvolvers), strict=True))
    blocks = (block,) * len(shape) if isinstance(block, int) else tuple(block)
    halos = (halo,) * len(shape) if isinstance(halo, int) else tuple(needed if halo is None else halo)
    if not len(shape) == len(needed) == len(blocks) == len(halos):
        names = ", ".join(dict.fromkeys(d.name for d in deconvolvers))
        raise OptionError(f"{names} works on {len(needed)} spatial axes, but the image has {len(shape)}.")
    for given, least in zip(halos, needed, strict=True):
        if given < least:
            raise OptionError(
                f"the halo of {given} voxels is smaller than the {least} that the method needs."
            )
    for given in blocks:
        if given < 1 or given % alignment:
            raise OptionError(f"the block of {given} voxels must be a multiple of {alignment}.")
    return BlockGrid.plan(shape, blocks, [-(-h // alignment) * alignment for h in halos])


def deconvolve(
    volume: Volume,
    deconvolver: Deconvolver | Sequence[Deconvolver],
    *,
    block: int | Sequence[int] = 128,
    halo: int | Sequence[int] | None = None,
    engine: Engine = "auto",
) -> Volume:
    """Deconvolve a volume lazily: all its channels at all its time points.

    Nothing is computed before voxels are asked for; a crop of the result computes only the blocks it touches.

    Parameters
    ----------
    volume : what to restore
    deconvolver : one for all channels, or a sequence with one for every channel
    block : extent of a block's core, in voxels
    halo : context computed around a block and cut off, in voxels; None takes what the method needs
    engine : how blocks get their halo, see `choose_engine`

    Returns
    -------
    Volume like the input, float32, in the input's data units; its `source` is a `DaskSource`

    Raises
    ------
    OptionError
        if halo, block or the number of deconvolvers do not fit
    """
    methods = list(deconvolver) if isinstance(deconvolver, Sequence) else [deconvolver] * volume.n_channels
    if len(methods) != volume.n_channels:
        raise OptionError(
            f"{len(methods)} deconvolvers were given for {volume.n_channels} channels; "
            "give one for all, or one for every channel."
        )
    grid = plan_grid(volume.spatial_shape, methods, block=block, halo=halo)

    def restore(timepoint: int, channel: int) -> da.Array:
        stack = volume.stack(timepoint=timepoint, channel=channel)
        chosen = choose_engine(stack, engine)
        return deconvolve_stack(stack, methods[channel], grid=grid, engine=chosen)

    times = [
        _join([restore(t, c) for c in range(volume.n_channels)], "c" in volume.axes)
        for t in range(volume.n_timepoints)
    ]
    return replace(volume, source=DaskSource(_join(times, "t" in volume.axes)))


def deconvolve_stack(
    stack: Stack,
    deconvolver: Deconvolver | Delayed,
    *,
    grid: BlockGrid,
    engine: Literal["map-overlap", "direct"],
    box: Box | None = None,
    name_hint: str = "deconvolve-block",
) -> da.Array:
    """Deconvolve one channel at one time point lazily, block by block.

    What a block gives does not depend on `box`: it sees its full halo beyond the box's faces.

    Parameters
    ----------
    stack : image of axes ([z,] y, x)
    deconvolver : the method; enters the graph once, however many blocks there are. Give a `Delayed`
        one to share it between several calls, or where it already lies on the workers
    grid : the blocks of the whole stack
    engine : how blocks get their halo; both give the same bytes
    box : union of blocks to compute; None for all
    name_hint : what the tasks are called on the dashboard

    Returns
    -------
    array of the box's shape, float32, in the stack's data units; its chunks are the blocks' cores

    Raises
    ------
    NonFiniteError
        on computing, if a block holds NaN or infinity
    """
    box = grid.whole if box is None else box
    method = deconvolver if isinstance(deconvolver, Delayed) else _once(deconvolver, deconvolver.name)
    if engine == "direct":
        return _deconvolve_directly(stack, method, grid, box, name_hint)
    return _deconvolve_overlapping(stack, method, grid, box, name_hint)


def read_block(stack: Stack, box: Box) -> NDArray[Any]:
    """Read a box of voxels and refuse what cannot be computed with.

    Raises
    ------
    NonFiniteError
        if there is NaN or infinity, naming the box and the first such voxel
    """
    return _refuse_non_finite(stack[box], box)


def _deconvolve_directly(stack: Stack, method: Delayed, grid: BlockGrid, box: Box, name: str) -> da.Array:
    """Make one task a block: read core and halo, deconvolve, trim."""
    image = _once(stack, "image")
    cuts = grid.cuts_within(box)
    name = f"{name}-{uuid4().hex}"
    tasks = {
        (name, *index): (_deconvolve_block, image.key, method.key, _Block(core, grid.grow(core)))
        for index, core in _cells(cuts)
    }
    return _array(name, tasks, cuts, np.float32, image, method)


def _deconvolve_overlapping(stack: Stack, method: Delayed, grid: BlockGrid, box: Box, name: str) -> da.Array:
    """Read cores, and what the box's neighbours lend, and let `map_overlap` join them."""
    cuts = grid.cuts_within(box)
    around = grid.grow(box)
    # Context is cut off at the box's own faces, so that a block there finds a neighbour of one halo's width.
    cuts_around = tuple(
        tuple(sorted({part.start, *axis, part.stop})) for part, axis in zip(around, cuts, strict=True)
    )
    image = _read_cells(stack, cuts_around)
    # A single cell has no neighbours: the axis needs no halo, and may be shorter than one.
    depth = {a: h if len(cuts_around[a]) > 2 else 0 for a, h in enumerate(grid.halo)}
    empty = np.empty((0,) * stack.ndim, dtype=np.float32)
    whole = da.map_overlap(
        _apply,
        image,
        depth=depth,
        boundary="none",
        trim=True,
        allow_rechunk=False,
        meta=empty,
        dtype=np.float32,
        name=f"{name}-with-halo-{uuid4().hex}",
        deconvolver=method,
    )
    # Trimming leaves a view that would keep the whole block, halo and all, in memory. Dask names
    # fused tasks after the last one: this is the name on the dashboard.
    trimmed = whole.map_blocks(
        np.ascontiguousarray, name=f"{name}-{uuid4().hex}", dtype=np.float32, meta=empty
    )
    inner = tuple(
        slice(part.start > outer.start, -1 if part.stop < outer.stop else None)
        for part, outer in zip(box, around, strict=True)
    )
    result: da.Array = trimmed if cuts == cuts_around else trimmed.blocks[inner]
    return result


def _read_cells(stack: Stack, cuts: Sequence[Sequence[int]]) -> da.Array:
    """Make an array of a stack whose chunks lie between cuts; the voxels are not hashed."""
    name = f"read-block-{uuid4().hex}"
    root, selection = _locate(stack, tuple(slice(axis[0], axis[-1]) for axis in cuts))
    if not isinstance(root, ArraySource | DaskSource):
        image = _once(stack, "image")
        reads = {(name, *index): (_read_core, image.key, _Block(core)) for index, core in _cells(cuts)}
        return _array(name, reads, cuts, stack.dtype, image)
    chunks = _extents(cuts)
    if isinstance(root, DaskSource):
        data = root.array[selection].rechunk(chunks)
    else:  # each chunk travels with the task that needs it, as a view
        name_in_memory = f"in-memory-{uuid4().hex}"
        data = da.from_array(root.array[selection], chunks, name_in_memory)
    checks = {
        (name, *index): (_check_core, (data.name, *index), _Block(core)) for index, core in _cells(cuts)
    }
    return _array(name, checks, cuts, stack.dtype, data)


def _locate(stack: Stack, box: Box) -> tuple[Source, tuple[slice | int, ...]]:
    """Follow crops and picks down to the source that holds the voxels, and say where in it the box lies."""
    fixed = {"t": stack.timepoint, "c": stack.channel}
    spatial = iter(box)
    selection = [slice(fixed[a], fixed[a] + 1) if a in fixed else next(spatial) for a in stack.axes]
    source = stack.source
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
    return source, tuple(
        part.start if axis in fixed else part for axis, part in zip(stack.axes, selection, strict=True)
    )


@dataclass(frozen=True)
class _Block:
    """A block's place, in voxels of the stack; a plain value, which Dask does not look into."""

    core: Box
    grown: Box | None = None


def _deconvolve_block(stack: Stack, deconvolver: Deconvolver, block: _Block) -> NDArray[np.float32]:
    """Do the whole work of the direct engine on one block."""
    grown = block.grown or block.core
    restored = _apply(read_block(stack, grown), deconvolver=deconvolver)
    return np.ascontiguousarray(restored[trim(block.core, grown)])


def _apply(block: NDArray[Any], *, deconvolver: Deconvolver) -> NDArray[np.float32]:
    """Deconvolve one block with its halo, and hold the method to its promise."""
    restored = np.asarray(deconvolver(block), dtype=np.float32)
    if restored.shape != block.shape:
        raise ValueError(f"{deconvolver.name} turned a block of {block.shape} into one of {restored.shape}")
    return restored


def _read_core(stack: Stack, block: _Block) -> NDArray[Any]:
    return read_block(stack, block.core)


def _check_core(data: NDArray[Any], block: _Block) -> NDArray[Any]:
    return _refuse_non_finite(data, block.core)


def _refuse_non_finite(data: NDArray[Any], box: Box) -> NDArray[Any]:
    """Give the data back, native-endian, if every value is finite."""
    if data.dtype.kind == "f" and not (finite := np.isfinite(data)).all():
        where = np.unravel_index(np.argmin(finite), data.shape)
        first = ", ".join(str(part.start + int(i)) for part, i in zip(box, where, strict=True))
        bounds = ", ".join(f"{part.start}:{part.stop}" for part in box)
        raise NonFiniteError(
            f"the image holds {data[where]} in the block [{bounds}], first at voxel ({first}); "
            "replace such values by finite ones."
        )
    return data.astype(data.dtype.newbyteorder("="), copy=False)


def _once(value: object, prefix: str) -> Delayed:
    """Put a value into the graph as one node. Its name is random: hashing voxels or weights would cost."""
    node: Delayed = delayed(value, name=f"{prefix}-{uuid4().hex}", traverse=False)
    return node


def _cells(cuts: Sequence[Sequence[int]]) -> Iterator[tuple[tuple[int, ...], Box]]:
    """Give every cell between cuts with its index, last axis fastest."""
    index = product(*(range(len(axis) - 1) for axis in cuts))
    boxes = product(*([slice(*pair) for pair in pairwise(axis)] for axis in cuts))
    return zip(index, boxes, strict=True)


def _extents(cuts: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(stop - start for start, stop in pairwise(axis)) for axis in cuts)


def _array(
    name: str, tasks: Mapping[Any, Any], cuts: Sequence[Sequence[int]], dtype: Any, *needs: Any
) -> da.Array:
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=needs)
    meta = np.empty((0,) * len(cuts), dtype=dtype)
    return da.Array(graph, name, _extents(cuts), meta=meta)


def _join(arrays: Sequence[da.Array], has_axis: bool) -> da.Array:
    """Stack along a new first axis if the volume has it; else there is but one."""
    return da.stack(arrays) if has_axis else arrays[0]
