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

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bigdecon.config import ClassicalSettings
from bigdecon.deconvolution.chambolle_pock import ChambollePock
from bigdecon.deconvolution.conjugate_gradient import ConjugateGradient
from bigdecon.deconvolution.held_out import SAMPLE_VOXELS, Sample, draw_samples, errors_at_hidden
from bigdecon.deconvolution.methods import classical_method
from bigdecon.deconvolution.richardson_lucy import RichardsonLucy
from bigdecon.deconvolution.wiener import Wiener
from bigdecon.errors import OptionError
from bigdecon.volume import Stack

__all__ = ["Setting", "Trial", "Tuned", "Tuning", "costliest", "tune", "tune_channel"]

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
PATIENCE = 3
"""Numbers of iterations tried beyond the best one so far."""
LEAST_HIDDEN = 10
"""Hidden voxels without which nothing can be told."""


@dataclass(frozen=True)
class Trial:
    """One setting that was tried.

    Attributes
    ----------
    settings : all of them
    error : mean squared error at hidden voxels, in squared data units
    worse_by : how much worse than the best trial, in standard errors of the difference over the same voxels
    """

    settings: ClassicalSettings
    error: float
    worse_by: float


@dataclass(frozen=True)
class Tuned:
    """What was chosen for one channel, and the trials it was chosen from, in their order."""

    settings: ClassicalSettings
    trials: tuple[Trial, ...]

    def curve(self) -> tuple[tuple[int, float], ...]:
        """Numbers of iterations against the error, all else as chosen."""
        return tuple(
            (trial.settings.iterations, trial.error)
            for trial in self.trials
            if replace(trial.settings, iterations=self.settings.iterations) == self.settings
        )


Setting = Literal["background", "sieve", "iterations", "regularization"]


@dataclass(frozen=True)
class Tuning:
    """What is to be chosen for a channel.

    Attributes
    ----------
    method : name of a classical method
    settings : those that are given; for those wanted, a first guess
    wanted : which to choose
    seed : of the parts looked at and the voxels hidden
    device, threads : where to compute
    """

    method: str
    settings: ClassicalSettings
    wanted: tuple[Setting, ...]
    seed: int = 0
    device: str = "cpu"
    threads: int | None = None


def tune_channel(
    stacks: Sequence[Stack],
    psf: NDArray[np.floating],
    tuning: Tuning,
    on_trial: Callable[[int], None] | None = None,
) -> Tuned:
    """Choose settings for one channel, from parts of all of its time points; see `tune`.

    Raises
    ------
    OptionError
        if the image is so small that hardly a voxel can be hidden
    """
    if not tuning.wanted:
        return Tuned(tuning.settings, ())
    slow = tuning.method == ChambollePock.name  # a hundred iterations for every trial
    voxels = SAMPLE_VOXELS // 4 if slow else SAMPLE_VOXELS
    samples = draw_samples(stacks, psf, tuning.settings.background, seed=tuning.seed, voxels=voxels)
    if sum(int(sample.hidden.sum()) for sample in samples) < LEAST_HIDDEN:
        names = " and ".join(f"--{name}" for name in tuning.wanted)
        raise OptionError(
            f"an image of {' x '.join(map(str, stacks[0].shape))} voxels is too small to choose from; "
            f"give {names} a number."
        )
    return tune(tuning, samples, psf, on_trial)


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
        settings = replace(settings, iterations=max(COUNTS if settings.accelerate else PLAIN_COUNTS))
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
    on_trial: Callable[[int], None] | None = None,
) -> Tuned:
    """Choose settings by samples with hidden voxels.

    Parameters
    ----------
    tuning : what to choose
    samples : parts of the channel
    psf : [z,] y, x
    on_trial : called with the number of trials so far
    """
    search = _Search(tuning, samples, psf, on_trial)
    settings = tuning.settings
    if "background" in tuning.wanted:
        settings = search.background(settings)
    if tuning.method == RichardsonLucy.name:
        search.richardson_lucy(settings)
    elif "regularization" in tuning.wanted:
        search.regularization(settings)
    return search.conclude(settings)


