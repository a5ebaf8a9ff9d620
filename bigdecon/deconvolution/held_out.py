"""How well a method explains voxels that it has not seen: a yardstick that needs no truth.

Some voxels are hidden: each is replaced by the mean of its neighbours. The method restores what is left, the
result is blurred again with the PSF, and its value at the hidden voxels is compared with what the camera had
there. If noise is independent from voxel to voxel, the mean squared difference is the noise's own variance
plus the error of the blurred result, so among results for the same hidden voxels the smallest one is best,
as far as the PSF lets anything through (J. Batson and L. Royer, "Noise2Self", ICML 2019, for the idea).

It is blind to what the PSF takes away: two results that differ only there look alike to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bigdecon.deconvolution.block import Deconvolver
from bigdecon.deconvolution.classical import cached_blur
from bigdecon.deconvolution.compute import computing
from bigdecon.learning.masking import held_out_voxels, neighbour_mean
from bigdecon.learning.patches import read_excerpts
from bigdecon.volume import Stack

__all__ = [
    "SAMPLE_VOXELS",
    "HeldOutError",
    "Sample",
    "draw_samples",
    "errors_at_hidden",
    "held_out_error",
    "hide",
]

HIDDEN = 0.03
"""Part of the voxels that is hidden."""
SAMPLE_VOXELS = 2**20
"""At most about this many voxels are looked at, in several places of a large volume."""
SAMPLE_SIDE = {2: 512, 3: 64}
"""Extent of a part of a larger image, at least; a PSF that is larger makes it larger."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A part of an image with some of its voxels hidden; arrays are [z,] y, x.

    Attributes
    ----------
    image : as the camera gave it, in data units
    shown : the same with the hidden voxels replaced by the mean of their neighbours
    hidden : where the error is measured: hidden voxels, away from faces at which the PSF misses light
    """

    image: NDArray[np.float32]
    shown: NDArray[np.float32]
    hidden: NDArray[np.bool_]


class HeldOutError(NamedTuple):
    """Mean squared error at hidden voxels, and its standard error; both in squared data units."""

    mean: float
    standard_error: float


def draw_samples(
    stacks: Sequence[Stack],
    psf: NDArray[np.floating],
    background: float,
    *,
    seed: int = 0,
    hidden: float = HIDDEN,
    voxels: int = SAMPLE_VOXELS,
) -> list[Sample]:
    """Take parts of a channel, those with signal more likely than others, and hide some of their voxels.

    Parameters
    ----------
    stacks : one channel at every time point
    psf : [z,] y, x; decides how far from a part's faces the comparison begins
    background : in data units; what counts as signal lies above it
    seed : chooses parts and voxels
    hidden : part of the voxels to hide, in (0, 1)
    voxels : at most about this many in all; an image that is no larger is taken whole
    """
    side = [max(SAMPLE_SIDE[psf.ndim], n) for n in psf.shape]
    excerpts = read_excerpts(stacks, side, background, seed=seed, pool_voxels=voxels)
    return [
        hide(
            excerpt.data, psf, origin=excerpt.origin, seed=seed + 7919 * excerpt.stack_index, fraction=hidden
        )
        for excerpt in excerpts
    ]


def hide(
    image: NDArray[Any],
    psf: NDArray[np.floating],
    *,
    origin: Sequence[int] | None = None,
    seed: int = 0,
    fraction: float = HIDDEN,
) -> Sample:
    """Hide voxels of one image ([z,] y, x); for the other parameters see `draw_samples`."""
    data = np.asarray(image, np.float32)
    hidden = held_out_voxels(origin or (0,) * data.ndim, data.shape, fraction, seed)
    pair = (torch.from_numpy(part)[None, None] for part in (data, hidden))
    means = neighbour_mean(*pair)[0, 0].numpy()
    counted = np.zeros(data.shape, bool)
    # A PSF as wide as the image would leave nothing to compare.
    margins = (min(r // 2, n // 4) for r, n in zip(psf.shape, data.shape, strict=True))
    inner = tuple(slice(m, n - m) for m, n in zip(margins, data.shape, strict=True))
    counted[inner] = hidden[inner]
    return Sample(data, np.where(hidden, means, data), counted)


def errors_at_hidden(
    sample: Sample,
    restored: NDArray[np.float32],
    psf: NDArray[np.floating],
    background: float,
    device: str = "cpu",
    threads: int | None = None,
) -> NDArray[np.float64]:
    """Give the squared error of a restored image, blurred again, at every hidden voxel of a sample.

    Parameters
    ----------
    sample : whose `shown` was restored
    restored : the result, background included, in data units
    psf : [z,] y, x
    background : the part of the result that is not blurred, as a constant is not
    device, threads : where to compute
    """
    blur = cached_blur(np.asarray(psf, np.float32))
    with computing(threads):
        x = torch.from_numpy(restored - np.float32(background))[None, None].to(device)
        again = blur.forward(x, "replicate")[0, 0].cpu().numpy() + np.float32(background)
    differences: NDArray[np.float64] = (again - sample.image)[sample.hidden].astype(np.float64)
    return differences**2


def held_out_error(
    deconvolver: Deconvolver, samples: Sequence[Sample], psf: NDArray[np.floating], background: float = 0.0
) -> HeldOutError:
    """Measure how well a method explains the hidden voxels of some samples."""
    parts = [errors_at_hidden(s, deconvolver(s.shown), psf, background) for s in samples]
    errors = np.concatenate(parts)
    return HeldOutError(float(errors.mean()), float(errors.std(ddof=1) / math.sqrt(len(errors))))
