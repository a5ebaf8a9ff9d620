"""What must hold on a GPU: results as on a CPU, repeatable training, and a way out of full memory."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bigdecon.config import NetworkConfig, TrainingConfig
from bigdecon.deconvolution import network as network_module
from bigdecon.deconvolution import recovery
from bigdecon.deconvolution.network import NetworkDeconvolver
from bigdecon.deconvolution.recovery import restore_within_memory
from bigdecon.deconvolution.richardson_lucy import RichardsonLucy
from bigdecon.intensity import IntensityStats
from bigdecon.learning.checkpoint import Checkpoint
from bigdecon.learning.loop import TrainingStep
from bigdecon.learning.precision import TOLERANCE as HALF_TOLERANCE
from bigdecon.learning.training import train
from bigdecon.learning.unet import UNet
from bigdecon.optics.blur import Blur
from bigdecon.optics.psf import psf_from_array
from bigdecon.volume import ArraySource, Volume

pytestmark = pytest.mark.gpu

Image = NDArray[np.float32]
TOLERANCE = 1e-4
"""Largest difference that counts as agreement, as a part of the range."""


@pytest.fixture(autouse=True)
def float32_throughout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def psf() -> Image:
    """A lopsided PSF, so that a mirrored one would be noticed."""
    z, y, x = np.mgrid[-4:5, -3:4, -3:4]
    blob = np.exp(-(z**2) / 8 - y**2 / 3 - x**2 / 3) * (1 + 0.2 * np.tanh(z + 0.5 * x))
    return (blob / blob.sum()).astype(np.float32)


@pytest.fixture
def image(psf: Image) -> Image:
    rng = np.random.default_rng(0)
    points = (rng.random((48, 64, 56)) > 0.995).astype(np.float32) * 100
    blurred = Blur(psf).forward(torch.from_numpy(points)[None, None])[0, 0].numpy()
    return np.asarray(rng.poisson(blurred + 10), np.float32)


@pytest.fixture
def checkpoint(psf: Image) -> Checkpoint:
    torch.manual_seed(0)
    config = TrainingConfig(network=NetworkConfig(channels=8))
    weights = {name: t.numpy() for name, t in UNet(config.network).state_dict().items()}
    stats = IntensityStats(10.0, 5.0, 0.0, 100.0, 8.0)
    return Checkpoint(weights, config, stats, psf, "", None)


def assert_agree(one: Any, other: Any, tolerance: float = TOLERANCE) -> None:
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    assert np.isfinite(a).all()
    assert abs(a - b).max() <= tolerance * np.ptp(b)


@pytest.mark.parametrize("verb", ["forward", "adjoint", "valid", "valid_adjoint"])
def test_blur_agrees_with_the_cpu(verb: str, psf: Image, image: Image) -> None:
    apply: Callable[[torch.Tensor], torch.Tensor] = getattr(Blur(psf), verb)
    x = torch.from_numpy(image)[None, None]
    assert_agree(apply(x.cuda()).cpu(), apply(x))


def test_richardson_lucy_agrees_with_the_cpu(psf: Image, image: Image) -> None:
    on_gpu, on_cpu = (RichardsonLucy(psf, 10, 8.0, device)(image) for device in ("cuda", "cpu"))
    assert_agree(on_gpu, on_cpu)


def test_network_agrees_with_the_cpu(checkpoint: Checkpoint, image: Image) -> None:
    on_gpu, on_cpu = (NetworkDeconvolver(checkpoint, device=device)(image) for device in ("cuda", "cpu"))
    assert_agree(on_gpu, on_cpu)


def test_half_precision_agrees_where_training_chose_it(psf: Image, image: Image) -> None:
    """Training measures which precision is good enough; on the whole image it must then be."""
    trained = _train(psf, image)
    exact = replace(trained, precision="float32")
    used, wanted = (NetworkDeconvolver(model, device="cuda")(image) for model in (trained, exact))
    assert_agree(used, wanted, 2 * HALF_TOLERANCE)


def test_training_repeats_itself_bit_for_bit(
    psf: Image, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    first, second, other = _train(psf, image), _train(psf, image), _train(psf, image, seed=1)
    assert all(np.isfinite(array).all() for array in first.weights.values())
    assert all(np.array_equal(array, second.weights[name]) for name, array in first.weights.items())
    assert any(not np.array_equal(array, other.weights[name]) for name, array in first.weights.items())


def test_an_interrupted_training_continues_as_if_undisturbed(
    psf: Image, image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)

    def interrupt(step: TrainingStep) -> None:
        if step.step >= 3:
            raise KeyboardInterrupt

    state = tmp_path / "state.safetensors"
    undisturbed = _train(psf, image)
    with pytest.raises(KeyboardInterrupt):
        _train(psf, image, state_path=state, on_event=interrupt)
    assert state.exists()
    seen: list[int] = []
    continued = _train(psf, image, state_path=state, on_event=lambda event: seen.append(event.step))
    assert seen[0] > 2
    assert all(np.array_equal(array, continued.weights[name]) for name, array in undisturbed.weights.items())


def test_full_memory_leads_to_smaller_tiles_and_the_same_result(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = np.random.default_rng(1).normal(10, 5, (128, 64, 64)).astype(np.float32)
    deconvolver = NetworkDeconvolver(checkpoint, device="cuda")
    whole = deconvolver(block)
    predict, seen = NetworkDeconvolver._predict, []

    def with_little_memory(self: NetworkDeconvolver, network: UNet, x: torch.Tensor) -> torch.Tensor:
        seen.append(x.shape[0])
        if x.shape[0] > 64:
            raise torch.cuda.OutOfMemoryError("injected: the tile is too large")
        return predict(self, network, x)

    monkeypatch.setattr(NetworkDeconvolver, "_predict", with_little_memory)
    tiled = deconvolver(block)
    assert seen[0] == 128
    assert max(seen[1:]) == 64
    assert_agree(tiled, whole)


# --- memory that is really short, and a GPU that really fails ---------------------------------------


@contextmanager
def only(share: float, of: Callable[[], Any]) -> Iterator[Any]:
    """Give the result of some work, and then no more memory than a share of what it took besides the rest."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = of()
    needed = torch.cuda.max_memory_allocated() - before
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + share * needed) / total)
    try:
        yield result
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    for name in ("_too_large", "_told"):
        monkeypatch.setattr(recovery, name, {})
    monkeypatch.setattr(network_module, "_fitting", {})
    caplog.set_level(logging.WARNING, "bigdecon")
    return caplog


