"""Self-Supervised Inversion: every term by hand, blind where it must be, repeatable, and of some use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import convolve, gaussian_filter
from torch import Tensor

from bigdecon.deconvolution.network import NetworkDeconvolver
from bigdecon.errors import TrainingError
from bigdecon.intensity import measure_intensity
from bigdecon.learning.checkpoint import Checkpoint
from bigdecon.learning.loop import TrainingStep
from bigdecon.learning.patches import PatchPool
from bigdecon.learning.ssi import _Inverter, _Step, broadened, masked_loss, outside_loss, shake, train_ssi
from bigdecon.optics.psf import PSF
from bigdecon.ssi_config import SSIConfig, SSINetworkConfig
from bigdecon.volume import Volume


def gaussian(shape: tuple[int, ...], sigma: float = 1.2) -> NDArray[np.float32]:
    psf = np.zeros(shape, np.float32)
    psf[tuple(n // 2 for n in shape)] = 1
    psf = gaussian_filter(psf, sigma)
    return psf / psf.sum()


def lopsided() -> NDArray[np.float32]:
    """A PSF with all of its light to one side along x, and less of it below than above."""
    psf = np.zeros((5, 5), np.float32)
    psf[2, 2:], psf[1, 2] = (0.5, 0.2, 0.2), 0.1
    return psf


def noisy_volume(ndim: int = 2, extent: int = 32, seed: int = 0) -> Volume:
    rng = np.random.default_rng(seed)
    points = (rng.random((extent,) * ndim) > 0.97) * 1000.0
    return Volume.from_array(
        (gaussian_filter(points, 1.2) + rng.normal(50, 5, points.shape)).astype(np.float32)
    )


def config(ndim: int = 2, **changes: Any) -> SSIConfig:
    tiny = SSIConfig(
        network=SSINetworkConfig(ndim, 4, 3),
        patch_shape=(16,) * ndim,
        batch=2,
        steps=6,
        validation_patches=2,
        evaluate_every=3,
        checkpoint_every=2,
    )
    return replace(tiny, **changes)


def inverter(
    settings: SSIConfig, volume: Volume | None = None, psf: NDArray[np.float32] | None = None
) -> tuple[_Inverter, PatchPool]:
    stacks = [(volume or noisy_volume(settings.network.ndim)).stack()]
    stats = measure_intensity(stacks)
    array = gaussian((5,) * settings.network.ndim) if psf is None else psf
    loop = _Inverter(settings, PSF(array), torch.device("cpu"), None)
    pool = PatchPool(
        stacks,
        settings.patch_shape,
        alignment=loop.network.alignment,
        stats=stats,
        seed=settings.seed,
        held_out_fraction=settings.held_out_fraction,
        scaling=stats.unit_range,
    )
    loop.prepare(pool)
    return loop, pool


def short_run(ndim: int = 2, **changes: Any) -> Checkpoint:
    return train_ssi(noisy_volume(ndim), PSF(gaussian((5,) * ndim)), config(ndim, **changes))


def same_weights(first: Checkpoint, second: Checkpoint) -> bool:
    return all(np.array_equal(first.weights[name], second.weights[name]) for name in first.weights)


# --- the terms --------------------------------------------------------------------------------------


def image(*values: float) -> Tensor:
    return torch.tensor(values).view(1, 1, 1, -1)


def test_the_masked_loss_counts_masked_voxels_and_divides_by_all() -> None:
    x, predicted = image(0.0, 0.5, 1.0, 0.25), image(0.5, 0.5, 0.0, 0.0)
    compared = torch.tensor([True, False, True, False]).view(1, 1, 1, 4)
    everywhere = torch.ones_like(compared)
    assert float(masked_loss(predicted, x, compared, everywhere)) == pytest.approx((0.25 + 1.0) / 4)
    exact = torch.tensor([True, True, True, False]).view(1, 1, 1, 4)
    assert float(masked_loss(predicted, x, compared, exact)) == pytest.approx(1.25 / 3)


def test_the_boundary_loss_squares_the_mean_and_not_the_voxels() -> None:
    output = image(-0.4, 0.5, 1.2, 1.0)
    assert float(outside_loss(output)) == pytest.approx(((0.4 + 0.2) / 4) ** 2)
    assert float(outside_loss(image(0.0, 0.3, 1.0))) == 0


def test_noise_is_added_to_the_weights_whatever_their_gradient() -> None:
    weights = [torch.zeros(200, 200), torch.ones(200, 200)]
    shake(weights, 0.25, torch.Generator().manual_seed(0))
    for before, after in zip((0, 1), weights, strict=True):
        assert float(after.std()) == pytest.approx(0.25, rel=0.02)
        assert float(after.mean()) == pytest.approx(before, abs=0.01)


@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7)])
def test_the_psf_is_made_wider_by_the_small_kernel(shape: tuple[int, ...]) -> None:
    ndim = len(shape)
    rng = np.random.default_rng(0)
    psf = rng.random(shape).astype(np.float32)
    wide = broadened(psf / psf.sum())
    assert wide.shape == tuple(n + 2 for n in shape)
    assert wide.dtype == np.float32
    assert float(wide.sum()) == pytest.approx(1, abs=1e-6)
    # The share of the kernel's weight beside the centre along one axis is its second moment.
    total, beside = {
        2: (0.2 + 4 * 0.14 + 4 * 0.095, 2 * 0.14 + 4 * 0.095),
        3: (0.2 + 6 * 0.14 + 20 * 0.095, 2 * 0.14 + 16 * 0.095),
    }[ndim]
    for axis in range(ndim):
        for power, grown in ((1, 0.0), (2, beside / total)):
            assert moment(wide, axis, power) - moment(psf / psf.sum(), axis, power) == pytest.approx(
                grown, abs=1e-5
            )


def moment(psf: NDArray[np.float32], axis: int, power: int) -> float:
    """Moment along an axis about the centre voxel."""
    profile = psf.sum(axis=tuple(a for a in range(psf.ndim) if a != axis), dtype=np.float64)
    return float((profile * (np.arange(len(profile)) - len(profile) // 2) ** power).sum())


def test_the_broadened_delta_is_the_published_kernel() -> None:
    delta = np.ones((1, 1), np.float32)
    kernel = np.array([[0.095, 0.14, 0.095], [0.14, 0.2, 0.14], [0.095, 0.14, 0.095]])
    np.testing.assert_allclose(broadened(delta), kernel / kernel.sum(), rtol=1e-6)
    middle = broadened(np.ones((1, 1, 1), np.float32))[1]
    np.testing.assert_allclose(middle / middle[1, 1] * 0.2, kernel, rtol=1e-6)


# --- what a step does -------------------------------------------------------------------------------


class FixedOutput(torch.nn.Module):
    """Stands in for the network: gives the same image whatever it sees."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = torch.nn.Parameter(output)

    def forward(self, x: Tensor) -> Tensor:
        return self.output.expand_as(x)


