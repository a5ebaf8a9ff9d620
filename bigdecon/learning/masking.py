"""Which voxels are masked in training, and which are kept out of it altogether."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "held_out_places",
    "held_out_voxels",
    "neighbour_mean",
    "replace_masked",
    "stratified_mask",
    "stratum",
]


def stratum(fraction: float, ndim: int) -> int:
    """Give the side, in voxels, of the boxes that hold one masked voxel each: 6 for 0.5 % in 3D."""
    side: float = (1 / fraction) ** (1 / ndim)
    return max(1, round(side))


def stratified_mask(batch: int, shape: Sequence[int], fraction: float, generator: torch.Generator) -> Tensor:
    """Mask one voxel, chosen at random, in every box of side `stratum(fraction)`.

    Parameters
    ----------
    batch : images, masked independently
    shape : extent of the spatial axes, in voxels
    fraction : part of the voxels to mask, in (0, 1)
    generator : source of randomness; the mask is made on its device

    Returns
    -------
    bool tensor (batch, 1, [z,] y, x), True where masked
    """
    side = stratum(fraction, len(shape))
    device = generator.device
    grids = [-(-n // side) for n in shape]
    corners = torch.meshgrid(*(torch.arange(g, device=device) * side for g in grids), indexing="ij")
    mask = torch.zeros(batch, 1, *(g * side for g in grids), dtype=torch.bool, device=device)
    places = [
        corner.expand(batch, *grids)
        + torch.randint(side, (batch, *grids), generator=generator, device=device)
        for corner in corners
    ]
    image = torch.arange(batch, device=device).view(batch, *[1] * len(shape)).expand(batch, *grids)
    mask[(image, torch.zeros_like(image), *places)] = True
    window: list[Any] = [slice(0, n) for n in shape]
    return mask[(..., *window)]


def replace_masked(x: Tensor, mask: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Put noise N(0, sigma^2), in standardised units, where the mask is True."""
    noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype) * sigma
    return torch.where(mask, noise, x)


def neighbour_mean(x: Tensor, hidden: Tensor) -> Tensor:
    """Give the mean of the voxels around each voxel, hidden ones left out; 0 where all are hidden.

    Parameters
    ----------
    x : (batch, 1, [z,] y, x)
    hidden : bool, the same shape
    """
    ndim = x.ndim - 2
    box = torch.ones(1, 1, *[3] * ndim, device=x.device)
    convolve = F.conv2d if ndim == 2 else F.conv3d
    known = (~hidden).to(x.dtype)
    around: Tensor = convolve(x * known, box, padding=1)
    return around / convolve(known, box, padding=1).clamp(min=1)


def held_out_voxels(
    origin: Sequence[int], shape: Sequence[int], fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Tell which voxels of a box of the volume are kept out of training.

    One voxel in every box of side `stratum(fraction)` of a grid fixed to the volume: the answer for
    a voxel is the same in every patch that holds it, and in every run with the same seed.

    Parameters
    ----------
    origin : first voxel of the box, in voxels of the volume
    shape : extent of the box, in voxels
    fraction : part of the voxels, in [0, 1); 0 keeps none out
    seed : another seed keeps out other voxels
    """
    held = np.zeros(shape, bool)
    held[held_out_places(origin, shape, fraction, seed)] = True
    return held


def held_out_places(
    origin: Sequence[int], shape: Sequence[int], fraction: float, seed: int
) -> tuple[NDArray[np.int64], ...]:
    """Give the places of `held_out_voxels` within the box, one array of indices an axis."""
    if fraction <= 0:
        return tuple(np.zeros(0, np.int64) for _ in shape)
    side = stratum(fraction, len(shape))
    first = [o // side for o in origin]
    last = [-(-(o + n) // side) for o, n in zip(origin, shape, strict=True)]
    cells = np.meshgrid(*(np.arange(a, b) for a, b in zip(first, last, strict=True)), indexing="ij")
    code = np.full(cells[0].shape, seed, np.uint64)
    for cell in cells:
        code = _scramble(code ^ cell.astype(np.uint64))
    inside = np.ones(cells[0].shape, bool)
    places = []
    for cell, o, n in zip(cells, origin, shape, strict=True):
        code = _scramble(code)
        place = cell * side + (code % np.uint64(side)).astype(np.int64) - o
        inside &= (place >= 0) & (place < n)
        places.append(place)
    return tuple(place[inside] for place in places)


def _scramble(code: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix the bits of 64-bit counters (the finaliser of SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        code = code + np.uint64(0x9E3779B97F4A7C15)
        code = (code ^ (code >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        code = (code ^ (code >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = code ^ (code >> np.uint64(31))
    return mixed
