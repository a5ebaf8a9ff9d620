"""Folding normalisation into convolutions changes the output by rounding, the network itself not at all."""

from __future__ import annotations

import pytest
import torch

from bigdecon.config import NetworkConfig
from bigdecon.learning.folding import folded
from bigdecon.learning.networks import build_network
from bigdecon.learning.unet import PassNorm
from bigdecon.ssi_config import NetworkShape, SSINetworkConfig

SHAPES = [
    NetworkConfig(ndim=ndim, channels=4, depth=depth, skip=skip, norm=norm, up=up)
    for ndim, depth, skip, norm, up in (
        (2, 3, "add", "batch", "transposed"),
        (2, 2, "concatenate", "batch", "linear"),
        (3, 2, "add", "batch", "linear"),
        (3, 2, "add", "none", "transposed"),
    )
] + [SSINetworkConfig(ndim=2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_output_stays(shape: NetworkShape) -> None:
    torch.manual_seed(0)
    network = build_network(shape).eval()
    for norm in network.modules():
        if isinstance(norm, PassNorm):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.1, 3)
            torch.nn.init.normal_(norm.weight)
            torch.nn.init.normal_(norm.bias)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    x = torch.randn(2, 1, *(16,) * shape.ndim)
    quick = folded(network)
    with torch.inference_mode():
        given = x.clone()
        y, expected = quick(x), network(x)
        torch.testing.assert_close(x, given, atol=0, rtol=0)
    assert float((y - expected).abs().max()) < 1e-5 * float(expected.max() - expected.min())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_a_norm_in_each_unit_is_gone() -> None:
    network = build_network(NetworkConfig(ndim=2, channels=4, depth=3))
    norms = [sum(isinstance(m, PassNorm) for m in n.modules()) for n in (network, folded(network.eval()))]
    assert norms == [11, 6]


def test_inference_without_gradients_gives_what_inference_with_them_gives() -> None:
    """Without gradients some steps are written over their input."""
    torch.manual_seed(0)
    for norm in ("batch", "none"):
        network = build_network(NetworkConfig(ndim=2, channels=4, depth=3, norm=norm)).eval()
        x = torch.randn(1, 1, 16, 16)
        with torch.inference_mode():
            quick = network(x)
        assert torch.equal(quick, network(x).detach())
