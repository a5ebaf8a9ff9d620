"""The two files of a trained network, and whether they are there; neither is read."""

from __future__ import annotations

import os
from pathlib import Path

from bigdecon.errors import ModelError
from bigdecon.storage.places import Place
from bigdecon.untrusted import reason

__all__ = ["check_model_path", "unreadable_model"]


def check_model_path(path: Place) -> None:
    """Refuse a model on this machine that lacks one of its files; addresses are left to their servers.

    Parameters
    ----------
    path : the .safetensors file or its .json neighbour

    Raises
    ------
    ModelError
        if one is missing
    """
    if not isinstance(path, Path):
        return
    weights = path.with_suffix(".safetensors")
    for file in (weights.with_suffix(".json"), weights):
        try:
            os.stat(file)
        except OSError as error:
            raise unreadable_model(weights, error) from error


def unreadable_model(weights: Place, error: Exception) -> ModelError:
    """Say that a model cannot be read, and what it needs."""
    return ModelError(
        f"the model {weights} cannot be read ({reason(error)}); "
        "it needs a .safetensors file with its .json beside it."
    )
