"""A network of Self-Supervised Inversion on blocks: the same image as whole, within the input's range."""

from __future__ import annotations

import pickle
from typing import Any

import dask
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from bigdecon.config import RunConfig, TilingConfig
from bigdecon.deconvolution.block import Deconvolver
from bigdecon.deconvolution.blockwise import deconvolve
from bigdecon.deconvolution.network import (
    DEFAULT_HALO,
    NetworkDeconvolver,
    NetworkNeeds,
    inference_bytes_per_voxel,
)
from bigdecon.errors import OptionError
from bigdecon.intensity import IntensityStats
from bigdecon.learning.checkpoint import Checkpoint
from bigdecon.learning.ssi_network import SSIUNet
from bigdecon.learning.unet import PassNorm
from bigdecon.running.sizing import choose_tile, cut_volume
from bigdecon.ssi_config import SSIConfig, SSINetworkConfig, ssi_preset
from bigdecon.volume import Volume

STATS = IntensityStats(mean=100, std=20, minimum=20, maximum=180, background=60)
FLAT = SSINetworkConfig(2, 3, 3)
DEEP = SSINetworkConfig(2, 2)
SOLID = SSINetworkConfig(3, 2, 2)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with dask.config.set(scheduler="synchronous"):
        yield
    torch.set_num_threads(before)


def method(config: SSINetworkConfig, **options: Any) -> NetworkDeconvolver:
    """A network with random weights and running statistics, whose output lies about [0, 1]."""
    torch.manual_seed(0)
    network = SSIUNet(config)
    for module in network.modules():
        if isinstance(module, PassNorm):
            nn.init.normal_(module.bias, 0.3, 0.3)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    nn.init.normal_(network.leave.weight)
    with torch.no_grad():
        typical = network.eval()(torch.rand(1, 1, *[32] * config.ndim))
        network.leave.weight /= 4 * typical.std()
        network.leave.bias.copy_(0.5 - (typical.mean() - network.leave.bias) / (4 * typical.std()))
    psf = np.zeros((3,) * config.ndim, np.float32)
    psf[(1,) * config.ndim] = 1
    checkpoint = Checkpoint(
        weights={name: t.numpy().copy() for name, t in network.state_dict().items()},
        config=SSIConfig(network=config, patch_shape=(16,) * config.ndim),
        stats=STATS,
        psf=psf,
        psf_sha256="",
        voxel_size_um=None,
    )
    return NetworkDeconvolver(checkpoint, STATS, threads=1, **options)


def noise(shape: tuple[int, ...], dtype: str = "float32") -> NDArray[Any]:
    return np.random.default_rng(0).normal(100, 20, shape).clip(20, 180).astype(dtype)


def assert_same_image(first: NDArray[Any], second: NDArray[Any]) -> None:
    """Equal within 1e-4 of the range of values, neither flat nor all clipped."""
    assert first.shape == second.shape
    assert np.ptp(second) > 10
    assert ((second > 20) & (second < 180)).mean() > 0.5
    assert np.abs(first - second).max() <= 1e-4 * np.ptp(second)


@pytest.mark.parametrize(
    ("config", "shape", "block", "halo"),
    [
        (FLAT, (150, 97), 64, None),
        (FLAT, (101, 170), 64, 48),
        (DEEP, (330, 351), 160, None),
        (SOLID, (33, 50, 27), 16, None),
    ],
)
@pytest.mark.parametrize("engine", ["direct", "map-overlap"])
def test_block_by_block_it_is_the_same_image(
    config: SSINetworkConfig, shape: tuple[int, ...], block: int, halo: int | None, engine: Any
) -> None:
    image = noise(shape, "uint16")
    restored = deconvolve(Volume.from_array(image), method(config), block=block, halo=halo, engine=engine)
    assert_same_image(np.asarray(restored), method(config)(image))


@pytest.mark.parametrize(
    ("config", "shape", "tile"), [(FLAT, (180, 97), 96), (SOLID, (33, 60, 27), 32), (DEEP, (360, 48), 352)]
)
def test_in_tiles_it_is_the_same_image(config: SSINetworkConfig, shape: tuple[int, ...], tile: int) -> None:
    image = noise(shape)
    assert_same_image(method(config, tile=tile)(image), method(config)(image))


@pytest.mark.parametrize("bias", [-10.0, 0.0, 10.0])
def test_the_result_stays_within_the_range_of_the_input(bias: float) -> None:
    made = method(FLAT)
    made.checkpoint.weights["leave.bias"][:] += bias
    restored = NetworkDeconvolver(made.checkpoint, STATS)(noise((40, 40)))
    assert restored.dtype == np.float32
    assert 20 <= restored.min() <= restored.max() <= 180
    if bias:
        assert np.unique(restored).tolist() == [20 if bias < 0 else 180]


def test_the_input_is_scaled_by_its_extremes_and_the_result_scaled_back() -> None:
    image = noise((32, 32))
    with torch.inference_mode():
        network = method(FLAT).checkpoint.network()
        expected = network(torch.from_numpy((image - 20) / 160)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(method(FLAT)(image), 20 + 160 * expected.clip(0, 1), rtol=1e-5, atol=1e-3)


def test_other_brightness_gives_the_same_image_in_other_units() -> None:
    image = noise((32, 32))
    brighter = IntensityStats(mean=1000, std=200, minimum=200, maximum=1800, background=600)
    scaled = NetworkDeconvolver(method(FLAT).checkpoint, brighter)(image * 10)
    np.testing.assert_allclose(scaled, method(FLAT)(image) * 10, rtol=1e-4, atol=0.05)


def test_it_is_a_deconvolver_that_travels_and_says_its_name() -> None:
    made = method(SOLID)
    assert isinstance(made, Deconvolver)
    assert made.name == "ssi"
    image = noise((20, 20, 20))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(made))(image), made(image))


@pytest.mark.parametrize("config", [FLAT, SOLID, DEEP])
def test_what_it_needs_is_known_before_training(config: SSINetworkConfig) -> None:
    needs, made = NetworkNeeds.of(config), method(config)
    assert (needs.halo, needs.alignment, needs.name) == (made.halo, made.alignment, made.name)
    assert inference_bytes_per_voxel(config) >= 4 * 4 * config.channels


@pytest.mark.parametrize(("ndim", "shape"), [(2, (2000, 3000)), (3, (300, 400, 700))])
def test_a_volume_is_cut_with_the_halo_that_the_network_needs(ndim: int, shape: tuple[int, ...]) -> None:
    run = RunConfig("in.tif", ("psf.tif",), method="ssi", preset="paper")
    training = ssi_preset("paper", ndim=ndim, accelerator=False)
    needs = [NetworkNeeds.of(training.network)]
    grid = cut_volume(run, shape, needs)
    assert max(grid.largest_block) > 2 * 153 > 2 * DEFAULT_HALO
    tile = choose_tile(run, grid, training, "cuda")
    assert tile is None
    shallow = NetworkNeeds.of(SSINetworkConfig(ndim, 8, 2))
    assert cut_volume(run, shape, [shallow]).halo == (DEFAULT_HALO,) * ndim
    with pytest.raises(OptionError, match="halo of 64 voxels is smaller than the 153"):
        cut_volume(RunConfig("in.tif", (), tiling=TilingConfig(halo=64)), shape, needs)
    with pytest.raises(OptionError, match="tile of 128 voxels does not suit the network"):
        choose_tile(RunConfig("in.tif", (), tiling=TilingConfig(tile=128)), grid, training, "cpu")
