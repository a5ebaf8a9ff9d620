"""What a run does in worker processes: plain functions that take and give what pickles well.

train_on_worker            one network
load_network               once per worker and channel
write_unit                 a shard of the result, for each region summed up by `summarize_region`
write_coarse_unit          a shard of a coarser level
"""

from __future__ import annotations

import functools
import time
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bigdecon.deconvolution.ledger import Extent, RegionRecord
from bigdecon.deconvolution.network import NetworkDeconvolver
from bigdecon.deconvolution.refined import RefinedNetwork, refining_lucy
from bigdecon.distributed.progress import TrainingProgress, publish
from bigdecon.intensity import IntensityStats
from bigdecon.io.layout import OutputLayout
from bigdecon.io.writing import convert, write_box, write_pyramid_box
from bigdecon.learning.checkpoint import Checkpoint, load_checkpoint
from bigdecon.learning.loop import TrainingStep
from bigdecon.learning.ssi import train_ssi
from bigdecon.learning.training import train
from bigdecon.optics.psf import PSF
from bigdecon.ssi_config import SSIConfig, Training
from bigdecon.volume import Box, Volume

__all__ = [
    "WrittenUnit",
    "load_network",
    "summarize_region",
    "train_on_worker",
    "write_coarse_unit",
    "write_unit",
]


def train_on_worker(
    volume: Volume,
    psf: PSF,
    training: Training,
    channel: int,
    device: str,
    stats: IntensityStats,
    state_path: Path,
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

    if isinstance(training, SSIConfig):
        return train_ssi(
            volume,
            psf,
            training,
            channel=channel,
            device=device,
            stats=stats,
            state_path=state_path,
            on_event=report,
        )
    return train(
        volume,
        psf,
        training,
        channel=channel,
        device=device,
        stats=stats,
        state_path=state_path,
        on_event=report,
    )


@functools.lru_cache(maxsize=8)
def load_network(
    path: Path,
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

    It is kept for the next region; the digest tells it from another run's under the same path.
    """
    cpu_threads = threads if device == "cpu" else None
    checkpoint = load_checkpoint(path)
    network = NetworkDeconvolver(checkpoint, stats, device, tile, exact_tiles, cpu_threads)
    if refine is None:
        return network
    psf = checkpoint.psf
    lucy = refining_lucy(psf, refine, background=background, device=device, threads=cpu_threads)
    return RefinedNetwork(network, lucy)


class WrittenUnit(NamedTuple):
    """One write unit that is on disk."""

    extent: Extent
    digest: str
    clipped: int
    minimum: float
    maximum: float


def write_unit(
    path: Path,
    layout: OutputLayout,
    timepoint: int,
    channel: int,
    box: Box,
    data: NDArray[np.float32],
    background: float,
) -> WrittenUnit:
    """Convert and write one shard in a worker process; `background` is subtracted, in data units."""
    values = data - np.float32(background) if background else data
    converted = convert(np.ascontiguousarray(values), layout.dtype)
    digest = write_box(path, layout, 0, timepoint, channel, box, converted.array)
    low, high = float(values.min()), float(values.max())
    return WrittenUnit(Extent.from_box(box), digest, converted.n_clipped, low, high)


def summarize_region(written: list[WrittenUnit], started: float) -> RegionRecord:
    """Sum up a region for the ledger."""
    return RegionRecord(
        digests={unit.extent: unit.digest for unit in written},
        clipped=sum(unit.clipped for unit in written),
        minimum=min(unit.minimum for unit in written),
        maximum=max(unit.maximum for unit in written),
        seconds=time.time() - started,
    )


def write_coarse_unit(
    path: Path, layout: OutputLayout, level: int, timepoint: int, channel: int, box: Box
) -> RegionRecord:
    """Average and write one unit of a coarser level in a worker process."""
    started = time.monotonic()
    digest = write_pyramid_box(path, layout, level, timepoint, channel, box)
    extent = Extent.from_box(box)
    return RegionRecord({extent: digest}, 0, 0.0, 0.0, time.monotonic() - started)