class _Search:
    """The trials of one tuning: for each its squared errors at every hidden voxel."""

    def __init__(
        self,
        tuning: Tuning,
        samples: Sequence[Sample],
        psf: NDArray[np.floating],
        on_trial: Callable[[int], None] | None,
    ) -> None:
        self.method, self.wanted = tuning.method, tuning.wanted
        self.place = (tuning.device, tuning.threads)
        self.samples, self.psf = samples, psf
        self.on_trial, self.tried = on_trial, 0
        self.errors: dict[ClassicalSettings, NDArray[np.float64]] = {}

    def try_one(self, settings: ClassicalSettings) -> float:
        """Mean squared error at hidden voxels."""
        if settings not in self.errors:
            deconvolver = classical_method(self.method, self.psf, settings, *self.place)
            parts = [self._errors(sample, deconvolver(sample.shown), settings) for sample in self.samples]
            self._enter(settings, np.concatenate(parts))
        return float(self.errors[settings].mean())

    def background(self, settings: ClassicalSettings) -> ClassicalSettings:
        """Narrow the background down by golden section, between 0 (or the minimum) and the mean.

        An even object and a background look alike to the model, so in a volume filled with light the error
        hardly tells them apart: the guess is left only for what is better by more than a standard error.
        """
        image = np.concatenate([sample.image.ravel() for sample in self.samples])
        low, high = max(0.0, float(image.min())), max(0.0, float(image.mean()))
        found = {settings.background: self._explained_with(settings)}

        def error(value: float) -> float:
            if value not in found:
                found[value] = self._explained_with(replace(settings, background=value))
            return float(found[value].mean())

        # Fewer are new where there is little or no room, as in an image whose mean is 0.
        for value in islice(_golden_section(low, high, error), BACKGROUND_TRIALS):
            error(value)
        best = min(found.values(), key=lambda errors: float(errors.mean()))
        alike = [value for value, errors in found.items() if _standard_errors(errors - best) <= 1]
        return replace(settings, background=min(alike, key=lambda b: abs(b - settings.background)))

    def _explained_with(self, settings: ClassicalSettings) -> NDArray[np.float64]:
        """Give the squared errors for one background, at the best of a few numbers of iterations.

        The number matters: the lower the background, the slower the iterations get to the noise.
        """
        if self.method == RichardsonLucy.name:
            sieve = settings.sieve or BACKGROUND_SIEVE
            self._go(replace(settings, accelerate=True, sieve=sieve), BACKGROUND_COUNTS)
        else:
            self.try_one(settings)
        errors = min(self.errors.values(), key=lambda e: float(e.mean()))
        # Only what differs in nothing but the other settings is compared in the end.
        self.errors.clear()
        return errors

    def richardson_lucy(self, settings: ClassicalSettings) -> None:
        """Compare sieves, and for every sieve the numbers of iterations."""
        sieves = SIEVES if "sieve" in self.wanted else (settings.sieve,)
        counts: tuple[int, ...] = COUNTS if settings.accelerate else PLAIN_COUNTS
        if "iterations" not in self.wanted:
            counts = (settings.iterations,)
        start = min(range(len(sieves)), key=lambda i: abs(sieves[i] - BACKGROUND_SIEVE))
        _climb(len(sieves), start, lambda i: self._go(replace(settings, sieve=sieves[i]), counts))

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
                return self.try_one(at)
            except OptionError as refused:  # So weak that the filter would reach too far, say.
                unusable.append(refused)
                return math.inf

        while start < len(REGULARIZATIONS) - 1 and error(start) == math.inf:
            start += 1
        _climb(len(REGULARIZATIONS), start, error)
        if not self.errors:
            raise unusable[-1]
        if self.method in FILTERS:
            self._strengthen(settings)

    def _strengthen(self, settings: ClassicalSettings) -> None:
        """Try some that are stronger than the best, see `conclude`."""
        best = min(self.errors, key=lambda tried: float(self.errors[tried].mean()))
        for strength in [r for r in REGULARIZATIONS if r > best.regularization][:STEPS_BEYOND]:
            self.try_one(replace(settings, regularization=strength))

    def conclude(self, settings: ClassicalSettings) -> Tuned:
        """Take the best; of filters the strongest regularization of those that are as good."""
        if not self.errors:
            return Tuned(settings, ())
        best = min(self.errors, key=lambda s: float(self.errors[s].mean()))
        trials = tuple(
            Trial(s, float(errors.mean()), _standard_errors(errors - self.errors[best]))
            for s, errors in self.errors.items()
        )
        if self.method in FILTERS:
            limit = 10 ** (STEPS_BEYOND / 4) * 1.01 * best.regularization
            alike = [t.settings for t in trials if t.worse_by <= 1 and t.settings.regularization <= limit]
            best = max(alike, key=lambda s: s.regularization)
        if self.method == RichardsonLucy.name and "sieve" in self.wanted:
            best = _sieved(best, trials)
        return Tuned(best, trials)

    def _go(self, settings: ClassicalSettings, counts: Sequence[int]) -> float:
        """Iterate as long as it helps; gives the smallest error on the way."""
        deconvolver = classical_method(self.method, self.psf, settings, *self.place)
        assert isinstance(deconvolver, RichardsonLucy)
        ways = [deconvolver.iterates(sample.shown, counts) for sample in self.samples]
        best, waited = math.inf, 0
        for steps in zip(*ways, strict=True):
            at = replace(settings, iterations=steps[0][0])
            pairs = zip(self.samples, steps, strict=True)
            errors = np.concatenate([self._errors(sample, step[1], at) for sample, step in pairs])
            self._enter(at, errors)
            waited = 0 if errors.mean() < best else waited + 1
            best = min(best, float(errors.mean()))
            if waited >= PATIENCE:
                break
        return best

    def _errors(
        self, sample: Sample, restored: NDArray[np.float32], settings: ClassicalSettings
    ) -> NDArray[np.float64]:
        return errors_at_hidden(sample, restored, self.psf, settings.background)

    def _enter(self, settings: ClassicalSettings, errors: NDArray[np.float64]) -> None:
        self.errors[settings] = errors
        self.tried += 1
        if self.on_trial:
            self.on_trial(self.tried)


