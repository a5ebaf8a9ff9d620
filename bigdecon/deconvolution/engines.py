"""The two engines: how blocks get their halo, as lazy arrays and tasks.

Both give the same bytes. *direct* is one task a block, which reads core and halo from a store
itself. *map-overlap* is `dask.array.map_overlap`: every voxel is read once and blocks exchange
their halos, at some 35 tasks a block; it serves any array, the result of other Dask work included.

    direct        store ──> [read core + halo, deconvolve, trim]
    map-overlap   source ──> [read core] ──> [join the neighbours' edges] ──> [deconvolve, trim]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, ClassVar, Literal
from uuid import uuid4

import dask.array as da
import numpy as np
from dask.delayed import Delayed, delayed
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from bigdecon.block_names import COLLECT, DECONVOLVE, block_key
from bigdecon.config import Engine
from bigdecon.deconvolution.block import (
    BlockRules,
    Deconvolver,
    RestoredBlock,
    check_finite,
    read_block,
    restore_block,
    restore_grown,
)
from bigdecon.deconvolution.packed_blocks import Block, MethodOnWorkers, attempt_packed, once, pack_blocks
from bigdecon.deconvolution.tiling import BlockGrid
from bigdecon.errors import OptionError
from bigdecon.volume import ArraySource, Box, Stack

__all__ = ["DaskSource", "attempt_blocks", "choose_engine", "deconvolve_stack"]


@dataclass(frozen=True, eq=False)
class DaskSource:
    """A Dask array as a source: slicing computes what the slice touches and nothing else.

    Attributes
    ----------
    array : the lazy array, one axis for every axis of the volume
    computes : tells that reading means work
    """

    array: da.Array
    computes: ClassVar[bool] = True

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
    root, _ = stack.locate(tuple(slice(0, n) for n in stack.shape))
    if engine == "direct" and isinstance(root, DaskSource):
        raise OptionError(
            "the engine direct reads blocks from a store, but this image is computed by Dask; "
            "use the engine map-overlap, or write the image to a store first."
        )
    if engine == "auto":
        return "map-overlap" if isinstance(root, ArraySource | DaskSource) else "direct"
    return engine


def deconvolve_stack(
    stack: Stack,
    deconvolver: Deconvolver | Delayed,
    *,
    grid: BlockGrid,
    engine: Literal["map-overlap", "direct"],
    box: Box | None = None,
    name_hint: str = DECONVOLVE,
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
    method = deconvolver if isinstance(deconvolver, Delayed) else once(deconvolver, deconvolver.name)
    if engine == "direct":
        return _deconvolve_directly(stack, method, grid, box, name_hint)
    return _deconvolve_overlapping(stack, method, grid, box, name_hint)


def attempt_blocks(
    stack: Stack,
    method: MethodOnWorkers,
    cores: Sequence[Box],
    *,
    grid: BlockGrid,
    engine: Literal["map-overlap", "direct"],
    rules: BlockRules,
    run: str = "",
) -> list[Delayed]:
    """Make one lazy `RestoredBlock` for each of some blocks of a stack.

    With the engine direct each is one task, and one that fails again and again is given with its fault;
    map-overlap raises then, and so does everything that waits for the block.

    Parameters
    ----------
    stack : image of axes ([z,] y, x)
    method : how a worker makes it
    cores : blocks of the grid
    grid : the blocks of the whole stack
    engine : how blocks get their halo; both give the same voxels
    rules : what is done besides the method
    run : hexadecimal digits that tell the run, for the names of the tasks
    """
    if engine == "direct":
        return _attempt_directly(stack, method, cores, grid, rules, run)
    made: Delayed = delayed(method.make, pure=False)(*method.needs, dask_key_name=f"method-{uuid4().hex}")
    around = tuple(
        slice(min(core[axis].start for core in cores), max(core[axis].stop for core in cores))
        for axis in range(stack.ndim)
    )
    restored = _deconvolve_overlapping(stack, made, grid, around, DECONVOLVE, rules)
    cells = [core for _, core in _cells(grid.cuts_within(around))]
    parts = {str(core): part for core, part in zip(cells, restored.to_delayed().ravel(), strict=True)}
    wrap = delayed(_as_block, pure=False, traverse=False)
    names = _block_keys(COLLECT, stack, cores, run)
    return [
        wrap(parts[str(core)], Block(core), dask_key_name=name)
        for core, name in zip(cores, names, strict=True)
    ]


def _attempt_directly(
    stack: Stack,
    method: MethodOnWorkers,
    cores: Sequence[Box],
    grid: BlockGrid,
    rules: BlockRules,
    run: str,
) -> list[Delayed]:
    """Make one task a block, which needs no other but those that `method` names."""
    packed = pack_blocks(stack, method, rules)
    names = _block_keys(DECONVOLVE, stack, cores, run)
    needs = [each.key for each in packed.needs]
    tasks: dict[Any, Any] = {
        name: (attempt_packed, packed.common, Block(core, grid.grow(core)), *needs)
        for name, core in zip(names, cores, strict=True)
    }
    layer = f"deconvolve-blocks-{uuid4().hex}"
    graph = HighLevelGraph.from_collections(layer, tasks, dependencies=packed.needs)
    return [Delayed(name, graph, layer=layer) for name in names]


def _block_keys(kind: str, stack: Stack, cores: Sequence[Box], run: str) -> list[str]:
    return [
        block_key(kind, stack.timepoint, stack.channel, [part.start for part in core], run) for core in cores
    ]


def _deconvolve_directly(stack: Stack, method: Delayed, grid: BlockGrid, box: Box, name: str) -> da.Array:
    """Make one task a block: read core and halo, deconvolve, trim."""
    image = once(stack, "image")
    cuts = grid.cuts_within(box)
    name = f"{name}-{uuid4().hex}"
    tasks = {
        (name, *index): (_deconvolve_block, image.key, method.key, Block(core, grid.grow(core)))
        for index, core in _cells(cuts)
    }
    return _array(name, tasks, cuts, np.float32, image, method)


def _deconvolve_overlapping(
    stack: Stack, method: Delayed, grid: BlockGrid, box: Box, name: str, rules: BlockRules | None = None
) -> da.Array:
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
        restore_grown,
        image,
        depth=depth,
        boundary="none",
        trim=True,
        allow_rechunk=False,
        meta=empty,
        dtype=np.float32,
        name=f"{name}-with-halo-{uuid4().hex}",
        deconvolver=method,
        rules=rules,
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
    root, place = stack.locate(tuple(slice(axis[0], axis[-1]) for axis in cuts))
    selection = tuple(p.start if a in "tc" else p for a, p in zip(stack.axes, place, strict=True))
    if not isinstance(root, ArraySource | DaskSource):
        image = once(stack, "image")
        reads = {(name, *index): (_read_core, image.key, Block(core)) for index, core in _cells(cuts)}
        return _array(name, reads, cuts, stack.dtype, image)
    chunks = _extents(cuts)
    if isinstance(root, DaskSource):
        data = root.array[selection].rechunk(chunks)
    else:  # each chunk travels with the task that needs it, as a view
        name_in_memory = f"in-memory-{uuid4().hex}"
        data = da.from_array(root.array[selection], chunks, name_in_memory)
    checks = {(name, *index): (_check_core, (data.name, *index), Block(core)) for index, core in _cells(cuts)}
    return _array(name, checks, cuts, stack.dtype, data)


def _deconvolve_block(stack: Stack, deconvolver: Deconvolver, block: Block) -> NDArray[np.float32]:
    """Do the whole work of the direct engine on one block."""
    return restore_block(stack, deconvolver, block.core, block.grown or block.core, BlockRules()).voxels


def _as_block(voxels: NDArray[np.float32], block: Block) -> RestoredBlock:
    return RestoredBlock(block.core, voxels)


def _read_core(stack: Stack, block: Block) -> NDArray[Any]:
    return read_block(stack, block.core)


def _check_core(data: NDArray[Any], block: Block) -> NDArray[Any]:
    return check_finite(data, block.core)


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
