"""Residual U-Net for 2D and 3D images (Papkov et al. 2023, after Xie et al. 2020).

    level 0   conv3 - unit ------------------------ skip - unit - norm ReLU 1x1
    level 1      down - unit ----------- skip - unit - up
    level 2          down - unit (bottom) - up

A *unit* is norm-ReLU-conv3-norm-ReLU-conv3 plus its input. Every convolution pads with zeros, which in
standardised units is the volume's mean.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigdecon.config import NetworkConfig
from bigdecon.learning.edges import repeat_edges

__all__ = [
    "PassNorm",
    "ResidualUnit",
    "UNet",
    "alignment",
    "double_extent",
    "memory_format",
    "pointwise",
    "receptive_radius",
    "smooth",
]

CONVOLUTION: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
EPSILON = 1e-5
"""Added to variances before their root is taken."""

TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def memory_format(ndim: int) -> torch.memory_format:
    """Choose the layout in which convolutions of 2 or 3 dimensions run fastest."""
    return torch.channels_last if ndim == 2 else torch.channels_last_3d


class PassNorm(nn.Module):
    """Batch normalisation that keeps the passes of one batch apart.

    In training the batch holds `passes` passes of equal size, one after the other, and each is
    normalised by its own statistics: the unmasked pass must not tell the masked one what was masked.
    Inference uses the running statistics of the last pass.

    Parameters
    ----------
    channels : features
    momentum : weight of a new batch in the running statistics, in (0, 1]
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.momentum = momentum
        self.passes = 1

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (passes * batch, channels, [z,] y, x)."""
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=EPSILON)
        parts = x.chunk(self.passes)
        done = [
            F.batch_norm(part, None, None, self.weight, self.bias, True, eps=EPSILON) for part in parts[:-1]
        ]
        statistics = self.running_mean, self.running_var
        last = F.batch_norm(parts[-1], *statistics, self.weight, self.bias, True, self.momentum, EPSILON)
        return torch.cat([*done, last]) if done else last


class ResidualUnit(nn.Module):
    """norm-ReLU-conv3-norm-ReLU-conv3 plus the input; a 1x1 convolution where the width changes."""

    def __init__(self, config: NetworkConfig, channels_in: int, channels: int) -> None:
        super().__init__()
        conv = CONVOLUTION[config.ndim]
        self.first_norm = _norm(config, channels_in)
        self.first = conv(channels_in, channels, 3, padding=1, bias=config.norm == "none")
        self.second_norm = _norm(config, channels)
        self.second = conv(channels, channels, 3, padding=1)
        self.shortcut = nn.Identity() if channels_in == channels else conv(channels_in, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels_in, [z,] y, x) to (batch, channels, [z,] y, x)."""
        normed = self.first_norm(x)
        y = self.first(_rectified(normed, spare=normed is not x))
        y = self.second(_rectified(self.second_norm(y), spare=True))
        result: Tensor = y.add_(self.shortcut(x))  # no gradient looks at what a convolution gave
        return result