def _sieved(best: ClassicalSettings, trials: Sequence[Trial]) -> ClassicalSettings:
    """Take the narrowest sieve instead of none, unless none predicts clearly better."""
    narrow = [trial for trial in trials if trial.settings.sieve == SIEVES[1]]
    if best.sieve > 0 or not narrow:
        return best
    least = min(trial.error for trial in trials)
    other = min(narrow, key=lambda trial: trial.error)
    return other.settings if other.worse_by <= 1 or other.error <= (1 + ALIKE) * least else best


def _golden_section(low: float, high: float, error: Callable[[float], float]) -> Iterator[float]:
    """Give values to try; each is tried before the next is asked for."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    yield left
    yield right
    while True:
        if error(left) < error(right):
            high, right = right, left
            left = high - ratio * (high - low)
            yield left
        else:
            low, left = left, right
            right = low + ratio * (high - low)
            yield right


def _climb(number: int, start: int, error: Callable[[int], float]) -> None:
    """Try neighbours to both sides of the start, each side as long as it gets better."""
    first = error(start)
    for direction in (1, -1):
        best, index = first, start + direction
        while 0 <= index < number:
            now = error(index)
            if now >= best:
                break
            best, index = now, index + direction


def _standard_errors(difference: NDArray[np.float64]) -> float:
    """Mean of a difference, in its standard errors; 0 where there is none."""
    spread = float(difference.std(ddof=1)) / math.sqrt(len(difference))
    return float(difference.mean()) / spread if spread > 0 else 0.0
