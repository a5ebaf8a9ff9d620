"""Training: repeatable, continued as if undisturbed, stopped in time, and blind to what is held out."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from bigdecon.config import LOSS_PRESETS, LossWeights, NetworkConfig, TrainingConfig, parse_loss
from bigdecon.errors import TrainingError
from bigdecon.intensity import measure_intensity
from bigdecon.learning.checkpoint import Checkpoint
from bigdecon.learning.loop import TrainingStep, exact_margin
from bigdecon.learning.losses import Bounds
from bigdecon.learning.patches import PatchPool
from bigdecon.learning.training import _bounds, _Step, _Trainer, train
from bigdecon.optics.psf import PSF
from bigdecon.volume import Volume


def gaussian(shape: tuple[int, ...], sigma: float = 1.2) -> NDArray[np.float32]:
    psf = np.zeros(shape, np.float32)
    psf[tuple(n // 2 for n in shape)] = 1
    psf = gaussian_filter(psf, sigma)
    return psf / psf.sum()


def noisy_volume(ndim: int, extent: int = 24, seed: int = 0) -> Volume:
    rng = np.random.default_rng(seed)
    points = (rng.random((extent,) * ndim) > 0.97) * 1000.0
    return Volume.from_array(
        (gaussian_filter(points, 1.2) + rng.normal(50, 5, points.shape)).astype(np.float32)
    )


def config(ndim: int = 2, **changes: Any) -> TrainingConfig:
    tiny = TrainingConfig(
        network=NetworkConfig(ndim, 4, 2),
        loss=LOSS_PRESETS["noise2same"],
        patch_shape=(16,) * ndim,
        batch=2,
        steps=6,
        learning_rate=1e-3,
        mask_fraction=0.02,
        held_out_fraction=0.02,
        evaluate_every=3,
        checkpoint_every=2,
    )
    return replace(tiny, **changes)


def short_run(ndim: int = 2, **changes: Any) -> Checkpoint:
    return train(noisy_volume(ndim), PSF(gaussian((5,) * ndim)), config(ndim, **changes))


def same_weights(first: Checkpoint, second: Checkpoint) -> bool:
    return all(np.array_equal(first.weights[name], second.weights[name]) for name in first.weights)


@pytest.mark.parametrize(
    ("ndim", "loss", "valid"),
    [
        (2, "noise2self", True),
        (3, "noise2self", False),
        (2, "noise2same", False),
        (3, "noise2same", True),
        (2, "noise2same-d", True),
        (2, "rec=1", True),
        (2, "rec=1,inv=2,bound=0.1", True),
        (2, "bsp=1,bound_d=0.1", False),
        (2, "bsp=1,rec=1,inv=1,inv_d=1", True),
    ],
)
def test_every_loss_trains(ndim: int, loss: str, valid: bool) -> None:
    done = short_run(ndim, loss=parse_loss(loss), valid_losses=valid, steps=3, upper_bound=not valid)
    assert [point.step for point in done.curve] == [3]
    assert math.isfinite(done.curve[0].loss)
    assert done.curve[0].held_out_error is not None
    assert math.isfinite(done.curve[0].held_out_error)
    assert all(np.isfinite(array).all() for array in done.weights.values())
    assert done.stopped_by == "steps"


def test_training_learns() -> None:
    done = short_run(2, steps=60, evaluate_every=10, learning_rate=3e-3, held_out_fraction=0.05)
    assert done.curve[-1].loss < 0.6 * done.curve[0].loss
    errors = [point.held_out_error for point in done.curve]
    assert errors[-1] < errors[0]


@pytest.mark.parametrize("ndim", [2, 3])
def test_one_seed_gives_one_result(ndim: int) -> None:
    first = short_run(ndim)
    assert same_weights(first, short_run(ndim))
    assert not same_weights(first, short_run(ndim, seed=1))


def test_training_leaves_the_callers_randomness_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    short_run(steps=2)
    assert torch.equal(torch.rand(3), expected)


def test_a_checkpoint_holds_what_is_needed() -> None:
    volume, psf = noisy_volume(2), PSF(gaussian((5, 5)))
    events: list[TrainingStep] = []
    done = train(volume, psf, config(), on_event=events.append)
    assert done.psf_sha256 == psf.sha256
    assert done.stats == measure_intensity([volume.stack()])
    assert (done.device, done.precision) == ("cpu", "float32")
    assert [event.step for event in events if event.step % 3 == 0] == [3, 6]
    assert events[-1].seconds_left == 0
    assert not done.network().training
    assert all(isinstance(array, np.ndarray) for array in done.weights.values())


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(("stop_at", "schedule"), [(2, "halving"), (4, "one-cycle"), (5, "halving")])
def test_an_interrupted_training_continues_as_if_undisturbed(
    tmp_path: Path, stop_at: int, schedule: Any
) -> None:
    volume, psf = noisy_volume(2), PSF(gaussian((5, 5)))
    settings = config(steps=8, evaluate_every=1, halve_every=3, schedule=schedule)
    undisturbed = train(volume, psf, settings)

    def interrupt(event: TrainingStep) -> None:
        if event.step == stop_at:
            raise Interrupted

    state = tmp_path / "training" / "state.safetensors"
    with pytest.raises(Interrupted):
        train(volume, psf, settings, state_path=state, on_event=interrupt)
    seen: list[int] = []
    continued = train(volume, psf, settings, state_path=state, on_event=lambda event: seen.append(event.step))
    assert seen[0] == stop_at // 2 * 2 + 1
    assert same_weights(undisturbed, continued)
    assert continued.curve == undisturbed.curve


def test_slow_steps_are_kept_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two points of the curve as well, which stay as they would have been."""
    monkeypatch.setattr("bigdecon.learning.loop.SAVE_SECONDS", -1.0)
    monkeypatch.setattr("bigdecon.learning.loop.REPORT_SECONDS", -1.0)
    volume, psf = noisy_volume(2), PSF(gaussian((5, 5)))
    settings = config(steps=8, evaluate_every=4, checkpoint_every=100)
    undisturbed = train(volume, psf, settings)

    def interrupt(event: TrainingStep) -> None:
        if event.step == 6:
            raise Interrupted

    state = tmp_path / "state.safetensors"
    with pytest.raises(Interrupted):
        train(volume, psf, settings, state_path=state, on_event=interrupt)
    seen: list[int] = []
    continued = train(volume, psf, settings, state_path=state, on_event=lambda event: seen.append(event.step))
    assert seen[0] == 7
    assert same_weights(undisturbed, continued)
    assert continued.curve == undisturbed.curve


