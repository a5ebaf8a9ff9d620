"""Blurring with a point spread function: true convolution, and its adjoint.

The domain matters at the edges. *Valid*: an object of extent N + 2r gives an image of extent N
that is exact, r being the PSF's radius. *Same*: object and image have one extent, and what lies
beyond the object is taken as zero, or as a repetition of its edge voxels.

    object   |<- r ->|<------------- N ------------->|<- r ->|
    image            |<---- every voxel is exact --->|
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bigdecon.optics.crew import Crew
from bigdecon.optics.planewise import PlanewiseSpectrum, lines_across, pays

__all__ = ["Blur", "Extension", "fast_size"]

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
        return self._differentiable(x.float(), conjugate=False)

    def valid_adjoint(self, y: Tensor) -> Tensor:
        """Apply the transpose of `valid`: an image of extent N gives an object of extent N + 2r."""
        if self._direct:
            padding = [p for r in reversed(self.radius) for p in (2 * r, 2 * r)]
            return self._convolve_directly(F.pad(y, padding), self._psf)
        return self._differentiable(y.float(), conjugate=True)

    @property
    def is_direct(self) -> bool:
        """Whether the PSF is so small that it takes no transform."""
        return self._direct

    def transform_size(self, object_shape: Sequence[int]) -> tuple[int, ...]:
        """Give the extent at which objects of a shape ([z,] y, x) are transformed."""
        return tuple(fast_size(n, even=axis == self.ndim - 1) for axis, n in enumerate(object_shape))

    def transform(self, object_shape: Sequence[int], device: torch.device) -> Tensor:
        """Give the PSF's transform for objects of a shape ([z,] y, x).

        Multiplied by it, the transform of an object becomes that of an image whose exact part begins at
        voxel 0; its conjugate leads back. Nothing wraps around into that part, for the transform is
        no smaller than the object.
        """
        size = self.transform_size(object_shape)
        key = (size, device)
        transform = self._transforms.get(key)
        if transform is None:
            transform = torch.fft.rfftn(self._placed(size).to(device))
            if device.type == "cpu" and pays(size):
                transform = lines_across(transform)
            if len(self._transforms) >= TRANSFORMS_KEPT:
                self._transforms.clear()
            self._transforms[key] = transform
        return transform

    def _placed(self, size: Sequence[int]) -> Tensor:
        """Put the PSF into a larger array so that its last voxel is at 0 and the others come before it."""
        psf = torch.zeros(tuple(size))
        psf[tuple(slice(0, n) for n in self._psf.shape)] = self._psf
        return psf.roll([-2 * r for r in self.radius], tuple(range(self.ndim)))

    def _extend(self, x: Tensor, extension: Extension) -> Tensor:
        padding = [p for r in reversed(self.radius) for p in (r, r)]
        return F.pad(x, padding, mode="replicate") if extension == "replicate" else F.pad(x, padding)

    def _crop(self, x: Tensor) -> Tensor:
        window: list[Any] = [slice(r, n - r) for r, n in zip(self.radius, x.shape[2:], strict=True)]
        return x[(..., *window)]

    def _differentiable(self, x: Tensor, *, conjugate: bool) -> Tensor:
        if not torch.is_grad_enabled():
            return self._by_fft(x, conjugate)
        result: Tensor = _ByFFT.apply(x, self, conjugate)  # type: ignore[no-untyped-call]
        return result

    def _by_fft(self, x: Tensor, conjugate: bool) -> Tensor:
        """Convolve, or correlate, circularly at a fast size no smaller than the object."""
        grow = [2 * r if conjugate else 0 for r in self.radius]
        objects = [n + g for n, g in zip(x.shape[2:], grow, strict=True)]
        keep = [n + 2 * g - 2 * r for n, g, r in zip(x.shape[2:], grow, self.radius, strict=True)]
        otf, size = self.transform(objects, x.device), self.transform_size(objects)
        if x.device.type == "cpu" and pays(size):
            return _planewise(x, otf, size, keep, conjugate=conjugate)
        axes = tuple(range(-self.ndim, 0))
        spectrum = torch.fft.rfftn(x, s=size, dim=axes)
        spectrum.mul_(otf.conj() if conjugate else otf)
        result: Tensor = torch.fft.irfftn(spectrum, s=size, dim=axes)
        window: list[Any] = [slice(0, k) for k in keep]
        return result[(..., *window)]

    def _convolve_directly(self, x: Tensor, kernel: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        convolve = F.conv2d if self.ndim == 2 else F.conv3d
        flat = x.float().reshape(batch * channels, 1, *x.shape[2:])
        y: Tensor = convolve(flat, kernel.to(x.device)[None, None])
        return y.reshape(batch, channels, *y.shape[2:])


class _ByFFT(torch.autograd.Function):
    """The valid blur or its adjoint; each is the gradient of the other.

    Torch's own gradient of a real transform is a complex one: twice the work.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, blur: Blur, conjugate: bool) -> Tensor:
        ctx.blur, ctx.conjugate = blur, conjugate
        return blur._by_fft(x, conjugate)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        slope: Tensor = _ByFFT.apply(slopes[0], ctx.blur, not ctx.conjugate)  # type: ignore[no-untyped-call]
        return slope, None, None


def _planewise(
    x: Tensor, otf: Tensor, size: tuple[int, ...], keep: Sequence[int], *, conjugate: bool
) -> Tensor:
    """Convolve each 3D image of (batch, channel, z, y, x) on the CPU in pieces."""
    depth, height, width = keep
    result = torch.empty(*x.shape[:2], *keep, dtype=x.dtype)
    with Crew() as crew:
        spectrum = PlanewiseSpectrum(otf, size, crew)
        for image, out in zip(x.flatten(0, 1), result.flatten(0, 1), strict=True):
            spectrum.fill(len(image), image.__getitem__)
            spectrum.multiply(len(image), depth, conjugate=conjugate)
            spectrum.empty(depth, lambda part, planes: _store(out[part], planes[:, :height, :width]))  # noqa: B023
    return result


def _store(place: Tensor, values: Tensor) -> None:
    place.copy_(values)


@lru_cache(maxsize=256)
def fast_size(n: int, *, even: bool = False) -> int:
    """Give the next extent, at least n, that has no prime factor above 7: transforms of these are quick.

    With `even`, an even one, for the axis along which a transform of real numbers is halved.
    """
    while not (_is_smooth(n) and (n % 2 == 0 or not even)):
        n += 1
    return n


def _is_smooth(n: int) -> bool:
    for prime in (2, 3, 5, 7):
        while n % prime == 0:
            n //= prime
    return n == 1
