"""Settings of a run's classical method: what was asked for, and what "auto" became for each channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bigdecon.config import ClassicalSettings, RunConfig
from bigdecon.deconvolution.tuning import Setting, Trial, Tuned, Tuning
from bigdecon.errors import OptionError
from bigdecon.intensity import IntensityStats

__all__ = ["Tuner", "first_guess", "tuned_from_record", "tuning_of", "what_to_tune"]

Tuner = Callable[..., Tuned]
"""Chooses settings as `tune_channel` does, here or on a worker."""

ITERATIONS = {"richardson-lucy": 20, "conjugate-gradient": 1000, "chambolle-pock": 100, "wiener": 1}
GUESSED_SIEVE = 1.0
GUESSED_REGULARIZATION = 0.1


def what_to_tune(config: RunConfig) -> tuple[Setting, ...]:
    """Tell which settings of a run's method are to be chosen from the image.

    Raises
    ------
    OptionError
        if "auto" is asked for where a method has no such choice
    """
    if config.method == "richardson-lucy":
        asked: dict[Setting, Any] = {
            "background": config.background,
            "sieve": "auto" if config.sieve is None else config.sieve,
            "iterations": "auto" if config.iterations is None else config.iterations,
        }
        return tuple(name for name, value in asked.items() if value == "auto")
    if config.iterations == "auto":
        raise OptionError(f"--iterations auto belongs to the method richardson-lucy, not to {config.method}.")
    return ("regularization",) if config.regularization == "auto" else ()


def first_guess(config: RunConfig, stats: IntensityStats) -> ClassicalSettings:
    """Give the settings of a channel as asked for, with guesses for those that are to be chosen."""
    by_itself = config.iterations in (None, "auto") and config.method == "richardson-lucy"
    iterations = ITERATIONS[config.method] if config.iterations in (None, "auto") else config.iterations
    sieve = GUESSED_SIEVE if config.sieve in (None, "auto") else config.sieve
    weight = GUESSED_REGULARIZATION if config.regularization == "auto" else config.regularization
    # What was asked for goes on as it is, to be refused where it cannot work.
    background = max(0.0, stats.background) if config.background == "auto" else config.background
    return ClassicalSettings(
        background=float(background),
        iterations=int(iterations),
        sieve=float(sieve),
        total_variation=config.total_variation,
        accelerate=by_itself if config.accelerate is None else config.accelerate,
        regularization=float(weight),
        unit=stats.std,
    )


def tuned_from_record(chosen: Sequence[Any]) -> tuple[Tuned, ...]:
    """Read what an earlier part of the same run chose, one entry a channel, from its record."""

    def settings(content: Any) -> ClassicalSettings:
        return ClassicalSettings(**content)

    return tuple(
        Tuned(
            settings(entry["settings"]),
            tuple(Trial(settings(t["settings"]), t["error"], t["worse_by"]) for t in entry["trials"]),
        )
        for entry in chosen
    )


def tuning_of(config: RunConfig, stats: IntensityStats, device: str) -> Tuning:
    """Say what is to be chosen for a channel."""
    return Tuning(
        config.method,
        first_guess(config, stats),
        what_to_tune(config),
        seed=config.seed,
        device=device,
        threads=config.threads if device == "cpu" else None,
    )
