"""From flags to numbers: what is asked for, what is guessed first, and what is to be chosen."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from bigdecon.config import CLASSICAL, ClassicalSettings, RunConfig
from bigdecon.deconvolution.methods import classical_method
from bigdecon.deconvolution.tuning import Trial, Tuned
from bigdecon.errors import OptionError
from bigdecon.intensity import IntensityStats
from bigdecon.running.classical_settings import (
    first_guess,
    how_chosen,
    settings_in_words,
    tuned_from_record,
    tuning_of,
    what_to_tune,
)

STATS = IntensityStats(mean=120.0, std=30.0, minimum=90.0, maximum=900.0, background=98.5)
PSF = np.full((3, 3), 1 / 9, np.float32)


def config(method: Any, **flags: Any) -> RunConfig:
    return RunConfig("a.tif", ("psf.tif",), method=method, **flags)


ALL = ("background", "sieve", "iterations")
TABLE: list[tuple[str, dict[str, Any], tuple[str, ...], dict[str, Any]]] = [
    ("richardson-lucy", {}, ALL, {"iterations": 20, "sieve": 1.0, "accelerate": True}),
    ("richardson-lucy", {"iterations": "auto", "sieve": "auto"}, ALL, {"accelerate": True}),
    ("richardson-lucy", {"iterations": 7}, ALL[:2], {"iterations": 7, "accelerate": False}),
    ("richardson-lucy", {"iterations": 7, "accelerate": True}, ALL[:2], {"accelerate": True}),
    ("richardson-lucy", {"accelerate": False}, ALL, {"accelerate": False, "iterations": 20}),
    ("richardson-lucy", {"sieve": 0.0}, ("background", "iterations"), {"sieve": 0.0}),
    ("richardson-lucy", {"background": 0.0}, ALL[1:], {"background": 0.0}),
    (
        "richardson-lucy",
        {"background": 4, "sieve": 2, "iterations": 3},
        (),
        {"background": 4.0, "sieve": 2.0},
    ),
    ("richardson-lucy", {"total_variation": 0.01}, ALL, {"total_variation": 0.01}),
    ("wiener", {}, ("regularization",), {"regularization": 0.1}),
    ("wiener", {"background": 5.0}, ("regularization",), {"background": 5.0}),
    ("wiener", {"regularization": 0.3}, (), {"regularization": 0.3, "background": 98.5}),
    ("conjugate-gradient", {}, ("regularization",), {"iterations": 1000, "accelerate": False}),
    ("conjugate-gradient", {"iterations": 400}, ("regularization",), {"iterations": 400}),
    ("chambolle-pock", {}, ("regularization",), {"iterations": 100, "regularization": 0.1}),
    ("chambolle-pock", {"background": 0.0}, ("regularization",), {"background": 0.0}),
    ("chambolle-pock", {"regularization": 0.0}, (), {"regularization": 0.0}),
]


@pytest.mark.parametrize(("method", "flags", "wanted", "guess"), TABLE)
def test_flags_become_settings(method: str, flags: Any, wanted: Any, guess: dict[str, Any]) -> None:
    asked = config(method, **flags)
    stats = STATS if asked.background == "auto" else replace(STATS, background=asked.background)
    assert what_to_tune(asked) == wanted
    found = first_guess(asked, stats)
    assert {name: getattr(found, name) for name in guess} == guess
    assert found.unit == 30.0
    assert isinstance(found.iterations, int)
    if "background" not in flags:
        assert found.background == 98.5
    assert classical_method(method, PSF, found).background == found.background


@pytest.mark.parametrize("method", ["richardson-lucy", "conjugate-gradient", "chambolle-pock"])
def test_no_iterations_are_refused_in_the_end(method: str) -> None:
    """Not taken for "leave it to me"."""
    found = first_guess(config(method, iterations=0), STATS)
    assert found.iterations == 0
    with pytest.raises(OptionError, match="0 iterations"):
        classical_method(method, PSF, found)


@pytest.mark.parametrize("method", CLASSICAL)
def test_a_background_below_zero_is_refused_if_asked_for_and_0_if_measured(method: str) -> None:
    below = replace(STATS, background=-5.0)
    assert first_guess(config(method), below).background == 0
    with pytest.raises(OptionError, match="background is -5"):
        classical_method(method, PSF, first_guess(config(method, background=-5.0), below))


@pytest.mark.parametrize("method", ["wiener", "conjugate-gradient", "chambolle-pock"])
def test_only_richardson_lucy_finds_its_iterations(method: str) -> None:
    with pytest.raises(OptionError, match=f"belongs to the method richardson-lucy, not to {method}"):
        what_to_tune(config(method, iterations="auto"))


def test_a_record_gives_back_what_was_chosen() -> None:
    settings = ClassicalSettings(98.25, 14, 0.75, 0.002, True, 0.1, 30.0)
    trials = (Trial(settings, 17.5, 0.0), Trial(replace(settings, iterations=20), 18.25, 1.5))
    tuned = (Tuned(settings, trials), Tuned(replace(settings, sieve=0.0), ()))
    record = json.loads(json.dumps([asdict(one) for one in tuned]))
    assert tuned_from_record(record) == tuned
    assert tuned_from_record([]) == ()


def test_seed_device_and_threads_go_along() -> None:
    asked = config("richardson-lucy", seed=5, threads=3)
    on_cpu, on_gpu = tuning_of(asked, STATS, "cpu"), tuning_of(asked, STATS, "cuda:1")
    assert (on_cpu.method, on_cpu.seed, on_cpu.device, on_cpu.threads) == ("richardson-lucy", 5, "cpu", 3)
    assert (on_gpu.device, on_gpu.threads) == ("cuda:1", None)
    assert on_cpu.settings == first_guess(asked, STATS)
    assert on_cpu.wanted == ALL


def test_words_name_what_a_method_goes_by_and_nothing_else():
    settings = ClassicalSettings(background=98.5, iterations=7, sieve=0.5, regularization=0.1, unit=30.0)
    words = {method: settings_in_words(method, settings) for method in (*CLASSICAL, "siamese")}
    assert words["richardson-lucy"] == "7 iterations, background 98.5, sieve of 0.5 voxels"
    assert words["wiener"] == words["conjugate-gradient"] == "regularization 0.1"
    assert words["chambolle-pock"] == "7 iterations, regularization 0.1, background 98.5"
    assert words["siamese"] == "background 98.5"


@pytest.mark.parametrize(
    ("trials", "words"),
    [
        (0, ""),
        (1, "chosen by hidden voxels"),
        (5, "chosen by hidden voxels, from 5 settings"),
    ],
)
def test_words_say_from_how_many_settings_was_chosen(trials, words):
    settings = ClassicalSettings()
    tried = [replace(settings, sieve=0.5 * i, iterations=k) for i in range(trials) for k in (1, 2)]
    assert how_chosen(Tuned(settings, tuple(Trial(one, 1.0, 0.0) for one in tried))) == words
