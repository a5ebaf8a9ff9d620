"""The search for settings: which are tried, when one is given up, and which is taken (see `tuning`).

A setting of Richardson-Lucy is a *walk*: from one start to the largest number of iterations, compared at
several numbers on the way. A walk ends early

    past its best      where the error is larger than its least by more than CLEARLY standard errors of the
                       difference, or PATIENCE numbers in a row bring nothing better
    for a background   where it is clearly worse than the best one so far after the same iterations, and the
                       gap closes so slowly that it would still be so at the end

All errors are of the same hidden voxels, so that their differences are much finer than themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bigdecon.config import ClassicalSettings
from bigdecon.deconvolution.conjugate_gradient import ConjugateGradient
from bigdecon.deconvolution.held_out import Sample, errors_at_hidden
from bigdecon.deconvolution.kept_trials import KeptTrials
from bigdecon.deconvolution.methods import classical_method
from bigdecon.deconvolution.richardson_lucy import RichardsonLucy
from bigdecon.deconvolution.search_rules import (
    Errors,
    Walk,
    climb,
    golden_section,
    lasting_gap,
    least,
    past_its_best,
    standard_errors,
)
from bigdecon.deconvolution.trials import ChoosingStep, Trial, Tuned, Tuning
from bigdecon.deconvolution.wiener import Wiener
from bigdecon.errors import OptionError

__all__ = [
    "BACKGROUND_COUNTS",
    "BACKGROUND_SIEVE",
    "BACKGROUND_TRIALS",
    "COUNTS",
    "FILTERS",
    "PLAIN_COUNTS",
    "REGULARIZATIONS",
    "SIEVES",
    "Search",
    "counts_compared",
    "work_at_most",
]

COUNTS = (1, 2, 3, 5, 7, 10, 14, 20, 28, 40, 56)
"""Numbers of accelerated iterations that are compared."""
PLAIN_COUNTS = (1, 2, 3, 5, 7, 10, 14, 20, 28, 40, 56, 80, 110, 160)
"""The same without acceleration."""
SIEVES = (0.0, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Widths of sieves that are compared, in voxels."""
ALIKE = 0.015
"""Part of the error at hidden voxels by which the narrowest sieve may be worse than none."""
REGULARIZATIONS = tuple(10 ** (exponent / 4) for exponent in range(-14, 5))
"""Regularizations that are compared."""
BACKGROUND_TRIALS = 7
BACKGROUND_COUNTS = (5, 10, 20, 40)
BACKGROUND_SIEVE = 1.0
"""How a background is compared with others: so many at most, after so many iterations, with such a sieve."""
FILTERS = (Wiener.name, ConjugateGradient.name)
STEPS_BEYOND = 2
"""Linear filters, and how many steps beyond the best regularization they may take."""


def counts_compared(tuning: Tuning) -> tuple[int, ...]:
    """Give the numbers of iterations at which a setting is compared."""
    settings = tuning.settings
    if "iterations" not in tuning.wanted:
        return (settings.iterations,)
    return COUNTS if settings.accelerate else PLAIN_COUNTS


class _Left(NamedTuple):
    """What is still to be tried, at most: settings, and the work of each."""

    backgrounds: int
    of_background: int
    others: int
    of_other: int

    @property
    def settings(self) -> int:
        return self.backgrounds + self.others

    @property
    def work(self) -> int:
        return self.backgrounds * self.of_background + self.others * self.of_other


def _all_left(tuning: Tuning) -> _Left:
    backgrounds = (1 + BACKGROUND_TRIALS) * ("background" in tuning.wanted)
    if tuning.method == RichardsonLucy.name:
        sieves = len(SIEVES) if "sieve" in tuning.wanted else 1
        return _Left(backgrounds, BACKGROUND_COUNTS[-1], sieves, counts_compared(tuning)[-1])
    return _Left(backgrounds, 1, len(REGULARIZATIONS) * ("regularization" in tuning.wanted), 1)


def work_at_most(tuning: Tuning) -> int:
    """Count the iterations of Richardson-Lucy, or the trials of another method, of a choice at most."""
    return _all_left(tuning).work


