"""A network's result, blurred again and sharpened: the order of the steps, and what they need of blocks."""

from __future__ import annotations

import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import dask
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bigdecon.config import NetworkConfig, RunConfig, TrainingConfig
from bigdecon.deconvolution.block import Deconvolver
from bigdecon.deconvolution.blockwise import deconvolve
from bigdecon.deconvolution.network import NetworkDeconvolver, NetworkNeeds
from bigdecon.deconvolution.refined import RefinedNeeds, RefinedNetwork
from bigdecon.deconvolution.richardson_lucy import RichardsonLucy
from bigdecon.intensity import IntensityStats
from bigdecon.learning.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from bigdecon.learning.unet import UNet
from bigdecon.running import worker_tasks
from bigdecon.running.worker_tasks import load_network
from bigdecon.volume import Volume

STATS = IntensityStats(mean=120.0, std=30.0, minimum=80.0, maximum=400.0, background=100.0)


def lopsided() -> NDArray[np.float32]:
    """A PSF that is different along every axis and in every direction."""
    psf = np.zeros((5, 7), np.float32)
    psf[2, 3], psf[2, 4], psf[3, 3], psf[1, 1] = 4, 2, 1, 0.5
    return psf / psf.sum()


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    """An untrained 2D network whose output follows its input a little."""
    config = TrainingConfig(network=NetworkConfig(2, channels=2, norm="none"), patch_shape=(16, 16))
    torch.manual_seed(0)
    weights = {name: t.numpy().copy() for name, t in UNet(config.network).state_dict().items()}
    return Checkpoint(weights, config, STATS, lopsided(), "", None)


@pytest.fixture
def image() -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    light = np.zeros((150, 141))
    light[tuple(rng.integers(0, n, 40) for n in light.shape)] = 900
    return rng.poisson(light + 100).astype(np.float32)


def refined(checkpoint: Checkpoint, iterations: int = 4) -> RefinedNetwork:
    lucy = RichardsonLucy(checkpoint.psf, background=100.0, iterations=iterations, accelerate=True)
    return RefinedNetwork(NetworkDeconvolver(checkpoint), lucy)


def test_the_network_comes_first_then_the_blur_then_richardson_lucy(checkpoint, image) -> None:
    method = refined(checkpoint)
    light = method.network(image).astype(np.float64) - 100
    again = np.zeros_like(light)
    padded = np.pad(light, ((2, 2), (3, 3)), mode="edge")
    for (i, j), weight in np.ndenumerate(checkpoint.psf):  # convolution by hand, not correlation
        again += weight * padded[4 - i : 4 - i + light.shape[0], 6 - j : 6 - j + light.shape[1]]
    np.testing.assert_allclose(method.reconvolved(image), again + 100, rtol=1e-4)
    np.testing.assert_array_equal(method(image), method.lucy(method.reconvolved(image)))


def test_blocks_agree_with_the_whole(checkpoint, image) -> None:
    method = refined(checkpoint)
    whole = method(image)
    with dask.config.set(scheduler="synchronous"):
        for block in (64, 96):
            blocks = np.asarray(deconvolve(Volume.from_array(image), method, block=block))
            assert np.abs(blocks - whole).max() < 1e-3 * np.ptp(whole)


def test_the_halo_adds_up(checkpoint) -> None:
    method = refined(checkpoint)
    needs = RefinedNeeds(NetworkNeeds.of(checkpoint.config.network), method.lucy)
    network = needs.network.halo
    assert method.halo == needs.halo
    assert method.halo == (
        network[0] + 2 + method.lucy.halo[0],
        network[1] + 3 + method.lucy.halo[1],
    )
    assert method.alignment == needs.alignment == 4
    assert method.name == "siamese"
    assert isinstance(method, Deconvolver)


def test_pickles(checkpoint, image) -> None:
    method = refined(checkpoint)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(method))(image), method(image))


def test_a_worker_loads_it_with_the_networks_own_psf(checkpoint, tmp_path: Path) -> None:
    path = save_checkpoint(checkpoint, tmp_path / "m")
    loaded = load_network(path, checkpoint.sha256, STATS, "cpu", None, True, 1, 7, 90.0)
    assert isinstance(loaded, RefinedNetwork)
    np.testing.assert_array_equal(loaded.lucy.psf, checkpoint.psf)
    assert (loaded.lucy.iterations, loaded.lucy.background, loaded.lucy.accelerate) == (7, 90.0, True)
    assert isinstance(load_network(path, checkpoint.sha256, STATS, "cpu", None, True, 1), NetworkDeconvolver)


def test_threads_that_ask_at_once_load_a_network_once(checkpoint, tmp_path: Path, monkeypatch) -> None:
    path = save_checkpoint(checkpoint, tmp_path / "m")
    loads: list[Path] = []
    together = threading.Barrier(4)

    def load(place: Path) -> Checkpoint:
        loads.append(place)
        time.sleep(0.2)  # long enough for the others to ask
        return load_checkpoint(place)

    def ask(_: int) -> object:
        together.wait()
        return load_network(path, checkpoint.sha256, STATS, "cpu", None, True, 1)

    monkeypatch.setattr(worker_tasks, "load_checkpoint", load)
    with ThreadPoolExecutor(4) as pool:
        networks = list(pool.map(ask, range(4)))
    assert loads == [path]
    assert all(network is networks[0] for network in networks)


def test_only_a_refined_network_has_its_background_chosen() -> None:
    from bigdecon.running.classical_settings import what_to_tune

    plain = RunConfig("a", ("b",))
    assert what_to_tune(plain) == ()
    assert what_to_tune(replace(plain, refine=10)) == ("background",)
    assert what_to_tune(replace(plain, refine=10, background=3.0)) == ()
