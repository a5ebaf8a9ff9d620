"""No benchmark: Richardson-Lucy inside the network, an experiment that ablation.py measures.

    f(x) = RL(x) exp( U(x) )

RL is a fixed number of iterations, run on the masked input too; U is the usual network, whose output starts
at 0. The gradient goes through U alone. docs/evidence.md says what it brings.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bigdecon.config import ClassicalSettings, NetworkConfig, TrainingConfig
from bigdecon.deconvolution.block import Deconvolver
from bigdecon.deconvolution.methods import classical_method
from bigdecon.deconvolution.network import NetworkDeconvolver
from bigdecon.deconvolution.richardson_lucy import RichardsonLucy
from bigdecon.intensity import IntensityStats, measure_intensity
from bigdecon.learning import loop, training
from bigdecon.learning.unet import UNet
from bigdecon.optics.psf import PSF
from bigdecon.volume import Volume

__all__ = ["train_unrolled"]

# More would hardly change the start, and each costs four transforms of a patch in every step.
ITERATIONS = 15
REACH = 3.0


def unrolled_network(method: RichardsonLucy, stats: IntensityStats) -> type[UNet]:
    """Make the class of such networks for one volume."""

    class Unrolled(UNet):
        """Richardson-Lucy times the exponential of a U-Net; standardised in and out."""

        def __init__(self, config: NetworkConfig) -> None:
            super().__init__(config)
            torch.nn.init.zeros_(self.leave.weight)
            torch.nn.init.zeros_(self.leave.bias)

        def forward(self, x: Tensor, passes: int = 1) -> Tensor:
            with torch.no_grad():
                light = (x.float() * stats.std + stats.mean).clamp_(min=0)
                restored = torch.cat([self._lucy(image[None]) for image in light])
            factor = super().forward(x, passes).float().clamp(-REACH, REACH).exp()
            return (restored * factor + method.background - stats.mean) / stats.std

        def _lucy(self, image: Tensor) -> Tensor:
            for estimate in method._iterate(image, method.iterations):
                last = estimate
            return method._within(last, image)

    return Unrolled


def train_unrolled(
    volume: Volume, psf: PSF, config: TrainingConfig, settings: ClassicalSettings, device: str
) -> Deconvolver:
    """Train such a network; gives it as a deconvolver for whole images."""
    stats = measure_intensity([volume.stack()])
    settings = replace(settings, iterations=ITERATIONS)
    method = classical_method("richardson-lucy", psf.array, settings, device)
    assert isinstance(method, RichardsonLucy)
    kind: Any = unrolled_network(method, stats)
    config = replace(config, mixed_precision=False, network=replace(config.network, smooth=False))
    with patch.object(loop, "build_network", kind):
        checkpoint = training.train(volume, psf, config, device=device, stats=stats)

    class Trained(NetworkDeconvolver):
        def _network(self) -> UNet:
            network = kind(config.network)
            network.load_state_dict({n: torch.from_numpy(a) for n, a in self.checkpoint.weights.items()})
            return network.to(device).eval()

        def __call__(self, block: NDArray[Any]) -> NDArray[np.float32]:
            with torch.no_grad():  # not inference mode: the iteration shares its tensors
                return super().__call__(block)

    return Trained(checkpoint, stats, device)
