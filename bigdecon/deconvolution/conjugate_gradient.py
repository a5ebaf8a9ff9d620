"""Regularised least squares by conjugate gradients, with exact edges.

The model of an image y of extent N is A x + b: A blurs an object x that reaches the PSF's radius beyond the
image on every side (M. Bertero and P. Boccacci, Astronomy & Astrophysics 437, 2005). Sought is the x with

    ‖ A x + b - y ‖²  +  K · Σ w x²  =  min,        w = Aᵀ1

Away from the edges w is 1, and x is the Wiener filter's result. Near them and beyond, w is the part of a
voxel's light that the image sees: the less the data say about a voxel, the less it is pulled to 0. A flat
image thus stays flat to its very edge, since x = c solves the normal equations ( AᵀA + K w ) x = Aᵀ( y - b )
for y - b = (1 + K) c. With w = 1 beyond the image too, x would fall to 0 there and swing inside. As in
`wiener`, x is multiplied by 1 + K, so that the intensity is kept.

The normal equations are solved in the space of the image, where they are smaller and well conditioned:

    ( A w⁻¹ Aᵀ + K ) u = y - b,      x = w⁻¹ Aᵀ u

A w⁻¹ Aᵀ keeps a flat image and has no negative element, so its eigenvalues lie between 0 and 1, whatever the
PSF. Conjugate gradients: M. R. Hestenes and E. Stiefel, Journal of Research of the NBS 49, 1952.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from bigdecon.deconvolution.classical import ClassicalMethod, inverse_weight
from bigdecon.deconvolution.wiener import wiener_filter
from bigdecon.errors import OptionError
from bigdecon.optics.blur import Blur

__all__ = ["ConjugateGradient", "needed_for"]

# The residual, in units of the image less its background, at which the iteration ends.
TOLERANCE = 1e-5


@dataclass(frozen=True, eq=False, kw_only=True)
class ConjugateGradient(ClassicalMethod):
    """Least squares as a deconvolver of the block engine; see `ClassicalMethod` for the other settings.

    The result may be negative: the method is linear.

    Attributes
    ----------
    regularization : K, the power of the noise in units of the signal's; above 0. More gives a smoother result
    iterations : how many may be taken; it ends before, once the equations are solved. What is found on the
        way depends on the block, so it must be allowed as many as theory says may be needed, see `needed_for`
    """

    regularization: float = 0.03
    iterations: int = 500
    name: ClassVar[str] = "conjugate-gradient"

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        super().__post_init__()
        if not 0 < self.regularization < math.inf:
            raise OptionError(f"the regularization is {self.regularization:g}; it is finite and above 0.")
        needed = needed_for(self.regularization)
        if self.iterations < needed:
            raise OptionError(
                f"{self.iterations} iterations may leave the equations unsolved, and blocks would not fit "
                f"together; at least {needed} are needed with a regularization of {self.regularization:g}."
            )

    @property
    def halo(self) -> tuple[int, ...]:
        """Voxels needed on each side for a block to agree with the whole volume to 1e-4 of its range.

        What a cut spoils fades as the kernel of ( A Aᵀ + K )⁻¹ does, and that as the Wiener filter's, which
        has the same poles. Over nine PSFs in 2D (5 to 25 voxels; Gaussian, lopsided, Airy, uniform, cones of
        light), K of 0.001, 0.01 and 0.1, photon noise over a background of 20 counts, and six places of the
        cut, the largest difference was, in units of the range:

            halo, in radii of that kernel    0.5    0.6    0.7    0.8    0.9    1
                                            1e-3   6e-4   2e-4   1e-4   2e-5   2e-5

        Hence one radius.

        Raises
        ------
        OptionError
            if the regularization is so small that the filter reaches too far
        """
        return wiener_filter(self.psf, self.regularization).radius

    def working_bytes(self, block_shape: Sequence[int]) -> int:
        """Estimate the memory that one block takes at most, in bytes; `block_shape` includes the halo.

        In float32: six arrays of the image's extent, and fifteen of the object's, which is larger by the PSF:
        its weight, the PSF's transform, and what an FFT and its inverse need. Measured on a CPU for 112³
        voxels and a PSF of 17³: 109 bytes a voxel; the estimate is 114.
        """
        object_voxels = math.prod(n + 2 * (p // 2) for n, p in zip(block_shape, self.psf.shape, strict=True))
        return int(4 * (6 * math.prod(block_shape) + 15 * object_voxels))

    def _restore(self, blur: Blur, image: Tensor) -> Tensor:
        restored = _solve(blur, image.sub_(self.background), self.regularization, self.iterations)
        return restored.mul_(1 + self.regularization)


def needed_for(regularization: float) -> int:
    """Give the number of iterations after which the residual is below `TOLERANCE`, whatever image and PSF.

    With a condition number c = (1 + K) / K it falls below 2 √c exp(-2 k / √c) after k iterations (Y. Saad,
    "Iterative Methods for Sparse Linear Systems", 2003, section 6.11). Usually half of that is enough.
    """
    root = math.sqrt((1 + regularization) / regularization)
    return math.ceil(root / 2 * math.log(2 * root / TOLERANCE))


def _solve(blur: Blur, data: Tensor, regularization: float, iterations: int) -> Tensor:
    """Give the object, not yet scaled, of an image without background; both are (1, 1, [z,] y, x)."""
    unseen = inverse_weight(blur, data)

    def to_object(u: Tensor) -> Tensor:
        return blur.valid_adjoint(u).mul_(unseen)

    solution = torch.zeros_like(data)
    residual = data.clone()
    direction = residual.clone()
    power = start = _dot(residual, residual)
    for _ in range(iterations):
        if power <= TOLERANCE**2 * start:
            break
        product = blur.valid(to_object(direction)).add_(direction, alpha=regularization)
        step = power / _dot(direction, product)
        solution.add_(direction, alpha=step)
        residual.sub_(product, alpha=step)
        last, power = power, _dot(residual, residual)
        direction.mul_(power / last).add_(residual)
    window: list[Any] = [slice(r, r + n) for r, n in zip(blur.radius, data.shape[2:], strict=True)]
    return to_object(solution)[(..., *window)].clone()


def _dot(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum(dtype=torch.float64))
