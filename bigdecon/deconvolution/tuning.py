"""What "auto" becomes: settings of the classical methods, chosen by how well they explain hidden voxels.

    background   golden section between the minimum and the mean, with a sieve and few numbers of iterations
    sieve        from narrow to wide, as long as hidden voxels are explained better
    iterations   read off on the way, for every sieve
    regularization   from weak to strong, by factors

Only parts of the image are looked at (see `held_out`), and always the same hidden voxels, so that settings
are compared in pairs. The best ones are taken, with two exceptions, for noise in the result hardly shows in
the error at hidden voxels. A linear filter (wiener, conjugate-gradient) strengthens noise where the PSF lets
little through: of its regularizations up to three times the best one, the strongest is taken that is no worse
by more than a standard error of the difference. And no sieve at all must be better than the narrowest one by
more than that, and than 1.5 % of the error: with a PSF that does not quite fit, it lets in noise for little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bigdecon.config import ClassicalSettings
from bigdecon.deconvolution.chambolle_pock import ChambollePock
from bigdecon.deconvolution.held_out import SAMPLE_VOXELS, Sample, draw_samples
from bigdecon.deconvolution.kept_trials import KeptTrials, TrialFolder
from bigdecon.deconvolution.methods import classical_method
from bigdecon.deconvolution.richardson_lucy import RichardsonLucy
from bigdecon.deconvolution.search import (
    FILTERS,
    REGULARIZATIONS,
    SIEVES,
    Search,
    counts_compared,
)
from bigdecon.deconvolution.trials import ChoosingStep, Trial, Tuned, Tuning
from bigdecon.errors import OptionError
from bigdecon.learning.heap import freed_memory_kept
from bigdecon.volume import Stack

__all__ = ["Trial", "Tuned", "Tuning", "costliest", "samples_of", "tune", "tune_channel"]

LEAST_HIDDEN = 10
"""Hidden voxels without which nothing can be told."""


def tune_channel(
    stacks: Sequence[Stack],
    psf: NDArray[np.floating],
    tuning: Tuning,
    on_step: Callable[[ChoosingStep], None] | None = None,
    keep: TrialFolder | None = None,
) -> Tuned:
    """Choose settings for one channel, from parts of all of its time points; see `tune`.

    Raises
    ------
    OptionError
        if the image is so small that hardly a voxel can be hidden
    """
    if not tuning.wanted:
        return Tuned(tuning.settings, ())
    samples = samples_of(stacks, psf, tuning)
    return tune(tuning, samples, psf, on_step, keep)


def samples_of(stacks: Sequence[Stack], psf: NDArray[np.floating], tuning: Tuning) -> list[Sample]:
    """Take the parts of a channel that its settings are chosen from.

    Raises
    ------
    OptionError
        if the image is so small that hardly a voxel can be hidden
    """
    slow = tuning.method == ChambollePock.name  # a hundred iterations for every trial
    voxels = SAMPLE_VOXELS // 4 if slow else SAMPLE_VOXELS
    samples = draw_samples(stacks, psf, tuning.settings.background, seed=tuning.seed, voxels=voxels)
    if sum(int(sample.hidden.sum()) for sample in samples) < LEAST_HIDDEN:
        names = " and ".join(f"--{name}" for name in tuning.wanted)
        raise OptionError(
            f"an image of {' x '.join(map(str, stacks[0].shape))} voxels is too small to choose from; "
            f"give {names} a number."
        )
    return samples


def costliest(stacks: Sequence[Stack], psf: NDArray[np.floating], tuning: Tuning) -> Tuned:
    """Take of everything that `tune_channel` compares what costs most, without looking at the image.

    A plan made with it is an upper bound. The background is left as guessed: it costs nothing.

    Parameters
    ----------
    stacks : one channel at every time point; not read
    psf : [z,] y, x
    tuning : what would be chosen
    """
    settings = tuning.settings
    if "sieve" in tuning.wanted:
        settings = replace(settings, sieve=max(SIEVES))
    if "iterations" in tuning.wanted:
        settings = replace(settings, iterations=max(counts_compared(tuning)))
    if "regularization" in tuning.wanted and tuning.method in FILTERS:
        settings = _weakest(tuning.method, psf, settings)
    return Tuned(settings, ())


def _weakest(method: str, psf: NDArray[np.floating], settings: ClassicalSettings) -> ClassicalSettings:
    """Find the weakest regularization whose filter can be computed: the weaker, the further it reaches."""
    usable = replace(settings, regularization=REGULARIZATIONS[-1])
    for weight in REGULARIZATIONS[::-1]:
        weaker = replace(settings, regularization=weight)
        try:
            _ = classical_method(method, psf, weaker).halo
        except OptionError:
            break
        usable = weaker
    return usable


def tune(
    tuning: Tuning,
    samples: Sequence[Sample],
    psf: NDArray[np.floating],
    on_step: Callable[[ChoosingStep], None] | None = None,
    keep: TrialFolder | None = None,
) -> Tuned:
    """Choose settings by samples with hidden voxels.

    Parameters
    ----------
    tuning : what to choose
    samples : parts of the channel
    psf : [z,] y, x
    on_step : is told how far it is
    keep : where finished trials are looked up and kept, so that a choice that was interrupted goes on
    """
    search = Search(tuning, samples, psf, KeptTrials(keep, tuning, samples, psf), on_step)
    memory: AbstractContextManager[None] = freed_memory_kept() if tuning.device == "cpu" else nullcontext()
    with memory:
        settings = tuning.settings
        if "background" in tuning.wanted:
            settings = search.background(settings)
        if tuning.method == RichardsonLucy.name:
            search.richardson_lucy(settings)
        elif "regularization" in tuning.wanted:
            search.regularization(settings)
        return search.conclude(settings)
