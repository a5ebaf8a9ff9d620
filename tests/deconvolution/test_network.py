"""The network on blocks: whole, in tiles, or block by block, the same image."""

from __future__ import annotations

import pickle
from typing import Any

import dask
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from bigdecon.config import NetworkConfig, TrainingConfig
from bigdecon.deconvolution.block import Deconvolver
from bigdecon.deconvolution.blockwise import deconvolve
from bigdecon.deconvolution.network import NetworkDeconvolver, NetworkNeeds, inference_bytes_per_voxel
from bigdecon.intensity import IntensityStats
from bigdecon.learning.checkpoint import Checkpoint
from bigdecon.learning.unet import PassNorm, UNet, receptive_radius
from bigdecon.volume import Volume

STATS = IntensityStats(mean=100, std=20, minimum=0, maximum=300, background=60)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with dask.config.set(scheduler="synchronous"):
        yield
    torch.set_num_threads(before)


def checkpoint(config: NetworkConfig, seed: int = 0) -> Checkpoint:
    """A network with random weights and random running statistics."""
    torch.manual_seed(seed)
    network = UNet(config)
    for module in network.modules():
        if isinstance(module, PassNorm):
            nn.init.normal_(module.bias, 0.3, 0.3)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    psf = np.zeros((3,) * config.ndim, np.float32)
    psf[(1,) * config.ndim] = 1
    return Checkpoint(
        weights={name: t.numpy().copy() for name, t in network.state_dict().items()},
        config=TrainingConfig(network=config, patch_shape=(16,) * config.ndim),
        stats=STATS,
        psf=psf,
        psf_sha256="",
        voxel_size_um=None,
    )


def method(config: NetworkConfig, **options: Any) -> NetworkDeconvolver:
    return NetworkDeconvolver(checkpoint(config), STATS, threads=1, **options)


def noise(shape: tuple[int, ...], dtype: str = "float32") -> NDArray[Any]:
    return np.random.default_rng(0).normal(100, 20, shape).clip(0).astype(dtype)


def assert_same_image(first: NDArray[Any], second: NDArray[Any]) -> None:
    """Equal within 1e-4 of the range of values."""
    assert first.shape == second.shape
    assert np.ptp(second) > 1
    assert np.abs(first - second).max() <= 1e-4 * np.ptp(second)


FLAT = NetworkConfig(2, 4, 3, "concatenate")
SHALLOW = NetworkConfig(3, 3, 2)
SMOOTH = NetworkConfig(2, 3, 2, smooth=True)


@pytest.mark.parametrize(
    ("config", "shape", "tile"),
    [
        (FLAT, (150, 97), 64),
        (FLAT, (61, 200), 100),
        (FLAT, (130, 130), 128),
        (SHALLOW, (33, 50, 27), 32),
        (SMOOTH, (75, 81), 40),
        (SHALLOW, (20, 61, 24), 24),
        (NetworkConfig(2, 4, 2, "add", "none"), (75, 81), 40),
    ],
)
def test_in_tiles_it_is_the_same_image(config: NetworkConfig, shape: tuple[int, ...], tile: int) -> None:
    image = noise(shape)
    whole = method(config)(image)
    assert whole.dtype == np.float32
    assert_same_image(method(config, tile=tile)(image), whole)


@pytest.mark.parametrize(
    ("config", "shape", "block", "halo"),
    [
        (FLAT, (150, 97), 32, None),
        (FLAT, (101, 170), 64, 32),
        (SHALLOW, (33, 50, 27), 16, None),
        (SMOOTH, (75, 81), 32, None),
        (SHALLOW, (45, 38, 41), 32, 16),
    ],
)
@pytest.mark.parametrize("engine", ["direct", "map-overlap"])
def test_block_by_block_it_is_the_same_image(
    config: NetworkConfig, shape: tuple[int, ...], block: int, halo: int | None, engine: Any
) -> None:
    image = noise(shape, "uint16")
    restored = deconvolve(Volume.from_array(image), method(config), block=block, halo=halo, engine=engine)
    assert_same_image(np.asarray(restored), method(config)(image))


def test_tiles_within_blocks_are_the_same_image() -> None:
    image = noise((45, 38, 41))
    restored = deconvolve(Volume.from_array(image), method(SHALLOW, tile=32), block=32, halo=16)
    assert_same_image(np.asarray(restored), method(SHALLOW)(image))


def test_tiles_without_margins_are_not_exact() -> None:
    """The paper's way of tiling; here to show that the comparison above can fail."""
    image = noise((150, 97))
    blended = method(FLAT, tile=64, exact_tiles=False)(image)
    whole = method(FLAT)(image)
    difference = np.abs(blended - whole).max()
    assert 1e-4 * np.ptp(whole) < difference < np.ptp(whole)


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 3), (16, 17, 18)])
def test_any_shape_comes_back_in_that_shape(shape: tuple[int, ...]) -> None:
    result = method(SHALLOW)(noise(shape))
    assert result.shape == shape
    assert np.isfinite(result).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float64", ">u2"])
def test_the_type_of_the_voxels_does_not_matter(dtype: str) -> None:
    image = noise((24, 24), "uint8")
    np.testing.assert_array_equal(method(FLAT)(image.astype(dtype)), method(FLAT)(image))


def test_without_other_brightness_that_of_the_training_counts() -> None:
    image = noise((16, 16))
    np.testing.assert_array_equal(NetworkDeconvolver(checkpoint(FLAT))(image), method(FLAT)(image))


def test_the_result_is_in_data_units() -> None:
    image = noise((32, 32))
    brighter = IntensityStats(mean=1000, std=200, minimum=0, maximum=3000, background=600)
    plain = method(FLAT)(image)
    scaled = NetworkDeconvolver(checkpoint(FLAT), brighter)(image * 10)
    np.testing.assert_allclose(scaled, plain * 10, rtol=1e-4, atol=0.05)


def test_the_network_itself_is_applied() -> None:
    image = noise((32, 32))
    with torch.inference_mode():
        network = checkpoint(FLAT).network()
        expected = network(torch.from_numpy(STATS.standardize(image))[None, None])[0, 0].numpy()
    np.testing.assert_allclose(method(FLAT)(image), STATS.restore(expected), rtol=1e-5, atol=1e-3)


def test_another_checkpoint_has_its_own_network() -> None:
    image = noise((16, 16))
    first = NetworkDeconvolver(checkpoint(FLAT), STATS)
    second = NetworkDeconvolver(checkpoint(FLAT, seed=1), STATS)
    assert not np.allclose(first(image), second(image))


def test_it_is_a_deconvolver_that_travels() -> None:
    made = method(SHALLOW, tile=32)
    assert isinstance(made, Deconvolver)
    image = noise((20, 20, 20))
    copy = pickle.loads(pickle.dumps(made))
    np.testing.assert_array_equal(copy(image), made(image))


@pytest.mark.parametrize("config", [FLAT, SHALLOW, NetworkConfig()])
def test_what_it_needs_is_known_before_training(config: NetworkConfig) -> None:
    needs = NetworkNeeds.of(config)
    made = method(config)
    assert (needs.halo, needs.alignment, needs.name) == (made.halo, made.alignment, made.name)
    assert needs.halo == (receptive_radius(config),) * config.ndim
    assert inference_bytes_per_voxel(config) >= 4 * 2 * config.channels
