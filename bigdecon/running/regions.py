"""The walk over the regions of a run: what is still to be done, how it is done, and what stays missing.

    ledger ──> missing regions ──────────> all their blocks ─────> shards ──> ledger
       └─────> regions with faults ──────> the missing blocks ──> shards ──> ledger

A region whose blocks cannot all be restored is written without them and entered with its faults; the
next run of the same command does those blocks only. In the coarser levels, what was made from such a
region has its faults too, and is made again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from uuid import uuid4

from bigdecon.deconvolution.lease import Lease
from bigdecon.deconvolution.ledger import Fault, Ledger, RegionKey, RegionRecord
from bigdecon.deconvolution.tiling import overlap
from bigdecon.distributed.cluster import Connection
from bigdecon.distributed.devices import gpu_workers
from bigdecon.distributed.page_feed import FinishedRegion
from bigdecon.distributed.progress import (
    BlocksRestored,
    Event,
    Listener,
    Message,
    RegionCounter,
    stage,
    subscribe,
)
from bigdecon.distributed.run_state import MapOutline
from bigdecon.distributed.scheduling import Call, Task, run_tasks
from bigdecon.errors import RunError
from bigdecon.io.layout import OutputLayout
from bigdecon.running.bundles import Bundling
from bigdecon.running.methods_on_workers import method_of_channel
from bigdecon.running.planning import RunPlan
from bigdecon.running.region_work import RegionWork
from bigdecon.running.worker_tasks import (
    Output,
    write_coarse_unit,
)
from bigdecon.storage.places import Place

__all__ = ["Walked", "able_workers", "restore_regions", "write_coarser_levels"]

# A smaller block makes another run: what is finished could not be continued.
REGION_REMEDY = (
    "give the workers more memory and the same command again, or start anew with a smaller --block, "
    "--overwrite, and --model with this output if it is trained"
)


@dataclass
class Walked:
    """What a walk over all regions of level 0 found; earlier runs are included.

    Attributes
    ----------
    clipped : voxels that had to be cut to fit the output's type
    skipped : blocks for which the method was not asked, being constant or dim
    faults : blocks that could not be restored, by region
    """

    clipped: int = 0
    skipped: int = 0
    faults: dict[RegionKey, tuple[Fault, ...]] = field(default_factory=dict)

    @property
    def n_faults(self) -> int:
        """How many blocks are missing."""
        return sum(map(len, self.faults.values()))

    def add(self, key: RegionKey, record: RegionRecord) -> None:
        """Count a region."""
        self.clipped += record.clipped
        self.skipped += record.skipped
        if record.faults:
            self.faults[key] = record.faults


@dataclass(frozen=True)
class _Walk:
    """What every walk needs."""

    plan: RunPlan
    connection: Connection
    listener: Listener
    lease: Lease

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.plan.bookkeeping / "ledger")

    def go(
        self,
        keys: Sequence[RegionKey],
        task: Callable[[RegionKey, RegionRecord | None], Task[RegionKey]],
        in_flight: int | Callable[[], int],
        on_done: Callable[[RegionKey, RegionRecord], None] = lambda key, record: None,
        run_id: str = "",
        on_blocks: Callable[[BlocksRestored], None] = lambda event: None,
    ) -> None:
        """Do the tasks of all regions that the ledger lacks, or knows with faults, and enter them.

        With a `run_id`, its workers are listened to.
        """
        scan = self.ledger.scan()
        earlier = [key for key in keys if key in scan.finished]
        page = self.connection.page
        page.finish_regions([_shown(key) for key in earlier if not key.level], earlier=True)
        for key in earlier:
            on_done(key, scan.finished[key])
        voxels, blocks = sum(key.voxels for key in earlier), sum(map(self._blocks_of, earlier))
        total = sum(map(self._blocks_of, keys))
        counter = RegionCounter(self.listener, len(keys), len(earlier), voxels, blocks, total)

        def begin(key: RegionKey) -> Task[RegionKey]:
            counter.begin(key.name, self._blocks_of(key))
            return task(key, scan.faulty.get(key))

        def done(key: RegionKey, record: RegionRecord) -> None:
            self.lease.check()
            self.ledger.mark(key, record)
            on_done(key, record)
            if not key.level:
                page.finish_regions([_shown(key, record.faults)])
            counter.advance(key.voxels, key.name, self._blocks_of(key))

        def hear(event: Event) -> None:
            if isinstance(event, BlocksRestored):
                counter.restored(event.region, event.blocks)
                on_blocks(event)
            else:
                self.listener(event)

        missing = (begin(key) for key in keys if key not in scan.finished)
        patience = self.connection.patience_seconds
        client = self.connection.client
        with subscribe(client, hear, run_id) if run_id else nullcontext():
            run_tasks(client, missing, in_flight=in_flight, on_done=done, patience_seconds=patience)

    def _blocks_of(self, key: RegionKey) -> int:
        """Count the blocks of a region; a coarser level has none."""
        cuts = self.plan.grid.cuts_within(key.box) if key.level == 0 else ((),)
        return math.prod(max(0, len(axis) - 1) for axis in cuts)


def restore_regions(
    plan: RunPlan, connection: Connection, models: tuple[Place, ...], listener: Listener, lease: Lease
) -> Walked:
    """Restore and write level 0.

    Raises
    ------
    RunError
        if more blocks fail than the run allows; what is finished is kept
    """
    walk = _Walk(plan, connection, listener, lease)
    walk.ledger.sweep()
    keys = plan.work.keys()
    run_id = uuid4().hex
    methods = [method_of_channel(plan, c, models, connection, run_id) for c in range(plan.volume.n_channels)]
    connection.page.show_map(_map_outline(plan, run_id))
    workers = able_workers(plan, connection)
    walked = Walked()
    bundling = Bundling(plan, connection, keys, workers)

    def task(key: RegionKey, earlier: RegionRecord | None) -> Task[RegionKey]:
        work = RegionWork(plan, methods[key.channel], key, earlier, run_id, lease.id, bundling.suits)

        def can_be_milder() -> bool:
            bundling.stop()
            return work.can_be_milder()

        return Task(key, work.build, "region", REGION_REMEDY, workers, can_be_milder)

    def done(key: RegionKey, record: RegionRecord) -> None:
        walked.add(key, record)
        if record.faults:
            _report(record.faults, walked.n_faults, plan.config.max_failed, listener)

    blocks = len(plan.grid) * plan.volume.n_timepoints * plan.volume.n_channels
    with stage("deconvolve", blocks, listener):
        walk.go(keys, task, bundling.in_flight, done, run_id, bundling.hear)
    return walked


def able_workers(plan: RunPlan, connection: Connection) -> tuple[str, ...]:
    """Keep a GPU's work off workers without one; a cluster of our own has workers of one kind only."""
    if connection.owns_cluster or plan.device == "cpu":
        return ()
    return gpu_workers(connection.client)


