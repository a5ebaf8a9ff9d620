"""A short calibration: the real method on real voxels of the volume, a few seconds long.

    training steps    on growing patches  ──> seconds a voxel ──> seconds a step
    blocks            on growing pieces   ──> seconds a unit of work ──> seconds a block
    a write unit      in a temporary folder, flushed to the disk; and one of a coarser level

Pieces grow until the next one would not fit the time allowed. What is larger than the largest one is
extrapolated: a network's work goes with its voxels, a classical method's with the memory it needs, which
counts the margin that the PSF adds. A network that is yet to be trained costs what one costs after two steps.
Times are those of a machine that does nothing else, whatever it does just now (`stopwatch`).
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numcodecs import Blosc
from numpy.typing import NDArray

from bigdecon.config import CLASSICAL, TrainingConfig
from bigdecon.deconvolution.block import Deconvolver
from bigdecon.deconvolution.chambolle_pock import ChambollePock
from bigdecon.deconvolution.classical import ClassicalMethod
from bigdecon.deconvolution.methods import classical_method
from bigdecon.deconvolution.network import NetworkDeconvolver, inference_bytes_per_voxel
from bigdecon.deconvolution.refined import RefinedNetwork, refining_lucy
from bigdecon.deconvolution.richardson_lucy import RichardsonLucy
from bigdecon.deconvolution.tiling import tile_boxes
from bigdecon.errors import NonFiniteError
from bigdecon.forecasting.choosing_time import Choice, time_choices
from bigdecon.forecasting.stopwatch import BUSY, Lap, Stopwatch, computing_threads, load_of_machine
from bigdecon.io.boxes import convert, write_box
from bigdecon.io.layout import LevelLayout, plan_output
from bigdecon.io.pyramid import write_pyramid_box
from bigdecon.io.writing import create_ome_zarr
from bigdecon.learning.checkpoint import Checkpoint
from bigdecon.learning.loop import TrainingStep
from bigdecon.learning.ssi import train_ssi
from bigdecon.learning.training import train
from bigdecon.running.planning import RunPlan
from bigdecon.storage.servers import is_url
from bigdecon.volume import Volume

__all__ = ["Calibration", "calibrate"]

LEAST_SIDE = {2: 64, 3: 32}
"""Side of the first piece, in voxels."""
READ_VOXELS = {"cpu": 2**22, "cuda": 2**24}
"""At most so many voxels are read to try things on."""
PIECE_BYTES = 2**28
"""On a CPU a piece takes no more memory: planning is to be cheap."""
WRITE_VOXELS = 2**22
FEW_ITERATIONS = 6
"""Methods with a fixed number of iterations are timed with no more, and the time multiplied."""
STEPS = 3
"""Training steps on each patch; the first is not counted."""
PATIENCE = 3.0
"""Where others keep the machine busy, calibrating may take so many times as long; small pieces tell less."""
NOISE_SEED = 0


@dataclass(frozen=True)
class Calibration:
    """What was measured on this machine, in seconds; a block is the largest one of the plan, halo included.

    Attributes
    ----------
    step_seconds : one training step; None where nothing is trained
    block_seconds : computing one block
    read_seconds : reading and decoding it
    write_seconds : encoding and writing its core, and hashing it
    coarse_seconds : making and writing one voxel of a coarser level
    stored_share : size of a restored piece on disk, as part of its size in memory; None without real voxels
    gpu_bytes : most GPU memory in use while a piece was computed; None on a CPU
    piece : extent of the largest piece that was computed, in voxels
    patch : extent of the largest patch that was trained on, in voxels; empty where nothing is trained
    on_real_voxels : False where the image holds nothing yet, and noise was taken
    seconds : how long all of it took
    choosing_seconds : choosing the settings of all channels, at most
    load : part of the machine's cores that was in use when it began; None where that is not told
    """

    step_seconds: float | None
    block_seconds: float
    read_seconds: float
    write_seconds: float
    coarse_seconds: float
    stored_share: float | None
    gpu_bytes: int | None
    piece: tuple[int, ...]
    patch: tuple[int, ...]
    on_real_voxels: bool
    seconds: float
    choosing_seconds: float = 0.0
    load: float | None = None


def calibrate(
    plan: RunPlan, threads: int | None = None, seconds: float = 8.0, choices: Sequence[Choice] = ()
) -> Calibration:
    """Time a plan's work on this machine; reads a part of the image, and writes to a temporary folder only.

    Parameters
    ----------
    plan : what would be run
    threads : CPU threads to compute with; None leaves torch's setting
    seconds : about so long for training, and again for blocks, on a busy machine up to `PATIENCE` times as
        long; a first small piece is always finished
    choices : what the run is going to choose from the image, one entry a channel

    Raises
    ------
    RunError
        if the middle of the image cannot be read or computed with
    """
    started, load = time.monotonic(), load_of_machine()
    busy = plan.device == "cpu" and load is not None and load > BUSY
    if threads and plan.device == "cpu":
        torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic = True
    voxels, read = _read(plan)
    if not np.isfinite(voxels).all():
        raise NonFiniteError("the middle of the image holds NaN or infinity; replace such voxels.")
    real = plan.stats[0].sampled > 0 and bool(voxels.min() < voxels.max())
    if not real:
        voxels = _noise(plan, voxels.shape)
    sample = Volume.from_array(voxels, plan.volume.spatial_axes, voxel_size_um=plan.volume.voxel_size_um)
    trained = _train(plan, sample, seconds) if plan.training else None
    method = _method(plan, trained.checkpoint if trained else None, threads)
    block = _compute(plan, method, voxels, seconds)
    written, coarse = (_of_io(lap, busy) for lap in _write(plan, block.restored))
    choosing = time_choices(choices)
    return Calibration(
        step_seconds=trained.step_seconds if trained else None,
        block_seconds=block.seconds,
        read_seconds=_of_io(read, busy and not _is_far(plan.volume.location))
        * math.prod(plan.grid.largest_block)
        / voxels.size,
        write_seconds=written * _voxels_of_core(plan) / math.prod(_written_shape(plan)),
        coarse_seconds=coarse / math.prod(_halved(_written_shape(plan))),
        stored_share=_stored_share(plan, block.restored) if real else None,
        gpu_bytes=block.gpu_bytes,
        piece=block.restored.shape,
        patch=trained.patch if trained else (),
        on_real_voxels=real,
        seconds=time.monotonic() - started,
        choosing_seconds=choosing,
        load=load,
    )


def _is_far(location: str | None) -> bool:
    """Whether an image is read from a server, which is waited for however busy this machine is."""
    return location is not None and is_url(location)


def _of_io(lap: Lap, busy: bool) -> float:
    """Give the time of reading or writing: by the clock, as disks are waited for.

    Where others keep the machine busy, most of that would be waiting for a core: the processor's time counts.
    """
    return min(lap.clock, lap.processor) if busy else lap.clock


def _voxels_of_core(plan: RunPlan) -> int:
    pairs = zip(plan.grid.cuts, plan.volume.spatial_shape, strict=True)
    return math.prod(min(cuts[1], n) for cuts, n in pairs)


# --- reading --------------------------------------------------------------------------------------


def _read(plan: RunPlan) -> tuple[NDArray[Any], Lap]:
    """Read the middle of the image, as much of a block as is needed."""
    stack = plan.volume.stack()
    wanted = _within(plan.grid.largest_block, READ_VOXELS["cpu" if plan.device == "cpu" else "cuda"])
    box = tuple(slice((n - w) // 2, (n - w) // 2 + w) for n, w in zip(stack.shape, wanted, strict=True))
    watch = Stopwatch(None)
    return stack[box], watch.lap()


def _within(shape: Sequence[int], voxels: int) -> tuple[int, ...]:
    """Shrink the longest sides of a box until it holds no more than so many voxels."""
    side = max(shape)
    while math.prod(min(n, side) for n in shape) > voxels:
        side -= max(1, side // 16)
    return tuple(min(n, side) for n in shape)


def _noise(plan: RunPlan, shape: Sequence[int]) -> NDArray[Any]:
    """Make up voxels of the brightness that was assumed; what a method costs hardly depends on them."""
    stats = plan.stats[0]
    rng = np.random.default_rng(NOISE_SEED)
    noise = rng.standard_normal(tuple(shape), np.float32) * max(stats.std, 1e-3) + stats.mean
    return np.asarray(noise.clip(min=max(0.0, stats.minimum)), np.float32)


# --- training -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Trained:
    checkpoint: Checkpoint
    step_seconds: float
    patch: tuple[int, ...]


def _train(plan: RunPlan, sample: Volume, seconds: float) -> _Trained:
    """Train for a few steps on patches that grow until the next would take too long."""
    assert plan.training is not None
    wanted = plan.training.patch_shape
    whole = plan.training.batch * math.prod(wanted)
    left, side = seconds, LEAST_SIDE[len(wanted)]
    while True:
        patch = tuple(min(side, n) for n in wanted)
        batch = plan.training.batch if patch == wanted else 1
        watch = Stopwatch(computing_threads(plan.device))
        checkpoint, step = _steps(plan, sample, patch, batch)
        left -= _counted(watch.lap())
        voxels = batch * math.prod(patch)
        following = min(whole, voxels * 2 ** len(wanted))
        if patch == wanted or STEPS * _counted(step) * following / voxels > left:
            return _Trained(checkpoint, step.own * whole / voxels, patch)
        side *= 2


def _steps(plan: RunPlan, sample: Volume, patch: tuple[int, ...], batch: int) -> tuple[Checkpoint, Lap]:
    """Do some steps; gives what one took. The first, which loads kernels, does not count."""
    config, psf, stats = plan.training, plan.psfs[0], plan.stats[0]
    watch = Stopwatch(computing_threads(plan.device))
    laps: list[Lap] = []

    def note(step: TrainingStep) -> None:  # the loss has been fetched by now: the step is over on a GPU too
        laps.append(watch.lap())

    common: dict[str, Any] = {"device": plan.device, "stats": stats, "on_event": note}
    if isinstance(config, TrainingConfig):
        # Without held-out voxels nothing is measured between steps: here it would weigh too much.
        config = replace(config, patch_shape=patch, batch=batch, steps=STEPS, evaluate_every=1, minutes=None)
        checkpoint = train(sample, psf, replace(config, held_out_fraction=0.0), **common)
    else:
        assert config is not None
        config = replace(config, patch_shape=patch, batch=batch, steps=STEPS, evaluate_every=1, minutes=None)
        checkpoint = train_ssi(sample, psf, config, **common)
    return checkpoint, _mean(laps[1:])


def _counted(lap: Lap) -> float:
    """Say how much of the time allowed was used up."""
    return max(lap.own, lap.clock / PATIENCE)


def _mean(laps: Sequence[Lap]) -> Lap:
    return Lap(*(sum(times) / len(laps) for times in zip(*laps, strict=True)))


# --- computing ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Timed:
    restored: NDArray[np.float32]
    seconds: float
    gpu_bytes: int | None


def _method(plan: RunPlan, checkpoint: Checkpoint | None, threads: int | None) -> Deconvolver:
    """Make what a run would apply to the blocks of its first channel."""
    on_cpu = threads if plan.device == "cpu" else None
    if plan.config.method in CLASSICAL:
        settings = plan.tuned[0].settings
        return classical_method(plan.config.method, plan.psfs[0].array, settings, plan.device, on_cpu)
    trained = plan.models[0] if plan.models else checkpoint
    assert trained is not None
    exact = plan.config.preset != "paper" or plan.config.method == "ssi"
    network = NetworkDeconvolver(trained, plan.stats[0], plan.device, plan.tile, exact, on_cpu)
    if plan.config.refine is None:
        return network
    background = max(0.0, plan.background(0))
    lucy = refining_lucy(
        trained.psf, plan.config.refine, background=background, device=plan.device, threads=on_cpu
    )
    return RefinedNetwork(network, lucy)


def _compute(plan: RunPlan, method: Deconvolver, voxels: NDArray[Any], seconds: float) -> _Timed:
    """Restore growing pieces, and say how long a whole block would take."""
    quick, factor = _shortened(method)
    block = plan.grid.largest_block
    left, side = seconds, LEAST_SIDE[voxels.ndim]
    watch = Stopwatch(computing_threads(plan.device))
    quick(_piece(voxels, side))  # loads kernels
    while True:
        piece = _piece(voxels, side)
        watch.lap()
        restored = quick(piece)
        spent = watch.lap()
        left -= _counted(spent)
        larger = _piece(voxels, 3 * side // 2)
        predicted = _counted(spent) * _work(plan, method, larger.shape) / _work(plan, method, piece.shape)
        if larger.shape == piece.shape or predicted > left or _too_large(plan, method, larger.shape):
            share = _work(plan, method, block) / _work(plan, method, piece.shape)
            return _Timed(restored, spent.own * factor * share, _gpu_peak(plan))
        side = 3 * side // 2


def _piece(voxels: NDArray[Any], side: int) -> NDArray[Any]:
    middle = tuple(slice((n - min(n, side)) // 2, (n - min(n, side)) // 2 + side) for n in voxels.shape)
    return voxels[middle]


def _shortened(method: Deconvolver) -> tuple[Deconvolver, float]:
    """Take fewer iterations where their number is fixed; gives how much longer all of them take."""
    if isinstance(method, RichardsonLucy | ChambollePock) and method.iterations > FEW_ITERATIONS:
        return replace(method, iterations=FEW_ITERATIONS), method.iterations / FEW_ITERATIONS
    return method, 1.0


def _work(plan: RunPlan, method: Deconvolver, shape: Sequence[int]) -> float:
    """Say how much work a piece of this extent is, in a unit of the method's own."""
    if isinstance(method, ClassicalMethod):
        return method.working_bytes(shape)
    if plan.tile is None or max(shape) <= plan.tile or isinstance(method, RefinedNetwork):
        return math.prod(shape)
    tiles = tile_boxes(shape, [plan.tile] * len(shape), method.halo, method.alignment)
    return sum(math.prod(tile.shape) for tile in tiles)


