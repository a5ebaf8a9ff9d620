"""Training with little memory: the same gradient in pieces, from the same step on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bigdecon.config import LossWeights, NetworkConfig
from bigdecon.learning.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from bigdecon.learning.gradient import Gradient, _economies
from bigdecon.learning.ssi import train_ssi
from bigdecon.learning.ssi_network import SSIUNet
from bigdecon.learning.training import train
from bigdecon.learning.unet import PassNorm, ResidualUnit, UNet
from bigdecon.optics.psf import PSF
from bigdecon.ssi_config import SSIConfig, SSINetworkConfig
from tests.learning.test_training import config, gaussian, noisy_volume, same_weights

ALL_TERMS = LossWeights(1, 1, 1, 1, 0.1, 0.1)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.WARNING, "bigdecon"):
        yield caplog


def unet(ndim: int, norm: Any = "batch") -> UNet:
    torch.manual_seed(0)
    return UNet(NetworkConfig(ndim, 3, 3, norm=norm)).train()


def gradient_of(network: nn.Module, economies: int, inputs: Tensor, passes: int) -> tuple[Any, Tensor]:
    """Give the gradient under an economy, and the loss: of all outputs together, and no mean over patches."""
    gradient = Gradient(network)
    gradient._economies = economies
    takes_passes = isinstance(network, UNet)

    def apply(x: Tensor, passes: int) -> Tensor:
        return network(x, passes) if takes_passes else network(x)

    def loss_of(outputs: Tensor) -> Tensor:
        first, last = outputs.chunk(2)
        return torch.sqrt(((first - 2 * last) ** 2).mean()) + outputs.abs().sum() ** 0.5

    loss = gradient.compute(apply, inputs, passes, loss_of)
    return {name: p.grad.clone() for name, p in network.named_parameters()}, loss


def noise(count: int, ndim: int) -> Tensor:
    return torch.randn((count, 1, *(16,) * ndim), generator=torch.Generator().manual_seed(1))


def largest_difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    scale = max(float(g.abs().max()) for g in second.values())
    return max(float((first[name] - g).abs().max()) for name, g in second.items()) / scale


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("economies", [1, 2])
def test_recomputing_and_single_passes_give_the_same_gradient(ndim: int, economies: int) -> None:
    plain, frugal = unet(ndim), unet(ndim)
    inputs = noise(4, ndim)
    expected, loss = gradient_of(plain, 0, inputs, 2)
    found, same_loss = gradient_of(frugal, economies, inputs, 2)
    assert float(same_loss) == pytest.approx(float(loss), rel=1e-5)
    assert largest_difference(found, expected) < 1e-4
    # The statistics for inference have learnt once, and from the last pass.
    for one, other in zip(plain.buffers(), frugal.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
        assert not torch.equal(other, torch.zeros_like(other))


@pytest.mark.parametrize("economies", [3, 4])
def test_without_normalisation_patches_one_by_one_give_the_same_gradient(economies: int) -> None:
    inputs = noise(8, 2)
    expected, _ = gradient_of(unet(2, "none"), 0, inputs, 2)
    found, _ = gradient_of(unet(2, "none"), economies, inputs, 2)
    assert largest_difference(found, expected) < 1e-4


def test_with_normalisation_fewer_patches_differ_and_statistics_move_as_far() -> None:
    plain, frugal = unet(2), unet(2)
    inputs = noise(8, 2)
    expected, _ = gradient_of(plain, 0, inputs, 2)
    found, _ = gradient_of(frugal, 3, inputs, 2)
    assert 1e-4 < largest_difference(found, expected) < 0.5
    means = (
        torch.cat([m.running_mean for m in n.modules() if isinstance(m, PassNorm)]) for n in (plain, frugal)
    )
    one, other = means
    assert float((one - other).abs().max()) < 0.3 * float(one.abs().max())


def test_the_network_of_ssi_recomputes_too() -> None:
    def make() -> SSIUNet:
        torch.manual_seed(0)
        return SSIUNet(SSINetworkConfig(2, 2, 3)).train()

    inputs = noise(2, 2)
    expected, _ = gradient_of(make(), 0, inputs, 1)
    found, _ = gradient_of(make(), 1, inputs, 1)
    assert largest_difference(found, expected) < 1e-4


def test_recomputing_keeps_fewer_activations() -> None:
    def kept(economies: int) -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        network, inputs = unet(3), noise(2, 3)
        gradient = Gradient(network)
        gradient._economies = economies

        def apply(x: Tensor, passes: int) -> Tensor:
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                return network(x, passes)

        gradient.compute(apply, inputs, 2, lambda outputs: (outputs**2).mean())
        return sum(sizes.values())

    assert kept(1) < 0.7 * kept(0)


@pytest.mark.parametrize(
    ("batch", "passes", "patches"),
    [
        (4, 2, [None, None, 4, 2, 1]),
        (1, 2, [None, None, 1]),
        (6, 1, [None, None, 3, 2, 1]),
        (1, 1, [None] * 2),
    ],
)
def test_the_economies_follow_one_another(batch: int, passes: int, patches: list[int | None]) -> None:
    ways = _economies(batch, passes)
    assert [way.patches for way in ways] == patches
    assert [way.recompute for way in ways] == [False] + [True] * (len(ways) - 1)


# --- whole trainings --------------------------------------------------------------------------------


def limit_memory(monkeypatch: pytest.MonkeyPatch, most: int, from_call: int = 0) -> list[int]:
    """Let units fail that keep their activations, or get more than so many patches; tells what they got."""
    forward, seen = ResidualUnit.forward, []

    def with_little_memory(self: ResidualUnit, x: Tensor) -> Tensor:
        seen.append(len(x))
        recomputed = "forward" in vars(self)
        if torch.is_grad_enabled() and len(seen) > from_call and (len(x) > most or (most and not recomputed)):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, x)

    monkeypatch.setattr(ResidualUnit, "forward", with_little_memory)
    return seen


def trained(ndim: int = 2, **changes: Any) -> Checkpoint:
    settings = config(ndim, loss=ALL_TERMS, mask_fraction=0.1, **changes)
    return train(noisy_volume(ndim), PSF(gaussian((5,) * ndim)), settings)


def largest_change(first: Checkpoint, second: Checkpoint) -> float:
    """Compare what two networks predict, as a part of its range.

    Not their weights: a bias that normalisation takes away again has no gradient but rounding errors, which
    Adam scales up to full steps.
    """
    x = noise(1, second.config.network.ndim)
    with torch.no_grad():
        one, other = (model.network().eval()(x) for model in (first, second))
    assert [p.step for p in first.curve] == [p.step for p in second.curve]
    for point, expected in zip(first.curve, second.curve, strict=True):
        assert point.loss == pytest.approx(expected.loss, rel=1e-3)
        assert point.held_out_error == pytest.approx(expected.held_out_error, rel=1e-3)
    return float((one - other).abs().max()) / float(other.max() - other.min())


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize(
    ("most", "sentence"), [(4, "computes parts of a step twice"), (2, "takes the passes of a step one after")]
)
@pytest.mark.parametrize("from_call", [0, 22])
def test_a_training_with_little_memory_ends_the_same(
    ndim: int, most: int, sentence: str, from_call: int, monkeypatch: pytest.MonkeyPatch, told: Any
) -> None:
    """From its first step on, or in the middle of a later one."""
    undisturbed = trained(ndim)
    limit_memory(monkeypatch, most, from_call)
    frugal = trained(ndim)
    if most == 4:
        assert same_weights(frugal, undisturbed)
    # Rounding, which the first steps of Adam amplify: 1e-7 of noise on the input changes 1e-3 to 3e-3.
    assert largest_change(frugal, undisturbed) < 5e-3
    assert frugal.stopped_by == "steps"
    assert sentence in told.messages[-1]
    assert "the result stays the same" in told.messages[-1]
    assert len(told.messages) == (1 if most == 4 else 2)  # once for each economy, not for each step


def test_few_patches_at_a_time_are_told_of(monkeypatch: pytest.MonkeyPatch, told: Any) -> None:
    limit_memory(monkeypatch, 1)
    frugal = trained()
    assert all(np.isfinite(array).all() for array in frugal.weights.values())
    assert "takes 1 of the 2 patches of a step at a time" in told.messages[-1]
    assert "the result may differ a little" in told.messages[-1]


def test_where_no_patch_fits_the_error_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = limit_memory(monkeypatch, 0)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        trained()
    assert seen[-1] == 1


def test_other_errors_pass_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def broken(self: ResidualUnit, x: Tensor) -> Tensor:
        calls.append(x.shape)
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(ResidualUnit, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        trained()
    assert len(calls) == 1


def test_it_goes_on_from_its_state_and_the_model_is_readable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Interrupted under want of memory: the state on disk holds nothing of it."""
    settings = config(2, loss=ALL_TERMS, mask_fraction=0.1, steps=8)
    volume, psf, state = noisy_volume(2), PSF(gaussian((5, 5))), tmp_path / "state.safetensors"
    limit_memory(monkeypatch, 2)
    frugal = train(volume, psf, settings)

    def interrupt(event: Any) -> None:
        if event.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(volume, psf, settings, state_path=state, on_event=interrupt)
    continued = train(volume, psf, settings, state_path=state)
    assert same_weights(continued, frugal)
    save_checkpoint(continued, tmp_path / "model.safetensors")
    read = load_checkpoint(tmp_path / "model.safetensors")
    assert same_weights(read, frugal)
    assert not any("forward" in vars(module) for module in read.network().modules())


def test_ssi_trains_with_little_memory_too(monkeypatch: pytest.MonkeyPatch, told: Any) -> None:
    settings = SSIConfig(
        network=SSINetworkConfig(2, 2, 3),
        patch_shape=(16, 16),
        batch=2,
        steps=4,
        evaluate_every=2,
        checkpoint_every=2,
        held_out_fraction=0.05,
    )
    volume, psf = noisy_volume(2), PSF(gaussian((5, 5)))
    undisturbed = train_ssi(volume, psf, settings)
    forward = SSIUNet.forward

    def with_little_memory(self: SSIUNet, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and "forward" not in vars(self.enter):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return forward(self, x)

    monkeypatch.setattr(SSIUNet, "forward", with_little_memory)
    frugal = train_ssi(volume, psf, settings)
    assert same_weights(frugal, undisturbed)
    assert len(told.messages) == 1
