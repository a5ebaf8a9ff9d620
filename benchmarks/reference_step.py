"""A training step of Papkov et al. 2023 in plain PyTorch, as their public code computes it; written anew.

What makes it what it is: the default memory layout; the masked and the unmasked patches in two passes; PSF
and patch transformed anew in every pass, at the size that they happen to have; complex products taken apart
into real ones; torch's own gradient of all of that; Adam as torch has it by default. In November 2026 the
public code itself and this took the same time, within 10 %.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ReferenceStep"]


class Unit(nn.Module):
    """norm-ReLU-conv3-norm-ReLU-conv3 plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first_norm = nn.BatchNorm3d(channels)
        self.first = nn.Conv3d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm3d(channels)
        self.second = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(F.relu(self.first_norm(x)))
        return self.second(F.relu(self.second_norm(y))) + x


class ReferenceUNet(nn.Module):
    """The network of the `paper` preset in 3D; parameters have the names that `bigdecon` gives them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [channels, 2 * channels, 4 * channels]
        self.enter = nn.Conv3d(1, channels, 3, padding=1)
        self.encoder = nn.ModuleList(Unit(width) for width in widths)
        self.down = nn.ModuleList(nn.Conv3d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(nn.ConvTranspose3d(b, a, 2, stride=2) for a, b in pairwise(widths))
        self.decoder = nn.ModuleList(Unit(width) for width in widths[:-1])
        self.leave_norm = nn.BatchNorm3d(channels)
        self.leave = nn.Conv3d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder[0](self.enter(x))
        skips = []
        for down, unit in zip(self.down, self.encoder[1:], strict=True):
            skips.append(x)
            x = unit(down(x))
        for level in (1, 0):
            x = self.decoder[level](self.up[level](x) + skips[level])
        result: Tensor = self.leave(F.relu(self.leave_norm(x)))
        return result


class ReferenceStep:
    """Steps with the loss `noise2same`: reconstruction, and twice the invariance to masking.

    Parameters
    ----------
    channels : of the network's first level
    psf : (z, y, x), symmetric, of odd extent
    """

    def __init__(self, channels: int, psf: Tensor) -> None:
        self.network = ReferenceUNet(channels)
        self.psf = psf[None, None]
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=4e-4)

    def loss(self, x: Tensor, masked: Tensor, mask: Tensor) -> Tensor:
        """Give the loss of patches (batch, 1, z, y, x), as they are and with noise at masked voxels."""
        raw = self.convolve(self.network(x))
        hidden = self.convolve(self.network(masked))
        weight = mask.to(x.dtype)
        reconstruction = torch.mean((raw - x) ** 2)
        invariance = torch.sum(weight * (raw - hidden) ** 2) / weight.sum()
        return reconstruction + 2 * torch.sqrt(invariance)

    def learn(self, x: Tensor, mask: Tensor) -> Tensor:
        """Do one step, and give its loss."""
        self.optimizer.zero_grad()
        weight = mask.to(x.dtype)
        noise = 0.2 * torch.randn(x.shape)
        loss = self.loss(x, (1 - weight) * x + weight * noise, mask)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def convolve(self, x: Tensor) -> Tensor:
        """Convolve with the PSF; what lies beyond a patch repeats its edge."""
        radius = [n // 2 for n in self.psf.shape[2:]]
        x = F.pad(x, [r for r in reversed(radius) for _ in range(2)], mode="replicate")
        kernel = F.pad(
            self.psf,
            [
                p
                for n, k in zip(reversed(x.shape[2:]), reversed(self.psf.shape[2:]), strict=True)
                for p in (0, n - k)
            ],
        )
        a, b = torch.fft.rfftn(x, dim=(2, 3, 4)), torch.fft.rfftn(kernel, dim=(2, 3, 4))
        real = a.real * b.real + a.imag * b.imag
        imaginary = a.imag * b.real - a.real * b.imag
        result = torch.fft.irfftn(torch.complex(real, imaginary), s=x.shape[2:], dim=(2, 3, 4))
        return result[
            (..., *(slice(0, n - 2 * r) for n, r in zip(x.shape[2:], radius, strict=True)))
        ].contiguous()
