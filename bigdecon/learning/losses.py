"""The six terms of the loss, Eq. 1 of Papkov et al. 2023, one function each.

Tensors are (batch, 1, [z,] y, x) in standardised units; masks are bool tensors of the same shape.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bigdecon.config import LossWeights

__all__ = [
    "Bounds",
    "LossTerms",
    "blind_spot_loss",
    "boundary_loss",
    "deconvolution_loss",
    "invariance_loss",
    "reconstruction_loss",
]


class Bounds(NamedTuple):
    """Allowed range of the output in standardised units; infinite where there is no bound."""

    low: float
    high: float


class LossTerms(NamedTuple):
    """The unweighted terms; zero where the weight is zero."""

    bsp: Tensor
    rec: Tensor
    inv: Tensor
    inv_d: Tensor
    bound: Tensor
    bound_d: Tensor

    def total(self, weights: LossWeights) -> Tensor:
        """Weighted sum, the value that training minimises."""
        parts = [getattr(weights, name) * term for name, term in zip(self._fields, self, strict=True)]
        return torch.stack(parts).sum()


def blind_spot_loss(reconvolved_masked: Tensor, x: Tensor, mask: Tensor) -> Tensor:
    """Mean over masked voxels of (g(f(x_masked)) - x)^2."""
    return _mean_where((reconvolved_masked - x) ** 2, mask)


def reconstruction_loss(reconvolved: Tensor, x: Tensor, counted: Tensor) -> Tensor:
    """Mean over the counted voxels of (g(f(x)) - x)^2; held-out voxels are not counted."""
    return _mean_where((reconvolved - x) ** 2, counted)


def invariance_loss(from_full: Tensor, from_masked: Tensor, mask: Tensor) -> Tensor:
    """Root of the mean, over masked voxels, of the squared difference of the two passes.

    Before the PSF (`inv_d`) or after it (`inv`), by what is handed in.
    """
    # The root has no slope at 0, where both passes agree exactly (a network that is still constant).
    return torch.sqrt(_mean_where((from_full - from_masked) ** 2, mask) + 1e-12)


def boundary_loss(output: Tensor, bounds: Bounds) -> Tensor:
    """Mean amount by which an output lies outside the bounds (hinge)."""
    below = F.relu(bounds.low - output) if bounds.low > float("-inf") else torch.zeros_like(output)
    above = F.relu(output - bounds.high) if bounds.high < float("inf") else torch.zeros_like(output)
    return (below + above).mean()


class Passes(NamedTuple):
    """Outputs of one training step before (`deconvolved`) and after (`reconvolved`) the PSF."""

    deconvolved: Tensor | None
    deconvolved_masked: Tensor | None
    reconvolved: Tensor | None
    reconvolved_masked: Tensor | None


def deconvolution_loss(
    passes: Passes,
    x: Tensor,
    *,
    mask: Tensor,
    counted: Tensor,
    bounds: Bounds,
    weights: LossWeights,
) -> LossTerms:
    """Compute the terms whose weights are not zero.

    Parameters
    ----------
    passes : outputs of the unmasked and the masked pass; None where no term needs them
    x : noisy input
    mask : masked voxels where the reconvolution is exact; held-out voxels are not among them
    counted : voxels where it is exact and that are not held out
    bounds : range for the boundary terms
    weights : of the terms
    """
    zero = x.new_zeros(())
    full, masked = passes.reconvolved, passes.reconvolved_masked
    full_d, masked_d = passes.deconvolved, passes.deconvolved_masked
    # The boundary terms look at the pass that will be used: the unmasked one where there is one.
    shown, shown_d = (full, full_d) if full is not None else (masked, masked_d)
    bsp = rec = inv = inv_d = bound = bound_d = zero
    if weights.bsp and masked is not None:
        bsp = blind_spot_loss(masked, x, mask)
    if weights.rec and full is not None:
        rec = reconstruction_loss(full, x, counted)
    if weights.inv and full is not None and masked is not None:
        inv = invariance_loss(full, masked, mask)
    if weights.inv_d and full_d is not None and masked_d is not None:
        inv_d = invariance_loss(full_d, masked_d, mask)
    if weights.bound and shown is not None:
        bound = boundary_loss(shown, bounds)
    if weights.bound_d and shown_d is not None:
        bound_d = boundary_loss(shown_d, bounds)
    return LossTerms(bsp, rec, inv, inv_d, bound, bound_d)


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values where the mask is True; 0 where it is True nowhere."""
    return (values * mask).sum() / mask.sum().clamp(min=1)