def _shown(key: RegionKey, faults: Sequence[Fault] = ()) -> FinishedRegion:
    """Say what the page of the run shows of a finished region."""
    return key.start, key.stop, key.timepoint, key.channel, [fault.extent.start for fault in faults]


def _map_outline(plan: RunPlan, run_id: str) -> MapOutline:
    size = plan.volume.voxel_size_um
    stacks = plan.volume.n_timepoints * plan.volume.n_channels
    return MapOutline(run_id, plan.grid.cuts, stacks, (size[-2], size[-1]) if size else None)


def _report(faults: Sequence[Fault], in_all: int, limit: int, listener: Listener) -> None:
    """Tell about blocks that are missing, and stop where they are too many."""
    reason = faults[0].reason.rstrip(".")
    blocks = "a block" if len(faults) == 1 else f"{len(faults)} blocks"
    listener(Message(f"{blocks} could not be restored and will be left empty: {reason}.", "warning"))
    if in_all > limit:
        raise RunError(
            f"{in_all} blocks could not be restored, more than the {limit} of --max-failed, the last because "
            f"{reason}; what is finished is kept: mend the cause and give the same command again."
        )


def write_coarser_levels(
    plan: RunPlan,
    connection: Connection,
    faults: dict[RegionKey, tuple[Fault, ...]],
    listener: Listener,
    lease: Lease,
) -> None:
    """Fill the resolution pyramid, each level from the one before.

    Parameters
    ----------
    faults : blocks of level 0 that are missing, by region
    """
    walk = _Walk(plan, connection, listener, lease)
    for level in range(1, len(plan.layout.levels)):
        keys = plan.work.keys(level)

        def task(key: RegionKey, earlier: RegionRecord | None) -> Task[RegionKey]:
            missing = tuple(_faults_beneath(plan.layout, key, faults))
            output = Output(plan.output.absolute(), plan.layout, lease.id)
            return Task(
                key, lambda: Call(write_coarse_unit, (output, key, missing)), f"coarser-level-{key.level}"
            )

        with stage(f"level {level}", len(keys), listener):
            walk.go(keys, task, 4 * connection.n_workers)


def _faults_beneath(
    layout: OutputLayout, key: RegionKey, faults: dict[RegionKey, tuple[Fault, ...]]
) -> Iterator[Fault]:
    """Find the missing blocks of level 0 that a unit of a coarser level was made from."""
    factors = layout.levels[key.level].factors
    beneath = tuple(slice(p.start * f, p.stop * f) for p, f in zip(key.box, factors, strict=True))
    for region, missing in faults.items():
        if (region.timepoint, region.channel) == (key.timepoint, key.channel):
            yield from (fault for fault in missing if overlap(fault.extent.box, beneath))
