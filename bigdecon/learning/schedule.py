"""How the learning rate moves over a training, and when the training is over.

    halving      half the rate after so many steps, again and again, as in the paper
    one-cycle    up over the first tenth, then down half a cosine to 0

One cycle (after Smith and Topin 2018) allows a rate ten times higher: a short training needs it to reach
outputs far brighter than the input, as those of beads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from bigdecon.config import TrainingConfig
from bigdecon.learning.checkpoint import CurvePoint

__all__ = ["last_step", "plateau", "rate_factor", "stop_reason"]

WARM_UP = 0.1
"""Part of one cycle in which the rate rises."""
COOL_DOWN = 0.1
"""Part of one cycle that is left, once the held-out error no longer falls, to bring the rate to 0."""
STILL = 0.999
"""An error above this part of the best one before is no improvement."""


def rate_factor(config: TrainingConfig, step: int, seconds: float, curve: Sequence[CurvePoint]) -> float:
    """Give what to multiply the learning rate by at a step, in [0, 1].

    Parameters
    ----------
    config : schedule, steps and time budget; the budget may hurry the schedule
    step : steps done
    seconds : time spent
    curve : held-out errors so far
    """
    spent = 0.0 if config.minutes is None else seconds / (60 * config.minutes)
    if config.schedule == "halving":
        return float(0.5 ** (max(step, spent * config.steps) // config.halve_every))
    planned = _one_cycle(max((step + 0.5) / config.steps, spent))
    flat = plateau(config, curve)
    if flat is None or step < flat:
        return planned
    left = (flat + _cool_down(config) - step) / _cool_down(config)
    return min(planned, _one_cycle((flat + 0.5) / config.steps) * max(0.0, left))


def stop_reason(config: TrainingConfig, step: int, seconds: float, curve: Sequence[CurvePoint]) -> str:
    """Tell why the training is over: "steps", "time" or "plateau"; empty while it is not."""
    if step >= config.steps:
        return "steps"
    if config.minutes is not None and seconds >= 60 * config.minutes:
        return "time"
    return "plateau" if step >= last_step(config, curve) else ""


def last_step(config: TrainingConfig, curve: Sequence[CurvePoint]) -> int:
    """Give the step after which the training ends, as far as is known."""
    flat = plateau(config, curve)
    return config.steps if flat is None else min(config.steps, flat + _cool_down(config))


def plateau(config: TrainingConfig, curve: Sequence[CurvePoint]) -> int | None:
    """Find the step at which the held-out error had not fallen for `patience` measurements.

    Those made while the rate of one cycle still rises do not count.
    """
    if not config.patience:
        return None
    first = WARM_UP * config.steps if config.schedule == "one-cycle" else 0
    best, waited = math.inf, 0
    for point in curve:
        if point.held_out_error is None or point.step < first:
            continue
        waited = 0 if point.held_out_error < STILL * best else waited + 1
        best = min(best, point.held_out_error)
        if waited >= config.patience:
            return point.step
    return None


def _cool_down(config: TrainingConfig) -> int:
    """Give the steps from the plateau to the end."""
    return 0 if config.schedule == "halving" else math.ceil(COOL_DOWN * config.steps)


def _one_cycle(done: float) -> float:
    """Rise to 1, then half a cosine to 0; `done` in [0, 1]."""
    if done < WARM_UP:
        return done / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - WARM_UP) / (1 - WARM_UP))))
