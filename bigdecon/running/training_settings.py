"""Settings of a run's training: the preset, then what was asked for by flags."""

from __future__ import annotations

from dataclasses import replace

from bigdecon.config import RunConfig, TrainingConfig, parse_loss, training_preset
from bigdecon.errors import OptionError
from bigdecon.ssi_config import SSIConfig, Training, ssi_preset

__all__ = ["training_settings"]


def training_settings(config: RunConfig, *, ndim: int, accelerator: bool) -> Training:
    """Settle how a run trains its networks.

    Parameters
    ----------
    config : as asked for
    ndim : 2 or 3
    accelerator : whether a GPU will train

    Raises
    ------
    OptionError
        if a loss is not understood, or given to a method that has but one
    """
    if config.method == "ssi":
        return _ssi(config, ndim, accelerator)
    return _siamese(config, ndim, accelerator)


def _siamese(config: RunConfig, ndim: int, accelerator: bool) -> TrainingConfig:
    chosen = training_preset(config.preset, ndim=ndim, accelerator=accelerator)
    if config.loss is not None:
        chosen = replace(chosen, loss=parse_loss(config.loss))
    if config.steps is not None:
        # The learning rate falls over the steps there are, in either schedule.
        share = config.steps / chosen.steps
        chosen = replace(
            chosen,
            steps=config.steps,
            halve_every=max(1, round(chosen.halve_every * share)),
            patience=max(chosen.patience, round(chosen.patience * share)),
        )
    return replace(chosen, minutes=config.train_minutes, seed=config.seed)


def _ssi(config: RunConfig, ndim: int, accelerator: bool) -> SSIConfig:
    if config.loss is not None:
        raise OptionError("--loss belongs to the method siamese, not to ssi.")
    chosen = ssi_preset(config.preset, ndim=ndim, accelerator=accelerator)
    steps = chosen.steps if config.steps is None else config.steps
    return replace(chosen, steps=steps, minutes=config.train_minutes, seed=config.seed)