def noisy_block(side: int) -> Image:
    return np.random.default_rng(1).poisson(20, (side,) * 3).astype(np.float32)


def test_richardson_lucy_works_in_parts_where_memory_is_short(
    psf: Image, told: pytest.LogCaptureFixture
) -> None:
    method, block = RichardsonLucy(psf, 10, 8.0, "cuda"), noisy_block(256)
    with only(0.75, lambda: method(block)) as whole:
        parts = restore_within_memory(method, block)
    assert_agree(parts, whole, 5e-4)  # as blocks do
    assert "richardson-lucy computes a block of 256 x 256 x 256 voxels in" in told.messages[0]


def test_a_network_works_in_tiles_where_memory_is_short(
    checkpoint: Checkpoint, told: pytest.LogCaptureFixture
) -> None:
    method, block = NetworkDeconvolver(checkpoint, device="cuda"), noisy_block(192)
    method(noisy_block(64))  # the weights are there before memory is measured
    with only(0.6, lambda: method(block)) as whole:
        tiled = restore_within_memory(method, block)
    assert_agree(tiled, whole)
    assert "works in tiles of" in told.messages[0]


def test_training_goes_on_where_memory_is_short(
    psf: Image, image: Image, told: pytest.LogCaptureFixture
) -> None:
    with only(0.6, lambda: _train(psf, image)) as undisturbed:
        frugal = _train(psf, image)
    assert "computes parts of a step twice" in told.messages[0]
    assert all("stays the same" in text for text in told.messages)
    assert frugal.stopped_by == undisturbed.stopped_by
    for point, expected in zip(frugal.curve, undisturbed.curve, strict=True):
        assert point.loss == pytest.approx(expected.loss, rel=1e-2)
        assert point.held_out_error == pytest.approx(expected.held_out_error, rel=1e-2)


def test_a_gpu_lost_to_its_process_is_recognised() -> None:
    """In a process of its own, for it can do nothing more afterwards."""
    script = """
import torch
from bigdecon.device_errors import _gpu_answers, is_device_lost, is_out_of_memory
few = torch.zeros(2, device="cuda")
assert _gpu_answers()
try:
    few[torch.tensor([5], device="cuda")].sum().item()
except RuntimeError as error:
    assert is_device_lost(error), error
    assert not is_out_of_memory(error)
    assert not _gpu_answers()
    print("lost")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "lost", done.stderr


def _train(psf: Image, image: Image, seed: int = 0, **options: Any) -> Checkpoint:
    config = TrainingConfig(
        network=NetworkConfig(channels=8, smooth=True, up="linear"),
        patch_shape=(32, 32, 32),
        batch=2,
        steps=6,
        evaluate_every=3,
        checkpoint_every=2,
        mixed_precision=True,
        seed=seed,
    )
    return train(Volume(ArraySource(image), "zyx"), psf_from_array(psf), config, device="cuda", **options)
