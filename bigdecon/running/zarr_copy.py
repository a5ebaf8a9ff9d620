"""Copy a volume into an OME-Zarr: write units as tasks of a Dask cluster, each entered in the ledger."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numcodecs import Blosc

from bigdecon.deconvolution.lease import Lease, holds
from bigdecon.deconvolution.ledger import Extent, Ledger, RegionKey, RegionRecord
from bigdecon.deconvolution.tiling import BlockGrid
from bigdecon.distributed.cluster import connect
from bigdecon.distributed.progress import Listener, RegionCounter, stage
from bigdecon.distributed.scheduling import Call, Task, run_tasks
from bigdecon.errors import OutputError
from bigdecon.io.layout import OutputLayout, write_boxes
from bigdecon.io.output_folder import BOOKKEEPING, is_own_output
from bigdecon.io.provenance import RunRecord, read_run, write_run
from bigdecon.io.writing import (
    convert,
    create_ome_zarr,
    measure_windows,
    set_display_windows,
    set_provenance,
    write_box,
    write_pyramid_box,
)
from bigdecon.running.resuming import WorkRecord
from bigdecon.storage import places
from bigdecon.storage.places import Place
from bigdecon.volume import Volume

__all__ = ["ZarrCopy", "copy_to_zarr", "expected_zarr_bytes", "largest_zarr_bytes"]

FEW_UNITS = 8
"""So many write units are copied in this process: starting another would take longer."""
THREADS = 2
SAMPLE = 64
"""Side, in voxels, of the box that tells how well an image can be packed."""


class Workforce(Protocol):
    """Who copies, as the command was told."""

    @property
    def cluster(self) -> str:
        """As for `connect`; so are the others."""

    @property
    def workers(self) -> int | None:
        """Worker processes."""

    @property
    def threads(self) -> int | None:
        """Threads of each."""

    @property
    def memory_limit(self) -> str | None:
        """Of each."""


@dataclass(frozen=True)
class ZarrCopy:
    """What is copied.

    Attributes
    ----------
    volume : the voxels
    layout : of the output
    name : of the image
    record : for run.json
    """

    volume: Volume
    layout: OutputLayout
    name: str
    record: RunRecord


@dataclass(frozen=True)
class _Unit:
    """What a task is told: small, so that it pickles to little.

    Attributes
    ----------
    volume, layout : what is copied, and into which arrays
    output : where they are
    guard : folder of the lease
    writer : id of the lease
    """

    volume: Volume
    layout: OutputLayout
    output: Place
    guard: Place
    writer: str

    def write(self, key: RegionKey) -> RegionRecord:
        """Copy a unit of level 0, or average one of a coarser level; in any process."""
        started = time.monotonic()
        if not holds(self.guard, self.writer):
            raise OutputError(
                f"the conversion that wrote {self.output} has ended, and this part of it with it."
            )
        place = (key.level, key.timepoint, key.channel, key.box)
        if key.level:
            digest, clipped, low, high = write_pyramid_box(self.output, self.layout, *place), 0, 0.0, 0.0
        else:
            stack = self.volume.stack(timepoint=key.timepoint, channel=key.channel)
            data = convert(stack[key.box], self.layout.dtype)
            digest, clipped = write_box(self.output, self.layout, *place, data.array), data.n_clipped
            low, high = (
                _finite(reduce(data.array, axis=None)) for reduce in (np.fmin.reduce, np.fmax.reduce)
            )
        seconds = time.monotonic() - started
        return RegionRecord({Extent.from_box(key.box): digest}, clipped, low, high, seconds)


def _finite(value: Any) -> float:
    return float(value) if np.isfinite(value) else 0.0


def copy_to_zarr(
    job: ZarrCopy, output: Place, guard: Place, lease: Lease, workforce: Workforce, listener: Listener
) -> int:
    """Fill an OME-Zarr, or go on with one that an interrupted conversion of the same image left.

    Parameters
    ----------
    job : what is copied
    output : where to; what lies there of another image is removed
    guard : folder of the lease
    lease : held on it
    workforce : who copies
    listener : gets progress

    Returns
    -------
    int
        voxels that were clipped

    Raises
    ------
    RunError
        if a part cannot be read or written; what is finished is kept
    """
    work = _work(job.layout)
    record = replace(job.record, work=work.as_json())
    earlier = read_run(output / BOOKKEEPING / "run.json") if is_own_output(output) else None
    if earlier is None or earlier.fingerprint != record.fingerprint:
        if guard.parent != output:  # a draft of another image
            places.remove_all(output)
        create_ome_zarr(output, job.volume, job.layout, name=job.name, record=record)
    ledger = Ledger(output / BOOKKEEPING / "ledger")
    ledger.sweep()
    unit = _Unit(job.volume, job.layout, output, guard, lease.id)
    with ExitStack() as stack:
        crew = _Crew(unit, ledger, lease, listener, workforce, stack)
        for level in range(len(job.layout.levels)):
            crew.go("copy" if level == 0 else f"level {level}", work.keys(level))
    lease.check()
    set_display_windows(output, measure_windows(output, job.layout))
    set_provenance(output, record.provenance)
    write_run(output / BOOKKEEPING / "run.json", replace(record, finished=True))
    return sum(entry.clipped for entry in ledger.read().values())


def _work(layout: OutputLayout) -> WorkRecord:
    """Cut the work as `bigdecon verify` and `status` know it: each write unit is a region of one block."""
    level = layout.levels[0]
    cuts = tuple(
        (*range(0, n, step), n) for n, step in zip(level.spatial_shape, level.write_shape, strict=True)
    )
    grid = BlockGrid(level.spatial_shape, cuts, (0,) * layout.n_spatial)
    return WorkRecord(layout, grid, tuple(write_boxes(level)))


class _Crew:
    """Copies the units that the ledger lacks: a few in this process, many on a cluster."""

    def __init__(
        self,
        unit: _Unit,
        ledger: Ledger,
        lease: Lease,
        listener: Listener,
        workforce: Workforce,
        stack: ExitStack,
    ) -> None:
        self.unit, self.ledger, self.lease, self.listener = unit, ledger, lease, listener
        self.workforce, self.stack = workforce, stack
        self.finished = ledger.read()
        self.connection: Any = None

    def go(self, name: str, keys: Sequence[RegionKey]) -> None:
        """Copy or average the units of one level."""
        before = [key for key in keys if key in self.finished]
        missing = [key for key in keys if key not in self.finished]
        with stage(name, len(keys), self.listener):
            counter = RegionCounter(self.listener, len(keys), len(before), sum(key.voxels for key in before))

            def done(key: RegionKey, record: RegionRecord) -> None:
                self.lease.check()
                self.ledger.mark(key, record)
                counter.advance(key.voxels)

            if self.connection is None and len(missing) <= FEW_UNITS and self.workforce.cluster == "local":
                self._here(missing, done)
            elif missing:
                self._on_cluster(missing, done)

    def _here(self, keys: Sequence[RegionKey], done: Any) -> None:
        pool = ThreadPoolExecutor(THREADS, thread_name_prefix="copy")
        try:
            for key, record in _as_done(pool, self.unit, keys):
                done(key, record)
        finally:
            pool.shutdown(cancel_futures=True)

    def _on_cluster(self, keys: Sequence[RegionKey], done: Any) -> None:
        if self.connection is None:
            crew = self.workforce
            opened = connect(
                crew.cluster,
                workers=crew.workers,
                threads=crew.threads,
                memory_limit=crew.memory_limit,
                dashboard_address="none",
                device="cpu",
            )
            self.connection = self.stack.enter_context(opened)
        link = self.connection
        tasks = (Task(key, _call(self.unit, key), "copy") for key in keys)
        in_flight = 2 * link.n_workers * link.threads_per_worker
        patience = link.patience_seconds
        run_tasks(link.client, tasks, in_flight=in_flight, on_done=done, patience_seconds=patience)


def _call(unit: _Unit, key: RegionKey) -> Any:
    return lambda: Call(unit.write, (key,))


def _as_done(
    pool: ThreadPoolExecutor, unit: _Unit, keys: Sequence[RegionKey]
) -> Iterator[tuple[RegionKey, RegionRecord]]:
    waiting: dict[Future[RegionRecord], RegionKey] = {pool.submit(unit.write, key): key for key in keys}
    while waiting:
        for future in wait(waiting, return_when=FIRST_COMPLETED).done:
            yield waiting.pop(future), future.result()


def largest_zarr_bytes(layout: OutputLayout) -> int:
    """Give the disk space of an output where nothing can be compressed, in bytes."""
    return sum(math.prod(level.shape) for level in layout.levels) * np.dtype(layout.dtype).itemsize


def expected_zarr_bytes(volume: Volume, layout: OutputLayout) -> int:
    """Estimate the disk space from boxes at the centre of up to four stacks, compressed as they will be."""
    box = tuple(slice((n - min(n, SAMPLE)) // 2, (n + min(n, SAMPLE)) // 2) for n in volume.spatial_shape)
    codec = Blosc(cname="zstd", clevel=1, shuffle=Blosc.SHUFFLE)
    raw, packed = 0, 0
    for t, c in itertools.islice(itertools.product(range(volume.n_timepoints), range(volume.n_channels)), 4):
        data = convert(volume.stack(timepoint=t, channel=c)[box], layout.dtype).array
        raw, packed = raw + data.nbytes, packed + len(codec.encode(np.ascontiguousarray(data)))
    return round(largest_zarr_bytes(layout) * packed / max(1, raw))
