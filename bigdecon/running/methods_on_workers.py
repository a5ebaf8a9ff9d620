"""How worker processes come by the method of a channel: what travels, and what is made there and kept.

A network's path travels with every block, and each worker loads the file once. A classical method with its
PSF goes to the cluster once for each region, and from there to the workers that restore its blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import uuid4

from dask.delayed import Delayed, delayed

from bigdecon.config import CLASSICAL
from bigdecon.deconvolution.block import Deconvolver
from bigdecon.deconvolution.methods import classical_method
from bigdecon.deconvolution.packed_blocks import MethodOnWorkers
from bigdecon.distributed.cluster import Connection
from bigdecon.learning.checkpoint import load_checkpoint
from bigdecon.running.guarded_method import GuardedMethod
from bigdecon.running.planning import RunPlan
from bigdecon.running.worker_tasks import load_network
from bigdecon.storage.places import Place

__all__ = ["MethodOfRegion", "method_of_channel"]

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
        name, method = plan.config.method, _classical(plan, channel, connection)
        return lambda region: MethodOnWorkers(
            partial(_guarded, run_id=run_id, region=region), (_sent(method, name),)
        )
    arguments = _network_arguments(plan, channel, models, connection)
    return lambda region: MethodOnWorkers(partial(_guarded_network, arguments, run_id, region))


def _classical(plan: RunPlan, channel: int, connection: Connection) -> Deconvolver:
    threads = connection.threads_per_worker if plan.device == "cpu" else None
    psf, settings = plan.psfs[channel].array, plan.tuned[channel].settings
    return classical_method(plan.config.method, psf, settings, plan.device, threads)


def _sent(method: Deconvolver, name: str) -> Delayed:
    """Give a node of a region's graph that holds a method.

    One for each region: blocks go first to workers that have what they need, and one node for all regions
    would send them all to the same few. The key is new each time, or the scheduler would mix up channels
    and runs.
    """
    sent: Delayed = delayed(method, name=f"method-{name}-{uuid4().hex}", traverse=False)
    return sent


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


def _guarded(method: Deconvolver, *, run_id: str, region: str) -> GuardedMethod:
    return GuardedMethod(method, run_id, region)


def _guarded_network(arguments: tuple[Any, ...], run_id: str, region: str) -> GuardedMethod:
    return GuardedMethod(load_network(*arguments), run_id, region)