def loss_of(loop: _Inverter, x: Tensor, held: Tensor | None = None) -> Tensor:
    held = torch.zeros_like(x, dtype=torch.bool) if held is None else held
    step = _Step(x, held, torch.ones_like(held))
    hidden, mask = loop._hide(x, torch.Generator().manual_seed(0))
    return loop._loss(step, mask, loop._apply(hidden))


def test_masked_voxels_are_zero_and_the_others_noisy() -> None:
    loop, _ = inverter(config(2, mask_density=0.3, mask_decay=0.0, steps=10_000, training_noise=0.1))
    x = torch.full((1, 1, 200, 200), 5.0)
    hidden, mask = loop._hide(x, torch.Generator().manual_seed(0))
    assert float(mask.float().mean()) == pytest.approx(0.3, abs=0.01)
    assert torch.equal(hidden == 0, mask)
    assert float(hidden[~mask].std()) == pytest.approx(0.1, rel=0.05)
    assert float(hidden[~mask].mean()) == pytest.approx(5, abs=0.01)
    loop.step = 9
    assert float(loop._hide(x, torch.Generator().manual_seed(0))[0][~mask].std()) == pytest.approx(
        0.01, rel=0.05
    )


def test_a_masked_voxel_never_reaches_any_prediction() -> None:
    loop, pool = inverter(config(2))
    loop.network.train()
    x = torch.from_numpy(pool.draw(0, 1).x).requires_grad_()
    hidden, mask = loop._hide(x, torch.Generator().manual_seed(0))
    output = loop._reconvolved(loop._apply(hidden))
    (gradient,) = torch.autograd.grad((output * torch.randn_like(output)).sum(), x)
    assert mask.any()
    assert (gradient[mask] == 0).all()
    assert (gradient[~mask] != 0).float().mean() > 0.5