class Search:
    """The trials of one tuning: for each its squared errors at every hidden voxel.

    Parameters
    ----------
    tuning : what to choose
    samples : parts of the channel
    psf : [z,] y, x
    kept : where finished trials are looked up and kept
    on_step : is told before every trial, at every number of iterations, and at the end
    """

    def __init__(
        self,
        tuning: Tuning,
        samples: Sequence[Sample],
        psf: NDArray[np.floating],
        kept: KeptTrials,
        on_step: Callable[[ChoosingStep], None] | None = None,
    ) -> None:
        self.method, self.wanted = tuning.method, tuning.wanted
        self.place = (tuning.device, tuning.threads)
        self.samples, self.psf = samples, psf
        self.kept, self.on_step = kept, on_step
        self.counts = counts_compared(tuning)
        self.iterates = tuning.method == RichardsonLucy.name
        self.errors: dict[ClassicalSettings, Errors] = {}
        self.left = _all_left(tuning)
        self.done = self.found = self.work = self.work_found = 0

    # --- what is tried ---------------------------------------------------------------------------

    def background(self, settings: ClassicalSettings) -> ClassicalSettings:
        """Narrow the background down by golden section, between 0 (or the minimum) and the mean.

        An even object and a background look alike to the model, so in a volume filled with light the error
        hardly tells them apart: the guess is left only for what is better by more than a standard error.
        """
        image = np.concatenate([sample.image.ravel() for sample in self.samples])
        low, high = max(0.0, float(image.min())), max(0.0, float(image.mean()))
        rival: Walk = []
        found: dict[float, Errors] = {}

        def error(value: float) -> float:
            nonlocal rival
            if value not in found:
                walk, found[value] = self._explained_with(replace(settings, background=value), rival)
                if not rival or least(walk).mean() < least(rival).mean():
                    rival = walk
            return float(found[value].mean())

        error(settings.background)
        # Fewer are new where there is little or no room, as in an image whose mean is 0.
        for value in islice(golden_section(low, high, error), BACKGROUND_TRIALS):
            error(value)
        self.left = self.left._replace(backgrounds=0)
        best = min(found.values(), key=lambda errors: float(errors.mean()))
        alike = [value for value, errors in found.items() if standard_errors(errors - best) <= 1]
        return replace(settings, background=min(alike, key=lambda b: abs(b - settings.background)))

    def _explained_with(self, settings: ClassicalSettings, rival: Walk) -> tuple[Walk, Errors]:
        """Give the walk with one background, and its errors at the best of a few numbers of iterations.

        The number matters: the lower the background, the slower the iterations get to the noise. Of a walk
        that was given up, the errors at the end are estimated.
        """
        counts = BACKGROUND_COUNTS if self.iterates else (settings.iterations,)
        at = replace(settings, accelerate=True, sieve=settings.sieve or BACKGROUND_SIEVE)
        at = at if self.iterates else settings
        walk = self._walk(at, counts, lambda walk: lasting_gap(walk, rival, len(counts)) is not None)
        self.left = self.left._replace(backgrounds=max(0, self.left.backgrounds - 1))
        gap = lasting_gap(walk, rival, len(counts))
        return walk, least(walk) if gap is None else least(rival) + gap

    def richardson_lucy(self, settings: ClassicalSettings) -> None:
        """Compare sieves, and for every sieve the numbers of iterations."""
        sieves = SIEVES if "sieve" in self.wanted else (settings.sieve,)
        start = min(range(len(sieves)), key=lambda i: abs(sieves[i] - BACKGROUND_SIEVE))

        def error(index: int) -> float:
            at = replace(settings, sieve=sieves[index])
            return float(least(self._compare(at, self.counts, past_its_best)).mean())

        climb(len(sieves), start, error, self._expect)

    def regularization(self, settings: ClassicalSettings) -> None:
        """Compare strengths, from the guess to both sides.

        Raises
        ------
        OptionError
            if the method cannot work with any of them
        """
        guess = settings.regularization
        start = min(range(len(REGULARIZATIONS)), key=lambda i: abs(math.log(REGULARIZATIONS[i] / guess)))
        unusable: list[OptionError] = []

        def error(index: int) -> float:
            at = replace(settings, regularization=REGULARIZATIONS[index])
            try:
                # The halo tells whether blocks could be restored with it; the samples need none.
                _ = classical_method(self.method, self.psf, at).halo
                if at not in self.errors:
                    self._compare(at, (at.iterations,))
                return float(self.errors[at].mean())
            except OptionError as refused:  # So weak that the filter would reach too far, say.
                unusable.append(refused)
                return math.inf

        while start < len(REGULARIZATIONS) - 1 and error(start) == math.inf:
            start += 1
        climb(len(REGULARIZATIONS), start, error, self._expect)
        if not self.errors:
            raise unusable[-1]
        if self.method in FILTERS:
            self._strengthen(settings)

    def _strengthen(self, settings: ClassicalSettings) -> None:
        """Try some that are stronger than the best, see `conclude`."""
        best = min(self.errors, key=lambda tried: float(self.errors[tried].mean()))
        stronger = [r for r in REGULARIZATIONS if r > best.regularization][:STEPS_BEYOND]
        untried = [s for s in (replace(settings, regularization=r) for r in stronger) if s not in self.errors]
        self._expect(len(untried))
        for at in untried:
            self._compare(at, (at.iterations,))

    def conclude(self, settings: ClassicalSettings) -> Tuned:
        """Take the best; of filters the strongest regularization of those that are as good."""
        self.left = self.left._replace(backgrounds=0, others=0)
        self._tell(settings)
        if not self.errors:
            return Tuned(settings, ())
        best = min(self.errors, key=lambda s: float(self.errors[s].mean()))
        trials = tuple(
            Trial(s, float(errors.mean()), standard_errors(errors - self.errors[best]))
            for s, errors in self.errors.items()
        )
        if self.method in FILTERS:
            limit = 10 ** (STEPS_BEYOND / 4) * 1.01 * best.regularization
            alike = [t.settings for t in trials if t.worse_by <= 1 and t.settings.regularization <= limit]
            best = max(alike, key=lambda s: s.regularization)
        if self.method == RichardsonLucy.name and "sieve" in self.wanted:
            best = sieved(best, trials)
        return Tuned(best, trials)

    # --- how one is tried ------------------------------------------------------------------------

    def _compare(
        self,
        settings: ClassicalSettings,
        counts: Sequence[int],
        may_stop: Callable[[Walk], bool] = lambda walk: False,
    ) -> Walk:
        """Try one of the settings that the answer is taken from."""
        walk = self._walk(settings, counts, may_stop)
        self._expect(max(0, self.left.others - 1))
        for count, errors in zip(counts, walk, strict=False):
            self.errors[replace(settings, iterations=count)] = errors
        return walk

    def _walk(
        self,
        settings: ClassicalSettings,
        counts: Sequence[int],
        may_stop: Callable[[Walk], bool] = lambda walk: False,
    ) -> Walk:
        """Give the errors after some numbers of iterations, from disk where they have been found before."""
        self._tell(settings)
        found = self.kept.find(settings, counts)
        if found is not None:
            walk = list(found)
            self.found += 1
            self.work_found += counts[len(walk) - 1] if self.iterates else 1
        else:
            walk = []
            for errors in self._steps(settings, counts):
                walk.append(errors)
                if may_stop(walk):
                    break
                if len(walk) < len(counts):
                    self._tell(settings, counts[len(walk) - 1])
            self.kept.keep(settings, counts, walk)
        self.done += 1
        self.work += counts[len(walk) - 1] if self.iterates else 1
        return walk

    def _steps(self, settings: ClassicalSettings, counts: Sequence[int]) -> Iterator[Errors]:
        deconvolver = classical_method(self.method, self.psf, settings, *self.place)
        background = settings.background
        if isinstance(deconvolver, RichardsonLucy):
            ways = [deconvolver.iterates(sample.shown, counts) for sample in self.samples]
            for steps in zip(*ways, strict=True):
                yield self._errors([restored for _, restored in steps], background)
        else:
            yield self._errors([deconvolver(sample.shown) for sample in self.samples], background)

    def _errors(self, restored: Sequence[NDArray[np.float32]], background: float) -> Errors:
        pairs = zip(self.samples, restored, strict=True)
        return np.concatenate([errors_at_hidden(s, r, self.psf, background, *self.place) for s, r in pairs])

    # --- how far it is ---------------------------------------------------------------------------

    def _expect(self, others: int) -> None:
        self.left = self.left._replace(others=others)

    def _tell(self, settings: ClassicalSettings, iterations: int = 0) -> None:
        if self.on_step is None:
            return
        under_way = self.left.settings > 0 or iterations > 0
        self.on_step(
            ChoosingStep(
                done=self.done,
                most=self.done + self.left.settings,
                kept=self.found,
                parts=len(self.samples),
                setting=self._words(settings) if under_way else "",
                work=self.work + iterations,
                work_kept=self.work_found,
                work_left=max(0, self.left.work - iterations),
            )
        )

    def _words(self, settings: ClassicalSettings) -> str:
        words = [f"background {settings.background:.4g}"] if "background" in self.wanted else []
        if self.iterates:
            words.append(f"sieve {settings.sieve:g}")
        if "regularization" in self.wanted:
            words.append(f"regularization {settings.regularization:.3g}")
        return ", ".join(words)


def sieved(best: ClassicalSettings, trials: Sequence[Trial]) -> ClassicalSettings:
    """Take the narrowest sieve instead of none, unless none predicts clearly better."""
    narrow = [trial for trial in trials if trial.settings.sieve == SIEVES[1]]
    if best.sieve > 0 or not narrow:
        return best
    least = min(trial.error for trial in trials)
    other = min(narrow, key=lambda trial: trial.error)
    return other.settings if other.worse_by <= 1 or other.error <= (1 + ALIKE) * least else best
