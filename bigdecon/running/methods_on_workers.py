"""How worker processes come by the method of a channel: what travels, and what is made there and kept.

Paths and settings travel with the blocks: of a network, or of the PSF of a classical method, in the folder of
the result. Each worker loads the file once. Were a method a node of the graph, blocks would go first to the
few workers that have it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from bigdecon.config import CLASSICAL
from bigdecon.deconvolution.block import Deconvolver
from bigdecon.deconvolution.packed_blocks import MethodOnWorkers
from bigdecon.distributed.cluster import Connection
from bigdecon.io.stored_psf import FOLDER as KEPT_PSFS
from bigdecon.learning.checkpoint import load_checkpoint
from bigdecon.running.guarded_method import GuardedMethod
from bigdecon.running.planning import RunPlan
from bigdecon.running.worker_tasks import load_classical, load_network
from bigdecon.storage.places import Place

__all__ = ["MethodOfRegion", "guarded", "method_of_channel"]

MethodOfRegion = Callable[[str], MethodOnWorkers]
"""Says how workers make the deconvolver for a region of that name."""


def method_of_channel(
    plan: RunPlan, channel: int, models: tuple[Place, ...], connection: Connection, run_id: str
) -> MethodOfRegion:
    """Say how workers make the deconvolver of a channel, for each of its regions.

    Parameters
    ----------
    plan : of the run
    channel : which
    models : where the trained networks lie, one a channel; empty for classical methods
    connection : to the workers
    run_id : whose listeners are told of blocks and warnings
    """
    if plan.config.method in CLASSICAL:
        make: Callable[[], Deconvolver] = partial(
            load_classical, *_classical_arguments(plan, channel, connection)
        )
    else:
        make = partial(load_network, *_network_arguments(plan, channel, models, connection))
    return lambda region: MethodOnWorkers(partial(guarded, make, run_id, region))


def guarded(make: Callable[[], Deconvolver], run_id: str, region: str) -> GuardedMethod:
    """Have a worker make a method, or take the one that it has made, and guard it."""
    return GuardedMethod(make(), run_id, region)


def _classical_arguments(plan: RunPlan, channel: int, connection: Connection) -> tuple[Any, ...]:
    return (
        (plan.bookkeeping / KEPT_PSFS).absolute(),
        plan.psfs[channel].sha256,
        plan.psfs[channel].voxel_size_um,
        plan.config.method,
        plan.tuned[channel].settings,
        plan.device,
        connection.threads_per_worker if plan.device == "cpu" else None,
    )


def _network_arguments(
    plan: RunPlan, channel: int, models: tuple[Place, ...], connection: Connection
) -> tuple[Any, ...]:
    return (
        models[channel].absolute(),
        load_checkpoint(models[channel]).sha256,
        plan.stats[channel],
        plan.device,
        plan.tile,
        plan.config.preset != "paper" or plan.config.method == "ssi",
        connection.threads_per_worker,
        plan.config.refine,
        max(0.0, plan.background(channel)),
    )
