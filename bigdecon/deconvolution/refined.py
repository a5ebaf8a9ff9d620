"""A network's result, blurred again and sharpened by Richardson-Lucy: both methods, one after the other.

    image --> network f --> g, the PSF --> Richardson-Lucy --> result

A network learns to remove noise long before it learns to undo the blur. Its result blurred again, g(f(x)), is
the image almost without noise, and on such an image Richardson-Lucy can go on for longer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bigdecon.deconvolution.classical import cached_blur
from bigdecon.deconvolution.compute import computing
from bigdecon.deconvolution.network import NetworkDeconvolver, NetworkNeeds
from bigdecon.deconvolution.recovery import restore_within_memory
from bigdecon.deconvolution.richardson_lucy import RichardsonLucy

__all__ = ["RefinedNeeds", "RefinedNetwork", "refining_lucy"]


def refining_lucy(
    psf: NDArray[np.floating],
    iterations: int,
    *,
    background: float = 0.0,
    device: str = "cpu",
    threads: int | None = None,
) -> RichardsonLucy:
    """Give the Richardson-Lucy that follows a network, accelerated; see `RichardsonLucy`."""
    return RichardsonLucy(
        psf, iterations=iterations, accelerate=True, background=background, device=device, threads=threads
    )


@dataclass(frozen=True)
class RefinedNeeds:
    """What the two need of the blocks together, known before the network is trained.

    Attributes
    ----------
    network : what the network needs
    lucy : what comes after it
    """

    network: NetworkNeeds
    lucy: RichardsonLucy

    @property
    def name(self) -> str:
        """The network's name."""
        return self.network.name

    @property
    def halo(self) -> tuple[int, ...]:
        """Voxels on each side: what each of network, PSF and Richardson-Lucy reaches, added up."""
        radius = (n // 2 for n in self.lucy.psf.shape)
        return tuple(sum(sides) for sides in zip(self.network.halo, radius, self.lucy.halo, strict=True))

    @property
    def alignment(self) -> int:
        """Blocks start at multiples of this, in voxels."""
        return math.lcm(self.network.alignment, self.lucy.alignment)


@dataclass(frozen=True, eq=False)
class RefinedNetwork:
    """Network and Richardson-Lucy as one deconvolver.

    Attributes
    ----------
    network : restores the block
    lucy : gets the network's result, blurred again; its PSF blurs, its background is not blurred
    """

    network: NetworkDeconvolver
    lucy: RichardsonLucy

    @property
    def name(self) -> str:
        """The network's name."""
        return self.network.name

    @property
    def halo(self) -> tuple[int, ...]:
        """See `RefinedNeeds`."""
        return self._needs.halo

    @property
    def alignment(self) -> int:
        """See `RefinedNeeds`."""
        return self._needs.alignment

    @property
    def device(self) -> str:
        """The torch device of both."""
        return self.network.device

    @property
    def _needs(self) -> RefinedNeeds:
        return RefinedNeeds(NetworkNeeds.of(self.network.checkpoint.config.network), self.lucy)

    def __call__(self, block: NDArray[Any], /) -> NDArray[np.float32]:
        """Restore a block ([z,] y, x) in data units; the result has its shape and units."""
        return restore_within_memory(self.lucy, self.reconvolved(block))

    def forget(self) -> None:
        """Drop the transforms that are kept on the device from one block to the next."""
        self.lucy.forget()

    def reconvolved(self, block: NDArray[Any]) -> NDArray[np.float32]:
        """Give the network's result blurred again, the block almost without noise; beyond it edges repeat."""
        background = np.float32(self.lucy.background)
        restored = self.network(block) - background
        blur = cached_blur(np.asarray(self.lucy.psf, np.float32))
        with computing(self.lucy.threads):
            x = torch.from_numpy(restored)[None, None].to(self.lucy.device)
            again: NDArray[np.float32] = blur.forward(x, "replicate")[0, 0].cpu().numpy()
        return again + background
