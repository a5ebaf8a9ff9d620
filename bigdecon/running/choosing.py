"""Where a run's settings are chosen, what is told meanwhile, and where finished trials are kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from numpy.typing import NDArray

from bigdecon.deconvolution.kept_trials import TrialFolder, is_trial
from bigdecon.deconvolution.trials import ChoosingStep, Tuned, Tuning
from bigdecon.deconvolution.tuning import tune_channel
from bigdecon.distributed.cluster import Connection
from bigdecon.distributed.device_failure import device_watched
from bigdecon.distributed.devices import computes_here, gpu_workers
from bigdecon.distributed.progress import (
    ChoosingProgress,
    Listener,
    Message,
    StageFinished,
    StageStarted,
    publish,
    subscribe,
)
from bigdecon.distributed.scheduling import Call, Task, run_tasks
from bigdecon.distributed.worker_messages import messages_sent
from bigdecon.running.classical_settings import Tuner
from bigdecon.storage import places
from bigdecon.storage.places import Place
from bigdecon.volume import Stack

__all__ = ["choosing_folder", "forget_trials", "make_tuner"]

TELL_SECONDS = 0.5
"""Steps are told of no more often, but for the first and the last."""


def choosing_folder(output: Place) -> Place:
    """Say where trials are kept until there is an output: beside it, under a hidden name."""
    return output.parent / f".{output.name}.choosing"


def forget_trials(output: Place) -> None:
    """Remove the trials that were kept, and nothing else; the output's own record holds the answer now."""
    folder = choosing_folder(output)
    with suppress(OSError):
        for name in filter(is_trial, places.names(folder)):
            places.delete(folder / name)
        if isinstance(folder, Path):
            folder.rmdir()  # unless something else lies in it


def make_tuner(choosers: Callable[[], Connection] | None, device: str, listener: Listener) -> Tuner:
    """Say how settings are chosen: here, or on a worker of another cluster.

    Parameters
    ----------
    choosers : calls the workers who do it; None does it here
    device : torch device of the workers
    listener : is told that it begins, which setting is tried, and how long it still takes
    """

    def tune(
        stacks: Sequence[Stack], psf: NDArray[Any], tuning: Tuning, keep: TrialFolder | None = None
    ) -> Tuned:
        if not tuning.wanted:
            return tune_channel(stacks, psf, tuning)
        wanted = ", ".join(tuning.wanted)
        how = "voxels are hidden in parts of the image and predicted from the rest."
        kept = " Each setting that has been tried is kept." if keep and keep.writes else ""
        listener(Message(f"Choosing {wanted}: {how}{kept}"))
        if choosers is None:
            # A dry run on a login node chooses without the GPUs that its jobs would have.
            here = tuning if computes_here(tuning.device) else replace(tuning, device="cpu")
            return tune_channel(stacks, psf, here, _Teller(listener), keep)
        remote = choosers()
        found: dict[str, Tuned] = {}
        workers = gpu_workers(remote.client) if device != "cpu" else ()
        run_id = uuid4().hex
        work = Call(_tune_on_worker, (stacks, psf, tuning, keep, run_id))
        task = Task("tune", lambda: work, "tune", workers=workers)
        patience = remote.patience_seconds
        with subscribe(remote.client, remote.page.beside(listener), run_id):
            run_tasks(
                remote.client, [task], in_flight=1, on_done=found.__setitem__, patience_seconds=patience
            )
        return found["tune"]

    return tune


def _tune_on_worker(
    stacks: Sequence[Stack], psf: NDArray[Any], tuning: Tuning, keep: TrialFolder | None, run_id: str
) -> Tuned:
    with messages_sent(run_id), device_watched():
        return tune_channel(stacks, psf, tuning, _Teller(partial(publish, run_id=run_id)), keep)


class _Teller:
    """Turns steps of the search into events of a stage, with the time left at the speed so far."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._began = time.monotonic()
        self._told: float | None = None

    def __call__(self, step: ChoosingStep) -> None:
        now, first, last = time.monotonic(), self._told is None, step.done >= step.most
        if first:
            self._listener(StageStarted("choose settings", step.most))
        if first or last or now > (self._told or 0) + TELL_SECONDS:
            self._told = now
            left = self._seconds_left(step, now)
            self._listener(ChoosingProgress(step.done, step.most, step.setting, step.parts, step.kept, left))
        if last:
            self._listener(StageFinished("choose settings", now - self._began))

    def _seconds_left(self, step: ChoosingStep, now: float) -> float | None:
        done_here = step.work - step.work_kept
        return (now - self._began) / done_here * step.work_left if done_here > 0 else None
