"""Richardson–Lucy deconvolution, with a background in the model and exact edges.

The model of an image y of extent N is A x + b: A blurs an object x that reaches the PSF's radius r
beyond the image on every side, so that what lies outside may still shine in (M. Bertero and P. Boccacci,
"A simple method for the reduction of boundary effects in the Richardson-Lucy approach to image
deconvolution", Astronomy & Astrophysics 437, 2005). One iteration is

    x  <-  x / Aᵀ1 · Aᵀ( y / (A x + b) )

(W. H. Richardson 1972, L. B. Lucy 1974). It keeps x non-negative and Σ (Aᵀ1 · x) = Σ (y - b) as nearly as
the data allow, so intensity is conserved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bigdecon.deconvolution.compute import computing
from bigdecon.errors import OptionError, PSFError
from bigdecon.optics.blur import Blur

__all__ = ["RichardsonLucy"]

# Beyond the image, a voxel of which less than this part of the light falls into the image is left at 0: the
# data hardly know it, and dividing by so little would amplify rounding errors of the transforms.
LEAST_SEEN = 0.01

# Part of the PSF's light that counts for the halo.
LIGHT_KEPT = 0.999


@dataclass(frozen=True, eq=False)
class RichardsonLucy:
    """Richardson–Lucy as a deconvolver of the block engine.

    Attributes
    ----------
    psf : [z,] y, x; odd extent, centred, sums to 1
    iterations : at least 1
    background : the camera's offset in the image's units, at least 0; part of the model, kept in the result
    device : where to compute, as torch names it: "cpu", "cuda", "cuda:0"
    threads : CPU threads; None leaves torch's setting
    """

    psf: NDArray[np.floating]
    iterations: int = 10
    background: float = 0.0
    device: str = "cpu"
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if self.iterations < 1:
            raise OptionError(f"{self.iterations} iterations were asked for; at least 1 is needed.")
        if not 0 <= self.background < math.inf:
            raise OptionError(f"the background is {self.background:g}; it is finite and at least 0.")
        if any(n % 2 == 0 for n in self.psf.shape):
            raise PSFError(f"the PSF has the shape {self.psf.shape}; every extent must be odd.")

    @property
    def name(self) -> str:
        """The method's name on the command line."""
        return "richardson-lucy"

    @property
    def alignment(self) -> int:
        """Blocks may start anywhere."""
        return 1

    @property
    def halo(self) -> tuple[int, ...]:
        """Voxels needed on each side for a block to agree with the whole volume to 1e-4 of its range.

        In theory each iteration reaches two PSF radii further. In fact the disturbance at a cut face does
        not travel: over four PSFs (9³ to 17³, Gaussian, lopsided, and a cone of light that fills its
        array), with and without noise, at 10, 20 and 40 iterations alike, the largest difference was at
        most 3e-2 of the range at one radius from the cut, 1e-3 at two, 2e-4 at three and 3e-5 at four.
        Hence four times the radius that holds 99.9 % of the PSF's light along the axis.
        """
        return tuple(4 * _light_radius(self.psf, axis) for axis in range(self.psf.ndim))

    def __call__(self, block: NDArray[Any], /) -> NDArray[np.float32]:
        """Deconvolve one block ([z,] y, x) of any real type.

        Returns
        -------
        float32, of the block's shape and in its units, at least `background`: the object plus the background

        Raises
        ------
        PSFError
            if block and PSF differ in the number of dimensions
        """
        if block.ndim != self.psf.ndim:
            raise PSFError(f"the PSF has {self.psf.ndim} dimensions but the image has {block.ndim}.")
        blur = _blur(np.asarray(self.psf, dtype=np.float32).tobytes(), self.psf.shape)
        with computing(self.threads):
            image = torch.from_numpy(block.astype(np.float32))[None, None].to(self.device)
            restored = _iterate(blur, image.clamp_(min=0), self.background, self.iterations)
            return np.asarray(restored.add_(self.background)[0, 0].cpu().numpy())

    def working_bytes(self, block_shape: Sequence[int]) -> int:
        """Estimate the memory that one block takes at most, in bytes; `block_shape` includes the halo."""
        object_voxels = math.prod(n + 2 * (p // 2) for n, p in zip(block_shape, self.psf.shape, strict=True))
        return int(4 * (2 * math.prod(block_shape) + 7 * object_voxels))


def _light_radius(psf: NDArray[np.floating], axis: int) -> int:
    """Find the half-width of the slab around the centre that holds `LIGHT_KEPT` of the PSF."""
    other_axes = tuple(a for a in range(psf.ndim) if a != axis)
    profile = np.abs(psf).sum(axis=other_axes, dtype=np.float64)
    centre = len(profile) // 2
    held = profile[centre:] + profile[centre::-1]
    held[0] = profile[centre]
    return int(np.searchsorted(np.cumsum(held), LIGHT_KEPT * profile.sum()))


@lru_cache(maxsize=4)
def _blur(psf: bytes, shape: tuple[int, ...]) -> Blur:
    """Keep the PSF's transforms of a process from one block to the next."""
    return Blur(np.frombuffer(psf, dtype=np.float32).reshape(shape).copy())


def _iterate(blur: Blur, image: Tensor, background: float, iterations: int) -> Tensor:
    """Iterate from a flat start; tensors are (1, 1, [z,] y, x), the image at least 0.

    From a flat object the first iteration gives Aᵀy / Aᵀ1, whatever the level of the start, if there is no
    background. With one, the level would matter and so would the block it is the mean of: the first
    iteration is therefore taken on y - b, and the background is part of the model from the second on.
    """
    weight = blur.valid_adjoint(torch.ones_like(image))
    # 1 / Aᵀ1 where the image sees enough of a voxel, else 0
    weight = torch.where(weight > LEAST_SEEN, weight.reciprocal_(), 0)
    # Below this the model's value is nothing but rounding errors of the transforms.
    least = torch.finfo(image.dtype).eps * image.max().clamp_(min=torch.finfo(image.dtype).tiny)
    estimate = blur.valid_adjoint((image - background).clamp_(min=0)).mul_(weight).clamp_(min=0)
    for _ in range(iterations - 1):
        model = blur.valid(estimate).add_(background).clamp_(min=least)
        ratio = torch.div(image, model, out=model)
        estimate.mul_(blur.valid_adjoint(ratio)).mul_(weight).clamp_(min=0)
    window: list[Any] = [slice(r, r + n) for r, n in zip(blur.radius, image.shape[2:], strict=True)]
    return estimate[(..., *window)].clone()
