"""A search for settings: given up early only what would not be chosen, and taken up where it was stopped."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from bigdecon.config import ClassicalSettings
from bigdecon.deconvolution import search_rules
from bigdecon.deconvolution.kept_trials import TrialFolder
from bigdecon.deconvolution.richardson_lucy import RichardsonLucy
from bigdecon.deconvolution.search_rules import lasting_gap, past_its_best
from bigdecon.deconvolution.trials import ChoosingStep, Tuning
from bigdecon.deconvolution.tuning import tune_channel
from bigdecon.optics.blur import Blur
from bigdecon.volume import Stack, Volume

pytestmark = pytest.mark.usefixtures("one_thread")

GUESS = ClassicalSettings(background=45.0, iterations=20, sieve=1.0, accelerate=True)
ALL = ("background", "sieve", "iterations")


def gaussian(sigma: float) -> NDArray[np.float32]:
    y, x = np.ogrid[-6:7, -6:7]
    psf = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    return (psf / psf.sum()).astype(np.float32)


def stacks_of(side: int = 64, light: float = 60.0) -> list[Stack]:
    """A blurred image of spots and patches on a background of 50, with photon noise."""
    rng = np.random.default_rng(7)
    sharp = np.zeros((side + 12, side + 12))
    sharp[tuple(rng.integers(0, side + 12, (2, side)))] = 30
    sharp += 2 * (gaussian_filter(rng.standard_normal(sharp.shape), 5) > 0.05)
    blurred = Blur(gaussian(1.8)).valid(torch.from_numpy(sharp)[None, None])[0, 0].numpy().clip(0)
    noisy = rng.poisson(light * blurred / 3 + 50).astype(np.float32)
    return [Volume.from_array(noisy).stack()]


# --- giving up early ------------------------------------------------------------------------------


def errors_of(*means: float, spread: float = 1.0) -> list[NDArray[np.float64]]:
    """Errors at 200 voxels that rise and fall together, as those of two settings do."""
    common = np.random.default_rng(1).exponential(1, 200)
    own = np.random.default_rng(2).normal(0, spread, (len(means), 200))
    return [mean + common + noise - noise.mean() for mean, noise in zip(means, own, strict=True)]


@pytest.mark.parametrize(
    ("means", "over"),
    [
        ([5.0], False),
        ([5.0, 4.0, 3.0], False),
        ([5.0, 3.0, 6.0], True),  # by far
        ([5.0, 3.0, 3.01], False),
        ([5.0, 3.0, 3.01, 3.02, 3.03], True),  # long enough
    ],
)
def test_a_walk_ends_past_its_best(means: list[float], over: bool) -> None:
    assert past_its_best(errors_of(*means)) is over


@pytest.mark.parametrize(
    ("means", "rival", "given_up"),
    [
        ([9.0], [5.0, 4.0, 3.0, 2.0], False),  # one number of iterations tells no trend
        ([9.0, 8.0], [5.0, 4.0, 3.0, 2.0], True),
        ([9.0, 6.0], [5.0, 4.0, 3.0, 2.0], False),  # the gap closes
        ([4.0, 3.9], [5.0, 4.0, 3.0, 2.0], False),  # no gap
        ([5.01, 4.01], [5.0, 4.0, 3.0, 2.0], False),  # none to be sure of
        ([9.0, 8.0], [], False),
        ([9.0, 8.0, 7.0, 6.0], [5.0, 4.0, 3.0, 2.0], False),  # it is at its end
    ],
)
def test_a_background_is_given_up_where_a_gap_lasts(
    means: list[float], rival: list[float], given_up: bool
) -> None:
    gap = lasting_gap(errors_of(*means), errors_of(*rival, spread=0.9), 4)
    assert (gap is not None) is given_up


@pytest.mark.parametrize("light", [8.0, 60.0, 400.0])
def test_what_is_given_up_early_would_not_be_chosen(light: float, monkeypatch: pytest.MonkeyPatch) -> None:
    stacks, tuning = stacks_of(96, light), Tuning("richardson-lucy", GUESS, ALL)
    steps: list[ChoosingStep] = []
    early = tune_channel(stacks, gaussian(1.8), tuning, steps.append)
    quick = steps[-1].work
    monkeypatch.setattr(search_rules, "CLEARLY", np.inf)
    patient = tune_channel(stacks, gaussian(1.8), tuning, steps.append)
    assert early.settings == patient.settings
    assert quick <= steps[-1].work
    assert quick < steps[-1].work or light < 10  # so much noise leaves all of them in doubt


# --- going on after an interruption ---------------------------------------------------------------


class Stop(Exception):
    """Ctrl-C, as it were."""


def stopped_at(done: int) -> Any:
    def look(step: ChoosingStep) -> None:
        if step.done == done:
            raise Stop

    return look


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Record background and sieve of every way that is computed."""
    ways: list[tuple[float, float]] = []
    go = RichardsonLucy.iterates

    def record(self: RichardsonLucy, *arguments: Any) -> Any:
        ways.append((self.background, self.sieve))
        return go(self, *arguments)

    monkeypatch.setattr(RichardsonLucy, "iterates", record)
    return ways


