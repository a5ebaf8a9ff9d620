"""What the methods that need nothing but the PSF have in common: their settings, checks, and way in and out.

    block, data units --> float32 tensor on the device --> the method's own `_restore` --> + background

The model of an image is A x + b: the object x blurred by the PSF, plus the camera's offset b. A method
restores x; the background is added again, so that a result has the units and the offset of its input.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bigdecon.deconvolution.compute import computing
from bigdecon.errors import OptionError, PSFError
from bigdecon.optics.blur import Blur

__all__ = ["ClassicalMethod", "cached_blur", "inverse_weight", "spread"]

# Beyond the image, a voxel of which less than this part of the light falls into the image is left at 0: the
# data hardly know it, and dividing by so little would amplify rounding errors of the transforms. What is
# left out changes the edge a little: after Richardson-Lucy a flat image of 100 is flat to 0.1 (to 1.5 with
# 0.01), after conjugate gradients to 0.3 in 2D and to 1 at a corner in 3D.
LEAST_SEEN = 0.001


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassicalMethod(ABC):
    """A deconvolver of the block engine that follows from the PSF and some numbers.

    Attributes
    ----------
    psf : [z,] y, x; odd extent, centred, sums to 1
    background : the camera's offset in the image's units, at least 0; part of the model, kept in the result
    device : where to compute, as torch names it: "cpu", "cuda", "cuda:0"
    threads : CPU threads; None leaves torch's setting
    """

    psf: NDArray[np.floating] = field(kw_only=False, repr=False)
    background: float = 0.0
    device: str = "cpu"
    threads: int | None = None

    name: ClassVar[str]
    """The method's name on the command line."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if not 0 <= self.background < math.inf:
            raise OptionError(f"the background is {self.background:g}; it is finite and at least 0.")
        if any(n % 2 == 0 for n in self.psf.shape):
            raise PSFError(f"the PSF has the shape {self.psf.shape}; every extent must be odd.")

    @property
    def alignment(self) -> int:
        """Blocks may start anywhere."""
        return 1

    @property
    @abstractmethod
    def halo(self) -> tuple[int, ...]:
        """Voxels needed on each side for a block to agree with the whole volume."""

    @abstractmethod
    def working_bytes(self, block_shape: Sequence[int]) -> int:
        """Estimate the memory that one block takes at most, in bytes; `block_shape` includes the halo."""

    @abstractmethod
    def _restore(self, blur: Blur, image: Tensor) -> Tensor:
        """Give the object, without background, of an image (1, 1, [z,] y, x); the shape stays."""

    def forget(self) -> None:
        """Drop the transforms that are kept on the device from one block to the next."""
        _blur.cache_clear()

    def __call__(self, block: NDArray[Any], /) -> NDArray[np.float32]:
        """Deconvolve one block ([z,] y, x) of any real type.

        Returns
        -------
        float32, of the block's shape and in its units: the object plus the background

        Raises
        ------
        PSFError
            if block and PSF differ in the number of dimensions
        """
        if block.ndim != self.psf.ndim:
            raise PSFError(f"the PSF has {self.psf.ndim} dimensions but the image has {block.ndim}.")
        blur = cached_blur(np.asarray(self.psf, dtype=np.float32))
        with computing(self.threads, self.device, block.size):
            image = torch.from_numpy(block.astype(np.float32))[None, None].to(self.device)
            restored = self._restore(blur, image)
            return np.asarray(restored.add_(self.background)[0, 0].cpu().numpy())


def spread(psf: NDArray[np.floating], axis: int) -> float:
    """Give the PSF's standard deviation along an axis about its centre voxel, in voxels."""
    other_axes = tuple(a for a in range(psf.ndim) if a != axis)
    profile = np.abs(psf).sum(axis=other_axes, dtype=np.float64)
    distance = np.arange(len(profile)) - len(profile) // 2
    return math.sqrt((profile * distance**2).sum() / profile.sum())


def inverse_weight(blur: Blur, image: Tensor) -> Tensor:
    """Give 1 / Aᵀ1 where an image (1, 1, [z,] y, x) sees enough of a voxel of the object, else 0."""
    weight = blur.valid_adjoint(torch.ones_like(image))
    return torch.where(weight > LEAST_SEEN, weight.reciprocal(), 0)


def cached_blur(psf: NDArray[np.float32]) -> Blur:
    """Give the blur of a PSF, whose transforms a process keeps from one block to the next."""
    return _blur(psf.tobytes(), psf.shape)


@lru_cache(maxsize=4)
def _blur(psf: bytes, shape: tuple[int, ...]) -> Blur:
    return Blur(np.frombuffer(psf, dtype=np.float32).reshape(shape).copy())
