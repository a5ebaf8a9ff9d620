"""Settings chosen from the image: near the truth, near the best, the same each time, only those wanted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from bigdecon.config import ClassicalSettings
from bigdecon.deconvolution import search as module
from bigdecon.deconvolution.held_out import hide
from bigdecon.deconvolution.methods import classical_method
from bigdecon.deconvolution.search import REGULARIZATIONS, SIEVES, work_at_most
from bigdecon.deconvolution.search_rules import climb, golden_section
from bigdecon.deconvolution.trials import ChoosingStep, Trial, Tuned, Tuning
from bigdecon.deconvolution.tuning import tune, tune_channel
from bigdecon.errors import OptionError
from bigdecon.optics.blur import Blur
from bigdecon.volume import Stack, Volume

pytestmark = pytest.mark.usefixtures("one_thread")

BACKGROUND = 50.0


def gaussian(size: int, sigma: float) -> NDArray[np.float32]:
    y, x = np.ogrid[-(size // 2) : size // 2 + 1, -(size // 2) : size // 2 + 1]
    psf = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    return (psf / psf.sum()).astype(np.float32)


@dataclass(frozen=True)
class Scene:
    """Threads of light, and what a camera makes of them."""

    psf: NDArray[np.float32]
    sharp: NDArray[np.float32]
    image: NDArray[np.float32]

    @property
    def stacks(self) -> list[Stack]:
        return [Volume.from_array(self.image).stack()]

    def psnr(self, restored: NDArray[Any]) -> float:
        """Of the best affine fit to the truth, in dB."""
        x, y = restored.ravel() - restored.mean(), self.sharp.ravel() - self.sharp.mean()
        error = ((x * (x @ y) / (x @ x) - y) ** 2).mean()
        return float(10 * np.log10(np.ptp(self.sharp) ** 2 / error))

    def restored(self, method: str, settings: ClassicalSettings) -> NDArray[np.float32]:
        return classical_method(method, self.psf, settings)(self.image)


def scene(side: int = 128, light: float = 60.0) -> Scene:
    rng = np.random.default_rng(7)
    psf = gaussian(13, 1.8)
    larger = side + 12
    lines = np.zeros((larger, larger))
    for _ in range(12):
        start, angle = rng.uniform(0, larger, 2), rng.uniform(0, np.pi)
        steps = np.arange(-larger, larger, 0.3)[:, None] * [np.sin(angle), np.cos(angle)]
        places = np.round(start + steps).astype(int)
        places = places[((places >= 0) & (places < larger)).all(axis=1)]
        lines[tuple(places.T)] += rng.uniform(0.3, 1)
    lines = gaussian_filter(lines, 0.7)
    sharp = (light * lines / lines.max() * 4).astype(np.float32)
    image = Blur(psf).valid(torch.from_numpy(sharp)[None, None])[0, 0].numpy().clip(0)
    noisy = rng.poisson(image + BACKGROUND).astype(np.float32)
    return Scene(psf, sharp[6:-6, 6:-6], noisy)


GUESS = ClassicalSettings(background=45.0, iterations=20, sieve=1.0, accelerate=True)
ALL = ("background", "sieve", "iterations")


def test_chooses_a_background_near_the_truth_and_beats_plain_iterations() -> None:
    look = scene()
    tuned = tune_channel(look.stacks, look.psf, Tuning("richardson-lucy", GUESS, ALL))
    assert tuned.settings.background == pytest.approx(BACKGROUND, abs=4)
    assert tuned.settings.sieve in SIEVES
    plain = ClassicalSettings(iterations=10)
    ours, theirs = (
        look.psnr(look.restored("richardson-lucy", settings)) for settings in (tuned.settings, plain)
    )
    assert ours > theirs + 0.5
    assert tuned.settings.accelerate
    assert len(tuned.trials) > 10
    assert min(trial.error for trial in tuned.trials) == next(
        trial.error for trial in tuned.trials if trial.settings == tuned.settings
    )
    assert all(trial.worse_by >= 0 for trial in tuned.trials)


def test_no_sieve_must_predict_clearly_better_than_the_narrowest() -> None:
    """As in a bright image with a PSF that does not quite fit: small gains, each beyond doubt."""

    def trial(sieve: float, iterations: int, error: float, worse_by: float) -> module.Trial:
        return module.Trial(replace(GUESS, sieve=sieve, iterations=iterations), error, worse_by)

    none, early, narrow, wide = trials = [
        trial(0.0, 56, 1000, 0),
        trial(0.5, 40, 1014, 9),
        trial(0.5, 56, 1012, 7),
        trial(1.0, 56, 1059, 8),
    ]
    assert module.sieved(none.settings, trials) == narrow.settings
    assert module.sieved(none.settings, [none, early]) == early.settings
    assert module.sieved(none.settings, [none, trial(0.5, 56, 1030, 7)]) == none.settings
    assert module.sieved(none.settings, [none, trial(0.5, 56, 1030, 0.9)]).sieve == 0.5
    assert module.sieved(none.settings, [none, wide]) == none.settings
    assert module.sieved(wide.settings, trials) == wide.settings


def test_what_is_not_wanted_is_not_even_read() -> None:
    @dataclass(frozen=True)
    class Closed:
        shape, chunks, dtype = (9, 9), (9, 9), np.dtype(np.uint8)

        def __getitem__(self, selection: Any, /) -> Any:
            raise AssertionError("nothing is to be read")

    tuned = tune_channel([Stack(Closed(), "yx")], gaussian(5, 1), Tuning("richardson-lucy", GUESS, ()))
    assert tuned == Tuned(GUESS, ())
    assert tuned.curve() == ()


@pytest.mark.parametrize("wanted", [("background",), ("sieve",), ("iterations",), ("sieve", "iterations")])
@pytest.mark.parametrize("accelerate", [False, True])
def test_only_what_is_wanted_changes(wanted: Any, accelerate: bool) -> None:
    look = scene(64)
    guess = replace(GUESS, accelerate=accelerate, sieve=1.25, iterations=8, total_variation=0.001)
    tuned = tune_channel(look.stacks, look.psf, Tuning("richardson-lucy", guess, wanted))
    kept = {name: getattr(guess, name) for name in wanted}
    assert replace(tuned.settings, **kept) == guess
    assert all(replace(trial.settings, **kept) == guess for trial in tuned.trials if "background" not in kept)


def test_the_same_seed_chooses_the_same() -> None:
    look = scene(64)
    tuning = Tuning("richardson-lucy", GUESS, ALL, seed=3)
    first = tune_channel(look.stacks, look.psf, tuning)
    assert tune_channel(look.stacks, look.psf, tuning) == first
    other = tune_channel(look.stacks, look.psf, replace(tuning, seed=4))
    assert [t.error for t in other.trials] != [t.error for t in first.trials]


def test_the_curve_is_that_of_the_chosen_settings() -> None:
    look = scene(96)
    tuning = Tuning("richardson-lucy", GUESS, ("sieve", "iterations"))
    tuned = tune_channel(look.stacks, look.psf, tuning)
    curve = tuned.curve()
    counts, errors = zip(*curve, strict=True)
    assert list(counts) == sorted(counts)
    assert 3 < len(curve) < len(tuned.trials)
    assert counts[int(np.argmin(errors))] == tuned.settings.iterations
    other = Trial(replace(tuned.settings, sieve=9.0), 0.0, 0.0)
    assert replace(tuned, trials=(*tuned.trials, other)).curve() == curve


@pytest.mark.parametrize(
    ("method", "wanted"),
    [("richardson-lucy", ALL), ("richardson-lucy", ("iterations",)), ("wiener", ("regularization",))],
)
def test_every_step_tells_how_far_it_is(method: str, wanted: Any) -> None:
    look = scene(64)
    steps: list[ChoosingStep] = []
    tuning = Tuning(method, replace(GUESS, unit=float(look.image.std())), wanted)
    tune_channel(look.stacks, look.psf, tuning, steps.append)
    assert steps[0].done == 0
    assert steps[0].work_left == work_at_most(tuning)
    for before, after in pairwise(steps):
        assert after.done - before.done in (0, 1)
        assert after.most <= before.most  # at most, and known better as it goes on
        assert after.work >= before.work
        assert after.work + after.work_left <= before.work + before.work_left
        assert before.setting
        assert before.done < before.most
    assert steps[-1].done == steps[-1].most
    assert (steps[-1].setting, steps[-1].work_left, steps[-1].kept, steps[-1].parts) == ("", 0, 0, 1)


@pytest.mark.parametrize("image", ["without signal", "below zero", "even"])
def test_a_search_for_a_background_without_room_comes_to_an_end(image: str) -> None:
    """Where the mean is no more than the minimum or 0, there is one background to try."""
    rng = np.random.default_rng(0)
    data = {
        "without signal": np.zeros((48, 48), np.float32),
        "below zero": rng.normal(-20, 1, (48, 48)).astype(np.float32),
        "even": np.full((48, 48), 7, np.float32),
    }[image]
    guess = replace(GUESS, background=7.0 if image == "even" else 0.0)
    tuning = Tuning("richardson-lucy", guess, ALL)
    with np.errstate(all="raise"):
        tuned = tune(tuning, [hide(data, gaussian(5, 1))], gaussian(5, 1))
    assert tuned.settings.background == guess.background


@pytest.mark.parametrize("method", ["richardson-lucy", "wiener"])
def test_an_image_of_a_few_voxels_is_refused(method: str) -> None:
    wanted: Any = ALL if method == "richardson-lucy" else ("regularization",)
    stacks = [Volume.from_array(np.arange(30.0).reshape(5, 6)).stack()]
    with pytest.raises(OptionError, match=f"5 x 6 voxels is too small .* --{wanted[0]}.* a number"):
        tune_channel(stacks, gaussian(3, 1), Tuning(method, GUESS, wanted))


@pytest.mark.parametrize("method", ["wiener", "conjugate-gradient", "chambolle-pock"])
def test_a_regularization_near_the_best(method: str) -> None:
    look = scene(96, light=15)
    guess = ClassicalSettings(
        background=BACKGROUND,
        iterations={"conjugate-gradient": 1000, "chambolle-pock": 40}.get(method, 1),
        unit=float(look.image.std()),
    )
    tuned = tune_channel(look.stacks, look.psf, Tuning(method, guess, ("regularization",)))
    assert len(tuned.curve()) == 1  # there is nothing to draw
    chosen = tuned.settings.regularization
    assert replace(tuned.settings, regularization=guess.regularization) == guess
    scores = {
        weight: look.psnr(look.restored(method, replace(guess, regularization=weight)))
        for weight in REGULARIZATIONS[2::2]
    }
    best = max(scores, key=scores.__getitem__)
    assert 1 / 3.3 < chosen / best < 3.3
    assert look.psnr(look.restored(method, tuned.settings)) > scores[best] - 0.8
    assert scores[best] > look.psnr(look.image)


def test_the_background_of_chambolle_pock_is_chosen_too() -> None:
    look = scene(64)
    guess = ClassicalSettings(background=40.0, iterations=30, unit=float(look.image.std()))
    wanted: Any = ("background", "regularization")
    tuned = tune_channel(look.stacks, look.psf, Tuning("chambolle-pock", guess, wanted))
    assert tuned.settings.background == pytest.approx(BACKGROUND, abs=8)
    assert {trial.settings.background for trial in tuned.trials} == {tuned.settings.background}


def test_few_iterations_leave_out_regularizations_that_need_more() -> None:
    """Conjugate gradients refuse what they could not solve; the search must not run into that."""
    look = scene(64)
    guess = ClassicalSettings(background=BACKGROUND, iterations=30)
    tuned = tune_channel(look.stacks, look.psf, Tuning("conjugate-gradient", guess, ("regularization",)))
    assert tuned.trials
    assert classical_method("conjugate-gradient", look.psf, tuned.settings).halo


def test_device_and_threads_reach_the_method(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    make = module.classical_method

    def record(*arguments: Any) -> Any:
        asked.append(arguments[3:])
        return make(*arguments)

    monkeypatch.setattr(module, "classical_method", record)
    look = scene(64)
    tuning = Tuning("richardson-lucy", GUESS, ALL, device="cpu:0", threads=1)
    tune_channel(look.stacks, look.psf, tuning)
    assert set(asked) == {("cpu:0", 1)}


@pytest.mark.parametrize("least", [0.0, 0.31, 2.7, 5.0])
def test_golden_section_finds_the_bottom_of_a_parabola(least: float) -> None:
    tried: list[float] = []

    def error(value: float) -> float:
        return (value - least) ** 2

    for value in islice(golden_section(0, 5, error), 20):
        tried.append(value)
    assert len(set(tried)) == 20
    assert min(abs(value - least) for value in tried) < 0.005
    assert all(0 <= value <= 5 for value in tried)


@pytest.mark.parametrize(
    ("errors", "start", "tried"),
    [
        ([3, 2, 1, 2, 3], 2, [2, 3, 1]),
        ([5, 4, 3, 2, 1], 2, [2, 3, 4, 1]),
        ([1, 2, 3, 4, 5], 2, [2, 3, 1, 0]),
        ([1, 1, 1], 1, [1, 2, 0]),
        ([1], 0, [0]),
    ],
)
def test_climbing_stops_where_it_gets_no_better(errors: list[int], start: int, tried: list[int]) -> None:
    asked: list[int] = []

    def error(index: int) -> float:
        asked.append(index)
        return errors[index]

    climb(len(errors), start, error)
    assert asked == tried


@pytest.mark.slow
def test_a_volume_is_tuned_near_the_best_there_is() -> None:
    """Against the truth, no other setting of those compared is much better than the one chosen blindly."""
    look = scene(256)
    tuned = tune_channel(look.stacks, look.psf, Tuning("richardson-lucy", GUESS, ALL))
    best = max(look.psnr(look.restored("richardson-lucy", trial.settings)) for trial in tuned.trials)
    assert look.psnr(look.restored("richardson-lucy", tuned.settings)) > best - 0.4
