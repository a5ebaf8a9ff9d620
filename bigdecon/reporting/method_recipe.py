"""The method of a run, made again: from what its output records, in whatever process needs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bigdecon.config import CLASSICAL, RunConfig
from bigdecon.deconvolution.block import Deconvolver
from bigdecon.deconvolution.methods import classical_method
from bigdecon.deconvolution.tuning import Tuned
from bigdecon.intensity import IntensityStats
from bigdecon.learning.checkpoint import Checkpoint
from bigdecon.optics.psf import PSF
from bigdecon.running.worker_tasks import load_network
from bigdecon.storage.places import Place

__all__ = ["MethodRecipe", "recipe_for"]


@dataclass(frozen=True)
class MethodRecipe:
    """How to make the deconvolver of one channel; pickles to a worker.

    Attributes
    ----------
    classical : a method that needs no training; None for a network
    network : the arguments of `worker_tasks.load_network`; empty for a classical method
    """

    classical: Deconvolver | None = None
    network: tuple[Any, ...] = ()

    def build(self) -> Deconvolver:
        """Make the method in this process."""
        return self.classical if self.classical is not None else load_network(*self.network)


def recipe_for(
    config: RunConfig,
    psf: PSF,
    *,
    tuned: Tuned | None,
    model: tuple[Place, Checkpoint] | None,
    stats: IntensityStats,
    tile: int | None,
    device: str,
    threads: int,
) -> MethodRecipe | None:
    """Say how a channel was restored; None where the records do not tell.

    Parameters
    ----------
    config : of the run
    psf : of the channel
    tuned : settings of a classical method, or of what refines a network's result
    model : the trained network and where it lies
    stats : brightness of the channel
    tile : extent of a network pass, in voxels
    device, threads : where to compute now
    """
    if config.method in CLASSICAL:
        if tuned is None:
            return None
        limit = threads if device == "cpu" else None
        return MethodRecipe(classical_method(config.method, psf.array, tuned.settings, device, limit))
    if model is None:
        return None
    background = tuned.settings.background if tuned else stats.background
    exact = config.preset != "paper" or config.method == "ssi"
    path, checkpoint = model
    arguments: Sequence[Any] = (
        path.absolute(),
        checkpoint.sha256,
        stats,
        device,
        tile,
        exact,
        threads,
        config.refine,
        max(0.0, background),
    )
    return MethodRecipe(network=tuple(arguments))
