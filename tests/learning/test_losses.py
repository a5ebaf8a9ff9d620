"""Each term of the loss against numbers worked out by hand, and what must not leak into it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bigdecon.config import LossWeights, NetworkConfig
from bigdecon.learning.losses import (
    Bounds,
    LossTerms,
    Passes,
    blind_spot_loss,
    boundary_loss,
    deconvolution_loss,
    invariance_loss,
    reconstruction_loss,
)
from bigdecon.learning.masking import replace_masked, stratified_mask
from bigdecon.learning.unet import UNet

NO_BOUNDS = Bounds(-math.inf, math.inf)


def line(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, 1, -1)


def where(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool).reshape(1, 1, 1, -1)


def test_blind_spot() -> None:
    assert blind_spot_loss(line(1, 5, 9, 2), line(0, 2, 9, 100), where(1, 1, 1, 0)).item() == pytest.approx(
        10 / 3
    )


def test_reconstruction() -> None:
    loss = reconstruction_loss(line(1, 2, 3, 4), line(1, 4, 3, 40), where(1, 1, 1, 0))
    assert loss.item() == pytest.approx(4 / 3)


def test_invariance_is_a_root_mean_square() -> None:
    loss = invariance_loss(line(1, 2, 3, 4), line(4, 6, 3, 40), where(1, 1, 0, 0))
    assert loss.item() == pytest.approx(math.sqrt(25 / 2))


def test_invariance_has_a_slope_where_passes_agree() -> None:
    x = line(1, 2).requires_grad_()
    invariance_loss(x, x * 1, where(1, 1)).backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("term", [blind_spot_loss, reconstruction_loss])
def test_nothing_masked_is_no_loss(term) -> None:
    assert term(line(1, 2), line(5, 6), where(0, 0)).item() == 0


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        (Bounds(0, 1), (2 + 0 + 0 + 3) / 4),
        (Bounds(0, math.inf), 2 / 4),
        (Bounds(-math.inf, 1), 3 / 4),
        (NO_BOUNDS, 0),
    ],
)
def test_the_boundary_is_a_hinge(bounds: Bounds, expected: float) -> None:
    output = line(-2, 0, 0.5, 4).requires_grad_()
    loss = boundary_loss(output, bounds)
    assert loss.item() == pytest.approx(expected)
    if loss.requires_grad:
        loss.backward()
        assert output.grad is not None
        assert output.grad[0, 0, 0, 2] == 0


def test_the_total_weighs_every_term() -> None:
    terms = LossTerms(*(torch.tensor(v) for v in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)))
    weights = LossWeights(bsp=1, rec=10, inv=100, inv_d=1e3, bound=1e4, bound_d=1e5)
    assert terms.total(weights).item() == 654321


PASSES = Passes(line(2, -1), line(5, 1), line(3, -2), line(6, 2))


def terms_for(weights: LossWeights, passes: Passes = PASSES) -> LossTerms:
    return deconvolution_loss(
        passes,
        line(4, 0),
        mask=where(1, 0),
        counted=where(0, 1),
        bounds=Bounds(0, 2.5),
        weights=weights,
    )


def test_all_terms_look_at_their_own_passes_and_masks() -> None:
    terms = terms_for(LossWeights(1, 1, 1, 1, 1, 1))
    expected = LossTerms(*map(torch.tensor, (4.0, 4.0, 3.0, 3.0, (0.5 + 2) / 2, 1 / 2)))
    torch.testing.assert_close(torch.stack(terms), torch.stack(expected))


def test_the_boundary_looks_at_the_masked_pass_where_it_is_the_only_one() -> None:
    terms = terms_for(LossWeights(bsp=1, bound=1, bound_d=1), Passes(None, line(5, 1), None, line(6, 2)))
    assert terms.bound.item() == pytest.approx(3.5 / 2)
    assert terms.bound_d.item() == pytest.approx(2.5 / 2)


@pytest.mark.parametrize("name", ["rec", "inv", "inv_d", "bound", "bound_d"])
def test_a_term_without_weight_is_0(name: str) -> None:
    weights = dict.fromkeys(LossTerms._fields, 1.0) | {name: 0.0}
    terms = terms_for(LossWeights(**weights))
    assert [field for field, term in zip(terms._fields, terms, strict=True) if term == 0] == [name]


def test_the_value_of_a_masked_voxel_never_reaches_its_prediction() -> None:
    torch.manual_seed(0)
    network = UNet(NetworkConfig(2, 4, 2)).train()
    x = torch.randn(2, 1, 28, 28, requires_grad=True)
    mask = stratified_mask(2, (28, 28), 0.02, torch.Generator().manual_seed(1))
    masked = replace_masked(x, mask, 0.2, torch.Generator().manual_seed(2))
    # Both passes in one batch, as in training: neither the input nor the statistics may tell.
    predicted = network(torch.cat([masked, x.detach()]), 2).chunk(2)[0]
    blind_spot_loss(predicted, x.detach(), mask).backward()
    assert x.grad is not None
    assert float(x.grad[mask].abs().max()) == 0
    assert float(x.grad[~mask].abs().max()) > 0
    assert not mask.all()
