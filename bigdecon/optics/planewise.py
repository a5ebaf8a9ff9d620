"""Convolution of a large 3D image on a CPU, in pieces that stay in its cache.

A transform of the whole volume carries all of it through main memory for every axis, and so does each
operation around it. Here some planes at a time are transformed, then some lines across all planes, are
multiplied, and go the same way back:

    planes  --rfft along y, x-->  spectrum          fill
    lines across the planes: fft along z, times the PSF's transform, ifft along z          multiply
    spectrum  --irfft along y, x-->  planes         empty

What is done to the planes before and after is done while they are in the cache. Planes that hold nothing but
zeros, and planes that nobody wants, are left out: with a PSF half as deep as the image, a third of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bigdecon.optics.crew import Crew

__all__ = ["PlanewiseSpectrum", "lines_across", "pays"]

# Bytes of a piece, which some operations in a row read and write. With 1 MB of second-level cache for each
# core, 0.6 to 1.25 MB took the same time and 2.5 MB a tenth more.
PIECE = 1.25e6

# Below this many voxels a whole transform fits the cache, and starting threads would cost more.
LEAST_VOXELS = 2**20

Slices = Callable[[slice], Tensor]


def pays(size: Sequence[int]) -> bool:
    """Tell whether a transform of this size (z, y, x) is large enough to be taken in pieces."""
    return len(size) == 3 and size[0] * size[1] * size[2] >= LEAST_VOXELS


def lines_across(transform: Tensor) -> Tensor:
    """Give a transform (z, y, x), the same numbers, with its lines along z in one piece of memory."""
    return transform.permute(1, 2, 0).contiguous().permute(2, 0, 1)


class PlanewiseSpectrum:
    """The spectrum of one image, its planes transformed along y and x; its memory serves again and again.

    Parameters
    ----------
    otf : complex (z, y, x // 2 + 1), what `multiply` multiplies by; quickest in the layout of `lines_across`
    size : extent of the transforms (z, y, x)
    crew : computes
    """

    def __init__(self, otf: Tensor, size: Sequence[int], crew: Crew) -> None:
        self._otf = otf
        self._size = tuple(size)
        self._crew = crew
        self._spectrum = torch.empty(otf.shape, dtype=otf.dtype)
        depth, height, width = otf.shape
        self._planes = max(1, int(PIECE / (8 * height * width)))
        self._rows = max(1, int(PIECE / (8 * depth * width)))

    def fill(self, count: int, planes: Slices) -> None:
        """Transform `count` planes; `planes` gives some of them, real, of extent `size` (y, x) at most."""
        self._crew.share(lambda part: self.put(part, planes(part)), count, self._planes)

    def put(self, part: slice, planes: Tensor) -> None:
        """Transform some planes; what is missing to `size` is zero."""
        self._spectrum[part] = torch.fft.rfft2(planes, s=self._size[1:])

    def multiply(self, filled: int, wanted: int, *, conjugate: bool) -> None:
        """Convolve along z and multiply by the PSF's transform, or by its conjugate.

        Parameters
        ----------
        filled : planes that hold something; the others are taken as zero
        wanted : planes that are computed; the others hold nothing sensible afterwards
        conjugate : whether to correlate instead of to convolve
        """

        def lines(rows: slice) -> None:
            spectrum = torch.fft.fft(self._spectrum[:filled, rows], n=self._size[0], dim=0)
            otf = self._otf[:, rows]
            spectrum.mul_(otf.conj() if conjugate else otf)
            self._spectrum[:wanted, rows] = torch.fft.ifft(spectrum, dim=0)[:wanted]

        self._crew.share(lines, self._size[1], self._rows)

    def empty(self, count: int, use: Callable[[slice, Tensor], None]) -> None:
        """Transform `count` planes back, and hand them to `use` with their place, in no particular order."""

        def planes(part: slice) -> None:
            use(part, torch.fft.irfft2(self._spectrum[part], s=self._size[1:]))

        self._crew.share(planes, count, self._planes)