def _too_large(plan: RunPlan, method: Deconvolver, shape: Sequence[int]) -> bool:
    """Tell whether a piece would take more memory than a plan should."""
    if plan.device != "cpu":
        return False
    needs = math.prod(shape) * plan.bytes_per_worker / math.prod(plan.grid.largest_block)
    if isinstance(method, ClassicalMethod):
        needs = method.working_bytes(shape)
    elif isinstance(method, NetworkDeconvolver):
        needs = math.prod(shape) * inference_bytes_per_voxel(method.checkpoint.config.network)
    return needs > PIECE_BYTES


def _gpu_peak(plan: RunPlan) -> int | None:
    return torch.cuda.max_memory_allocated() if plan.device.startswith("cuda") else None


# --- writing --------------------------------------------------------------------------------------


def _written_shape(plan: RunPlan) -> tuple[int, ...]:
    return _within(plan.layout.write_shape, WRITE_VOXELS)


def _halved(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(-(-n // 2) for n in shape)


def _write(plan: RunPlan, restored: NDArray[np.float32]) -> tuple[Lap, Lap]:
    """Write voxels and a coarser level as a run does; gives what each took."""
    shape = _written_shape(plan)
    data = convert(np.resize(restored, shape), plan.layout.dtype).array
    volume = Volume.from_array(data, plan.volume.spatial_axes)
    fine = plan_output(volume, dtype=plan.layout.dtype, ome_version=plan.layout.ome_version)
    halved = _halved(shape)
    size = (None, (0.0,) * len(shape))
    coarse = LevelLayout("1", halved, halved, None, halved, (2,) * len(shape), *size)
    layout = replace(fine, levels=(fine.levels[0], coarse))
    with tempfile.TemporaryDirectory(prefix="bigdecon-") as folder:
        path = Path(folder) / "sample.ome.zarr"
        create_ome_zarr(path, volume, layout, name="sample")
        watch = Stopwatch(None)
        write_box(path, layout, 0, 0, 0, tuple(slice(0, n) for n in shape), data)
        fine_lap = watch.lap()
        write_pyramid_box(path, layout, 1, 0, 0, tuple(slice(0, n) for n in halved))
        return fine_lap, watch.lap()


def _stored_share(plan: RunPlan, restored: NDArray[np.float32]) -> float:
    """Compress a restored piece as a run's output is."""
    values = np.ascontiguousarray(convert(restored, plan.layout.dtype).array)
    return len(Blosc(cname="zstd", clevel=1, shuffle=Blosc.SHUFFLE).encode(values)) / values.nbytes
