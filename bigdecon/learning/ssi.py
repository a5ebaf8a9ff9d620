"""Self-Supervised Inversion: the rival method (Kobayashi, Solak, Batson and Royer 2020, arXiv 2006.06156).

    patch x -> noise, mask to 0 -> f -> deconvolved -> clamp to [0, 1] -> g -> compare with x where masked
                                             |
                                             +-> how far outside [0, 1], on average -> squared

f is a U-Net, g the convolution with the PSF, made a little wider on purpose. Intensities are scaled to
[0, 1]. The network with the lowest validation loss is kept.

What differs from the published program, and why:

- It trains on the whole image, or on one square tile of it. Here patches are sampled, so that a volume may
  be larger than memory; an image that fits into one patch is trained on as a whole there and here. Where
  a patch is cut out of a larger volume, voxels that miss light from beyond the cut are not compared.
- Its g correlates with the PSF, which mirrors an asymmetric one; here it convolves. At the edges of a 2D
  image its g reflects; here edges are repeated in 2D as in 3D.
- Voxels kept out for validation are one in every box of 3 pixels (2 voxels in 3D) a side, 11 % (12.5 %), not
  10 % at random: what is held out is the same in every patch that holds a voxel, and in every run.
- Extents that are no multiple of 16 are extended by repeated edge voxels that are not compared; there, the
  network pads between its levels.
- The scale of intensities comes from the extremes of the whole volume, not from the caller.
- On a CPU its record of the best weights goes on to change with the weights; here it is a copy.

As published, voxels kept out for validation are seen by the network, except for those that a step's mask
hides: the validation loss is no unbiased estimate of the error, unlike the held-out error of `train`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import convolve
from torch import Tensor, nn

from bigdecon.intensity import IntensityStats
from bigdecon.learning.checkpoint import Checkpoint
from bigdecon.learning.device_patches import TensorBatch
from bigdecon.learning.loop import TrainingLoop, TrainingStep, exact_margin, run_training, step_generator
from bigdecon.learning.losses import Bounds, boundary_loss
from bigdecon.learning.patches import PatchBatch, PatchPool
from bigdecon.learning.ssi_schedule import Watch, mask_density, parameter_noise, stop_reason, training_noise
from bigdecon.learning.training_state import TrainingState
from bigdecon.optics.psf import PSF
from bigdecon.ssi_config import SSIConfig
from bigdecon.storage.places import Place
from bigdecon.volume import Volume

__all__ = ["broadened", "masked_loss", "outside_loss", "shake", "train_ssi"]

# By the number of axes along which a voxel lies beside the centre: itself, faces, then edges and corners.
BROADENING = (0.2, 0.14, 0.095, 0.095)


def train_ssi(
    volume: Volume,
    psf: PSF,
    config: SSIConfig,
    *,
    channel: int = 0,
    device: str = "cpu",
    stats: IntensityStats | None = None,
    state_path: Place | None = None,
    on_event: Callable[[TrainingStep], None] | None = None,
) -> Checkpoint:
    """Train a network by Self-Supervised Inversion; everything else is as in `train`.

    Parameters
    ----------
    volume : noisy input, in data units
    psf : centred, at the volume's voxel size
    config : see `SSIConfig`
    channel : index of the channel
    device : a torch device, "cpu" or "cuda"
    stats : brightness of the channel; measured here if not given
    state_path : where to keep the state; training continues from it if it is there
    on_event : called about twice a second

    Returns
    -------
    the network with the lowest validation loss; losses and held-out errors are in squared units of the
    image scaled to [0, 1], the held-out error being the validation loss of that step

    Raises
    ------
    TrainingError
        if the loss becomes NaN or infinite
    """

    def make_loop(stats: IntensityStats, device: torch.device) -> TrainingLoop:
        return _Inverter(config, psf, device, state_path)

    return run_training(
        volume, psf, config, make_loop, channel=channel, device=device, stats=stats, on_event=on_event
    )


def broadened(psf: NDArray[np.float32]) -> NDArray[np.float32]:
    """Widen a PSF by one voxel on every side, with a small kernel; the result sums to 1.

    A PSF that is taken to be wider than it is makes the network sharpen more.
    """
    beside = np.abs(np.indices((3,) * psf.ndim) - 1).sum(axis=0)
    kernel = np.asarray(BROADENING)[beside]
    wide: NDArray[np.float64] = convolve(np.pad(psf.astype(np.float64), 1), kernel, mode="constant")
    normalised: NDArray[np.float32] = (wide / wide.sum()).astype(np.float32)
    return normalised


def masked_loss(reconvolved: Tensor, x: Tensor, compared: Tensor, exact: Tensor) -> Tensor:
    """Sum of (g(f(x_masked)) - x)^2 over the compared voxels, divided by the number of all voxels.

    Divided so, the loss falls with the density of the mask, as published, against the boundary loss.

    Parameters
    ----------
    reconvolved, x : (batch, 1, [z,] y, x) in scaled units
    compared : bool, masked voxels that are not held out and where the reconvolution is exact
    exact : bool, all voxels where it is exact
    """
    return (((reconvolved - x) * compared) ** 2).sum() / exact.sum().clamp(min=1)


def outside_loss(deconvolved: Tensor) -> Tensor:
    """Square of the mean by which an output lies outside [0, 1] (hinge)."""
    return boundary_loss(deconvolved, Bounds(0.0, 1.0)) ** 2


@torch.no_grad()
def shake(parameters: Iterable[Tensor], sigma: float, generator: torch.Generator) -> None:
    """Add noise N(0, sigma^2) to weights, in place."""
    for parameter in parameters:
        noise = torch.randn(parameter.shape, generator=generator, device=parameter.device)
        parameter.add_(noise, alpha=sigma)


class _Step(NamedTuple):
    """Tensors of one batch on the device: patches, and voxels held out and exact."""

    x: Tensor
    held_out: Tensor
    exact: Tensor


class _Inverter(TrainingLoop):
    """What a step learns, and the weights that did best so far."""

    def __init__(self, config: SSIConfig, psf: PSF, device: torch.device, path: Place | None) -> None:
        self.psf = broadened(psf.array)
        super().__init__(config, self.psf, device, path, weight_decay=config.weight_decay)
        self.config = config
        self.watch = Watch()
        self.best: Mapping[str, Tensor] = {}
        self.validation: _Step | None = None
        self.error: float | None = None

    def prepare(self, pool: PatchPool) -> None:
        """Fit the margin to the patches, choose those of validation, and continue where there is a state."""
        self.margin = exact_margin(self.psf, pool.patch_shape)
        self.validation = self._to_device(pool.draw(-1, self.config.validation_patches, margin=self.margin))
        progress = self.resume()
        if progress is not None:
            factor, level, still, best, waited = progress.watch
            self.watch = Watch(factor, level, int(still), best, int(waited))
            self.best = progress.best

    def stop_reason(self) -> str:
        """Tell why the training is over; empty while it is not."""
        return stop_reason(self.config, self.step, self.seconds, self.watch)

    def progress(self) -> TrainingState:
        """Describe how far it got, the best weights included."""
        return super().progress()._replace(watch=tuple(self.watch), best=self.best)

    def finish(self) -> None:
        """Go back to the best weights."""
        if self.best:
            self.network.load_state_dict(self.best)

    def learn(self, batch: PatchBatch | TensorBatch) -> Tensor:
        """Do one step and validate it; the loss stays on the device."""
        generator = step_generator(self.config.seed, self.step, self.device)
        rate = self.config.learning_rate * self.watch.factor
        self._set_rate(rate)
        self.network.train()
        step = self._to_device(batch)
        hidden, mask = self._hide(step.x, generator)
        loss = self.gradient.compute(
            lambda x, _: self._apply(x), hidden, 1, lambda outputs: self._loss(step, mask, outputs)
        )
        self.optimizer.step()
        shake(self.network.parameters(), parameter_noise(self.config, self.step, rate), generator)
        self._validate(generator)
        return loss

    def held_out_error(self, pool: PatchPool) -> float | None:
        """Give the validation loss of the newest step."""
        return self.error

    def _loss(self, step: _Step, mask: Tensor, deconvolved: Tensor) -> Tensor:
        compared = mask & step.exact & ~step.held_out
        loss = masked_loss(self._reconvolved(deconvolved), step.x, compared, step.exact)
        return loss + self.config.boundary_weight * outside_loss(deconvolved)

    def _hide(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Add this step's noise, and put 0 where its mask is True; gives both."""
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        mask = torch.rand(x.shape, generator=generator, device=x.device) < mask_density(
            self.config, self.step
        )
        noisy = x + training_noise(self.config, self.step) * noise
        return noisy.masked_fill(mask, 0.0), mask

    def _apply(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.network(hidden.contiguous(memory_format=self._layout))
        return output

    def _reconvolved(self, deconvolved: Tensor) -> Tensor:
        """Apply g to what the network may give: values in [0, 1]."""
        return self._reconvolve(deconvolved.clamp(0.0, 1.0))

    @torch.no_grad()
    def _validate(self, generator: torch.Generator) -> None:
        """Measure the error at held-out voxels, always the same, and keep weights that do better."""
        if self.validation is None:
            return
        self.network.eval()
        x, held_out, exact = self.validation
        hidden, _ = self._hide(x, generator)
        wanted = held_out & exact
        self.error = float(masked_loss(self._reconvolved(self._apply(hidden)), x, wanted, wanted))
        if self.error < self.watch.best:
            self.best = _copied(self.network)
        self.watch = self.watch.after(self.error, self.config)

    def _to_device(self, batch: PatchBatch | TensorBatch) -> _Step:
        return _Step(*(torch.as_tensor(part).to(self.device, non_blocking=True) for part in batch))


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
