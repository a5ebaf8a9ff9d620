"""Blurring with a point spread function: true convolution, and its adjoint.

The domain matters at the edges. *Valid*: an object of extent N + 2r gives an image of extent N
that is exact, r being the PSF's radius. *Same*: object and image have one extent, and what lies
beyond the object is taken as zero, or as a repetition of its edge voxels.

    object   |<- r ->|<------------- N ------------->|<- r ->|
    image            |<---- every voxel is exact --->|
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import scipy.fft
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Blur", "Extension"]

Extension = Literal["zero", "replicate"]

# Below this many PSF voxels direct convolution is used. On one CPU thread, with the PSF's transform kept,
# 3 x 3 took the FFT 4.7 times as long as direct convolution on 128 x 128 pixels and 1.4 times on 512 x 512,
# 5 x 5 as long and 0.7 times; in 3D the FFT was slower for a single voxel only, and for 3 x 3 x 3 it took 0.9
# times as long on 64^3 voxels and 0.25 times on 128^3. Measured by benchmarks/fft_crossover.py; a test
# compares the switch with the recorded result.
DIRECT_BELOW = {2: 5 * 5, 3: 3 * 3}

# Blocks at a volume's edges come in up to 27 shapes, and each transform is as large as a block.
TRANSFORMS_KEPT = 4


class Blur:
    """Convolution with one PSF; tensors are (batch, channel, [z,] y, x) and stay on their device.

    The PSF's transform is kept from call to call, for the last few shapes and devices.

    Parameters
    ----------
    psf : 2D or 3D array of odd extent along every axis, peak at the centre voxel; it normally sums to 1
    """

    def __init__(self, psf: NDArray[np.floating]) -> None:
        if any(n % 2 == 0 for n in psf.shape):
            raise ValueError(f"a PSF for Blur needs an odd extent along every axis, not {psf.shape}")
        self._psf = torch.from_numpy(np.ascontiguousarray(psf, dtype=np.float32))
        self._transforms: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}
        self.radius = tuple(n // 2 for n in psf.shape)
        self.ndim = psf.ndim
        self._direct = psf.size < DIRECT_BELOW[psf.ndim]

    def forward(self, x: Tensor, extension: Extension = "zero") -> Tensor:
        """Blur an object into an image of the same shape; `extension` says what lies beyond the object."""
        return self.valid(self._extend(x, extension))

    def adjoint(self, y: Tensor) -> Tensor:
        """Apply the transpose of `forward` with zero extension: correlation with the PSF."""
        return self._crop(self.valid_adjoint(y))

    def valid(self, x: Tensor) -> Tensor:
        """Blur an object of extent N + 2r into the exact image of extent N."""
        if self._direct:
            return self._convolve_directly(x, self._psf.flip(tuple(range(self.ndim))))
        return self._by_fft(x, conjugate=False, shift=[2 * r for r in self.radius], keep=self._inner(x))

    def valid_adjoint(self, y: Tensor) -> Tensor:
        """Apply the transpose of `valid`: an image of extent N gives an object of extent N + 2r."""
        padding = [p for r in reversed(self.radius) for p in (2 * r, 2 * r)]
        if self._direct:
            return self._convolve_directly(F.pad(y, padding), self._psf)
        before = [p for r in reversed(self.radius) for p in (2 * r, 0)]
        placed = F.pad(y, before)
        return self._by_fft(placed, conjugate=True, shift=[0] * self.ndim, keep=list(placed.shape[2:]))

    def _inner(self, x: Tensor) -> list[int]:
        return [n - 2 * r for n, r in zip(x.shape[2:], self.radius, strict=True)]

    def _extend(self, x: Tensor, extension: Extension) -> Tensor:
        padding = [p for r in reversed(self.radius) for p in (r, r)]
        return F.pad(x, padding, mode="replicate") if extension == "replicate" else F.pad(x, padding)

    def _crop(self, x: Tensor) -> Tensor:
        window: list[Any] = [slice(r, n - r) for r, n in zip(self.radius, x.shape[2:], strict=True)]
        return x[(..., *window)]

    def _by_fft(self, x: Tensor, *, conjugate: bool, shift: list[int], keep: list[int]) -> Tensor:
        """Convolve (or correlate) circularly at the next fast size.

        Convolving an object of extent N + 2r circularly spoils only the 2r voxels at its start, which
        `valid` does not keep; the adjoint's image lies behind 2r empty voxels, so that nothing wraps.
        """
        size = [scipy.fft.next_fast_len(n, real=True) for n in x.shape[2:]]
        axes = tuple(range(-self.ndim, 0))
        otf = self._transform(tuple(size), x.device)
        spectrum = torch.fft.rfftn(x.float(), s=size, dim=axes)
        result: Tensor = torch.fft.irfftn(spectrum * (otf.conj() if conjugate else otf), s=size, dim=axes)
        window: list[Any] = [slice(s, s + k) for s, k in zip(shift, keep, strict=True)]
        return result[(..., *window)]

    def _transform(self, size: tuple[int, ...], device: torch.device) -> Tensor:
        """Transform of the PSF whose first voxel, not its peak, is the origin."""
        key = (size, device)
        transform = self._transforms.get(key)
        if transform is None:
            transform = torch.fft.rfftn(self._psf.to(device), s=list(size), dim=tuple(range(self.ndim)))
            if len(self._transforms) >= TRANSFORMS_KEPT:
                self._transforms.clear()
            self._transforms[key] = transform
        return transform

    def _convolve_directly(self, x: Tensor, kernel: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        convolve = F.conv2d if self.ndim == 2 else F.conv3d
        flat = x.float().reshape(batch * channels, 1, *x.shape[2:])
        y: Tensor = convolve(flat, kernel.to(x.device)[None, None])
        return y.reshape(batch, channels, *y.shape[2:])
