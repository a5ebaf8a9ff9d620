"""What a run reads, writes and leaves on the disk, counted without a loop over blocks.

    blocks of an axis    |---- core ----|---- core ----|---- core ----|
    as read            |----------------|-+
                                   |--------------------|-+ ...
    chunks             |---c---|---c---|---c---|---c---|---c---|---c---|

A block is a product of intervals, so a sum over all blocks is a product of sums over the axes: what is
counted here takes as long for a terabyte as for a megabyte.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from bigdecon.intensity import SAMPLE_VOXELS
from bigdecon.io.layout import LevelLayout, OutputLayout
from bigdecon.learning.networks import build_network
from bigdecon.learning.patches import POOL_VOXELS
from bigdecon.running.planning import RunPlan
from bigdecon.volume import Stack

__all__ = ["Traffic", "count_traffic"]

STATE_COPIES = 4
"""Weights in training, two moments of each, and the best weights so far."""
Interval = tuple[int, int]
"""First voxel along an axis, and the one after the last."""

LEDGER_FOLDERS = 256
SMALL_FILE_BYTES = 4096
"""What a small file takes: a block of the file system."""
CHUNK_EXTRA_BYTES = 32
"""What a stored chunk takes beside its values, at most: Blosc's header, and an entry in the shard's index."""
FOLDERS_OF_A_RUN, FILES_OF_A_RUN = 4, 2
"""Root, bookkeeping, PSFs and ledger; run.json and lease."""
FILES_OF_A_NODE = {2: 2, 3: 1}
"""Metadata of a group or an array, by Zarr's format."""


@dataclass(frozen=True)
class Traffic:
    """Reads and writes of a whole run; bytes are decoded ones, before compression.

    Attributes
    ----------
    read_bytes : voxels that blocks ask for, halos included
    chunks_read : chunks that are fetched and decoded for it; one that several blocks touch counts for each
    decoded_bytes : size of these chunks
    other_read_bytes : for measuring the brightness and for training, at most
    reread_bytes : of the output, to make its coarser levels
    written_bytes : of all levels
    shards_written : files that hold voxels, or chunks where there are no shards
    files : of all kinds
    folders : likewise
    largest_output_bytes : disk space where nothing can be compressed
    """

    read_bytes: int
    chunks_read: int
    decoded_bytes: int
    other_read_bytes: int
    reread_bytes: int
    written_bytes: int
    shards_written: int
    files: int
    folders: int
    largest_output_bytes: int


def count_traffic(plan: RunPlan) -> Traffic:
    """Count reads, writes and files of a run that begins anew."""
    stack, layout = plan.volume.stack(), plan.layout
    stacks = plan.volume.n_timepoints * plan.volume.n_channels
    read = _intervals_read(plan)
    voxels = stacks * math.prod(sum(stop - start for start, stop in axis) for axis in read)
    grid = _chunk_grid(stack)
    chunks = stacks * math.prod(_chunks_touched(axis, *pair) for axis, pair in zip(read, grid, strict=True))
    itemsize = stack.dtype.itemsize
    chunk_bytes = _chunk_voxels(stack) * itemsize
    written = [math.prod(level.shape) * np.dtype(layout.dtype).itemsize for level in layout.levels]
    shards = sum(_stored_files(level) for level in layout.levels)
    entries = _ledger_entries(plan, stacks)
    models = plan.volume.n_channels if plan.training or plan.models else 0
    psfs = len({psf.sha256 for psf in plan.psfs})
    nodes = 2 + len(layout.levels)
    files = (
        shards + entries + FILES_OF_A_RUN + FILES_OF_A_NODE[layout.zarr_format] * nodes + 2 * models + psfs
    )
    folders = sum(_folders_of(level, layout.zarr_format) for level in layout.levels) + bool(models)
    folders += FOLDERS_OF_A_RUN + min(LEDGER_FOLDERS, entries)
    return Traffic(
        read_bytes=voxels * itemsize,
        chunks_read=chunks,
        decoded_bytes=chunks * chunk_bytes,
        other_read_bytes=_read_beside(plan) * itemsize,
        reread_bytes=sum(written[:-1]),
        written_bytes=sum(written),
        shards_written=shards,
        files=files,
        folders=folders,
        largest_output_bytes=sum(written)
        + _overhead_bytes(layout, files - shards + folders)
        + models * _model_bytes(plan),
    )


