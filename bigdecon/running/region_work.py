"""The task graph of a region: its blocks restored, its shards written, and all of it summed up.

blocks     [block] [block] ...  ──> [shard] ──> [sum up]       every engine
bundles    [blocks and shard] [blocks and shard] ... ──> [sum up]       direct only
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal
from uuid import uuid4

from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from bigdecon.block_names import BUNDLE, block_key
from bigdecon.deconvolution.block import BlockRules
from bigdecon.deconvolution.engines import attempt_blocks
from bigdecon.deconvolution.ledger import Extent, RegionKey, RegionRecord
from bigdecon.deconvolution.packed_blocks import Block, pack_blocks
from bigdecon.deconvolution.tiling import bundle_grid, overlap
from bigdecon.io.layout import OutputLayout
from bigdecon.running.methods_on_workers import MethodOfRegion
from bigdecon.running.planning import RunPlan
from bigdecon.running.worker_tasks import Output, UnitJob, summarize_region, write_bundle, write_unit
from bigdecon.volume import Box, Stack

__all__ = ["RegionWork"]

Engine = Literal["map-overlap", "direct"]
_Tasks = dict[Any, Any]


class RegionWork:
    """The graph of one region, made when its turn comes, and made again where it failed.

    Only the first attempt trusts what an earlier run wrote. From the second on each block is on its own:
    one that fails no longer takes the region with it.
    """

    def __init__(
        self,
        plan: RunPlan,
        method: MethodOfRegion,
        key: RegionKey,
        earlier: RegionRecord | None,
        run_id: str,
        writer: str,
        suits_bundles: Callable[[RegionKey], bool],
    ) -> None:
        self._plan, self._method, self._key = plan, method, key
        self._earlier, self._run_id, self._writer = earlier, run_id, writer
        self._suits_bundles = suits_bundles
        self._engine = plan.engine
        self._attempts, self._bundled = 0, False

    def can_be_milder(self) -> bool:
        """Tell whether the region was tried in bundles, and is going to be restored block by block."""
        return self._bundled

    def build(self) -> Delayed:
        """Restore the blocks, write the shards."""
        earlier, self._earlier = self._earlier, None
        engine, self._engine = self._engine, "direct"
        self._attempts += 1
        self._bundled = self._attempts == 1 and earlier is None and self._suits_bundles(self._key)
        if self._bundled:
            tasks, needed = self._in_bundles()
            written = list(tasks)
        else:
            tasks, needed = self._block_by_block(earlier, engine)
            written = [[task] for task in tasks]
        finish = f"finish-region-{self._key.name}-{uuid4().hex}"
        tasks[finish] = (summarize_region, written, time.time(), earlier)
        layer = f"region-{uuid4().hex}"
        return Delayed(finish, HighLevelGraph.from_collections(layer, tasks, needed), layer=layer)

    def _block_by_block(self, earlier: RegionRecord | None, engine: Engine) -> tuple[_Tasks, Sequence[Any]]:
        """Make one task a block, and one for each shard."""
        plan = self._plan
        replaced = plan.grid.blocks_within(self._key.box)
        if earlier is not None:
            missing = {fault.extent for fault in earlier.faults}
            replaced = [core for core in replaced if Extent.from_box(core) in missing]
        cores = self._wanted(replaced)
        blocks = self._blocks(cores, engine) if cores else []
        # One dictionary: dask's `delayed` would look through every job, and join a graph for each block.
        tasks: _Tasks = {
            f"write-region-{uuid4().hex}": (
                write_unit,
                job,
                [block.key for core, block in zip(cores, blocks, strict=True) if overlap(core, job.unit)],
            )
            for job in self._jobs(self._key.box, replaced, earlier)
        }
        return tasks, list({id(block.dask): block for block in blocks}.values())

    def _in_bundles(self) -> tuple[_Tasks, Sequence[Any]]:
        """Make one task for the blocks of a shard and its writing."""
        plan, key = self._plan, self._key
        packed = pack_blocks(self._stack, self._method(key.name), self._rules)
        tasks: _Tasks = {}
        for box in bundle_grid(plan.grid, plan.layout.write_shape).blocks_within(key.box):
            cores = plan.grid.blocks_within(box)
            start, stop = Extent.from_box(box)
            name = block_key(BUNDLE, key.timepoint, key.channel, start, self._run_id, stop)
            jobs = list(self._jobs(box, cores, None))
            blocks = [Block(core, plan.grid.grow(core)) for core in self._wanted(cores)]
            tasks[name] = (write_bundle, jobs, packed.common, blocks, *(each.key for each in packed.needs))
        return tasks, packed.needs

    @property
    def _stack(self) -> Stack:
        return self._plan.volume.stack(timepoint=self._key.timepoint, channel=self._key.channel)

    @property
    def _rules(self) -> BlockRules:
        # Of this walk alone: another run may have the same settings and other voxels, or another network.
        return BlockRules(f"{self._run_id} {self._key.channel}", self._plan.config.skip_dim)

    def _wanted(self, cores: Sequence[Box]) -> list[Box]:
        mask = self._plan.mask
        return [core for core in cores if mask is None or mask.touches(core)]

    def _blocks(self, cores: Sequence[Box], engine: Engine) -> list[Delayed]:
        return attempt_blocks(
            self._stack,
            self._method(self._key.name),
            cores,
            grid=self._plan.grid,
            engine=engine,
            rules=self._rules,
            run=self._run_id,
        )

    def _jobs(self, box: Box, replaced: Sequence[Box], earlier: RegionRecord | None) -> Iterator[UnitJob]:
        """Give the write units of a box: all, or those in which a block is replaced."""
        plan, key = self._plan, self._key
        offset = plan.background(key.channel) if plan.config.subtract_background else 0.0
        blocks = plan.grid.blocks_within(box)
        output = Output(plan.output.absolute(), plan.layout, self._writer)
        for unit in _units_within(plan.layout, box):
            within = [core for core in replaced if overlap(core, unit)]
            if within:
                whole = len(within) == sum(overlap(core, unit) is not None for core in blocks)
                written = "" if whole or earlier is None else earlier.digests[Extent.from_box(unit)]
                yield UnitJob(output, key, unit, offset, plan.mask, written)


def _units_within(layout: OutputLayout, box: Box) -> list[Box]:
    """Find the write units that make up a box."""
    steps = zip(box, layout.write_shape, strict=True)
    sides = [
        [slice(start, min(start + step, part.stop)) for start in range(part.start, part.stop, step)]
        for part, step in steps
    ]
    return list(itertools.product(*sides))
