"""What a run does in worker processes: plain functions that take and give what pickles well.

train_on_worker            one network
load_network               once per worker and channel; likewise `load_classical`
write_unit                 a shard of the result, from its blocks; `summarize_region` sums up a region's
write_bundle               the same, restoring the blocks as well
write_coarse_unit          a shard of a coarser level
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from bigdecon.config import ClassicalSettings
from bigdecon.deconvolution.block import RestoredBlock
from bigdecon.deconvolution.classical import ClassicalMethod
from bigdecon.deconvolution.lease import holds
from bigdecon.deconvolution.ledger import Extent, Fault, RegionKey, RegionRecord
from bigdecon.deconvolution.methods import classical_method
from bigdecon.deconvolution.network import NetworkDeconvolver
from bigdecon.deconvolution.packed_blocks import Block, attempt_bundle
from bigdecon.deconvolution.refined import RefinedNetwork, refining_lucy
from bigdecon.deconvolution.tiling import overlap, trim
from bigdecon.distributed.device_failure import device_watched
from bigdecon.distributed.progress import TrainingProgress, publish
from bigdecon.distributed.worker_messages import messages_sent
from bigdecon.errors import ModelError, OutputError, WriteError
from bigdecon.intensity import IntensityStats
from bigdecon.io.layout import OutputLayout
from bigdecon.io.output_folder import BOOKKEEPING
from bigdecon.io.stored_psf import kept_array
from bigdecon.io.writing import convert, has_digest, read_box, write_box, write_pyramid_box
from bigdecon.learning.checkpoint import Checkpoint, load_checkpoint
from bigdecon.learning.loop import TrainingStep
from bigdecon.learning.ssi import train_ssi
from bigdecon.learning.training import train
from bigdecon.optics.psf import PSF
from bigdecon.ssi_config import SSIConfig, Training
from bigdecon.storage.places import Place
from bigdecon.volume import Box, Volume

__all__ = [
    "Output",
    "UnitJob",
    "VoxelMask",
    "WrittenUnit",
    "load_classical",
    "load_network",
    "summarize_region",
    "train_on_worker",
    "write_bundle",
    "write_coarse_unit",
    "write_unit",
]

KEPT_METHODS = 32
"""Channels whose networks or PSFs a worker keeps: images with more are rare, and each is some megabytes."""
_loading = threading.Lock()


def train_on_worker(
    volume: Volume,
    psf: PSF,
    training: Training,
    channel: int,
    device: str,
    stats: IntensityStats,
    state_path: Place,
    threads: int,
    run_id: str,
) -> Checkpoint:
    """Train in a worker process and send progress to those who listen to this run; else as `train`.

    The type of `training` chooses the method.
    """
    if device == "cpu":
        torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32

    def report(step: TrainingStep) -> None:
        publish(TrainingProgress(**asdict(step)), run_id)

    with messages_sent(run_id), device_watched():
        learn = partial(
            train_ssi if isinstance(training, SSIConfig) else train,
            channel=channel,
            device=device,
            stats=stats,
            state_path=state_path,
            on_event=report,
        )
        return learn(volume, psf, training)


def load_network(
    path: Place,
    sha256: str,
    stats: IntensityStats,
    device: str,
    tile: int | None,
    exact_tiles: bool,
    threads: int,
    refine: int | None = None,
    background: float = 0.0,
) -> NetworkDeconvolver | RefinedNetwork:
    """Load a trained network in a worker process; see `NetworkDeconvolver`.

    With `refine` so many accelerated iterations of Richardson-Lucy follow, with the PSF that the network was
    trained for, and a `background` in data units.

    It is kept for the next block; the digest tells it from another run's under the same path. Threads that
    ask at the same time wait for one of them to load it.
    """
    with _loading:
        return _load_network(path, sha256, stats, device, tile, exact_tiles, threads, refine, background)


@lru_cache(maxsize=KEPT_METHODS)
def _load_network(
    path: Place,
    sha256: str,
    stats: IntensityStats,
    device: str,
    tile: int | None,
    exact_tiles: bool,
    threads: int,
    refine: int | None,
    background: float,
) -> NetworkDeconvolver | RefinedNetwork:
    cpu_threads = threads if device == "cpu" else None
    checkpoint = load_checkpoint(path)
    if checkpoint.sha256 != sha256:
        raise ModelError(
            f"{path} is not the network that this run began with; the blocks of one result come from one "
            "network: give the same command again."
        )
    network = NetworkDeconvolver(checkpoint, stats, device, tile, exact_tiles, cpu_threads)
    if refine is None:
        return network
    psf = checkpoint.psf
    lucy = refining_lucy(psf, refine, background=background, device=device, threads=cpu_threads)
    return RefinedNetwork(network, lucy)


@lru_cache(maxsize=KEPT_METHODS)
def load_classical(
    psfs: Place,
    sha256: str,
    voxel_size_um: tuple[float, ...] | None,
    name: str,
    settings: ClassicalSettings,
    device: str,
    threads: int | None,
) -> ClassicalMethod:
    """Make a classical method in a worker process, with the PSF that the run keeps; see `classical_method`.

    It is kept for the next block.

    Parameters
    ----------
    psfs : folder of the PSFs
    sha256, voxel_size_um : of the one to use
    name, settings, device, threads : of the method

    Raises
    ------
    OutputError
        if the PSF is not there
    """
    return classical_method(name, kept_array(psfs, sha256, voxel_size_um), settings, device, threads)


class VoxelMask(Protocol):
    """Which voxels are wanted; pickles to a small description."""

    def __getitem__(self, box: Box, /) -> NDArray[np.bool_]:
        """Give True for every voxel of a box that is wanted."""


@dataclass(frozen=True)
class Output:
    """Where a task writes, and for whom.

    Attributes
    ----------
    path : folder of the image
    layout : its arrays
    writer : id of the lease that the run holds; "" does without one
    """

    path: Place
    layout: OutputLayout
    writer: str = ""

    def check_writer(self) -> None:
        """Make sure that the run that sent this task is still the writer.

        A task may outlive the process that sent it, while its successor writes already.

        Raises
        ------
        OutputError
            if not
        """
        if self.writer and not holds(self.path / BOOKKEEPING, self.writer):
            raise OutputError(f"the run that wrote {self.path} has ended, and this task of it with it.")


@dataclass(frozen=True)
class UnitJob:
    """One write unit (shard) of level 0, and how its blocks become voxels of the output.

    Attributes
    ----------
    output : where it is written
    key : time point and channel, and the region that the unit is part of
    unit : its box
    background : is subtracted, in data units
    mask : other voxels become 0; None keeps all
    written : digest of what an earlier run wrote, where only some blocks are to be replaced; "" for all
    """

    output: Output
    key: RegionKey
    unit: Box
    background: float = 0.0
    mask: VoxelMask | None = None
    written: str = ""


class WrittenUnit(NamedTuple):
    """One write unit that is on disk.

    Attributes
    ----------
    extent, digest : where it is, and the hash of its voxels
    clipped : voxels that had to be cut to fit the output's type
    minimum, maximum : of what was restored, in data units; infinite where nothing was
    faults : blocks that could not be restored
    skipped : blocks, of those that begin here, for which the method was not asked
    """

    extent: Extent
    digest: str
    clipped: int
    minimum: float
    maximum: float
    faults: tuple[Fault, ...] = ()
    skipped: int = 0


def write_unit(job: UnitJob, blocks: Iterable[RestoredBlock]) -> WrittenUnit:
    """Put blocks together, convert them, and write one shard in a worker process.

    Each block is asked for once the one before is in its place.

    A place for which there is no block, or one with a fault, becomes 0, or stays as an earlier run wrote it.

    Raises
    ------
    RuntimeError
        if some blocks are to be replaced, but the others are not what the ledger says
    """
    path, layout = job.output.path, job.output.layout
    shape = tuple(part.stop - part.start for part in job.unit)
    output = _as_written(job) if job.written else np.zeros(shape, layout.dtype)
    clipped, low, high, skipped = 0, math.inf, -math.inf, 0
    faults = []
    for block in blocks:
        skipped += bool(block.shortcut) and _begins_in(block.core, job.unit)
        common = overlap(block.core, job.unit)
        if block.fault:
            faults.append(Fault(Extent.from_box(block.core), block.fault))
        if common is None or block.fault:
            continue
        values = block.voxels[trim(common, block.core)]
        values = values - np.float32(job.background) if job.background else values
        if job.mask is not None:
            values = np.where(job.mask[common], values, np.float32(0))
        converted = convert(values, layout.dtype)
        output[trim(common, job.unit)] = converted.array
        clipped += converted.n_clipped
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    job.output.check_writer()
    place = (0, job.key.timepoint, job.key.channel, job.unit)
    written = write_box(path, layout, *place, output, job.output.writer)
    return WrittenUnit(Extent.from_box(job.unit), written, clipped, low, high, tuple(faults), skipped)


def write_bundle(
    jobs: Sequence[UnitJob], common: bytes, blocks: Sequence[Block], *needs: Any
) -> list[WrittenUnit]:
    """Restore the blocks of some shards and write these, in one task of a worker process.

    Parameters
    ----------
    jobs : the shards
    common, needs : of `pack_blocks`
    blocks : all that touch the shards, and no others
    """
    job, *others = jobs
    restored = attempt_bundle(common, blocks, *needs)
    if not others:
        return [write_unit(job, restored)]
    together = list(restored)
    return [write_unit(each, together) for each in jobs]


def _as_written(job: UnitJob) -> NDArray[Any]:
    """Read a unit back that lacks some blocks, and make sure that the others are as they were."""
    path, layout = job.output.path, job.output.layout
    try:
        found = read_box(path, layout, 0, job.key.timepoint, job.key.channel, job.unit)
    except WriteError as error:  # which would end the run; but all of the region can be done again
        raise RuntimeError(str(error)) from error
    if not has_digest(found, job.written):
        raise RuntimeError(f"the voxels of {job.key.name} on disk are not those that the ledger knows")
    return found


def _begins_in(core: Box, unit: Box) -> bool:
    return all(u.start <= c.start < u.stop for c, u in zip(core, unit, strict=True))


def summarize_region(
    written: Sequence[Sequence[WrittenUnit]], started: float, earlier: RegionRecord | None = None
) -> RegionRecord:
    """Sum up a region for the ledger.

    Parameters
    ----------
    written : its units, of one task each
    started : seconds since 1970
    earlier : what was known of it before some of its blocks were replaced
    """
    units = [unit for task in written for unit in task]
    faults = {fault.extent: fault for unit in units for fault in unit.faults}
    new = RegionRecord(
        digests={unit.extent: unit.digest for unit in units},
        clipped=sum(unit.clipped for unit in units),
        minimum=min((unit.minimum for unit in units), default=math.inf),
        maximum=max((unit.maximum for unit in units), default=-math.inf),
        seconds=time.time() - started,
        faults=tuple(faults.values()),
        skipped=sum(unit.skipped for unit in units),
    )
    if earlier is None:
        return new
    return replace(
        new,
        digests={**earlier.digests, **new.digests},
        clipped=earlier.clipped + new.clipped,
        minimum=min(earlier.minimum, new.minimum),
        maximum=max(earlier.maximum, new.maximum),
        seconds=earlier.seconds + new.seconds,
        skipped=earlier.skipped + new.skipped,
    )


def write_coarse_unit(output: Output, key: RegionKey, faults: tuple[Fault, ...] = ()) -> RegionRecord:
    """Average and write one unit of a coarser level in a worker process.

    Parameters
    ----------
    output : where it is written
    key : level, time point, channel and box
    faults : blocks of level 0 beneath it that are missing
    """
    started = time.monotonic()
    output.check_writer()
    place = (key.level, key.timepoint, key.channel, key.box)
    digest = write_pyramid_box(output.path, output.layout, *place)
    extent = Extent.from_box(key.box)
    return RegionRecord({extent: digest}, 0, 0.0, 0.0, time.monotonic() - started, faults)
