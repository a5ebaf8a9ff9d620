"""The network of Self-Supervised Inversion: its reach, its alignment, its size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bigdecon.config import NetworkConfig
from bigdecon.errors import OptionError
from bigdecon.learning.networks import alignment, build_network, receptive_radius
from bigdecon.learning.ssi_network import SSIUNet, repeat_voxels
from bigdecon.learning.unet import PassNorm, UNet
from bigdecon.ssi_config import SSINetworkConfig


def random_network(config: SSINetworkConfig) -> SSIUNet:
    """A network whose weights, and running statistics, are all random, in evaluation mode and float64."""
    torch.manual_seed(0)
    network = SSIUNet(config)
    for module in network.modules():
        if isinstance(module, PassNorm):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0.5, 0.5)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return network.double().eval()


@pytest.mark.parametrize(
    "config",
    [SSINetworkConfig(2, 2, 2), SSINetworkConfig(2, 2, 3), SSINetworkConfig(3, 2, 2), SSINetworkConfig(2, 1)],
    ids=str,
)
def test_the_radius_is_the_distance_of_the_farthest_voxel_that_counts(
    config: SSINetworkConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A smooth ReLU, and means for maxima: with so few channels a voxel's way could be cut off by chance.
    monkeypatch.setattr(torch.nn.functional, "relu", torch.nn.functional.softplus)
    means = {2: torch.nn.functional.avg_pool2d, 3: torch.nn.functional.avg_pool3d}
    monkeypatch.setattr("bigdecon.learning.ssi_network.POOL", means)
    radius, step = receptive_radius(config), alignment(config)
    size = -(-(2 * radius + 2 * step) // step) * step
    network = random_network(config)
    middle = [step] * (config.ndim - 1)
    x = torch.randn(1, 1, *[2 * m for m in middle], size, dtype=torch.float64, requires_grad=True)
    reached = 0
    for at in range(radius, radius + step):
        (gradient,) = torch.autograd.grad(network(x)[(0, 0, *middle, at)], x)
        strength = gradient[0, 0].abs().flatten(0, -2).amax(0)
        reached = max(reached, int((torch.arange(size) - at).abs()[strength > 0].max()))
    assert reached == radius


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_published_network_aligns_by_16_and_reaches_153(ndim: int) -> None:
    config = SSINetworkConfig(ndim)
    assert (alignment(config), receptive_radius(config)) == (16, 153)


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_published_network_has_the_published_size(ndim: int) -> None:
    with torch.device("meta"):
        network = SSIUNet(SSINetworkConfig(ndim))
    n = 8
    # (in, between, out) of every double convolution: entrance, four steps down, four up.
    doubles = [
        (1, n, n),
        *[(n, 2 * n, 2 * n), (2 * n, 4 * n, 4 * n), (4 * n, 8 * n, 8 * n), (8 * n, 8 * n, 8 * n)],
        *[(16 * n, 8 * n, 4 * n), (8 * n, 4 * n, 2 * n), (4 * n, 2 * n, n), (2 * n, n, n)],
    ]
    # Kernels; a bias, and the weight and bias of the normalisation, for every feature.
    sizes = [5**ndim * a * b + 3**ndim * b * c + 3 * (b + c) for a, b, c in doubles]
    assert sum(p.numel() for p in network.parameters()) == sum(sizes) + n + 1


@pytest.mark.parametrize(("ndim", "depth"), [(2, 2), (2, 5), (3, 3)])
def test_the_output_has_the_inputs_shape(ndim: int, depth: int) -> None:
    config = SSINetworkConfig(ndim, 2, depth)
    shape = (2, 1, *[alignment(config) * n for n in (3, 2, 4)[:ndim]])
    assert SSIUNet(config)(torch.randn(shape)).shape == shape


def test_moving_the_image_by_the_alignment_moves_the_output() -> None:
    config = SSINetworkConfig(2, 2, 3)
    network, step, radius = random_network(config), alignment(config), receptive_radius(config)
    x = torch.randn(1, 1, 8 * -(-radius // 4), 8, dtype=torch.float64)
    with torch.no_grad():
        whole, moved, off = network(x), network(x[:, :, step:]), network(x[:, :, 1 : 1 - step])
    torch.testing.assert_close(moved[:, :, radius:], whole[:, :, step + radius :])
    assert not torch.allclose(off[:, :, radius:], whole[:, :, 1 + radius : 1 - step])


@pytest.mark.parametrize("ndim", [2, 3])
def test_every_voxel_is_repeated_along_every_axis(ndim: int) -> None:
    x = torch.randn(1, 2, *[3, 4, 5][:ndim])
    expected = x
    for axis in range(2, 2 + ndim):
        expected = expected.repeat_interleave(2, axis)
    assert torch.equal(repeat_voxels(x), expected)


def test_the_settings_choose_the_network() -> None:
    assert isinstance(build_network(SSINetworkConfig(2, 1, 2)), SSIUNet)
    assert isinstance(build_network(NetworkConfig(2, 1, 2)), UNet)
    assert (alignment(NetworkConfig()), receptive_radius(NetworkConfig())) == (4, 24)


@pytest.mark.parametrize("wrong", [{"ndim": 4}, {"channels": 0}, {"depth": 1}])
def test_what_is_no_network_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(OptionError, match=r"cannot be built; it takes 2 or 3 dimensions"):
        SSINetworkConfig(**wrong)
