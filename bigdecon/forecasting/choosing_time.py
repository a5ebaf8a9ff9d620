"""How long it takes to choose settings from the image: one is timed on a real part, and multiplied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bigdecon.deconvolution.chambolle_pock import ChambollePock
from bigdecon.deconvolution.held_out import Sample, errors_at_hidden
from bigdecon.deconvolution.methods import classical_method
from bigdecon.deconvolution.richardson_lucy import RichardsonLucy
from bigdecon.deconvolution.search import counts_compared, work_at_most
from bigdecon.deconvolution.trials import Tuning
from bigdecon.deconvolution.tuning import samples_of
from bigdecon.forecasting.stopwatch import Stopwatch, computing_threads
from bigdecon.learning.heap import freed_memory_kept
from bigdecon.volume import Stack

__all__ = ["LIKELY", "Choice", "time_choices"]

LIKELY = 0.75
"""Part of the work at most that choices took: 0.6 to 0.85 (benchmarks/choosing.py)."""
FEW_ITERATIONS = 4
"""So many are timed, after a first one that prepares transforms."""


class Choice(NamedTuple):
    """What is chosen for one channel: its stacks, the PSF ([z,] y, x), and what is asked for."""

    stacks: Sequence[Stack]
    psf: NDArray[np.floating]
    tuning: Tuning


def time_choices(choices: Sequence[Choice]) -> float:
    """Time the choices of all channels on this machine, in seconds at most; reads parts of the image.

    A run likely takes `LIKELY` of it, as most settings are given up early.
    """
    return sum(_time_choice(choice) for choice in choices)


def _time_choice(choice: Choice) -> float:
    samples = samples_of(*choice)
    largest = max(samples, key=lambda sample: sample.image.size)
    with freed_memory_kept():
        one = _seconds_of_work(largest, choice.psf, choice.tuning)
    voxels = sum(sample.image.size for sample in samples) / largest.image.size
    return one * voxels * work_at_most(choice.tuning)


def _seconds_of_work(sample: Sample, psf: NDArray[np.floating], tuning: Tuning) -> float:
    """Time an iteration of Richardson-Lucy or a trial of another method, with its look at hidden voxels."""
    settings, place = tuning.settings, (tuning.device, tuning.threads)
    method = classical_method(tuning.method, psf, settings, *place)
    watch = Stopwatch(computing_threads(*place))
    if isinstance(method, RichardsonLucy):
        steps = method.iterates(sample.shown, (1, 1 + FEW_ITERATIONS))
        restored = next(steps)[1]
        errors_at_hidden(sample, restored, psf, settings.background, *place)
        watch.lap()
        restored = next(steps)[1]
        iterations = watch.lap().own
        errors_at_hidden(sample, restored, psf, settings.background, *place)
        counts = counts_compared(tuning)
        return iterations / FEW_ITERATIONS + watch.lap().own * len(counts) / counts[-1]
    share = 1.0
    if isinstance(method, ChambollePock) and method.iterations > FEW_ITERATIONS:
        share = method.iterations / FEW_ITERATIONS
        method = replace(method, iterations=FEW_ITERATIONS)
    method(sample.shown)
    watch.lap()
    restored = method(sample.shown)
    restoring = watch.lap().own
    errors_at_hidden(sample, restored, psf, settings.background, *place)
    return restoring * share + watch.lap().own
