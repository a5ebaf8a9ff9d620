"""How a volume is cut for a run: blocks, tiles, regions, and the memory that follows from them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from dask.utils import parse_bytes
from distributed.system import MEMORY_LIMIT

from bigdecon.config import RunConfig, TilingConfig, TrainingConfig
from bigdecon.deconvolution.block import BlockNeeds
from bigdecon.deconvolution.blockwise import plan_grid
from bigdecon.deconvolution.classical import ClassicalMethod
from bigdecon.deconvolution.network import DEFAULT_HALO, NetworkNeeds, inference_bytes_per_voxel
from bigdecon.deconvolution.tiling import BlockGrid
from bigdecon.errors import OptionError
from bigdecon.learning.patches import POOL_VOXELS
from bigdecon.learning.precision import has_fast_bfloat16
from bigdecon.ssi_config import Training

__all__ = [
    "PROGRAM_BYTES",
    "REGION_VOXELS",
    "block_side",
    "choose_tile",
    "cut_volume",
    "memory_of_block",
    "memory_of_pool",
    "memory_of_step",
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


PROGRAM_BYTES = {"cpu": 350 * 2**20, "cuda": 3 * 2**30}
"""What a worker holds before it has any work: 325 MiB with PyTorch's CPU build; with CUDA an allowance."""
TRAINING_FIELDS = {2: 34, 3: 28}
"""Fields of all features that one pass of a training step keeps for the way back: on a CPU, with 16 to 48
channels and patches of 48³ to 64³ or 256², 27 to 28 in 3D and 31 to 34 in 2D, in either precision."""
SSI_TRAINING_FIELDS = 45
"""The same for SSI: 27 to 40 in 3D (96³, 64³), 45 in 2D."""


def block_side(tiling: TilingConfig, ndim: int) -> int:
    """Extent of a block along every axis, in voxels: as asked for, else 128 in 3D and 512 in 2D."""
    return BLOCK_SIDE[ndim] if tiling.block is None else tiling.block


def cut_volume(config: RunConfig, shape: Sequence[int], needs: Sequence[BlockNeeds]) -> BlockGrid:
    """Cut a volume into blocks; those that would be smaller than their halo grow to the next multiple.

    Parameters
    ----------
    config : gives block and halo
    shape : extent of the spatial axes, in voxels
    needs : what the methods of all channels need

    Raises
    ------
    OptionError
        if the halo that was asked for is smaller than a method needs
    """
    halo = config.tiling.halo
    if halo is None and all(isinstance(n, NetworkNeeds) for n in needs):
        halo = max(DEFAULT_HALO, *(side for n in needs for side in n.halo))
    side = block_side(config.tiling, len(shape))
    reach = [max(sides) if halo is None else halo for sides in zip(*(n.halo for n in needs), strict=True)]
    return plan_grid(shape, needs, block=[side * max(1, -(-r // side)) for r in reach], halo=halo)


def choose_tile(config: RunConfig, grid: BlockGrid, network: Training, device: str) -> int | None:
    """Choose the extent of a network pass, in voxels; None for whole blocks.

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
    if tile is None and device == "cpu":
        memory = min(PASS_LIMIT, MEMORY_SHARE * worker_memory(config))
        tile = _largest_tile(grid, needs, inference_bytes_per_voxel(network.network), memory)
    return tile


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


def _largest_tile(grid: BlockGrid, needs: NetworkNeeds, per_voxel: int, memory: float) -> int | None:
    """Shrink the tile until a network pass fits into the memory, in bytes."""
    whole = max(grid.largest_block)
    least = _least_tile(needs)
    tile = whole
    while tile > least:
        if math.prod(min(n, tile) for n in grid.largest_block) * per_voxel <= memory:
            break
        tile = max(least, (tile - 16) // needs.alignment * needs.alignment)
    return None if tile >= whole else tile


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
