"""Where a run's settings are chosen, and what is told meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import uuid4

from numpy.typing import NDArray

from bigdecon.deconvolution.tuning import Tuned, Tuning, tune_channel
from bigdecon.distributed.cluster import Connection
from bigdecon.distributed.device_failure import device_watched
from bigdecon.distributed.devices import computes_here, gpu_workers
from bigdecon.distributed.progress import Listener, Message, publish, subscribe
from bigdecon.distributed.scheduling import Call, Task, run_tasks
from bigdecon.distributed.worker_messages import messages_sent
from bigdecon.running.classical_settings import Tuner
from bigdecon.volume import Stack

__all__ = ["make_tuner"]

SIGN_OF_LIFE_SECONDS = 10


def make_tuner(choosers: Callable[[], Connection] | None, device: str, listener: Listener) -> Tuner:
    """Say how settings are chosen: here, or on a worker of another cluster.

    Parameters
    ----------
    choosers : calls the workers who do it; None does it here
    device : torch device of the workers
    listener : is told that it begins, and how many settings have been tried
    """

    def tune(stacks: Sequence[Stack], psf: NDArray[Any], tuning: Tuning) -> Tuned:
        if tuning.wanted:
            wanted = ", ".join(tuning.wanted)
            how = "voxels are hidden in parts of the image and predicted from the rest"
            listener(Message(f"Choosing {wanted}: {how}. It takes a minute or two."))
        if choosers is None or not tuning.wanted:
            # A dry run on a login node chooses without the GPUs that its jobs would have.
            here = tuning if computes_here(tuning.device) else replace(tuning, device="cpu")
            return tune_channel(stacks, psf, here, _SignOfLife(listener))
        remote = choosers()
        found: dict[str, Tuned] = {}
        workers = gpu_workers(remote.client) if device != "cpu" else ()
        run_id = uuid4().hex
        work = Call(_tune_on_worker, (stacks, psf, tuning, run_id))
        task = Task("tune", lambda: work, "tune", workers=workers)
        patience = remote.patience_seconds
        with subscribe(remote.client, listener, run_id):
            run_tasks(
                remote.client, [task], in_flight=1, on_done=found.__setitem__, patience_seconds=patience
            )
        return found["tune"]

    return tune


def _tune_on_worker(stacks: Sequence[Stack], psf: NDArray[Any], tuning: Tuning, run_id: str) -> Tuned:
    with messages_sent(run_id), device_watched():
        return tune_channel(stacks, psf, tuning, _SignOfLife(partial(publish, run_id=run_id)))


class _SignOfLife:
    """Tells every few seconds how many settings have been tried."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._told = time.monotonic()

    def __call__(self, tried: int) -> None:
        if time.monotonic() - self._told > SIGN_OF_LIFE_SECONDS:
            self._told = time.monotonic()
            self._listener(Message(f"  {tried} settings tried"))
