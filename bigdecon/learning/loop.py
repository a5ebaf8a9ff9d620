"""The course of a training, whatever a step of it learns: draw, learn, measure, save, report.

A method of training is a `TrainingLoop`; `run_training` takes one from the volume to the `Checkpoint`. What
happens at a step follows from the seed, the step's number and what the steps before it left in the saved
state, so an interrupted training continues as if nothing had happened.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bigdecon.errors import TrainingError
from bigdecon.intensity import IntensityStats, measure_intensity
from bigdecon.learning.checkpoint import Checkpoint, CurvePoint, scaling_for
from bigdecon.learning.device_patches import DevicePatches, TensorBatch, patches_for
from bigdecon.learning.edges import repeat_edges
from bigdecon.learning.gradient import Gradient
from bigdecon.learning.heap import freed_memory_kept
from bigdecon.learning.networks import build_network
from bigdecon.learning.patches import PatchBatch, PatchPool
from bigdecon.learning.precision import choose_precision
from bigdecon.learning.training_state import TrainingState, load_state, save_state
from bigdecon.learning.unet import memory_format
from bigdecon.optics.blur import Blur
from bigdecon.optics.psf import PSF, PSFSymmetries
from bigdecon.ssi_config import Training
from bigdecon.storage.places import Place
from bigdecon.volume import Volume

__all__ = ["TrainingLoop", "TrainingStep", "exact_margin", "run_training", "step_generator"]

SAMPLE_PATCHES = 4
REPORT_SECONDS = 0.5
SAVE_SECONDS = 60.0
"""A training is kept on disk this often at least: where steps are slow, many of them would be lost."""


@dataclass(frozen=True)
class TrainingStep:
    """What training reports while it runs.

    Attributes
    ----------
    step, steps : done and planned
    loss : mean since the last report
    held_out_error : the newest measurement; None before the first
    seconds_left : estimate; None before there is one
    """

    step: int
    steps: int
    loss: float
    held_out_error: float | None
    seconds_left: float | None


class TrainingLoop(ABC):
    """Network, optimiser and curve of one training, and how they are kept on disk.

    Attributes
    ----------
    network : f, under training
    gradient : of a step, with less memory where there is too little
    blur : g, the convolution with the PSF
    symmetries : ways in which patches may be turned; None leaves them as they are
    margin : voxels, along every spatial axis, near a cut face where nothing is compared
    half : whether the network computes in bfloat16
    step, seconds : done and spent so far
    curve : loss and held-out error so far
    """

    symmetries: PSFSymmetries | None = None
    half = False

    def __init__(
        self,
        config: Training,
        psf: NDArray[np.float32],
        device: torch.device,
        path: Place | None,
        *,
        weight_decay: float = 0.0,
    ) -> None:
        self.device = device
        self.path = path
        self._plan = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = build_network(config.network)
        self._layout = memory_format(config.network.ndim)
        self.network = network.to(device=device, memory_format=self._layout)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(
            self.network.parameters(),
            lr=config.learning_rate,
            weight_decay=weight_decay,
            fused=device.type == "cuda",
        )
        self.gradient = Gradient(self.network)
        self.blur = Blur(psf)
        self.margin = (0,) * psf.ndim
        self.step = 0
        self.seconds = 0.0
        self.curve: list[CurvePoint] = []
        self._mean_loss = _MeanLoss()

    @abstractmethod
    def prepare(self, pool: PatchPool) -> None:
        """Fit what depends on the patches to them, and continue from a saved state where there is one."""

    @abstractmethod
    def learn(self, batch: PatchBatch | TensorBatch) -> Tensor:
        """Do one step; the loss stays on the device."""

    @abstractmethod
    def held_out_error(self, pool: PatchPool) -> float | None:
        """Give the mean squared error at voxels that training never compares; None where there are none."""

    @abstractmethod
    def stop_reason(self) -> str:
        """Tell why the training is over; empty while it is not."""

    def last_step(self) -> int:
        """Give the step after which the training ends, as far as is known."""
        return self._plan.steps

    @abstractmethod
    def finish(self) -> None:
        """Leave the network as it is to be used."""

    def progress(self) -> TrainingState:
        """Describe how far it got; network and optimiser are kept beside it."""
        return TrainingState(self.step, self.half, self.seconds, tuple(self.curve))

    def resume(self) -> TrainingState | None:
        """Continue from a saved state; None where there is none."""
        progress = None if self.path is None else load_state(self.path, self.network, self.optimizer)
        if progress is not None:
            self.step, self.seconds = progress.step, progress.seconds
            # A training keeps its precision, even where another machine would have chosen the other.
            self.half = progress.half
            self.curve = list(progress.curve)
            self._mean_loss = _MeanLoss(torch.tensor(progress.losses, device=self.device))
        return progress

    def run(self, pool: PatchPool, on_event: Callable[[TrainingStep], None] | None) -> str:
        """Train to the end; says what ended it."""
        config = self._plan
        started = time.monotonic() - self.seconds
        losses = self._mean_loss
        reported, saved = 0.0, self.seconds
        for batch in self._batches(pool):
            if self.stop_reason():
                break
            losses.add(self.learn(batch))
            self.step += 1
            self.seconds = time.monotonic() - started
            due = self.step % config.evaluate_every == 0 or self.step == config.steps
            if due:
                self._measure(pool)
            if self.step % config.checkpoint_every == 0 or self.seconds - saved > SAVE_SECONDS:
                losses.look(self.step)  # stops here if it is no number: nothing could be continued from it
                self._save()
                saved = self.seconds
            if on_event and (due or self.seconds - reported > REPORT_SECONDS):
                reported = self.seconds
                on_event(self._report(losses))
        reason = self.stop_reason() or "steps"
        if self.step and (not self.curve or self.curve[-1].step < self.step):
            self._measure(pool)  # stopped by time, between two measurements: the curve ends with the network
        return reason

    def _measure(self, pool: PatchPool) -> None:
        loss = self._mean_loss.take(self.step)
        self.curve.append(CurvePoint(self.step, loss, self.held_out_error(pool)))

    def precision(self, pool: PatchPool) -> str:
        """Choose the precision for inference, by patches that no step has seen."""
        self.network.eval()
        patches = [torch.from_numpy(pool.draw(-1 - n, 1).x).to(self.device) for n in range(SAMPLE_PATCHES)]
        return choose_precision(self.network, [x.contiguous(memory_format=self._layout) for x in patches])

    def _batches(self, pool: PatchPool) -> Iterator[PatchBatch | TensorBatch]:
        """Prepare the next batch in the background while the device works; ends after the last step."""
        patches = patches_for(pool, self.device)
        with ThreadPoolExecutor(1) as worker:
            upcoming = None
            for step in range(self.step, self._plan.steps):
                current = upcoming or worker.submit(self._draw, patches, step)
                upcoming = worker.submit(self._draw, patches, step + 1)
                yield current.result()

    def _draw(self, patches: PatchPool | DevicePatches, step: int) -> PatchBatch | TensorBatch:
        return patches.draw(step, self._plan.batch, self.symmetries, self.margin)

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _reconvolve(self, deconvolved: Tensor) -> Tensor:
        """Apply g; what lies beyond a patch is taken to repeat its edge."""
        return self.blur.valid(repeat_edges(deconvolved, self.blur.radius))

    def _report(self, losses: _MeanLoss) -> TrainingStep:
        error = self.curve[-1].held_out_error if self.curve else None
        rate = self.seconds / self.step
        left = rate * (self.last_step() - self.step)
        if self._plan.minutes is not None:
            left = min(left, max(0.0, 60 * self._plan.minutes - self.seconds))
        return TrainingStep(self.step, self._plan.steps, losses.look(self.step), error, left)

    def _save(self) -> None:
        if self.path is not None:
            progress = self.progress()._replace(losses=self._mean_loss.collected())
            save_state(self.path, self.network, self.optimizer, progress)


def run_training(
    volume: Volume,
    psf: PSF,
    config: Training,
    make_loop: Callable[[IntensityStats, torch.device], TrainingLoop],
    *,
    channel: int,
    device: str,
    stats: IntensityStats | None,
    on_event: Callable[[TrainingStep], None] | None,
) -> Checkpoint:
    """Train on one channel of a volume, patches from all of its time points.

    Parameters
    ----------
    volume : noisy input, in data units
    psf : centred, at the volume's voxel size
    config : what `make_loop` works by
    make_loop : makes the training for a volume of this brightness, on this device
    channel, device, stats, on_event : as in `train`
    """
    stacks = [volume.stack(timepoint=t, channel=channel) for t in range(volume.n_timepoints)]
    stats = stats or measure_intensity(stacks, name=volume.name)
    loop = make_loop(stats, torch.device(device))
    pool = PatchPool(
        stacks,
        config.patch_shape,
        alignment=loop.network.alignment,
        stats=stats,
        seed=config.seed,
        held_out_fraction=config.held_out_fraction,
        scaling=scaling_for(config, stats),
    )
    loop.prepare(pool)
    with freed_memory_kept():
        stopped_by = loop.run(pool, on_event)
    loop.finish()
    return Checkpoint(
        weights={
            name: tensor.detach().cpu().numpy().copy() for name, tensor in loop.network.state_dict().items()
        },
        config=config,
        stats=stats,
        psf=psf.array,
        psf_sha256=psf.sha256,
        voxel_size_um=volume.voxel_size_um,
        curve=tuple(loop.curve),
        seconds=loop.seconds,
        device=_device_name(torch.device(device)),
        stopped_by=stopped_by,
        training_precision="bfloat16" if loop.half else "float32",
        precision=loop.precision(pool),
    )


def exact_margin(psf: NDArray[Any], patch_shape: Sequence[int]) -> tuple[int, ...]:
    """Choose how far from a face that cuts the volume the reconvolution is compared with the data, in voxels.

    Within the PSF's radius of it, light from beyond is missing. The margin leaves at
    most 1 % of the PSF's energy outside on either side, but takes no more than a quarter of the patch:
    a PSF as large as the patch would leave nothing to learn from.
    """
    margins = []
    for axis, extent in enumerate(patch_shape):
        profile = psf.sum(axis=tuple(a for a in range(psf.ndim) if a != axis))
        tail = np.cumsum(np.maximum(profile[: len(profile) // 2], profile[: len(profile) // 2 : -1]))
        radius = len(profile) // 2 - int(np.searchsorted(tail, 0.01 * profile.sum()))
        margins.append(min(radius, extent // 4))
    return tuple(margins)


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """Give a step's own source of randomness, the same whenever that step is done."""
    mixed = int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator(device).manual_seed(mixed)


class _MeanLoss:
    """Collects losses on the device and fetches their mean only when asked."""

    def __init__(self, earlier: Tensor | None = None) -> None:
        self._losses: list[Tensor] = [] if earlier is None else list(earlier.unbind())
        self._last = float("nan")

    def collected(self) -> tuple[float, ...]:
        """Give the losses since the last `take`, to go on from."""
        return tuple(torch.stack(self._losses).tolist()) if self._losses else ()

    def add(self, loss: Tensor) -> None:
        self._losses.append(loss)

    def look(self, step: int) -> float:
        """Mean since the last `take`; what that gave until there is a new step."""
        if not self._losses:
            return self._last
        mean = float(torch.stack(self._losses).mean())
        if not np.isfinite(mean):
            raise TrainingError(
                f"training broke down before step {step}: the loss is {mean}. "
                "Look for extreme values in the input, or start anew with --overwrite and another --seed."
            )
        return mean

    def take(self, step: int) -> float:
        self._last = self.look(step)
        self._losses.clear()
        return self._last


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