def test_the_output_is_clamped_before_the_psf_and_pulled_back_by_the_boundary_loss() -> None:
    loop, _ = inverter(config(2, mask_decay=0.0, mask_density=0.5, boundary_weight=0.1))
    output = torch.full((1, 1, 16, 16), 0.5)
    output[..., :5], output[..., 11:] = -1.0, 3.0
    loop.network = FixedOutput(output)  # type: ignore[assignment]
    x = torch.full((1, 1, 16, 16), 0.7)
    through_psf = torch.autograd.grad(loop._reconvolved(loop.network.output).sum(), loop.network.output)[0]
    assert (through_psf[..., 5:11] > 0).all()
    assert (through_psf[..., :5] == 0).all()
    assert (through_psf[..., 11:] == 0).all()
    (gradient,) = torch.autograd.grad(loss_of(loop, x), loop.network.output)
    # 5 columns in 16 lie 1 below, 5 lie 2 above: the slope of 0.1 h^2 is 0.2 h at each of 256 voxels.
    slope = 0.2 * (5 / 16 * 1 + 5 / 16 * 2) / 256
    torch.testing.assert_close(gradient[..., :5], torch.full((1, 1, 16, 5), -slope))
    torch.testing.assert_close(gradient[..., 11:], torch.full((1, 1, 16, 5), slope))


def test_the_whole_loss_is_its_two_terms() -> None:
    loop, _ = inverter(config(2, mask_decay=0.0, mask_density=0.5, boundary_weight=0.25))
    loop.network = FixedOutput(torch.full((1, 1, 16, 16), 1.5))  # type: ignore[assignment]
    x = torch.full((1, 1, 16, 16), 0.5)
    _, mask = loop._hide(x, torch.Generator().manual_seed(0))
    # Clamped to 1, a flat image stays flat under the PSF.
    expected = 0.25 * float(mask.float().mean()) + 0.25 * 0.5**2
    assert loss_of(loop, x).item() == pytest.approx(expected, rel=1e-5)


def test_an_asymmetric_psf_is_convolved_with_and_made_wider() -> None:
    loop, _ = inverter(config(2), psf=lopsided())
    point = torch.zeros(1, 1, 16, 16)
    point[0, 0, 8, 8] = 1
    blurred = loop._reconvolved(point)[0, 0].numpy()
    expected = convolve(np.asarray(point[0, 0], np.float64), broadened(lopsided()))
    np.testing.assert_allclose(blurred, expected, atol=1e-6)
    assert blurred[:, 9:].sum() > 2 * blurred[:, :8].sum()
    assert blurred[:8].sum() > blurred[9:].sum()