class LinearUp(nn.Module):
    """A 1x1 convolution, then twice the extent by linear interpolation; edge voxels repeat."""

    def __init__(self, config: NetworkConfig, channels_in: int, channels: int) -> None:
        super().__init__()
        self.mix: nn.Conv2d | nn.Conv3d = CONVOLUTION[config.ndim](channels_in, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels_in, [z,] y, x) to (batch, channels, [2z,] 2y, 2x)."""
        return double_extent(pointwise(self.mix, x))


class UNet(nn.Module):
    """The network f: standardised noisy image in, standardised deconvolved image out.

    Extents must be multiples of `alignment`; `NetworkDeconvolver` pads where they are not.

    Attributes
    ----------
    alignment : extents, and the cuts between blocks, must be multiples of this many voxels
    receptive_radius : farthest voxel, along any axis, that an output voxel can depend on
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        conv, transposed = CONVOLUTION[config.ndim], TRANSPOSED[config.ndim]
        widths = [config.channels * 2**level for level in range(config.depth)]
        joined = 2 if config.skip == "concatenate" else 1
        self.enter = conv(1, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(ResidualUnit(config, width, width) for width in widths)
        self.down = nn.ModuleList(conv(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(
            LinearUp(config, b, a) if config.up == "linear" else transposed(b, a, 2, stride=2)
            for a, b in pairwise(widths)
        )
        self.decoder = nn.ModuleList(ResidualUnit(config, joined * width, width) for width in widths[:-1])
        self.leave_norm = _norm(config, widths[0])
        self.leave = conv(widths[0], 1, 1)
        self.alignment = alignment(config)
        self.receptive_radius = receptive_radius(config)

    def forward(self, x: Tensor, passes: int = 1) -> Tensor:
        """Map (passes * batch, 1, [z,] y, x) to the same shape.

        Parameters
        ----------
        x : standardised images; with several passes, all images of one pass follow those of the other
        passes : groups whose normalisation statistics stay apart in training
        """
        for module in self.modules():
            if isinstance(module, PassNorm):
                module.passes = passes
        x = self.encoder[0](self.enter(x))
        skips = []
        for down, unit in zip(self.down, self.encoder[1:], strict=True):
            skips.append(x)
            x = unit(down(x))
        for level in reversed(range(len(skips))):
            x = self.up[level](x)
            skip = skips.pop()
            joined = torch.cat([x, skip], 1) if self.config.skip == "concatenate" else x.add_(skip)
            del skip  # its memory serves the unit
            x = self.decoder[level](joined)
        result = pointwise(self.leave, _rectified(self.leave_norm(x), spare=True))
        return smooth(result) if self.config.smooth else result


def _rectified(x: Tensor, *, spare: bool) -> Tensor:
    """Give x where it is positive, else 0; written over x at inference if nobody else needs that."""
    return x.relu_() if spare and not torch.is_grad_enabled() else F.relu(x)


def pointwise(mix: nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    """Apply a 1x1 convolution; on a CPU as a product of matrices, voxels by channels.

    Torch's own convolution of this kind leaves the layout of the others on a CPU with one thread, and what
    follows it pays for that.
    """
    if x.device.type != "cpu":
        result: Tensor = mix(x)
        return result
    return F.linear(x.movedim(1, -1), mix.weight.flatten(1), mix.bias).movedim(-1, 1)


def _norm(config: NetworkConfig, channels: int) -> nn.Module:
    return PassNorm(channels) if config.norm == "batch" else nn.Identity()


def double_extent(x: Tensor) -> Tensor:
    """Interpolate (batch, channels, [z,] y, x) linearly to twice its extent; edge voxels repeat.

    The gradient of torch's own interpolation is summed in no fixed order on a GPU.
    """
    if not (x.is_cuda and torch.is_grad_enabled()):
        return F.interpolate(x, scale_factor=2, mode="bilinear" if x.ndim == 4 else "trilinear")
    layout = memory_format(x.ndim - 2)
    for axis in range(2, x.ndim):
        n = x.shape[axis]
        wide = repeat_edges(x, [int(a == axis) for a in range(2, x.ndim)])
        before, after = (torch.lerp(x, wide.narrow(axis, start, n), 0.25) for start in (0, 2))
        x = torch.stack([before, after], axis + 1).flatten(axis, axis + 1)
    return x.contiguous(memory_format=layout)


def smooth(x: Tensor) -> Tensor:
    """Filter (batch, 1, [z,] y, x) with 1-2-1 along every axis, repeating the edge voxels."""
    for axis in range(2, x.ndim):
        n = x.shape[axis]
        wide = repeat_edges(x, [int(a == axis) for a in range(2, x.ndim)])
        x = 0.5 * x + 0.25 * (wide.narrow(axis, 0, n) + wide.narrow(axis, 2, n))
    return x


def alignment(config: NetworkConfig) -> int:
    """Give the multiple, in voxels, that extents and cuts must have: one step of the bottom level."""
    return int(2 ** (config.depth - 1))


def receptive_radius(config: NetworkConfig) -> int:
    """Give the farthest voxel, along any axis, that an output voxel can depend on: 24 to 31 for depth 3.

    Level l counts in voxels of size 2^l: the entrance reaches 1, a unit 2; all levels but the
    bottom hold two units. Strided steps add at most `alignment` - 1, interpolation from a level one voxel
    of that level.
    """
    levels = range(config.depth)
    units = sum(2 * 2**level * (1 if level == config.depth - 1 else 2) for level in levels)
    between = sum(2**level for level in levels[1:]) if config.up == "linear" else 0
    return int(1 + units + between + alignment(config) - 1 + config.smooth)
