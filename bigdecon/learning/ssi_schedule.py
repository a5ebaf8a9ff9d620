"""What changes over a training by Self-Supervised Inversion: mask, noise, learning rate, and when it ends.

All but the last two follow from the number of steps done; those follow from the validation losses.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from bigdecon.ssi_config import SSIConfig

__all__ = ["Watch", "mask_density", "parameter_noise", "stop_reason", "training_noise"]

STILL = 1e-4
"""A loss has to fall by more than this part of itself to hold off a lower learning rate."""


class Watch(NamedTuple):
    """What the validation losses so far mean.

    Attributes
    ----------
    factor : what to multiply the learning rate by
    level : loss that the next must lie below, by `STILL` of it, to hold off a lower rate
    still : steps since one did, or since the rate was last lowered
    best : lowest loss
    waited : steps since then
    """

    factor: float = 1.0
    level: float = math.inf
    still: int = 0
    best: float = math.inf
    waited: int = 0

    def after(self, loss: float, config: SSIConfig) -> Watch:
        """Take in the validation loss of one more step."""
        better = loss < self.best
        best, waited = (loss, 0) if better else (self.best, self.waited + 1)
        if loss < self.level * (1 - STILL):
            return Watch(self.factor, loss, 0, best, waited)
        if self.still + 1 <= config.rate_patience:
            return Watch(self.factor, self.level, self.still + 1, best, waited)
        return Watch(self.factor * config.rate_factor, self.level, 0, best, waited)


def mask_density(config: SSIConfig, step: int) -> float:
    """Give the part of the voxels that is masked when `step` steps are done.

    Before every step d becomes 0.995 d + 0.005 * 0.05, from 0.5 on.
    """
    start, end = config.mask_density_start, config.mask_density
    return end + (start - end) * config.mask_decay ** (step + 1)


def training_noise(config: SSIConfig, step: int) -> float:
    """Give the standard deviation of the noise on the input, in scaled units."""
    return config.training_noise / (1 + 10000 * step / config.steps)


def parameter_noise(config: SSIConfig, step: int, rate: float) -> float:
    """Give the standard deviation of the noise on the weights after a step.

    Parameters
    ----------
    config : noise after the first step, as part of the rate
    step : steps done before it
    rate : its learning rate
    """
    return rate * config.parameter_noise / (1 + step)


def stop_reason(config: SSIConfig, step: int, seconds: float, watch: Watch) -> str:
    """Tell why the training is over: "steps", "time" or "plateau"; empty while it is not."""
    if step >= config.steps:
        return "steps"
    if config.minutes is not None and seconds >= 60 * config.minutes:
        return "time"
    return "plateau" if config.patience and watch.waited >= config.patience else ""
