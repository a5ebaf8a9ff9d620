"""Training the network on the noisy volume itself (Papkov et al. 2023).

    patch x --+--------------> f --> deconvolved --> g --> reconvolved
              |                                                        losses
              +-- mask x_J^c -> f --> deconvolved --> g --> reconvolved

f is the U-Net, g the convolution with the PSF. What happens at a step follows from the seed and the
step's number alone, so an interrupted training continues as if nothing had happened.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bigdecon.config import TrainingConfig
from bigdecon.errors import TrainingError
from bigdecon.intensity import IntensityStats, measure_intensity
from bigdecon.learning.checkpoint import Checkpoint, CurvePoint
from bigdecon.learning.edges import repeat_edges
from bigdecon.learning.heap import freed_memory_kept
from bigdecon.learning.losses import Bounds, LossTerms, Passes, deconvolution_loss
from bigdecon.learning.masking import replace_masked, stratified_mask
from bigdecon.learning.patches import PatchBatch, PatchPool
from bigdecon.learning.precision import choose_precision, has_fast_bfloat16
from bigdecon.learning.schedule import last_step, rate_factor, stop_reason
from bigdecon.learning.training_state import TrainingState, load_state, save_state
from bigdecon.learning.unet import UNet, memory_format
from bigdecon.optics.blur import Blur
from bigdecon.optics.psf import PSF, symmetries
from bigdecon.volume import Volume

__all__ = ["TrainingStep", "exact_margin", "train"]

EVALUATION_BATCH = 4
REPORT_SECONDS = 0.5


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


def train(
    volume: Volume,
    psf: PSF,
    config: TrainingConfig,
    *,
    channel: int = 0,
    device: str = "cpu",
    stats: IntensityStats | None = None,
    state_path: Path | None = None,
    on_event: Callable[[TrainingStep], None] | None = None,
) -> Checkpoint:
    """Train a network on one channel of a volume, patches from all of its time points.

    Parameters
    ----------
    volume : noisy input, in data units
    psf : centred, at the volume's voxel size
    config : see `TrainingConfig`
    channel : index of the channel
    device : a torch device, "cpu" or "cuda"
    stats : brightness of the channel; measured here if not given
    state_path : where to keep the state; training continues from it if it is there
    on_event : called about twice a second

    Raises
    ------
    TrainingError
        if the loss becomes NaN or infinite
    """
    stacks = [volume.stack(timepoint=t, channel=channel) for t in range(volume.n_timepoints)]
    stats = stats or measure_intensity(stacks, name=volume.name)
    trainer = _Trainer(config, psf, stats, torch.device(device), state_path)
    pool = PatchPool(
        stacks,
        config.patch_shape,
        alignment=trainer.network.alignment,
        stats=stats,
        seed=config.seed,
        held_out_fraction=config.held_out_fraction,
    )
    trainer.prepare(pool)
    with freed_memory_kept():
        stopped_by = trainer.run(pool, on_event)
    return Checkpoint(
        weights={
            name: tensor.detach().cpu().numpy().copy()
            for name, tensor in trainer.network.state_dict().items()
        },
        config=config,
        stats=stats,
        psf=psf.array,
        psf_sha256=psf.sha256,
        voxel_size_um=volume.voxel_size_um,
        curve=tuple(trainer.curve),
        seconds=trainer.seconds,
        device=_device_name(torch.device(device)),
        stopped_by=stopped_by,
        training_precision="bfloat16" if trainer.half else "float32",
        precision=trainer.precision(pool),
    )


def exact_margin(psf: np.ndarray[Any, Any], patch_shape: Sequence[int]) -> tuple[int, ...]:
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


class _Step(NamedTuple):
    """Tensors of one step on the device."""

    x: Tensor
    mask: Tensor
    counted: Tensor


class _Trainer:
    """Network, optimiser and curve, and how they are kept on disk."""

    def __init__(
        self, config: TrainingConfig, psf: PSF, stats: IntensityStats, device: torch.device, path: Path | None
    ) -> None:
        self.config = config
        self.device = device
        self.path = path
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = UNet(config.network)
        self.network = network.to(device=device, memory_format=memory_format(config.network.ndim))  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=config.learning_rate, fused=device.type == "cuda"
        )
        self.blur = Blur(psf.array)
        self.psf = psf
        self.symmetries = symmetries(psf)
        self.bounds = _bounds(stats, config.upper_bound)
        self.half = config.mixed_precision and has_fast_bfloat16(device)
        self.margin: tuple[int, ...] = ()
        self.step = 0
        self.seconds = 0.0
        self.curve: list[CurvePoint] = []

    def prepare(self, pool: PatchPool) -> None:
        """Fit the margin to the patches, and continue from a saved state where there is one."""
        flat = (0,) * self.psf.array.ndim
        self.margin = exact_margin(self.psf.array, pool.patch_shape) if self.config.valid_losses else flat
        if self.path is None:
            return
        progress = load_state(self.path, self.network, self.optimizer)
        if progress is not None:
            self.step, self.seconds = progress.step, progress.seconds
            # A training keeps its precision, even where another machine would have chosen the other.
            self.half = progress.half
            self.curve = list(progress.curve)

    def run(self, pool: PatchPool, on_event: Callable[[TrainingStep], None] | None) -> str:
        """Train to the end; says what ended it."""
        config = self.config
        started = time.monotonic() - self.seconds
        losses = _MeanLoss()
        reported = 0.0
        for batch in self._batches(pool):
            if stop_reason(config, self.step, self.seconds, self.curve):
                break
            losses.add(self._learn(batch))
            self.step += 1
            self.seconds = time.monotonic() - started
            due = self.step % config.evaluate_every == 0 or self.step == config.steps
            if due:
                self.curve.append(CurvePoint(self.step, losses.take(self.step), self._held_out_error(pool)))
            if self.step % config.checkpoint_every == 0:
                losses.look(
                    self.step
                )  # Stops here if the loss is no number: nothing could be continued from it.
                self._save()
            if on_event and (due or self.seconds - reported > REPORT_SECONDS):
                reported = self.seconds
                on_event(self._report(losses))
        return stop_reason(config, self.step, self.seconds, self.curve) or "steps"

    def _batches(self, pool: PatchPool) -> Iterator[PatchBatch]:
        """Prepare the next batch in the background while the device works; ends after the last step."""
        with ThreadPoolExecutor(1) as worker:
            upcoming = None
            for step in range(self.step, self.config.steps):
                current = upcoming or worker.submit(self._draw, pool, step)
                upcoming = worker.submit(self._draw, pool, step + 1)
                yield current.result()

    def _draw(self, pool: PatchPool, step: int) -> PatchBatch:
        return pool.draw(step, self.config.batch, self.symmetries, self.margin)

    def _learn(self, batch: PatchBatch) -> Tensor:
        """Do one step; the loss stays on the device."""
        self.network.train()
        factor = rate_factor(self.config, self.step, self.seconds, self.curve)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * factor
        generator = torch.Generator(self.device).manual_seed(_mix(self.config.seed, self.step))
        step = self._to_device(batch)
        mask = stratified_mask(len(step.x), step.x.shape[2:], self.config.mask_fraction, generator)
        step = step._replace(mask=mask & step.counted)
        masked = replace_masked(step.x, mask, self.config.mask_noise, generator)
        terms = self._losses(step, masked)
        loss = terms.total(self.config.loss)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.config.clip_gradient:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_gradient)
        self.optimizer.step()
        return loss.detach()

    def _losses(self, step: _Step, masked: Tensor) -> LossTerms:
        weights = self.config.loss
        inputs = [step.x] * weights.needs_unmasked_pass + [masked] * weights.needs_masked_pass
        outputs = self._apply(torch.cat(inputs[::-1]), passes=len(inputs))
        blurred = self._reconvolve(outputs)
        # The unmasked pass goes last: its statistics are the ones that inference uses.
        d, r = outputs.chunk(len(inputs)), blurred.chunk(len(inputs))
        passes = Passes(
            d[-1] if weights.needs_unmasked_pass else None,
            d[0] if weights.needs_masked_pass else None,
            r[-1] if weights.needs_unmasked_pass else None,
            r[0] if weights.needs_masked_pass else None,
        )
        return deconvolution_loss(
            passes,
            step.x,
            mask=step.mask,
            counted=step.counted,
            bounds=self.bounds,
            weights=weights,
        )

    def _apply(self, x: Tensor, passes: int = 1) -> Tensor:
        """Run the network, in bfloat16 where that was asked for and is fast; the output is float32."""
        x = x.contiguous(memory_format=memory_format(self.config.network.ndim))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            output: Tensor = self.network(x, passes)
        return output.float()

    def _reconvolve(self, deconvolved: Tensor) -> Tensor:
        """Apply g; what lies beyond a patch is taken to repeat its edge."""
        return self.blur.valid(repeat_edges(deconvolved, self.blur.radius))

    def _to_device(self, batch: PatchBatch) -> _Step:
        x, held, exact = (torch.from_numpy(part).to(self.device, non_blocking=True) for part in batch)
        return _Step(x, held, exact & ~held)

    @torch.no_grad()
    def _held_out_error(self, pool: PatchPool) -> float | None:
        """Mean squared error of the reconvolved prediction at voxels that training never compares.

        Those voxels are replaced in the input by the mean of their neighbours, so that the network
        cannot copy them; always the same patches, so that measurements can be compared.
        """
        if self.config.held_out_fraction <= 0:
            return None
        self.network.eval()
        errors, counts = 0.0, 0
        for number in range(EVALUATION_BATCH):
            batch = pool.draw(-1 - number, 1, margin=self.margin)
            x, held, exact = (torch.from_numpy(part).to(self.device) for part in batch)
            predicted = self._reconvolve(self._apply(torch.where(held, _neighbour_mean(x, held), x)))
            wanted = held & exact
            errors += float((((predicted - x) ** 2) * wanted).sum())
            counts += int(wanted.sum())
        return errors / counts if counts else None

    def precision(self, pool: PatchPool) -> str:
        """Choose the precision for inference, by patches that no step has seen."""
        self.network.eval()
        layout = memory_format(self.config.network.ndim)
        patches = [torch.from_numpy(pool.draw(-1 - n, 1).x).to(self.device) for n in range(EVALUATION_BATCH)]
        return choose_precision(self.network, [x.contiguous(memory_format=layout) for x in patches])

    def _report(self, losses: _MeanLoss) -> TrainingStep:
        error = self.curve[-1].held_out_error if self.curve else None
        rate = self.seconds / self.step
        left = rate * (last_step(self.config, self.curve) - self.step)
        if self.config.minutes is not None:
            left = min(left, max(0.0, 60 * self.config.minutes - self.seconds))
        return TrainingStep(self.step, self.config.steps, losses.look(self.step), error, left)

    def _save(self) -> None:
        if self.path is not None:
            progress = TrainingState(self.step, self.half, self.seconds, tuple(self.curve))
            save_state(self.path, self.network, self.optimizer, progress)


class _MeanLoss:
    """Collects losses on the device and fetches their mean only when asked."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._last = float("nan")

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


def _bounds(stats: IntensityStats, upper: bool) -> Bounds:
    """Lowest value the output may have, and highest, in standardised units.

    The paper scales the input to [0, 1], so its bounds are the input's extremes. A restored peak may
    rightly exceed the blurred one: only the lower bound, the background, makes physical sense.
    """
    low = stats.minimum if upper else stats.background
    high = (stats.maximum - stats.mean) / stats.std if upper else float("inf")
    return Bounds((low - stats.mean) / stats.std, high)


def _neighbour_mean(x: Tensor, held: Tensor) -> Tensor:
    """Mean of the voxels around each voxel, held-out ones left out."""
    ndim = x.ndim - 2
    box = torch.ones(1, 1, *[3] * ndim, device=x.device)
    convolve = torch.nn.functional.conv2d if ndim == 2 else torch.nn.functional.conv3d
    known = (~held).to(x.dtype)
    return convolve(x * known, box, padding=1) / convolve(known, box, padding=1).clamp(min=1)


def _mix(seed: int, step: int) -> int:
    """One 63-bit seed from two numbers."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> 1)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
