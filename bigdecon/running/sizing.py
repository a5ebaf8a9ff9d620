"""How a volume is cut for a run: blocks, tiles, regions, and the memory that follows from them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from dask.utils import parse_bytes
from distributed.system import MEMORY_LIMIT

from bigdecon.config import RunConfig, TilingConfig, TrainingConfig
from bigdecon.deconvolution.block import MEMORY_OF_CONSTANTS, BlockNeeds
from bigdecon.deconvolution.blockwise import plan_grid
from bigdecon.deconvolution.classical import ClassicalMethod
from bigdecon.deconvolution.network import DEFAULT_HALO, NetworkNeeds, inference_bytes_per_voxel
from bigdecon.deconvolution.tiling import BlockGrid, tile_starts
from bigdecon.errors import OptionError
from bigdecon.io.layout import OutputLayout
from bigdecon.learning.patches import POOL_VOXELS
from bigdecon.learning.precision import has_fast_bfloat16
from bigdecon.ssi_config import NetworkShape, SSINetworkConfig, Training
from bigdecon.volume import Box

__all__ = [
    "BLOCK_SIDE",
    "PASS_BYTES",
    "PROGRAM_BYTES",
    "REGION_VOXELS",
    "block_side",
    "choose_tile",
    "computed_voxels",
    "cut_volume",
    "memory_of_block",
    "memory_of_pool",
    "memory_of_step",
    "memory_of_waiting",
    "pass_memory",
    "worker_memory",
]

BLOCK_SIDE = {2: 512, 3: 128}
REGION_VOXELS = 2**25
"""Size of a region: two shards of 256 voxels a side, so that a few in flight fit a laptop."""
PASS_BYTES = 2**27
"""What every network pass takes beside its voxels (benchmarks/memory.py)."""
PASS_LIMIT = 2**32
"""A network pass on a CPU takes no more than this: machines that have it choose the same tiles."""
MEMORY_SHARE = 0.5
"""Part of a worker's memory that a network pass may fill; the rest is for blocks read and written."""
LARGEST_FIELD = 2**31 - 1
"""Values of one field of a network on a GPU: some of its kernels count no further."""
MANY_TILES = 200
"""About so many extents of tiles are compared at most."""
REGIONS_IN_FLIGHT = 2
"""For every worker."""

PROGRAM_BYTES = {"cpu": 350 * 2**20, "cuda": 3 * 2**30}
"""What a worker holds before it has any work: 325 MiB with PyTorch's CPU build; with CUDA an allowance."""
TRAINING_FIELDS = {2: 34, 3: 28}
"""Fields of all features that one pass of a training step keeps for the way back: on a CPU, with 16 to 48
channels and patches of 48³ to 64³ or 256², 27 to 28 in 3D and 31 to 34 in 2D, in either precision."""
SSI_TRAINING_FIELDS = 45
"""The same for SSI: 27 to 40 in 3D (96³, 64³), 45 in 2D."""


def block_side(tiling: TilingConfig, ndim: int) -> int:
    """Extent of a block along every axis, in voxels: as asked for, else 128 in 3D and 512 in 2D."""
    return tiling.block if isinstance(tiling.block, int) else BLOCK_SIDE[ndim]


