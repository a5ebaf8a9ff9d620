"""Repeat an image's edges, with a gradient that is the same in every run.

The gradient of torch's own replicating pad is summed in no fixed order on a GPU; here every sum has one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["repeat_edges"]


def repeat_edges(x: Tensor, widths: Sequence[int]) -> Tensor:
    """Extend (batch, channel, [z,] y, x) by copies of its outermost voxels.

    Parameters
    ----------
    x : extent at least 1 along every axis
    widths : voxels to add on both sides, for every spatial axis, at least 0
    """
    for axis, width in enumerate(widths, 2):
        if width:
            sizes = [-1] * x.ndim
            sizes[axis] = width
            first, last = x.narrow(axis, 0, 1), x.narrow(axis, x.shape[axis] - 1, 1)
            x = torch.cat([first.expand(sizes), x, last.expand(sizes)], axis)
    return x