@pytest.mark.parametrize("ndim", [2, 3])
def test_no_loss_looks_at_the_value_of_a_held_out_voxel(ndim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, pool = inverter(config(ndim))
    loop.network.train()
    x, held, _ = map(torch.from_numpy, pool.draw(0, 2))
    assert 0.05 < float(held.float().mean()) < 0.2
    hidden = loop._hide(x, torch.Generator().manual_seed(0))
    monkeypatch.setattr(loop, "_hide", lambda *_: hidden)
    plain = loss_of(loop, x, held)
    assert torch.equal(plain, loss_of(loop, torch.where(held, 1e4, x), held))
    assert not torch.equal(plain, loss_of(loop, torch.where(held, x, x + 1), held))


def test_validation_looks_at_nothing_but_held_out_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, _ = inverter(config(2))
    assert loop.validation is not None
    x, held, exact = loop.validation
    assert x.shape == (2, 1, 16, 16)
    hidden = loop._hide(x, torch.Generator().manual_seed(0))
    monkeypatch.setattr(loop, "_hide", lambda *_: hidden)

    def error(targets: Tensor) -> float | None:
        loop.validation = _Step(targets, held, exact)
        loop._validate(torch.Generator())
        return loop.error

    plain = error(x)
    assert plain == error(torch.where(held & exact, x, 1e4)) != error(torch.where(held, x + 1, x))
    predicted = loop._reconvolved(loop._apply(hidden[0]))
    assert plain == pytest.approx((predicted - x)[held & exact].square().mean().item(), rel=1e-5)


def test_what_lies_beyond_the_volume_is_not_compared() -> None:
    volume = Volume.from_array(np.asarray(noisy_volume())[:13, :30])
    loop, pool = inverter(config(2, patch_shape=(32, 32)), volume)
    exact = pool.draw(0, 1).exact[0, 0]
    assert exact.shape == (16, 32)
    assert exact[:13, :30].all()
    assert exact.sum() == 13 * 30
    assert loop.margin == (3, 3)


def test_without_a_gradient_only_the_fading_noise_moves_the_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, pool = inverter(config(2, weight_decay=0.0))
    monkeypatch.setattr(loop, "_loss", lambda *_: sum(p.sum() * 0.0 for p in loop.network.parameters()))
    sizes = []
    for _ in range(4):
        before = torch.cat([p.detach().flatten().clone() for p in loop.network.parameters()])
        loop.learn(pool.draw(loop.step, 2))
        loop.step += 1
        moved = torch.cat([p.detach().flatten() for p in loop.network.parameters()]) - before
        sizes.append(float(moved.std()))
    expected = [0.01 * 0.1 / (1 + step) for step in range(4)]
    assert sizes == pytest.approx(expected, rel=0.05)


def test_weights_decay_and_the_rate_follows_the_watch() -> None:
    loop, pool = inverter(config(2, weight_decay=1e-3))
    assert loop.optimizer.param_groups[0]["weight_decay"] == 1e-3
    loop.watch = loop.watch._replace(factor=0.81)
    loop.learn(pool.draw(0, 2))
    assert loop.optimizer.param_groups[0]["lr"] == pytest.approx(0.0081)


def test_the_best_weights_are_kept_and_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, pool = inverter(config(2))
    errors = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr("bigdecon.learning.ssi.masked_loss", forged(errors))
    states = []
    for step in range(3):
        loop.learn(pool.draw(step, 2))
        loop.step += 1
        states.append({name: tensor.clone() for name, tensor in loop.network.state_dict().items()})
    loop.finish()
    kept = loop.network.state_dict()
    assert all(torch.equal(kept[name], states[1][name]) for name in kept)
    assert not all(torch.equal(kept[name], states[2][name]) for name in kept)


def forged(errors: Any) -> Any:
    """Real losses in training; in validation, where all that is compared is all there is, the given ones."""

    def loss(reconvolved: Tensor, x: Tensor, compared: Tensor, exact: Tensor) -> Tensor:
        validating = compared is exact
        return torch.tensor(next(errors)) if validating else masked_loss(reconvolved, x, compared, exact)

    return loss


# --- whole trainings --------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [2, 3])
def test_one_seed_gives_one_result(ndim: int) -> None:
    events: list[TrainingStep] = []
    volume, psf = noisy_volume(ndim), PSF(gaussian((5,) * ndim))
    first = train_ssi(volume, psf, config(ndim), on_event=events.append)
    assert same_weights(first, short_run(ndim))
    assert not same_weights(first, short_run(ndim, seed=1))
    assert [point.step for point in first.curve] == [3, 6]
    assert all(np.isfinite([point.loss, point.held_out_error]).all() for point in first.curve)
    assert [event.step for event in events if event.step % 3 == 0] == [3, 6]
    assert (first.method, first.stopped_by, first.psf_sha256) == ("ssi", "steps", psf.sha256)
    np.testing.assert_array_equal(first.psf, psf.array)


def test_training_leaves_the_callers_randomness_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    short_run(steps=2)
    assert torch.equal(torch.rand(3), expected)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("stop_at", [2, 5, 9])
def test_an_interrupted_training_continues_as_if_undisturbed(tmp_path: Path, stop_at: int) -> None:
    volume, psf = noisy_volume(), PSF(gaussian((5, 5)))
    settings = config(steps=12, evaluate_every=1, rate_patience=1, learning_rate=0.05)
    undisturbed = train_ssi(volume, psf, settings)

    def interrupt(event: TrainingStep) -> None:
        if event.step == stop_at:
            raise Interrupted

    state = tmp_path / "training" / "state.safetensors"
    with pytest.raises(Interrupted):
        train_ssi(volume, psf, settings, state_path=state, on_event=interrupt)
    seen: list[int] = []
    continued = train_ssi(
        volume, psf, settings, state_path=state, on_event=lambda event: seen.append(event.step)
    )
    assert seen[0] == stop_at // 2 * 2 + 1
    assert same_weights(undisturbed, continued)
    assert continued.curve == undisturbed.curve


def test_the_best_weights_survive_an_interruption_after_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best step is the first; all that follows, before and after the interruption, is worse."""
    volume, psf, state = noisy_volume(), PSF(gaussian((5, 5))), tmp_path / "state.safetensors"
    monkeypatch.setattr("bigdecon.learning.ssi.masked_loss", forged(iter([0.5, *[1.0] * 20])))
    first = train_ssi(volume, psf, config(steps=1, checkpoint_every=1))
    monkeypatch.setattr("bigdecon.learning.ssi.masked_loss", forged(iter([0.5, *[1.0] * 20])))

    def interrupt(event: TrainingStep) -> None:
        if event.step == 3:
            raise Interrupted

    settings = config(steps=6)
    with pytest.raises(Interrupted):
        train_ssi(volume, psf, settings, state_path=state, on_event=interrupt)
    continued = train_ssi(volume, psf, settings, state_path=state)
    # Only the noise on the input depends on the number of steps, and at step 0 it does not.
    assert same_weights(first, continued)
    again = train_ssi(volume, psf, settings, state_path=state, on_event=lambda _: pytest.fail("repeated"))
    assert same_weights(first, again)


def test_a_plateau_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigdecon.learning.ssi.masked_loss", forged(iter([0.5, *[1.0] * 20])))
    done = short_run(steps=20, patience=4, evaluate_every=1)
    assert done.stopped_by == "plateau"
    assert done.curve[-1].step == 5


def test_a_loss_that_is_no_number_stops_training_and_is_not_kept(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    settings = config(learning_rate=1e30, evaluate_every=30, checkpoint_every=4, steps=30)
    with pytest.raises(TrainingError, match=r"broke down before step 4: the loss is (nan|inf)"):
        train_ssi(noisy_volume(), PSF(gaussian((5, 5))), settings, state_path=state)
    assert not state.exists()


@pytest.mark.slow
def test_it_brings_a_blurred_noisy_image_closer_to_the_truth() -> None:
    rng = np.random.default_rng(3)
    truth = gaussian_filter((rng.random((96, 96)) > 0.985).astype(np.float64), 1.5)
    truth /= truth.max()
    psf = gaussian((9, 9), 1.8)
    noisy = (convolve(truth, psf) + rng.normal(0, 0.1, truth.shape)).clip(0, 1).astype(np.float32)
    settings = SSIConfig(
        network=SSINetworkConfig(2, 4, 3), patch_shape=(96, 96), steps=200, mask_decay=0.98, patience=0
    )
    restored = NetworkDeconvolver(train_ssi(Volume.from_array(noisy), PSF(psf), settings))(noisy)

    def psnr(x: NDArray[Any]) -> float:
        return float(-10 * np.log10(np.mean((x - truth) ** 2)))

    assert psnr(restored) > psnr(noisy) + 0.8
