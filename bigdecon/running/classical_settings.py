"""Settings of a run's classical method: what was asked for, and what "auto" became for each channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from bigdecon.config import CLASSICAL, ClassicalSettings, Method, RunConfig
from bigdecon.deconvolution.classical import ClassicalMethod
from bigdecon.deconvolution.methods import classical_method
from bigdecon.deconvolution.trials import Setting
from bigdecon.deconvolution.tuning import Trial, Tuned, Tuning, tune_channel
from bigdecon.errors import OptionError
from bigdecon.intensity import IntensityStats, measure_intensity
from bigdecon.optics.psf import PSF
from bigdecon.running.early_checks import refuse_auto_iterations
from bigdecon.volume import Volume

__all__ = [
    "Tuner",
    "first_guess",
    "how_chosen",
    "settings_in_words",
    "tuned_from_record",
    "tuned_method",
    "tuning_of",
    "what_to_tune",
]

Tuner = Callable[..., Tuned]
"""Chooses settings as `tune_channel` does, here or on a worker."""

ITERATIONS = {"richardson-lucy": 20, "conjugate-gradient": 1000, "chambolle-pock": 100}
GUESSED_SIEVE = 1.0
GUESSED_REGULARIZATION = 0.1


def what_to_tune(config: RunConfig) -> tuple[Setting, ...]:
    """Tell which settings of a run's method are to be chosen from the image.

    Raises
    ------
    OptionError
        if "auto" is asked for where a method has no such choice
    """
    if config.method not in CLASSICAL:
        # What refines a network's result has to know the background; without it nothing is chosen.
        return ("background",) if config.refine is not None and config.background == "auto" else ()
    if config.method == "richardson-lucy":
        asked: dict[Setting, Any] = {
            "background": config.background,
            "sieve": "auto" if config.sieve is None else config.sieve,
            "iterations": "auto" if config.iterations is None else config.iterations,
        }
        return tuple(name for name, value in asked.items() if value == "auto")
    refuse_auto_iterations(config)
    return ("regularization",) if config.regularization == "auto" else ()


def first_guess(config: RunConfig, stats: IntensityStats) -> ClassicalSettings:
    """Give the settings of a channel as asked for, with guesses for those that are to be chosen."""
    by_itself = config.iterations in (None, "auto") and config.method == "richardson-lucy"
    iterations = (
        ITERATIONS.get(config.method, 1) if config.iterations in (None, "auto") else config.iterations
    )
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


def tuned_method(
    name: Method, volume: Volume, psf: PSF, *, channel: int = 0, seed: int = 0, device: str = "cpu"
) -> ClassicalMethod:
    """Make a classical method that has chosen its own settings from a channel, as `bigdecon run` does.

    Parameters
    ----------
    name : "richardson-lucy", "wiener", "conjugate-gradient" or "chambolle-pock"
    volume : noisy image, in data units; only parts of it are read
    psf : centred, at the volume's voxel size
    channel : index of the channel
    seed : of the parts looked at and the voxels hidden
    device : a torch device, "cpu" or "cuda"

    Raises
    ------
    OptionError
        if it is none of these methods, or the image is too small to choose from
    """
    if name not in CLASSICAL:
        raise OptionError(f"{name!r} is no classical method; give one of {', '.join(CLASSICAL)}.")
    stacks = [volume.stack(timepoint=t, channel=channel) for t in range(volume.n_timepoints)]
    config = RunConfig(input="", psf=(), method=name, seed=seed)
    tuning = tuning_of(config, measure_intensity(stacks, name=volume.name), device)
    return classical_method(name, psf.array, tune_channel(stacks, psf.array, tuning).settings, device)


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


def settings_in_words(method: str, settings: ClassicalSettings) -> str:
    """Name the numbers that a classical method goes by, and no others."""
    if method in ("wiener", "conjugate-gradient"):
        return f"regularization {settings.regularization:.3g}"
    background = f"background {settings.background:.4g}"
    if method == "chambolle-pock":
        return f"{settings.iterations} iterations, regularization {settings.regularization:.3g}, {background}"
    if method not in CLASSICAL:  # of a network that is refined
        return background
    kind = "accelerated " if settings.accelerate else ""
    parts = [f"{settings.iterations} {kind}iterations", background]
    parts.append(f"sieve of {settings.sieve:g} voxels" if settings.sieve else "no sieve")
    if settings.total_variation:
        parts.append(f"total variation {settings.total_variation:g}")
    return ", ".join(parts)


def how_chosen(tuned: Tuned) -> str:
    """Say that settings were chosen, and from how many; "" where all were given."""
    # One row of numbers of iterations is one course of the method.
    tried = len({replace(trial.settings, iterations=0) for trial in tuned.trials})
    several = f", from {tried} settings" if tried > 1 else ""
    return f"chosen by hidden voxels{several}" if tuned.trials else ""


def tuning_of(config: RunConfig, stats: IntensityStats, device: str) -> Tuning:
    """Say what is to be chosen for a channel."""
    return Tuning(
        config.method if config.method in CLASSICAL else "richardson-lucy",
        first_guess(config, stats),
        what_to_tune(config),
        seed=config.seed,
        device=device,
        threads=config.threads if device == "cpu" else None,
    )
