"""A trained network with fewer passes over memory: what normalises a convolution's output becomes part of it.

    second_norm(first(x)) = s (W x - mean) + b = (s W) x + (b - s mean),     s = weight / sqrt(variance + eps)

Only the second normalisation of a unit follows a convolution directly; the others follow a sum.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from bigdecon.learning.networks import Network
from bigdecon.learning.unet import EPSILON, PassNorm, ResidualUnit

__all__ = ["folded"]


@torch.no_grad()
def folded(network: Network) -> Network:
    """Give a copy, for inference alone, whose output differs by rounding.

    Parameters
    ----------
    network : in evaluation mode; it stays as it is
    """
    network = copy.deepcopy(network)
    for unit in network.modules():
        if isinstance(unit, ResidualUnit) and isinstance(unit.second_norm, PassNorm):
            _fold(unit.first, unit.second_norm)
            unit.second_norm = nn.Identity()
    return network


def _fold(convolution: nn.Conv2d | nn.Conv3d, norm: PassNorm) -> None:
    """Change weights and bias of a convolution into those of itself followed by the normalisation."""
    weight, mean = convolution.weight.double(), norm.running_mean.double()
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + EPSILON)
    before = -mean if convolution.bias is None else convolution.bias.double() - mean
    convolution.weight = _parameter(weight * scale.reshape(-1, *[1] * (weight.ndim - 1)))
    convolution.bias = _parameter(norm.bias.double() + scale * before)


def _parameter(values: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(values.float(), requires_grad=False)
