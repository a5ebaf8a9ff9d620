"""What is compared when settings are chosen: the question, single trials, the answer, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from bigdecon.config import ClassicalSettings

__all__ = ["ChoosingStep", "Setting", "Trial", "Tuned", "Tuning"]

Setting = Literal["background", "sieve", "iterations", "regularization"]


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


class ChoosingStep(NamedTuple):
    """How far the choice of settings has come.

    Attributes
    ----------
    done : settings that are finished, each compared at several numbers of iterations where these are chosen
    most : settings in all, at most: the search ends where it gets no better
    kept : of those done, how many an earlier call left on disk
    parts : parts of the image that each setting is tried on
    setting : the one under way, in words
    work, work_kept, work_left : iterations over all parts, or trials of methods without: done, of these left
        by an earlier call, and still to do at most
    """

    done: int
    most: int
    kept: int
    parts: int
    setting: str
    work: int
    work_kept: int
    work_left: int
