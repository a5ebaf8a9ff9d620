"""Which regions are restored a bundle at a time: all blocks of a shard, and its writing, in one task.

    blocks     one task a block, one for each shard    shares out even little work among all workers
    bundles    one task for a shard and its blocks     unpacks a chunk of the image once for all of them;
                                                       blocks stay where they are; few tasks

Bundles suit blocks that take little time, as on a GPU: what a worker loses when it dies, and what it still
does when all others have nothing left, is a bundle then. How long blocks take is heard of the first ones.
The voxels are the same either way.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

from bigdecon.deconvolution.ledger import RegionKey
from bigdecon.deconvolution.tiling import bundle_grid
from bigdecon.distributed.cluster import Connection
from bigdecon.distributed.progress import BlocksRestored
from bigdecon.running.planning import RunPlan
from bigdecon.running.sizing import PROGRAM_BYTES
from bigdecon.running.workforce import WorkersPlanned

__all__ = [
    "LONGEST_SECONDS",
    "Bundling",
    "blocks_in_bundle",
    "bundle_bytes",
    "bundles_fit",
    "count_bundles",
    "longest_block",
    "most_are_bundled",
]

LONGEST_SECONDS = 10.0
"""What a bundle may take: as much is lost with a worker, and waited for at the end of a run."""
RECENT = 32
"""Reports of workers on how long blocks took that count."""
LOOK_SECONDS = 5.0
ROUNDS = 6
"""Blocks for every thread that are known to the scheduler: some wait for others of their shard."""
MEMORY_SHARE = 0.7
"""Part of a worker's memory that may be full of bundles: Dask holds a worker back from 0.85 on."""


class Bundling:
    """Decides it for each region of a run when its turn comes.

    Parameters
    ----------
    plan : of the run
    connection : to the workers
    keys : all regions, in the order of their turns
    able : addresses of the workers that may do it; empty for all
    """

    def __init__(
        self, plan: RunPlan, connection: Connection, keys: Sequence[RegionKey], able: Sequence[str] = ()
    ) -> None:
        self._plan, self._connection, self._able = plan, connection, frozenset(able)
        self._blocks_in_region = len(plan.grid.blocks_within(plan.regions[0]))
        self._longest = longest_block(plan)
        bundles = bundle_grid(plan.grid, plan.layout.write_shape)
        counts = [math.prod(len(cuts) - 1 for cuts in bundles.cuts_within(key.box)) for key in keys]
        left = itertools.accumulate(reversed(counts))
        self._left = dict(zip(reversed(keys), left, strict=True))
        self._paces: dict[str, deque[float]] = {}
        self._lock = threading.Lock()
        self._stopped = False
        slots = connection.n_workers * connection.threads_per_worker
        self._crew, self._looked = _Crew(connection.n_workers, slots, False), -math.inf

    def hear(self, event: BlocksRestored) -> None:
        """Take note of how long blocks took."""
        with self._lock:
            paces = self._paces.setdefault(_channel_of(event.region), deque(maxlen=RECENT))
            paces.append(event.seconds / max(1, event.blocks))

    def stop(self) -> None:
        """Go on block by block: workers died of bundles."""
        self._stopped = True

    def suits(self, key: RegionKey) -> bool:
        """Tell whether a region is to be restored in bundles.

        At first nobody knows how long blocks take, and at the end there are too few bundles for all workers.
        """
        crew = self._look()
        return self._are_quick(_channel_of(key.name)) and self._left[key] > crew.slots and crew.fits

    def in_flight(self) -> int:
        """Tell how many regions should be worked on at a time, for all threads to have something to do."""
        crew = self._look()
        if crew.fits and any(self._are_quick(channel) for channel in list(self._paces)):
            return crew.slots + crew.workers  # in each one bundle may be left
        return max(2, -(-ROUNDS * crew.slots // self._blocks_in_region))

    def _are_quick(self, channel: str) -> bool:
        """Judge by the median: the first block of a worker also starts its GPU."""
        with self._lock:
            paces = self._paces.get(channel)
            return paces is not None and not self._stopped and median(paces) <= self._longest

    def _look(self) -> _Crew:
        """Look at the workers that there are, now and then: some may come later, with other memory."""
        if time.monotonic() > self._looked + LOOK_SECONDS:
            self._looked = time.monotonic()
            workers = self._connection.client.scheduler_info(n_workers=-1)["workers"]
            found = [one for name, one in workers.items() if not self._able or name in self._able]
            if found:
                fits = all(
                    bundles_fit(self._plan, one["nthreads"], int(one["memory_limit"] or 0)) for one in found
                )
                self._crew = _Crew(len(found), sum(one["nthreads"] for one in found), fits)
        return self._crew


class _Crew(NamedTuple):
    """The workers that there are.

    Attributes
    ----------
    workers, slots : processes, and threads of all of them
    fits : whether bundles of all its threads fit the memory of each; not before there is one
    """

    workers: int
    slots: int
    fits: bool


def _channel_of(region: str) -> str:
    """Give the channel in the name of a region (`RegionKey.name`)."""
    return region.split(".")[2]


def longest_block(plan: RunPlan) -> float:
    """Say how many seconds a block may take for bundles to suit; less than 0 where there are none."""
    blocks = blocks_in_bundle(plan)
    return LONGEST_SECONDS / blocks if plan.engine == "direct" and blocks > 1 else -1.0


def most_are_bundled(plan: RunPlan, workers: WorkersPlanned, block_seconds: float = 0.0) -> bool:
    """Tell whether most blocks of a run are going to be restored in bundles.

    Parameters
    ----------
    plan : of the run
    workers : who will do it
    block_seconds : that a block takes; the threads of a worker take turns
    """
    enough = count_bundles(plan) > 2 * workers.count * workers.threads
    fit = bundles_fit(plan, workers.threads, workers.memory_bytes)
    return enough and fit and workers.threads * block_seconds <= longest_block(plan)


def blocks_in_bundle(plan: RunPlan) -> int:
    """Count the blocks of a bundle that no edge of the volume cuts short."""
    bundles = bundle_grid(plan.grid, plan.layout.write_shape)
    return len(plan.grid.blocks_within(next(iter(bundles))))


def count_bundles(plan: RunPlan) -> int:
    """Count the bundles of all channels and time points."""
    stacks = plan.volume.n_timepoints * plan.volume.n_channels
    return stacks * len(bundle_grid(plan.grid, plan.layout.write_shape))


def bundle_bytes(plan: RunPlan) -> int:
    """Estimate what a bundle takes of a worker's memory beside the block that is computed, in bytes.

    The image around it as read, one block as it is handed over and as it comes back, and the shard:
    as voxels, and packed.
    """
    itemsize = plan.volume.dtype.itemsize
    read = bundle_grid(plan.grid, plan.layout.write_shape).largest_block
    block = math.prod(plan.grid.largest_block) * (itemsize + 4)
    shard = math.prod(plan.layout.write_shape) * np.dtype(plan.layout.dtype).itemsize
    return math.prod(read) * itemsize + block + 2 * int(shard)


def bundles_fit(plan: RunPlan, threads: int, memory: int) -> bool:
    """Tell whether a worker has the memory for bundles of all its threads.

    Parameters
    ----------
    plan : of the run
    threads : tasks that a worker runs at once
    memory : of a worker, in bytes; 0 for no limit
    """
    on_gpu = plan.device != "cpu"
    program = PROGRAM_BYTES["cuda" if on_gpu else "cpu"]
    block = 0 if on_gpu else plan.bytes_per_worker
    return not memory or program + block + threads * bundle_bytes(plan) <= MEMORY_SHARE * memory