# --- reading --------------------------------------------------------------------------------------


def _intervals_read(plan: RunPlan) -> list[list[Interval]]:
    """Give what is read along every axis: blocks with their halos, or the cells of regions with theirs."""
    grid = plan.grid
    if plan.engine == "direct":
        return [
            [(max(0, start - h), min(n, stop + h)) for start, stop in pairwise(cuts)]
            for cuts, h, n in zip(grid.cuts, grid.halo, grid.shape, strict=True)
        ]
    sides = zip(*plan.regions, strict=True)
    return [
        [cell for part in sorted({(p.start, p.stop) for p in side}) for cell in _cells(part, cuts, h)]
        for side, cuts, h in zip(sides, grid.cuts, grid.halo, strict=True)
    ]


def _cells(region: Interval, cuts: Sequence[int], halo: int) -> Iterable[Interval]:
    """Cut a region of an axis, with its halo, as `map_overlap` gets it: at its blocks and its own faces."""
    start, stop = region
    inner = [cut for cut in cuts if start <= cut <= stop]
    return pairwise(sorted({max(0, start - halo), *inner, min(cuts[-1], stop + halo)}))


def _chunk_grid(stack: Stack) -> list[tuple[int, int]]:
    """Give the extent of a chunk along every spatial axis, and where in its first chunk the stack begins."""
    root, place = stack.locate(tuple(slice(0, n) for n in stack.shape))
    pairs = zip(root.chunks[-stack.ndim :], place[-stack.ndim :], strict=True)
    return [(chunk, part.start % chunk) for chunk, part in pairs]


def _chunk_voxels(stack: Stack) -> int:
    """Count the voxels of a chunk, which may hold several channels or time points."""
    root, _ = stack.locate(tuple(slice(0, n) for n in stack.shape))
    return math.prod(root.chunks)


def _chunks_touched(axis: Iterable[Interval], chunk: int, offset: int) -> int:
    """Count the chunks that intervals of an axis touch, each for every interval that touches it."""
    return sum(-(-(stop + offset) // chunk) - (start + offset) // chunk for start, stop in axis)


def _read_beside(plan: RunPlan) -> int:
    """Count the voxels that are read to measure the brightness and, twice as many as are kept, to train."""
    a_channel = math.prod(plan.volume.spatial_shape) * plan.volume.n_timepoints
    trained = min(a_channel, 2 * POOL_VOXELS) if plan.training else 0
    return plan.volume.n_channels * (min(a_channel, SAMPLE_VOXELS) + trained)


# --- writing --------------------------------------------------------------------------------------


def _counts(level: LevelLayout) -> tuple[int, ...]:
    return tuple(-(-n // s) for n, s in zip(level.shape, level.stored_shape, strict=True))


def _stored_files(level: LevelLayout) -> int:
    return math.prod(_counts(level))


def _folders_of(level: LevelLayout, zarr_format: int) -> int:
    """Count the folders of an array: its own, "c" in Zarr 3, and one for every index but the last."""
    return zarr_format - 1 + sum(itertools.accumulate(_counts(level)[:-1], lambda a, b: a * b))


def _ledger_entries(plan: RunPlan, stacks: int) -> int:
    """Count the regions of level 0 and the write units of coarser levels: each has an entry."""
    coarse = (
        math.prod(-(-n // w) for n, w in zip(level.spatial_shape, level.write_shape, strict=True))
        for level in plan.layout.levels[1:]
    )
    return stacks * (len(plan.regions) + sum(coarse))


def _overhead_bytes(layout: OutputLayout, small_files: int) -> int:
    """Give what chunks and small files take beside their content."""
    chunks = sum(
        math.prod(-(-n // c) for n, c in zip(level.shape, level.chunks, strict=True))
        for level in layout.levels
    )
    return chunks * CHUNK_EXTRA_BYTES + small_files * SMALL_FILE_BYTES


def _model_bytes(plan: RunPlan) -> int:
    """Give the size of a trained network, and of the state that training keeps beside it for a while."""
    network = plan.models[0].config if plan.models else plan.training
    if network is None:
        return 0
    with torch.device("meta"):  # counts parameters without making them
        parameters: int = sum(p.numel() for p in build_network(network.network).state_dict().values())
    return 4 * parameters * (STATE_COPIES + 1 if plan.training else 1)
