"""Training the network on the noisy volume itself (Papkov et al. 2023).

    patch x --+--------------> f --> deconvolved --> g --> reconvolved
              |                                                        losses
              +-- mask x_J^c -> f --> deconvolved --> g --> reconvolved

f is the U-Net, g the convolution with the PSF. What happens at a step follows from the seed and the
step's number alone, so an interrupted training continues as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bigdecon.config import TrainingConfig
from bigdecon.intensity import IntensityStats
from bigdecon.learning.checkpoint import Checkpoint
from bigdecon.learning.device_patches import TensorBatch
from bigdecon.learning.loop import TrainingLoop, TrainingStep, exact_margin, run_training, step_generator
from bigdecon.learning.losses import Bounds, LossTerms, Passes, deconvolution_loss
from bigdecon.learning.masking import neighbour_mean, replace_masked, stratified_mask
from bigdecon.learning.patches import PatchBatch, PatchPool
from bigdecon.learning.precision import has_fast_bfloat16, has_sound_bfloat16
from bigdecon.learning.schedule import last_step, rate_factor, stop_reason
from bigdecon.optics.psf import PSF, symmetries
from bigdecon.storage.places import Place
from bigdecon.volume import Volume

__all__ = ["train"]

EVALUATION_BATCH = 4


def train(
    volume: Volume,
    psf: PSF,
    config: TrainingConfig,
    *,
    channel: int = 0,
    device: str = "cpu",
    stats: IntensityStats | None = None,
    state_path: Place | None = None,
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

    def make_loop(stats: IntensityStats, device: torch.device) -> TrainingLoop:
        return _Trainer(config, psf, stats, device, state_path)

    return run_training(
        volume, psf, config, make_loop, channel=channel, device=device, stats=stats, on_event=on_event
    )


class _Step(NamedTuple):
    """Tensors of one step on the device."""

    x: Tensor
    mask: Tensor
    counted: Tensor


class _Trainer(TrainingLoop):
    """What a step learns, and how the result is measured."""

    def __init__(
        self,
        config: TrainingConfig,
        psf: PSF,
        stats: IntensityStats,
        device: torch.device,
        path: Place | None,
    ) -> None:
        super().__init__(config, psf.array, device, path)
        self.config = config
        self.psf = psf
        self.symmetries = symmetries(psf) if config.augment else None
        self.bounds = _bounds(stats, config.upper_bound)
        self.half = config.mixed_precision and has_fast_bfloat16(device)

    def prepare(self, pool: PatchPool) -> None:
        """Fit the margin to the patches, and continue from a saved state where there is one."""
        if self.config.valid_losses:
            self.margin = exact_margin(self.psf.array, pool.patch_shape)
        self.resume()
        depth = self.config.network.depth
        self.half = self.half and has_sound_bfloat16(self.device, pool.patch_shape, depth)

    def stop_reason(self) -> str:
        """Tell why the training is over; empty while it is not."""
        return stop_reason(self.config, self.step, self.seconds, self.curve)

    def last_step(self) -> int:
        """Give the step after which the training ends, as far as is known."""
        return last_step(self.config, self.curve)

    def finish(self) -> None:
        """Keep the newest weights, as the paper does."""

    def learn(self, batch: PatchBatch | TensorBatch) -> Tensor:
        """Do one step; the loss stays on the device."""
        self.network.train()
        factor = rate_factor(self.config, self.step, self.seconds, self.curve)
        self._set_rate(self.config.learning_rate * factor)
        generator = step_generator(self.config.seed, self.step, self.device)
        step = self._to_device(batch)
        mask = stratified_mask(len(step.x), step.x.shape[2:], self.config.mask_fraction, generator)
        step = step._replace(mask=mask & step.counted)
        masked = replace_masked(step.x, mask, self.config.mask_noise, generator)
        weights = self.config.loss
        # The unmasked pass goes last: its statistics are the ones that inference uses.
        inputs = [masked] * weights.needs_masked_pass + [step.x] * weights.needs_unmasked_pass
        loss = self.gradient.compute(
            self._apply,
            torch.cat(inputs),
            len(inputs),
            lambda outputs: self._losses(step, outputs).total(weights),
        )
        if self.config.clip_gradient:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_gradient)
        self.optimizer.step()
        return loss

    @torch.no_grad()
    def held_out_error(self, pool: PatchPool) -> float | None:
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
            predicted = self._reconvolve(self._apply(torch.where(held, neighbour_mean(x, held), x)))
            wanted = held & exact
            errors += float((((predicted - x) ** 2) * wanted).sum())
            counts += int(wanted.sum())
        return errors / counts if counts else None

    def _losses(self, step: _Step, outputs: Tensor) -> LossTerms:
        """Give the terms for the network's outputs: of the masked pass, then of the unmasked one."""
        weights = self.config.loss
        count = weights.needs_unmasked_pass + weights.needs_masked_pass
        blurred = self._reconvolve(outputs)
        d, r = outputs.chunk(count), blurred.chunk(count)
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
        x = x.contiguous(memory_format=self._layout)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            output: Tensor = self.network(x, passes)
        return output.float()

    def _to_device(self, batch: PatchBatch | TensorBatch) -> _Step:
        x, held, exact = (torch.as_tensor(part).to(self.device, non_blocking=True) for part in batch)
        return _Step(x, held, exact & ~held)


def _bounds(stats: IntensityStats, upper: bool) -> Bounds:
    """Lowest value the output may have, and highest, in standardised units.

    The paper scales the input to [0, 1], so its bounds are the input's extremes. A restored peak may
    rightly exceed the blurred one: only the lower bound, the background, makes physical sense.
    """
    low = stats.minimum if upper else stats.background
    high = (stats.maximum - stats.mean) / stats.std if upper else float("inf")
    return Bounds((low - stats.mean) / stats.std, high)