def cut_volume(
    config: RunConfig, shape: Sequence[int], needs: Sequence[BlockNeeds], side: int | None = None
) -> BlockGrid:
    """Cut a volume into blocks; those that would be smaller than their halo grow to the next multiple.

    Parameters
    ----------
    config : gives the halo
    shape : extent of the spatial axes, in voxels
    needs : what the methods of all channels need
    side : extent of a block, in voxels; that of `block_side` if not given

    Raises
    ------
    OptionError
        if the halo that was asked for is smaller than a method needs
    """
    halo = config.tiling.halo
    if halo is None and all(isinstance(n, NetworkNeeds) for n in needs):
        halo = max(DEFAULT_HALO, *(side for n in needs for side in n.halo))
    side = side or block_side(config.tiling, len(shape))
    reach = [max(sides) if halo is None else halo for sides in zip(*(n.halo for n in needs), strict=True)]
    return plan_grid(shape, needs, block=[side * max(1, -(-r // side)) for r in reach], halo=halo)


def choose_tile(
    config: RunConfig, grid: BlockGrid, network: Training, device: str, memory: float | None = None
) -> int | None:
    """Choose the extent of a network pass, in voxels; None for whole blocks.

    Where whole blocks are too large, it is the tile with which least is computed twice.

    Parameters
    ----------
    config : may ask for a tile
    grid : the blocks
    network : how the network was or will be trained
    device : torch device of the workers
    memory : bytes that the voxels of a pass may take; None for what `pass_memory` gives on a CPU, and no
        limit on a GPU, where smaller tiles are taken once the memory runs out

    Raises
    ------
    OptionError
        if the tile that was asked for does not suit the network
    """
    published = 128 if config.preset == "paper" and isinstance(network, TrainingConfig) else None
    tile = config.tiling.tile or published
    needs = NetworkNeeds.of(network.network)
    if tile is not None and (tile % needs.alignment or tile <= 2 * needs.halo[0] + needs.alignment):
        raise OptionError(
            f"the tile of {tile} voxels does not suit the network; "
            f"give a multiple of {needs.alignment}, at least {_least_tile(needs)}."
        )
    if tile is not None:
        return tile
    voxels = math.inf if device == "cpu" else LARGEST_FIELD // _widest(network.network)
    if memory is None and device == "cpu":
        memory = pass_memory(worker_memory(config))
    if memory is not None:
        voxels = min(voxels, memory / inference_bytes_per_voxel(network.network))
    return _cheapest_tile(grid, needs, voxels)


def pass_memory(memory: int) -> float:
    """Give the bytes that the voxels of a network pass on a CPU may take, of a worker's memory in bytes."""
    return min(PASS_LIMIT, MEMORY_SHARE * memory)


def computed_voxels(
    grid: BlockGrid, tile: int | None = None, margin: int = 0, alignment: int = 1
) -> tuple[int, int]:
    """Count the voxels that are computed for a volume, halos and overlaps of tiles included.

    Parameters
    ----------
    grid : the blocks
    tile : extent of a network pass, in voxels; None for whole blocks
    margin, alignment : of tiles, as `tile_boxes` takes them

    Returns
    -------
    for all blocks, and for the one with which most is computed
    """
    in_all = in_one = 1
    for n, cuts, halo in zip(grid.shape, grid.cuts, grid.halo, strict=True):
        extents = Counter(min(n, stop + halo) - max(0, start - halo) for start, stop in pairwise(cuts))
        along = {extent: _in_tiles(extent, tile, margin, alignment) for extent in extents}
        # A sum of products over a grid is the product of the sums.
        in_all *= sum(along[extent] * count for extent, count in extents.items())
        in_one *= max(along.values())
    return in_all, in_one


def _in_tiles(extent: int, tile: int | None, margin: int, alignment: int) -> int:
    """Add up the tiles along one axis of a block."""
    padded = -(-extent // alignment) * alignment
    if tile is None or padded <= tile:
        return extent
    starts = tile_starts(padded, tile, 2 * margin + 1, alignment)
    return sum(min(tile, padded - start) for start in starts)


def memory_of_block(
    grid: BlockGrid, methods: Sequence[ClassicalMethod], network: Training | None, tile: int | None
) -> int:
    """Estimate what one block takes while it is computed, in bytes.

    Parameters
    ----------
    grid : gives the largest block
    methods : classical ones of all channels; those that refine a network's result, if any
    network : how the network was or will be trained; None for classical methods
    tile : extent of a network pass, in voxels; None for whole blocks
    """
    classical = max((method.working_bytes(grid.largest_block) for method in methods), default=0)
    if network is None:
        return classical
    in_tile = math.prod(min(n, tile or n) for n in grid.largest_block)
    in_block = math.prod(grid.largest_block)
    by_network = in_tile * inference_bytes_per_voxel(network.network) + 16 * in_block + PASS_BYTES
    return max(by_network, classical)


def memory_of_waiting(
    grid: BlockGrid, regions: Sequence[Box], layout: OutputLayout, itemsize: int, threads: int
) -> int:
    """Add up what a worker reads ahead, and what waits to be written or is on its way to the disk, in bytes.

    It is seldom all there at once. Workers' peaks, measured in whole runs on a CPU, against the `peak` of
    `forecasting.estimating.Memory`, in MiB: Richardson-Lucy with blocks of 128³ and 2 threads 939 against
    1125, of 64³ and 4 threads 914 against 941, a siamese network with its training 3234 against 3394.

    Parameters
    ----------
    grid, regions, layout : how the work is cut
    itemsize : of a voxel of the input, in bytes
    threads : tasks that a worker runs at once
    """
    read = math.prod(grid.largest_block) * (itemsize + 4)
    in_flight = min(REGIONS_IN_FLIGHT, layout.n_timepoints * layout.n_channels * len(regions))
    largest = max(math.prod(p.stop - p.start for p in box) for box in (regions[0], regions[-1]))
    unit = math.prod(layout.write_shape) * (4 + np.dtype(layout.dtype).itemsize)
    total: int = threads * read + in_flight * max(largest, 1) * 4 + min(2, threads) * unit
    return total + MEMORY_OF_CONSTANTS


def memory_of_pool(n_voxels: int, itemsize: int) -> int:
    """Give the size of the pool from which patches are drawn, in bytes.

    Parameters
    ----------
    n_voxels : of one channel at all time points
    itemsize : of one of its voxels, in bytes
    """
    return min(n_voxels, POOL_VOXELS) * itemsize


def memory_of_step(training: Training, device: str = "cpu") -> int:
    """Estimate what one training step takes, in bytes: it keeps activations for the way back.

    Parameters
    ----------
    training : how the network is trained
    device : where a step is done; half precision counts where it would be used
    """
    shape = training.network
    if isinstance(training, TrainingConfig):
        passes = training.loss.needs_masked_pass + training.loss.needs_unmasked_pass
        fields = passes * TRAINING_FIELDS[shape.ndim]
        quick = device != "cpu" or has_fast_bfloat16(torch.device("cpu"))
        half = training.mixed_precision and quick
    else:
        fields, half = SSI_TRAINING_FIELDS, False
    patch = training.batch * math.prod(training.patch_shape)
    return patch * fields * shape.channels * (2 if half else 4)


def _least_tile(needs: NetworkNeeds) -> int:
    """Smallest extent of a tile, in voxels, that still advances between two margins."""
    return -(-2 * (needs.halo[0] + needs.alignment) // needs.alignment) * needs.alignment


def _cheapest_tile(grid: BlockGrid, needs: NetworkNeeds, voxels: float) -> int | None:
    """Find the tile of at most so many voxels with which the least is computed; None for whole blocks.

    Where not even the smallest one has so few, it is taken all the same.
    """
    whole, least, step = grid.largest_block, _least_tile(needs), needs.alignment
    if math.prod(whole) <= voxels or max(whole) <= least:
        return None
    margin = needs.halo[0]
    apart = step * max(1, max(whole) // (MANY_TILES * step))
    sides = [
        side for side in range(least, max(whole), apart) if math.prod(min(n, side) for n in whole) <= voxels
    ]
    return min(sides or [least], key=lambda side: (computed_voxels(grid, side, margin, step)[0], side))


def _widest(network: NetworkShape) -> int:
    """Give the most features that a network holds in one field of full resolution."""
    joined = not isinstance(network, SSINetworkConfig) and network.skip == "concatenate"
    return network.channels * (2 if joined else 1)


def worker_memory(config: RunConfig) -> int:
    """Memory of one worker process, in bytes, as far as it is known before the workers are.

    Raises
    ------
    OptionError
        if the limit that was asked for is not understood
    """
    if config.memory_limit and config.memory_limit != "auto":
        try:
            # 0 means no limit, as it does for the workers.
            return int(parse_bytes(config.memory_limit)) or int(MEMORY_LIMIT)
        except ValueError:
            raise OptionError(
                f"the memory limit {config.memory_limit!r} is not understood; give a size such as 4GiB."
            ) from None
    return int(MEMORY_LIMIT) // (config.workers or 1)
