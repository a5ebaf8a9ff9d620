"""The U-Net of Self-Supervised Inversion (Kobayashi et al. 2020), for 2D and 3D images.

    level 0   double ---------------------------------------- join - double - 1x1
    level 1     pool - double --------------------- join - double - up
    level 2       pool - double ---------- join - double - up
    level 3         pool - double - join - double - up
    level 4           pool - double - up

*double* is conv5-norm-ReLU-conv3-norm-ReLU, *pool* the largest of 2 voxels along every axis, *up* every
voxel twice along every axis. Convolutions pad with zeros, in scaled units the volume's minimum.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigdecon.learning.unet import CONVOLUTION, PassNorm, memory_format
from bigdecon.ssi_config import SSINetworkConfig

__all__ = ["SSIUNet", "alignment", "receptive_radius", "repeat_voxels"]

POOL = {2: F.max_pool2d, 3: F.max_pool3d}
DOUBLE_RADIUS = 3
"""Reach of a convolution of extent 5 and one of extent 3, in voxels."""


class DoubleConvolution(nn.Module):
    """Convolutions of extent 5 and 3, each followed by normalisation and ReLU."""

    def __init__(self, ndim: int, channels_in: int, channels_between: int, channels: int) -> None:
        super().__init__()
        conv = CONVOLUTION[ndim]
        self.first = conv(channels_in, channels_between, 5, padding=2)
        self.first_norm = PassNorm(channels_between)
        self.second = conv(channels_between, channels, 3, padding=1)
        self.second_norm = PassNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels_in, [z,] y, x) to (batch, channels, [z,] y, x)."""
        x = F.relu(self.first_norm(self.first(x)))
        return F.relu(self.second_norm(self.second(x)))


class SSIUNet(nn.Module):
    """The network f: masked noisy image in, deconvolved image out, both scaled to [0, 1].

    Extents must be multiples of `alignment`; `NetworkDeconvolver` pads where they are not.

    Attributes
    ----------
    alignment : extents, and the cuts between blocks, must be multiples of this many voxels
    receptive_radius : farthest voxel, along any axis, that an output voxel can depend on
    """

    def __init__(self, config: SSINetworkConfig) -> None:
        super().__init__()
        self.config = config
        ndim, top = config.ndim, config.channels
        # n, 2n, 4n, 8n, 8n: the bottom does not double, so that both parts of a join are equally wide.
        widths = [top * 2**level for level in range(config.depth - 1)]
        widths.append(widths[-1])
        self.enter = DoubleConvolution(ndim, 1, top, top)
        self.encoder = nn.ModuleList(DoubleConvolution(ndim, a, b, b) for a, b in pairwise(widths))
        self.decoder = nn.ModuleList(
            DoubleConvolution(ndim, 2 * width, width, narrower)
            for width, narrower in zip(widths[:-1], [top, *widths[:-2]], strict=True)
        )
        self.leave = CONVOLUTION[ndim](top, 1, 1)
        self.alignment = alignment(config)
        self.receptive_radius = receptive_radius(config)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 1, [z,] y, x) to the same shape."""
        pool = POOL[self.config.ndim]
        x = self.enter(x)
        skips = []
        for level in self.encoder:
            skips.append(x)
            x = level(pool(x, 2))
        for level in reversed(self.decoder):
            x = level(torch.cat([skips.pop(), repeat_voxels(x)], 1))
        result: Tensor = self.leave(x)
        return result


def repeat_voxels(x: Tensor) -> Tensor:
    """Double the extent of (batch, channels, [z,] y, x): every voxel twice along every axis.

    The gradient of torch's own interpolation is summed in no fixed order on a GPU.
    """
    if not (x.is_cuda and torch.is_grad_enabled()):
        return F.interpolate(x, scale_factor=2, mode="nearest")
    layout = memory_format(x.ndim - 2)
    for axis in range(2, x.ndim):
        x = torch.stack([x, x], axis + 1).flatten(axis, axis + 1)
    return x.contiguous(memory_format=layout)


def alignment(config: SSINetworkConfig) -> int:
    """Give the multiple, in voxels, that extents and cuts must have: one voxel of the bottom level."""
    return int(2 ** (config.depth - 1))


def receptive_radius(config: SSINetworkConfig) -> int:
    """Give the farthest voxel, along any axis, that an output voxel can depend on: 153 for depth 5.

    It depends on the output voxel's place in the grid of the bottom level; this is the farthest of all.
    """
    reaches = (_reach(at, config.depth) for at in range(alignment(config)))
    return max(max(at - first, last - at) for at, (first, last) in enumerate(reaches))


def _reach(at: int, depth: int) -> tuple[int, int]:
    """Follow the voxels that an output voxel depends on along one axis, down to the bottom and up again."""
    first = last = at
    for _ in range(depth - 1):  # The decoder, from its last level to its first.
        first, last = (first - DOUBLE_RADIUS) // 2, (last + DOUBLE_RADIUS) // 2
    first, last = first - DOUBLE_RADIUS, last + DOUBLE_RADIUS
    for _ in range(depth - 1):  # The encoder, likewise.
        first, last = 2 * first - DOUBLE_RADIUS, 2 * last + 1 + DOUBLE_RADIUS
    return first, last