@pytest.mark.parametrize("damage", [b"", b"\x00" * 200, b"not a state"])
def test_a_damaged_state_means_starting_anew(tmp_path: Path, damage: bytes) -> None:
    state = tmp_path / "state.safetensors"
    state.write_bytes(damage)
    volume, psf = noisy_volume(2), PSF(gaussian((5, 5)))
    assert same_weights(train(volume, psf, config(), state_path=state), train(volume, psf, config()))


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    volume, psf, state = noisy_volume(2), PSF(gaussian((5, 5))), tmp_path / "state.safetensors"
    first = train(volume, psf, config(), state_path=state)
    events: list[TrainingStep] = []
    again = train(volume, psf, config(), state_path=state, on_event=events.append)
    assert events == []
    assert again.stopped_by == "steps"
    assert same_weights(first, again)


def test_a_loss_that_is_no_number_stops_training_and_is_not_kept(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    settings = config(learning_rate=1e30, evaluate_every=6, checkpoint_every=4, steps=30)
    with pytest.raises(TrainingError, match=r"broke down before step 4: the loss is (nan|inf)"):
        train(noisy_volume(2), PSF(gaussian((5, 5))), settings, state_path=state)
    assert not state.exists()


def trainer_for(settings: TrainingConfig, volume: Volume, psf: PSF) -> tuple[_Trainer, PatchPool]:
    stacks = [volume.stack()]
    stats = measure_intensity(stacks)
    trainer = _Trainer(settings, psf, stats, torch.device("cpu"), None)
    pool = PatchPool(
        stacks,
        settings.patch_shape,
        alignment=trainer.network.alignment,
        stats=stats,
        seed=settings.seed,
        held_out_fraction=settings.held_out_fraction,
    )
    trainer.prepare(pool)
    return trainer, pool


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("valid", [True, False])
def test_no_loss_looks_at_the_value_of_a_held_out_voxel(ndim: int, valid: bool) -> None:
    """The targets, handed in apart from the inputs, may be anything where voxels are held out."""
    settings = config(ndim, loss=LossWeights(1, 1, 1, 1, 0.1, 0.1), valid_losses=valid, held_out_fraction=0.1)
    trainer, pool = trainer_for(settings, noisy_volume(ndim), PSF(gaussian((5,) * ndim)))
    inputs, held, exact = map(torch.from_numpy, pool.draw(0, 2))
    counted = exact & ~held
    assert held.any()
    mask = torch.rand(inputs.shape, generator=torch.Generator().manual_seed(0)) < 0.2

    def gradients(targets: torch.Tensor) -> list[torch.Tensor]:
        trainer.network.train().zero_grad()
        # Both passes read the true input, whatever the targets are.
        outputs = trainer._apply(torch.cat([inputs] * 2), passes=2)
        terms = trainer._losses(_Step(targets, mask & counted, counted), outputs)
        terms.total(settings.loss).backward()
        return [p.grad.clone() for p in trainer.network.parameters() if p.grad is not None]

    plain = gradients(inputs)
    for expected, got in zip(plain, gradients(torch.where(held, 1e4, inputs)), strict=True):
        assert torch.equal(expected, got)
    changed = gradients(torch.where(held, inputs, inputs + 1))
    assert not all(torch.equal(*pair) for pair in zip(plain, changed, strict=True))


def test_no_training_step_masks_or_counts_a_held_out_voxel(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(2, held_out_fraction=0.2, mask_fraction=0.3)
    trainer, pool = trainer_for(settings, noisy_volume(2), PSF(gaussian((5, 5))))
    batch = pool.draw(0, 2, trainer.symmetries)
    seen: list[_Step] = []
    losses = trainer._losses
    monkeypatch.setattr(
        trainer, "_losses", lambda step, outputs: (seen.append(step), losses(step, outputs))[1]
    )
    trainer.learn(batch)
    held = torch.from_numpy(batch.held_out)
    assert held.any()
    assert seen[0].mask.any()
    assert not (seen[0].mask & held).any()
    assert not (seen[0].counted & held).any()


def test_what_lies_beyond_the_volume_is_not_counted() -> None:
    volume = Volume.from_array(np.asarray(noisy_volume(2))[:13, :14])
    trainer, pool = trainer_for(config(2, patch_shape=(16, 16)), volume, PSF(gaussian((3, 3))))
    batch = pool.draw(0, 1)
    counted = trainer._to_device(batch).counted
    assert batch.x.shape == (1, 1, 14, 14)
    assert not counted[0, 0, 13:].any()
    assert counted[0, 0, :13].float().mean() > 0.9


def test_the_held_out_error_is_measured_on_the_same_voxels_every_time() -> None:
    trainer, pool = trainer_for(config(), noisy_volume(2), PSF(gaussian((5, 5))))
    first = trainer.held_out_error(pool)
    assert first == trainer.held_out_error(pool) is not None
    assert (
        trainer_for(config(held_out_fraction=0.0), noisy_volume(2), PSF(gaussian((5, 5))))[0].held_out_error(
            pool
        )
        is None
    )


def test_training_stops_on_a_plateau() -> None:
    done = short_run(steps=50, learning_rate=0.0, evaluate_every=2, patience=3)
    # Only the running statistics change: the error settles and does not improve by a tenth of a per cent.
    assert done.stopped_by == "plateau"
    assert done.curve[-1].step < 50


def test_training_keeps_to_its_time() -> None:
    done = short_run(steps=100_000, minutes=0.01, evaluate_every=100_000, checkpoint_every=100_000)
    assert done.stopped_by == "time"
    (last,) = done.curve  # of the network as it is, though no measurement was due
    assert last.step > 0
    assert math.isfinite(last.loss)
    assert last.held_out_error is not None
    assert 0.6 <= done.seconds < 5


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_delta_needs_no_margin_and_a_box_nearly_all_of_its_radius(ndim: int) -> None:
    delta = np.zeros((9,) * ndim, np.float32)
    delta[(4,) * ndim] = 1
    assert exact_margin(delta, (64,) * ndim) == (0,) * ndim
    box = np.full((9,) * ndim, 1 / 9**ndim, np.float32)
    assert exact_margin(box, (64,) * ndim) == (4,) * ndim
    assert exact_margin(box, (8,) * ndim) == (2,) * ndim


@pytest.mark.parametrize("sigma", [0.5, 1.5, 3.0])
def test_beyond_the_margin_lies_little_light_on_either_side(sigma: float) -> None:
    psf = np.roll(gaussian((25, 31), sigma), 1, 1)
    for axis, margin in enumerate(exact_margin(psf, (100, 100))):
        profile = psf.sum(axis=1 - axis)
        centre = len(profile) // 2
        assert max(profile[: centre - margin].sum(), profile[centre + margin + 1 :].sum()) <= 0.02
        assert margin <= centre


def test_the_reconvolution_is_the_true_one_inside_the_margin() -> None:
    psf = gaussian((5, 5), 3.0)
    settings = config(2, patch_shape=(24, 24))
    trainer, pool = trainer_for(settings, noisy_volume(2, 40), PSF(psf))
    assert trainer.margin == (2, 2)
    whole = noisy_volume(2, 40).stack()[:, :]
    wanted = trainer.blur.forward(torch.from_numpy(pool._stats.standardize(whole))[None, None], "replicate")
    seen = torch.zeros(40, 40)
    for step in range(200):
        batch = pool.draw(step, 1, margin=trainer.margin)
        corner = place_of(batch.x[0, 0], pool._stats.standardize(whole))
        window = tuple(slice(c, c + 24) for c in corner)
        exact = torch.from_numpy(batch.exact[0, 0])
        again = trainer._reconvolve(torch.from_numpy(batch.x))[0, 0]
        torch.testing.assert_close(again[exact], wanted[0, 0][window][exact], atol=1e-4, rtol=0)
        seen[window] += exact
    assert seen[0, 20] > 0
    assert seen[20, -1] > 0


def place_of(patch: NDArray[np.float32], whole: NDArray[np.float32]) -> tuple[int, int]:
    """Find where a patch was cut out."""
    windows = np.lib.stride_tricks.sliding_window_view(whole, patch.shape)
    found = np.argwhere((windows == patch).all(axis=(-2, -1)))
    return int(found[0][0]), int(found[0][1])


def test_the_lower_bound_is_the_background() -> None:
    stats = measure_intensity([noisy_volume(2).stack()])
    low, high = _bounds(stats, upper=False)
    assert stats.mean + low * stats.std == pytest.approx(stats.background, abs=1e-6)
    assert high == math.inf
    papers = _bounds(stats, upper=True)
    assert Bounds(*(stats.mean + b * stats.std for b in papers)) == pytest.approx(
        (stats.minimum, stats.maximum)
    )


def test_all_time_points_and_the_right_channel_are_learnt_from() -> None:
    array = np.stack([np.asarray(noisy_volume(2, seed=s)) for s in range(4)]).reshape(2, 2, 24, 24)
    volume, psf = Volume.from_array(array, "tcyx"), PSF(gaussian((5, 5)))
    done = train(volume, psf, config(steps=2), channel=1)
    assert done.stats.mean == pytest.approx(array[:, 1].mean(), rel=1e-5)
    alone = train(volume.select(channels=[1]), psf, config(steps=2))
    assert same_weights(done, alone)


@pytest.mark.parametrize("planes", [4, 8, 12, 16])
def test_gradients_in_half_precision_are_those_of_float32_for_thin_volumes_too(planes: int) -> None:
    """Where the processor has bfloat16; one of its kernels is wrong for images two planes deep."""
    image = np.random.default_rng(0).normal(100, 10, (planes, 24, 24)).astype(np.float32)
    settings = config(3, network=NetworkConfig(3, 8, 3), patch_shape=(planes, 16, 16))
    gradients = []
    for mixed in (True, False):
        changed = replace(settings, mixed_precision=mixed)
        trainer, pool = trainer_for(changed, Volume.from_array(image), PSF(gaussian((3, 3, 3))))
        trainer.learn(pool.draw(0, 2))
        slopes = [p.grad.flatten() for p in trainer.network.parameters() if p.grad is not None]
        gradients.append(torch.cat(slopes))
    half, exact = gradients
    assert torch.isfinite(half).all()
    assert float((half - exact).norm() / exact.norm()) < 0.3
