"""Repeated edges: as numpy repeats them, and with the gradient that this implies."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bigdecon.learning.edges import repeat_edges


@pytest.mark.parametrize(("shape", "widths"), [((5, 7), (2, 0)), ((1, 3, 4), (3, 1, 5)), ((2, 2), (0, 0))])
def test_as_numpy_repeats_them(shape: tuple[int, ...], widths: tuple[int, ...]) -> None:
    x = torch.randn(2, 1, *shape)
    wanted = np.pad(x.numpy(), [(0, 0), (0, 0), *((w, w) for w in widths)], mode="edge")
    np.testing.assert_array_equal(repeat_edges(x, widths).numpy(), wanted)


def test_the_gradient_is_the_transpose() -> None:
    x = torch.randn(1, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: repeat_edges(t, (2, 1)), (x,))
