"""When a search for settings stops, and where it goes next; it knows errors and nothing of methods.

All errors are squared differences at the same hidden voxels, so that two settings are compared in pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Errors",
    "Walk",
    "climb",
    "golden_section",
    "lasting_gap",
    "least",
    "past_its_best",
    "standard_errors",
]

PATIENCE = 3
"""Numbers of iterations tried beyond the best one so far."""
CLEARLY = 3
"""Standard errors of a difference that is taken for certain."""
CLOSING = 0.8
"""A gap between backgrounds may close if less than this is left from one number of iterations to the next."""

Errors = NDArray[np.float64]
"""Squared errors at every hidden voxel."""
Walk = list[Errors]
"""The errors after each of some numbers of iterations."""


def least(walk: Walk) -> Errors:
    """Give the errors after the best number of iterations."""
    return min(walk, key=lambda errors: float(errors.mean()))


def past_its_best(walk: Walk) -> bool:
    """Whether more iterations would only get worse."""
    means = [float(errors.mean()) for errors in walk]
    best = int(np.argmin(means))
    return len(walk) - 1 - best >= PATIENCE or standard_errors(walk[-1] - walk[best]) > CLEARLY


def lasting_gap(walk: Walk, rival: Walk, counts: int) -> Errors | None:
    """Give by how much a walk will be worse than its rival, if that is certain before it has come to its end.

    The gap is followed from one number of iterations to the next, and taken to shrink on as it did last.
    """
    reached = len(walk)
    if not 2 <= reached < counts or len(rival) < reached:
        return None
    now, before = walk[-1] - rival[reached - 1], walk[-2] - rival[reached - 2]
    if min(now.mean(), before.mean()) <= 0 or now.mean() < CLOSING * before.mean():
        return None
    shrunk = min(1.0, float(now.mean() / before.mean())) ** (counts - reached)
    return shrunk * now if shrunk * standard_errors(now) > CLEARLY else None


def golden_section(low: float, high: float, error: Callable[[float], float]) -> Iterator[float]:
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


def climb(
    number: int, start: int, error: Callable[[int], float], expect: Callable[[int], None] = lambda left: None
) -> None:
    """Try neighbours to both sides of the start, each side as long as it gets better.

    Before each, `expect` is told how many may be tried from there on, at most.
    """
    expect(number)
    first = error(start)
    for direction in (1, -1):
        best, index = first, start + direction
        while 0 <= index < number:
            expect(number - index + start if direction > 0 else index + 1)
            now = error(index)
            if now >= best:
                break
            best, index = now, index + direction


def standard_errors(difference: Errors) -> float:
    """Mean of a difference, in its standard errors; 0 where there is none."""
    spread = float(difference.std(ddof=1)) / math.sqrt(len(difference))
    return float(difference.mean()) / spread if spread > 0 else 0.0