@pytest.mark.parametrize("done", [1, 5, 9])
def test_a_choice_goes_on_where_it_was_stopped(
    done: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacks, psf, tuning = stacks_of(), gaussian(1.8), Tuning("richardson-lucy", GUESS, ALL)
    ways = recorded(monkeypatch)
    undisturbed = tune_channel(stacks, psf, tuning)
    all_of_them = list(ways)
    ways.clear()
    keep = TrialFolder(tmp_path / "a" / "b")
    with pytest.raises(Stop):
        tune_channel(stacks, psf, tuning, stopped_at(done), keep)
    assert isinstance(keep.place, Path)
    before = {path: path.stat().st_mtime_ns for path in keep.place.iterdir()}
    assert len(before) == done
    ways.clear()
    steps: list[ChoosingStep] = []
    assert tune_channel(stacks, psf, tuning, steps.append, keep) == undisturbed
    assert ways == all_of_them[done:]
    assert steps[-1].kept == done
    assert {path: path.stat().st_mtime_ns for path in before} == before
    ways.clear()
    assert tune_channel(stacks, psf, tuning, None, keep) == undisturbed
    assert ways == []


def test_only_what_is_the_same_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stacks, psf = stacks_of(), gaussian(1.8)
    tuning = Tuning("richardson-lucy", GUESS, ("sieve", "iterations"))
    keep, ways = TrialFolder(tmp_path), recorded(monkeypatch)
    tune_channel(stacks, psf, tuning, None, keep)
    needed = len(ways)
    others = [
        (stacks, gaussian(1.9), tuning),
        (stacks, psf, replace(tuning, seed=5)),
        (stacks, psf, replace(tuning, settings=replace(GUESS, background=44.0))),
        (stacks_of(light=50), psf, tuning),
    ]
    for other in others:
        ways.clear()
        fresh = tune_channel(*other)
        alone = list(ways)
        ways.clear()
        assert tune_channel(*other, None, keep) == fresh
        assert ways == alone
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-30])
    ways.clear()
    tune_channel(stacks, psf, tuning, None, keep)
    assert len(ways) == needed


def test_a_choice_that_may_not_write_only_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stacks, psf = stacks_of(), gaussian(1.8)
    tuning, folder = Tuning("richardson-lucy", GUESS, ("iterations",)), tmp_path / "kept"
    tuned = tune_channel(stacks, psf, tuning, None, TrialFolder(folder, writes=False))
    assert not folder.exists()
    tune_channel(stacks, psf, tuning, None, TrialFolder(folder))
    ways = recorded(monkeypatch)
    assert tune_channel(stacks, psf, tuning, None, TrialFolder(folder, writes=False)) == tuned
    assert ways == []


def test_where_nothing_can_be_kept_the_choice_goes_on_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stacks, psf = stacks_of(), gaussian(1.8)
    tuning, place = Tuning("richardson-lucy", GUESS, ("sieve", "iterations")), tmp_path / "file" / "kept"
    (tmp_path / "file").write_text("")
    tuned = tune_channel(stacks, psf, tuning, None, TrialFolder(place))
    assert tuned == tune_channel(stacks, psf, tuning)
    said = [record.getMessage().partition(" (")[0] for record in caplog.records]
    assert said == [f"settings that have been tried cannot be kept in {place}"]


@pytest.mark.parametrize("method", ["wiener", "chambolle-pock"])
def test_trials_of_other_methods_are_kept_too(method: str, tmp_path: Path) -> None:
    stacks, psf = stacks_of(48), gaussian(1.8)
    guess = ClassicalSettings(background=50.0, iterations=10, unit=20.0)
    tuning, keep = Tuning(method, guess, ("regularization",)), TrialFolder(tmp_path)
    undisturbed = tune_channel(stacks, psf, tuning)
    with pytest.raises(Stop):
        tune_channel(stacks, psf, tuning, stopped_at(2), keep)
    steps: list[ChoosingStep] = []
    assert tune_channel(stacks, psf, tuning, steps.append, keep) == undisturbed
    assert steps[-1].kept == 2


def damaged(kind: str, path: Path) -> bytes:
    """Give what a file of a trial may have become; all but the last are archives of two arrays."""
    with np.load(path) as content:
        counts, errors = content["counts"], content["errors"]
    data = BytesIO()
    if kind == "empty":
        np.savez(data, counts=counts[:0], errors=errors[:0])
    elif kind == "no axes":
        np.savez(data, counts=counts[0], errors=errors)
    elif kind == "flat":
        np.savez(data, counts=counts, errors=errors[0])
    elif kind == "another type":
        np.savez(data, counts=counts, errors=errors.astype("float32"))
    elif kind == "huge":
        header = np.lib.format.header_data_from_array_1_0(errors) | {"shape": (2**22, 2**22)}
        with zipfile.ZipFile(data, "w") as archive:
            for name in ("counts", "errors"):
                with archive.open(f"{name}.npy", "w") as file:
                    np.lib.format.write_array_header_1_0(file, header)
    elif kind == "bits":
        whole = bytearray(path.read_bytes())
        whole[len(whole) // 2] ^= 1
        return bytes(whole)
    else:
        np.savez_compressed(data, counts=counts, errors=errors)
        broken = bytearray(data.getvalue())
        for place in range(len(broken) // 2, len(broken) // 2 + 200):
            broken[place] ^= 0x5A
        return bytes(broken)
    return data.getvalue()


@pytest.mark.parametrize(
    "kind", ["empty", "no axes", "flat", "another type", "huge", "bits", "broken deflate stream"]
)
def test_a_damaged_trial_counts_as_none(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stacks, psf = stacks_of(48), gaussian(1.8)
    guess = ClassicalSettings(background=50.0, unit=20.0)
    tuning, keep = Tuning("wiener", guess, ("regularization",)), TrialFolder(tmp_path)
    tuned = tune_channel(stacks, psf, tuning, None, keep)
    paths = list(tmp_path.iterdir())
    for path in paths:
        path.write_bytes(damaged(kind, path))
    steps: list[ChoosingStep] = []
    assert tune_channel(stacks, psf, tuning, steps.append, keep) == tuned
    assert steps[-1].kept == 0
    assert tune_channel(stacks, psf, tuning, steps.append, keep) == tuned
    assert steps[-1].kept == len(paths)
