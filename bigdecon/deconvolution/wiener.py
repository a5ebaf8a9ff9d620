"""Wiener deconvolution as one convolution with a finite kernel.

The filter is, in the frequency domain, with the PSF's transform H and the noise-to-signal power ratio K,

    W = (1 + K) · conj(H) / ( |H|² + K )

(N. Wiener, "Extrapolation, Interpolation, and Smoothing of Stationary Time Series", 1949). The factor 1 + K,
which is not in the original, keeps the total intensity, W(0) = 1, and makes a delta PSF the identity.
W has no sharp edge: its kernel w in space fades exponentially, and is cut where next to nothing is left. A
voxel of the result then depends on its surroundings up to a known radius and on nothing else, so that a block
equals the whole volume up to rounding. Beyond the image its outermost voxels repeat.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from torch import Tensor

from bigdecon.deconvolution.classical import ClassicalMethod
from bigdecon.errors import OptionError
from bigdecon.optics.blur import Blur

__all__ = ["Wiener", "wiener_filter"]

# Sum of the absolute values of the kernel that may be cut off. The kernel's sum is restored after the cut, so
# that a result moves by less than this part of the image's range, whatever the image: less than any noise.
# The cut is the same for a block and for the whole, so it makes no seam. With 1e-4 the halo would be a fifth
# wider.
CUT_OFF = 1e-3

# Voxels of the largest grid on which a kernel is computed; in double precision they take 1 GB all in all.
LARGEST_GRID = 2**25


@dataclass(frozen=True, eq=False, kw_only=True)
class Wiener(ClassicalMethod):
    """Wiener filter as a deconvolver of the block engine; see `ClassicalMethod` for the other settings.

    The result may be negative: the filter is linear.

    Attributes
    ----------
    regularization : power of the noise in units of the signal's, K; above 0. More gives a smoother result.
        On two simulated volumes with photon noise, 0.03 to 0.1 had the least error where the brightest voxel
        counted about 20 photons, 0.01 to 0.03 at 80, 0.003 at 600; 0.03 was within 10 % of it in all. The
        wider the PSF, the sooner a small K is refused, as its filter would reach too far
    """

    regularization: float = 0.03
    name: ClassVar[str] = "wiener"

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        super().__post_init__()
        if not 0 < self.regularization < math.inf:
            raise OptionError(f"the regularization is {self.regularization:g}; it is finite and above 0.")

    @property
    def halo(self) -> tuple[int, ...]:
        """Voxels needed on each side for a block to equal the whole volume: the kernel's radius.

        Raises
        ------
        OptionError
            if the regularization is so small that the filter reaches too far
        """
        return wiener_filter(self.psf, self.regularization).radius

    def forget(self) -> None:
        """Drop the transforms that are kept on the device from one block to the next."""
        super().forget()
        _filter.cache_clear()

    def working_bytes(self, block_shape: Sequence[int]) -> int:
        """Estimate the memory that one block takes at most, in bytes; `block_shape` includes the halo.

        In float32: the image twice, and seven arrays of the image's extent with repeated edges: it, the
        kernel's transform, and what an FFT and its inverse need. Measured on a CPU for 112³ voxels and a
        radius of 34 x 20 x 20: 86 bytes a voxel; the estimate is 91.
        """
        padded_voxels = math.prod(n + 2 * r for n, r in zip(block_shape, self.halo, strict=True))
        return int(4 * (2 * math.prod(block_shape) + 7 * padded_voxels))

    def _restore(self, blur: Blur, image: Tensor) -> Tensor:
        return wiener_filter(self.psf, self.regularization).forward(image - self.background, "replicate")


def wiener_filter(psf: NDArray[np.floating], regularization: float) -> Blur:
    """Give the convolution with the filter's kernel; a process keeps the last few.

    Parameters
    ----------
    psf : [z,] y, x; odd extent, peak at the centre voxel
    regularization : K, above 0

    Raises
    ------
    OptionError
        if the kernel has not faded within a grid of `LARGEST_GRID` voxels
    """
    return _filter(psf.astype(np.float64).tobytes(), psf.shape, regularization)


@lru_cache(maxsize=4)
def _filter(psf: bytes, shape: tuple[int, ...], regularization: float) -> Blur:
    return Blur(_kernel(np.frombuffer(psf, dtype=np.float64).reshape(shape), regularization))


def _kernel(psf: NDArray[np.float64], regularization: float) -> NDArray[np.float64]:
    """Compute the kernel, peak at the centre voxel, on a grid that grows until it holds it.

    The grid is periodic. It is large enough where the kernel's radius is less than a third of it: what
    folds back into the kernel lies twice as far out as the cut.
    """
    size = [_fast(n) for n in psf.shape]
    if math.prod(size) > LARGEST_GRID:
        raise OptionError(
            f"the PSF of {psf.shape} voxels is too large for a linear filter; "
            "crop it, or take another method, such as richardson-lucy."
        )
    while math.prod(size) <= LARGEST_GRID:
        kernel = _on_grid(psf, regularization, size)
        radius = _radius(kernel, CUT_OFF / psf.ndim)
        if all(n == 1 or 3 * r < n for r, n in zip(radius, size, strict=True)):
            return _cut(kernel, radius)
        size = [n if n == 1 or 3 * r < n else _fast(3 * n // 2) for r, n in zip(radius, size, strict=True)]
    raise OptionError(
        f"with a regularization of {regularization:g} the filter of this PSF of {psf.shape} voxels "
        "reaches too far to be computed; a larger regularization or a smaller PSF would do."
    )


def _fast(extent: int) -> int:
    """Give a size, no smaller, that transforms fast."""
    return int(scipy.fft.next_fast_len(extent, real=True))


def _on_grid(psf: NDArray[np.float64], regularization: float, size: list[int]) -> NDArray[np.float64]:
    """Evaluate the kernel on a periodic grid; its peak is at the centre, voxel n // 2."""
    placed = np.zeros(size)
    placed[tuple(slice(n) for n in psf.shape)] = psf
    placed = np.roll(placed, [-(n // 2) for n in psf.shape], axis=tuple(range(psf.ndim)))
    otf = scipy.fft.rfftn(placed)
    otf *= (1 + regularization) / (otf.real**2 + otf.imag**2 + regularization)
    kernel: NDArray[np.float64] = scipy.fft.irfftn(np.conj(otf, out=otf), s=size)
    return scipy.fft.fftshift(kernel)


def _radius(kernel: NDArray[np.float64], cut_off: float) -> list[int]:
    """Give, for every axis, the least radius beyond which the absolute values sum to less than `cut_off`."""
    magnitude = np.abs(kernel)
    return [_reach(magnitude.sum(axis=_others(kernel.ndim, axis)), cut_off) for axis in range(kernel.ndim)]


def _others(ndim: int, axis: int) -> tuple[int, ...]:
    return tuple(a for a in range(ndim) if a != axis)


def _reach(profile: NDArray[np.float64], cut_off: float) -> int:
    """Give the least radius about the centre voxel beyond which a profile sums to less than `cut_off`."""
    distance = np.abs(np.arange(len(profile)) - len(profile) // 2)
    shells = np.bincount(distance, weights=profile)
    beyond = np.cumsum(shells[::-1])[::-1]  # what lies at a distance or further out
    return int(np.count_nonzero(beyond >= cut_off)) - 1


def _cut(kernel: NDArray[np.float64], radius: list[int]) -> NDArray[np.float64]:
    """Cut the kernel to odd extents and give it back the sum it had."""
    window: list[Any] = [slice(n // 2 - r, n // 2 + r + 1) for n, r in zip(kernel.shape, radius, strict=True)]
    inner = kernel[tuple(window)]
    return np.asarray(inner * (kernel.sum() / inner.sum()))
