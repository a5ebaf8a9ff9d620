"""`--block auto`: the blocks with which the least is computed twice, within the memory at hand.

    sides ──cut──> ways to cut the volume ──> those that fit the memory ──> least time ──> smallest near it

Around each block a halo is computed and cut off, so that few large blocks compute less than many small ones.
Against large ones speak memory, workers that wait for the last block, and a device that waits for the first
to be read and the last to be written. Time is counted in computed voxels:

    W workers, n blocks that compute v voxels in all, and w the largest of them
    time <= v / W + (1 - 1 / W) w        (R. L. Graham 1966: whoever is free takes the next block)
    time <= ceil(n / W) w
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dask.utils import format_bytes

from bigdecon.config import RunConfig, TrainingConfig
from bigdecon.deconvolution.block import BlockNeeds
from bigdecon.deconvolution.classical import ClassicalMethod
from bigdecon.deconvolution.network import DEFAULT_HALO, NetworkNeeds
from bigdecon.deconvolution.tiling import BlockGrid, region_boxes
from bigdecon.io.image_file import decoded_chunk_bytes
from bigdecon.io.layout import OutputLayout, plan_output
from bigdecon.running.sizing import (
    BLOCK_SIDE,
    PASS_BYTES,
    PROGRAM_BYTES,
    REGION_VOXELS,
    choose_tile,
    computed_voxels,
    cut_volume,
    memory_of_block,
    memory_of_waiting,
    pass_memory,
    worker_memory,
)
from bigdecon.running.workforce import WorkersPlanned
from bigdecon.ssi_config import Training
from bigdecon.volume import Box, Volume

__all__ = ["BlockChoice", "Cut", "Work", "choose_block", "cut_work", "in_whole_blocks", "with_tile"]

STEP = {2: 64, 3: 32}
"""Blocks are multiples of so many voxels, as networks, fast Fourier transforms and chunks like it."""
LARGEST_CORE = 2**27
"""Voxels of a block at most, 512³: a file of the result holds at least one."""
FEWEST = 4
"""Blocks of a run at least, unless all of it is no more than a region: a run shows how far it is by them."""
SHARE = 0.6
"""Part of the memory of a worker, or of its GPU, that blocks larger than the default ones may take: others
want some, and passes of 9 GB on a CPU took 6 % more than was planned (benchmarks/block_size.py). With 0.75
little would be gained: 2.05 voxels computed for one written instead of 2.15 in 16 GiB."""
UNKNOWN = 8 * 2**30
"""Memory of a worker, or of a GPU, of which nothing is known before it is there."""
NEAR = 1.02
"""Smaller blocks win where they take no more than this much longer."""


@dataclass(frozen=True)
class Work:
    """What is to be cut.

    Attributes
    ----------
    config : what was asked for
    volume : the input
    methods : classical ones of all channels; those that refine a network's result, if any
    needs : what the methods of all channels need of the blocks
    network : how the network was or will be trained; None for classical methods
    device : torch device of the workers
    """

    config: RunConfig
    volume: Volume
    methods: Sequence[ClassicalMethod]
    needs: Sequence[BlockNeeds]
    network: Training | None
    device: str

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return len(self.volume.spatial_axes)

    @property
    def stacks(self) -> int:
        """Channels at time points."""
        return self.volume.n_timepoints * self.volume.n_channels


@dataclass(frozen=True)
class Cut:
    """A way to cut the work.

    Attributes
    ----------
    side : extent of a block's core along every axis, in voxels
    grid : blocks of a stack
    layout : of the output's arrays
    regions : boxes of a stack that are written one after the other
    tile : extent of a network pass, in voxels; None for whole blocks
    block_bytes : memory that computing one block takes; on a GPU, of its memory
    computed : voxels that are computed for a stack, halos and overlaps of tiles included
    largest : the same for the block with the most
    """

    side: int
    grid: BlockGrid
    layout: OutputLayout
    regions: tuple[Box, ...]
    tile: int | None
    block_bytes: int
    computed: int
    largest: int

    @property
    def overhead(self) -> float:
        """Voxels computed for one written."""
        return self.computed / math.prod(self.grid.shape)

    def time(self, workers: int, stacks: int = 1, *, on_gpu: bool = False) -> float:
        """Give the time of a run in voxels that all workers together compute for one written."""
        blocks, total = stacks * len(self.grid), stacks * self.computed
        shared = total / workers + (1 - 1 / workers) * self.largest
        in_turns = -(-blocks // workers) * self.largest
        # To read and to write a block takes about as long as a GPU computes on it (benchmarks/overlap.py).
        at_the_ends = self.largest if on_gpu else 0
        return (min(shared, in_turns) + at_the_ends) * workers / (stacks * math.prod(self.grid.shape))


Bound = Literal["memory", "number", "gain"]


@dataclass(frozen=True)
class BlockChoice:
    """What `--block auto` chose, and why.

    Attributes
    ----------
    side : extent of a block's core, in voxels
    overhead : voxels computed for one written, halos and overlaps of tiles included
    default_side, default_overhead : the same for the default block
    default_fits : whether that one fits the memory
    fits : whether the chosen one does; if none does, it is the default one
    memory_bytes : what a worker, or the computing on its GPU, takes: whichever fills its memory more
    limit_bytes : what there is
    bound : why no larger block was taken: too little memory, too small a number of blocks, or no gain
    assumed : whether the memory of the workers, or of their GPUs, was not known
    """

    side: int
    overhead: float
    default_side: int
    default_overhead: float
    default_fits: bool
    fits: bool
    memory_bytes: int
    limit_bytes: int
    bound: Bound
    assumed: bool = False

    @property
    def sentence(self) -> str:
        """Say it in words."""
        compared = "" if self.side == self.default_side else f" ({self._default})"
        reasons = {
            "memory": "larger ones do not fit",
            "number": "larger ones would be too few",
            "gain": "larger ones save little",
        }
        return (
            f"--block auto took {self.side}: {self.overhead:.2f} voxels computed for one written{compared}, "
            f"{format_bytes(self.memory_bytes)} of {format_bytes(self.limit_bytes)}; {reasons[self.bound]}"
        )

    @property
    def _default(self) -> str:
        if not self.default_fits:
            return f"{self.default_side} does not fit"
        return f"{self.default_overhead:.2f} with {self.default_side}"

    @property
    def warning(self) -> str | None:
        """Say what the user should know before the run; None if there is nothing."""
        if self.assumed:
            return (
                f"the memory of the workers is not known yet: --block auto took {format_bytes(UNKNOWN)}; "
                "give --mem or --memory-limit, or --block with a number."
            )
        if self.default_fits:
            return None
        smaller = f"--block auto takes {self.side}, with {self.overhead:.1f} voxels computed for one written"
        if not self.fits:
            smaller = "no smaller ones do"
        return (
            f"blocks of {self.default_side} voxels do not fit the memory, and {smaller}; "
            "with more memory, or fewer workers, less would be computed."
        )


def cut_work(work: Work, side: int, pass_bytes: float | None = None) -> Cut:
    """Cut the work into blocks, and blocks into tiles where they are large.

    Parameters
    ----------
    work : what is to be cut
    side : extent of a block's core along every axis, in voxels; where a halo is larger it grows
    pass_bytes : what the voxels of a network pass may take, as for `choose_tile`

    Raises
    ------
    OptionError
        if side, halo or tile do not suit the methods
    """
    cut = in_whole_blocks(work, side)
    if work.network is None:
        return cut
    return with_tile(work, cut, choose_tile(work.config, cut.grid, work.network, work.device, pass_bytes))


def in_whole_blocks(work: Work, side: int) -> Cut:
    """Cut the work into blocks of a side, in voxels, with one pass of the network for each."""
    config = work.config
    grid = cut_volume(config, work.volume.spatial_shape, work.needs, side)
    unit = max(cuts[1] if len(cuts) > 2 else side for cuts in grid.cuts)
    layout = plan_output(work.volume, dtype=config.dtype, ome_version=config.ome_version, unit=unit)
    regions = tuple(region_boxes(grid, layout.write_shape, target_voxels=REGION_VOXELS))
    return with_tile(work, Cut(side, grid, layout, regions, None, 0, 0, 0), None)


def with_tile(work: Work, cut: Cut, tile: int | None) -> Cut:
    """Cut the blocks into tiles of an extent, in voxels; None for whole blocks."""
    computed, largest = computed_voxels(cut.grid, tile, *_of_tiles(work))
    held = memory_of_block(cut.grid, work.methods, work.network, tile)
    return replace(cut, tile=tile, block_bytes=held, computed=computed, largest=largest)


def _of_tiles(work: Work) -> tuple[int, int]:
    """Give margin and alignment of tiles, in voxels, as the network will use them."""
    if work.network is None:
        return 0, 1
    needs = NetworkNeeds.of(work.network.network)
    published = work.config.preset == "paper" and isinstance(work.network, TrainingConfig)
    return DEFAULT_HALO // 2 if published else needs.halo[0], needs.alignment


# --- choosing -------------------------------------------------------------------------------------


def choose_block(work: Work, workers: WorkersPlanned) -> tuple[Cut, BlockChoice]:
    """Choose the blocks with which a run takes the least time, and fits the memory.

    No block is chosen with which more is computed than with the default one, where that fits all of the
    memory. Blocks up to that size may take all of it, larger ones a good part; where none fits, the default
    one is taken.

    Raises
    ------
    OptionError
        if the halo or the tile that was asked for does not suit the methods
    """
    room, whole = (_Room.of(work, workers, share) for share in (SHARE, 1.0))
    default = cut_work(work, BLOCK_SIDE[work.ndim], pass_memory(whole.host) if whole.gpu is None else None)
    default_fits = whole.holds(default)
    cuts = [cut for cut in (room.cut(work, side) for side in _sides(work)) if not _was_raised(cut)]
    small = [whole.cut(work, cut.side) for cut in cuts if cut.side <= default.side]
    fitting = [cut for cut in cuts if room.holds(cut)] + [cut for cut in small if whole.holds(cut)]
    if default_fits:
        fitting = [cut for cut in fitting if cut.computed <= default.computed]
    chosen = _quickest(work, workers, fitting, default) if fitting else default
    taken, limit = whole.tightest(chosen)
    choice = BlockChoice(
        side=chosen.side,
        overhead=chosen.overhead,
        default_side=default.side,
        default_overhead=default.overhead,
        default_fits=default_fits,
        fits=bool(fitting) or default_fits,
        memory_bytes=taken,
        limit_bytes=limit,
        bound=_bound(cuts, chosen, room),
        assumed=room.assumed,
    )
    return chosen, choice


def _sides(work: Work) -> Iterator[int]:
    """Give the extents of blocks to look at, in voxels."""
    shape = work.volume.spatial_shape
    step = math.lcm(STEP[work.ndim], *(needs.alignment for needs in work.needs))
    for side in range(step, max(shape) + step, step):
        if side > step and math.prod(min(n, side) for n in shape) > LARGEST_CORE:
            return
        yield side


def _was_raised(cut: Cut) -> bool:
    """Whether blocks are larger, for their halo or as two became one: another side stands for them."""
    axes = zip(cut.grid.shape, cut.grid.cuts, strict=True)
    return any(cuts[1] != min(n, cut.side) for n, cuts in axes)


def _quickest(work: Work, workers: WorkersPlanned, fitting: Sequence[Cut], default: Cut) -> Cut:
    """Find the smallest blocks with which a run takes about the least time."""
    stacks, voxels = work.stacks, math.prod(work.volume.spatial_shape)
    fewest = min(FEWEST, stacks * len(default.grid)) if stacks * voxels > REGION_VOXELS else 1
    enough = [cut for cut in fitting if stacks * len(cut.grid) >= fewest] or fitting
    times = [cut.time(workers.count, stacks, on_gpu=work.device != "cpu") for cut in enough]
    near = [cut for cut, time in zip(enough, times, strict=True) if time <= NEAR * min(times)]
    return min(near, key=lambda cut: (cut.side, cut.computed))


def _bound(cuts: Sequence[Cut], chosen: Cut, room: _Room) -> Bound:
    """Say why no larger block was taken."""
    larger = [cut for cut in cuts if cut.side > chosen.side]
    if any(room.holds(cut) and NEAR * cut.overhead < chosen.overhead for cut in larger):
        return "number"
    # In tiles they may fit, and compute more than they save.
    return "memory" if any(NEAR * cut.grid.overhead < chosen.overhead for cut in larger) else "gain"


@dataclass(frozen=True)
class _Room:
    """The memory of a worker to plan for, in bytes.

    Attributes
    ----------
    host : of its process
    gpu : of its GPU; None on a CPU
    threads : tasks that it runs at once
    itemsize : of a voxel of the input, in bytes
    program : what it holds without work
    chunk : largest piece of the input that is decoded at once
    assumed : whether the memory was not known
    """

    host: int
    gpu: int | None
    threads: int
    itemsize: int
    program: int
    chunk: int
    assumed: bool

    @classmethod
    def of(cls, work: Work, workers: WorkersPlanned, share: float) -> _Room:
        """Plan for a share of what the workers have."""
        on_gpu = work.device != "cpu"
        here = worker_memory(work.config) if work.config.cluster == "local" else 0
        host, gpu = workers.memory_bytes or here, workers.gpu_bytes
        return cls(
            host=int(share * (host or UNKNOWN)),
            gpu=int(share * (gpu or UNKNOWN)) if on_gpu else None,
            threads=workers.threads,
            itemsize=work.volume.dtype.itemsize,
            program=PROGRAM_BYTES["cuda" if on_gpu else "cpu"],
            chunk=decoded_chunk_bytes(work.volume.source),
            assumed=not host or (on_gpu and not gpu),
        )

    def cut(self, work: Work, side: int) -> Cut:
        """Cut the work into blocks of a side, with the tiles that this room allows."""
        cut = in_whole_blocks(work, side)
        if work.network is None:
            return cut
        block = 16 * math.prod(cut.grid.largest_block) + PASS_BYTES
        left = (self.host - self.beside(cut) if self.gpu is None else self.gpu) - block
        return with_tile(work, cut, choose_tile(work.config, cut.grid, work.network, work.device, left))

    def beside(self, cut: Cut) -> int:
        """Give what a process takes beside the block that is computed."""
        waiting = memory_of_waiting(cut.grid, cut.regions, cut.layout, self.itemsize, self.threads)
        return self.program + max(waiting, self.chunk)

    def taken_by(self, cut: Cut) -> int:
        """Give what the process takes in all."""
        return self.beside(cut) + (cut.block_bytes if self.gpu is None else 0)

    def holds(self, cut: Cut) -> bool:
        """Whether the work fits when it is cut so."""
        return self.taken_by(cut) <= self.host and (self.gpu is None or cut.block_bytes <= self.gpu)

    def tightest(self, cut: Cut) -> tuple[int, int]:
        """Give what is taken, and what there is, of the memory that is filled the most: host or GPU."""
        pairs = [(self.taken_by(cut), self.host)]
        if self.gpu is not None:
            pairs.append((cut.block_bytes, self.gpu))
        return max(pairs, key=lambda pair: pair[0] / pair[1])
