"""The network: its reach, its alignment, its size, and passes that do not mix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bigdecon.config import NetworkConfig, training_preset
from bigdecon.learning.unet import (
    PassNorm,
    UNet,
    alignment,
    double_extent,
    memory_format,
    receptive_radius,
    smooth,
)


def random_network(config: NetworkConfig, seed: int = 0) -> UNet:
    """A network whose weights, and running statistics, are all random, in evaluation mode and float64."""
    torch.manual_seed(seed)
    network = UNet(config)
    for module in network.modules():
        if isinstance(module, PassNorm):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0.5, 0.5)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return network.double().eval()


def influence(network: UNet, axis: int, size: int, at: int) -> Tensor:
    """How strongly the voxels along one axis change the output voxel in the middle of the others."""
    shape, centre = [8] * network.config.ndim, [4] * network.config.ndim
    shape[axis], centre[axis] = size, at
    x = torch.randn(1, 1, *shape, dtype=torch.float64, requires_grad=True)
    network(x)[(0, 0, *centre)].backward()
    assert x.grad is not None
    return x.grad[0, 0].abs().movedim(axis, 0).flatten(1).amax(1)


@pytest.mark.parametrize(
    "config",
    [
        NetworkConfig(2, 3, 2, "add"),
        NetworkConfig(2, 3, 2, "add", smooth=True),
        NetworkConfig(2, 3, 2, "add", smooth=True, up="linear"),
        NetworkConfig(3, 2, 3, "add", up="linear"),
        NetworkConfig(2, 3, 3, "concatenate"),
        NetworkConfig(3, 2, 2, "add", "none"),
        NetworkConfig(3, 2, 3, "add"),
    ],
    ids=str,
)
@pytest.mark.parametrize("axis", [0, -1])
def test_no_voxel_beyond_the_radius_counts_and_most_within_do(
    config: NetworkConfig, axis: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A smooth ReLU: with so few channels all of a ReLU's could be 0 by chance.
    monkeypatch.setattr(torch.nn.functional, "relu", torch.nn.functional.softplus)
    radius, step = receptive_radius(config), alignment(config)
    size = -(-(2 * radius + 2 * step) // step) * step
    network = random_network(config)
    reached = 0
    for at in range(radius, radius + step):
        strength = influence(network, axis, size, at)
        distance = (torch.arange(size) - at).abs()
        assert float(strength[distance > radius].sum()) == 0
        reached = max(reached, int(distance[strength > 0].max()))
    assert radius - step < reached <= radius


def test_the_papers_network_reaches_24_voxels() -> None:
    config = training_preset("paper", ndim=3, accelerator=False).network
    assert (receptive_radius(config), alignment(config)) == (24, 4)
    assert UNet(NetworkConfig(2, 2)).receptive_radius == 24


@pytest.mark.parametrize(("ndim", "millions"), [(2, 5.6), (3, 3.6)])
def test_the_papers_networks_have_the_papers_size(ndim: int, millions: float) -> None:
    with torch.device("meta"):
        network = UNet(training_preset("paper", ndim=ndim, accelerator=False).network)
    count = sum(p.numel() for p in network.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("skip", ["add", "concatenate"])
@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize(("ndim", "depth"), [(2, 1), (2, 3), (3, 2), (3, 3)])
def test_the_output_has_the_inputs_shape(ndim: int, depth: int, norm: str, skip: str) -> None:
    config = NetworkConfig(ndim, 2, depth, skip, norm)  # type: ignore[arg-type]
    step = alignment(config)
    shape = (2, 1, *[step * n for n in (3, 2, 4)[:ndim]])
    assert UNet(config)(torch.randn(shape)).shape == shape


@pytest.mark.parametrize("ndim", [2, 3])
def test_moving_the_image_by_the_alignment_moves_the_output(ndim: int) -> None:
    config = NetworkConfig(ndim, 2, 2)
    network, step, radius = random_network(config), alignment(config), receptive_radius(config)
    x = torch.randn(1, 1, 2 * radius + 12, *[8] * (ndim - 1), dtype=torch.float64)
    with torch.no_grad():
        whole, moved = network(x), network(x[:, :, step:])
    torch.testing.assert_close(moved[:, :, radius:], whole[:, :, step + radius :])
    assert not torch.allclose(
        network(x[:, :, 1:-1])[:, :, radius:-radius], whole[:, :, 1 + radius : -radius - 1]
    )


def test_the_layout_in_memory_changes_nothing() -> None:
    network = random_network(NetworkConfig(3, 4, 2))
    x = torch.randn(1, 1, 8, 8, 8, dtype=torch.float64)
    plain = network(x)
    layout = memory_format(3)
    torch.testing.assert_close(network.to(memory_format=layout)(x.contiguous(memory_format=layout)), plain)  # type: ignore[call-overload]


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_unmasked_pass_does_not_tell_the_masked_one_anything(ndim: int) -> None:
    torch.manual_seed(0)
    network = UNet(NetworkConfig(ndim, 4, 2)).train()
    masked = torch.randn(2, 1, *[8] * ndim)
    others = [torch.randn(2, 1, *[8] * ndim) * scale + scale for scale in (1, 50)]
    first, second = (network(torch.cat([masked, other]), 2).chunk(2)[0] for other in others)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, network(masked), atol=1e-5, rtol=1e-5)
    mixed = network(torch.cat([masked, others[1]]), 1).chunk(2)[0]
    assert not torch.allclose(mixed, first, atol=1e-2)


def test_inference_uses_the_statistics_of_the_last_pass() -> None:
    norm = PassNorm(3, momentum=1.0)
    norm.passes = 2
    first, last = torch.randn(4, 3, 6, 6) * 9 - 5, torch.randn(4, 3, 6, 6) * 2 + 3
    norm(torch.cat([first, last]))
    torch.testing.assert_close(norm.running_mean, last.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, last.var((0, 2, 3)))
    out = norm.eval()(last)
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)


def test_without_normalisation_images_do_not_depend_on_each_other() -> None:
    network = UNet(NetworkConfig(2, 4, 2, "add", "none")).train()
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(network(x)[:1], network(x[:1]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("ndim", [2, 3])
def test_interpolation_keeps_ramps_and_its_two_ways_agree(ndim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.arange(5.0).expand(2, 3, *[4] * (ndim - 1), 5).clone()
    fine = double_extent(x)
    assert fine.shape == (2, 3, *[8] * (ndim - 1), 10)
    expected = torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4])
    torch.testing.assert_close(fine, expected.expand_as(fine))
    noise = torch.randn(2, 3, *[6] * ndim)
    plain = double_extent(noise)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    torch.testing.assert_close(double_extent(noise), plain)


@pytest.mark.parametrize("up", ["transposed", "linear"])
def test_only_transposed_convolutions_leave_a_grid(up: Any) -> None:
    """Behind constant features, a network that interpolates gives a constant."""
    torch.manual_seed(0)
    network = UNet(NetworkConfig(2, 4, 3, norm="none", up=up)).eval()
    with torch.no_grad():
        inner = network(torch.ones(1, 1, 96, 96))[..., 40:56, 40:56]
    assert (float(inner.std()) < 1e-6) == (up == "linear")


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_sieve_keeps_constants_and_removes_a_checkerboard(ndim: int) -> None:
    constant = torch.full((2, 1, *[6] * ndim), 3.0)
    torch.testing.assert_close(smooth(constant), constant)
    places = torch.stack(torch.meshgrid(*[torch.arange(8)] * ndim, indexing="ij")).sum(0)
    board = (places % 2 * 2.0 - 1)[None, None]
    inner = (..., *[slice(1, -1)] * ndim)
    assert float(smooth(board)[inner].abs().max()) < 1e-6
