"""`forecast`: what a run would take, found out in seconds and without writing anything.

    prepare (nothing tuned, few voxels read) ──> calibrate on a few blocks ──> estimate ──> what may not fit

What is not known yet is assumed, and each assumption is told: settings that are to be chosen from the image
are taken as costly as they can become, and an image without voxels is taken for a usual one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigdecon.config import RunConfig
from bigdecon.deconvolution.kept_trials import TrialFolder
from bigdecon.deconvolution.ledger import Ledger
from bigdecon.deconvolution.trials import Tuned, Tuning
from bigdecon.deconvolution.tuning import costliest
from bigdecon.distributed.cluster import Connection, connect
from bigdecon.distributed.devices import computes_here, gpu_workers
from bigdecon.distributed.progress import Listener, Message
from bigdecon.distributed.scheduling import Call, Task, run_tasks
from bigdecon.errors import ConstantImageError, OutputError, RunError
from bigdecon.forecasting.calibration import Calibration, calibrate
from bigdecon.forecasting.choosing_time import Choice
from bigdecon.forecasting.estimating import Estimate, Room, estimate
from bigdecon.forecasting.obstacles import Obstacle, find_obstacles
from bigdecon.forecasting.report_time import report_seconds, time_box
from bigdecon.intensity import IntensityStats, measure_intensity
from bigdecon.running.planning import RunPlan, prepare
from bigdecon.running.workforce import OWN_CLUSTERS, WorkersPlanned, device_planned, workers_planned
from bigdecon.storage.places import Place
from bigdecon.volume import Stack

__all__ = ["Forecast", "forecast"]

LOOK_AT_VOXELS = 2**24
"""Voxels read to learn how bright a channel is: fewer than a run reads, for an estimate."""
BLOCKS_ASKED = 512
"""So many blocks, spread over the volume, tell how much of it a mask leaves."""


@dataclass(frozen=True)
class Forecast:
    """What is known of a run before it starts.

    Attributes
    ----------
    plan : as `run` would follow it, but for what is assumed
    estimate : what it takes
    calibration : speeds that were measured; None without
    assumptions : what was not known, one sentence each
    obstacles : what may not fit
    to_choose : settings that the run chooses at its start; the plan holds the most costly ones
    """

    plan: RunPlan
    estimate: Estimate
    calibration: Calibration | None
    assumptions: tuple[str, ...]
    obstacles: tuple[Obstacle, ...]
    to_choose: tuple[str, ...] = ()


@dataclass
class _Assumptions:
    """Stands in for what a run measures and chooses, and remembers what was made up."""

    told: list[str] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)

    def tune(
        self,
        stacks: Sequence[Stack],
        psf: NDArray[Any],
        tuning: Tuning,
        keep: TrialFolder | None = None,
    ) -> Tuned:
        """Take the most costly settings."""
        if tuning.wanted:
            self.choices.append(Choice(stacks, psf, tuning))
            verb = "are" if len(tuning.wanted) > 1 else "is"
            self._tell(
                f"{_listed(tuning.wanted)} {verb} chosen from the image when the run starts; what is planned "
                "here is the most costly choice (bigdecon run --dry-run chooses and tells)."
            )
        return costliest(stacks, psf, tuning)

    def measure(self, stacks: Sequence[Stack], *, name: str) -> IntensityStats:
        """Look at some voxels; where they tell nothing, take usual ones."""
        try:
            return measure_intensity(stacks, sample_voxels=LOOK_AT_VOXELS, search=False, name=name)
        except ConstantImageError:
            self._tell(
                f"the voxels of {name} that were looked at all have one value, as of an image that is not "
                "written yet; its brightness was assumed, and bigdecon run would look on."
            )
            return _usual_brightness(stacks[0].dtype)

    def _tell(self, sentence: str) -> None:
        if sentence not in self.told:
            self.told.append(sentence)


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _usual_brightness(dtype: np.dtype[Any]) -> IntensityStats:
    """Give the brightness of a usual image: a camera offset of 100, and as much signal on average."""
    top = float(np.iinfo(dtype).max) if dtype.kind in "ui" else 65535.0
    low = min(100.0, top / 8)
    return IntensityStats(mean=2 * low, std=low, minimum=0.0, maximum=top, background=low, sampled=0.0)


def forecast(
    config: RunConfig, *, calibrate_seconds: float | None = 8.0, on_event: Listener | None = None
) -> Forecast:
    """Find out what a run would take; nothing is written but a sample in a temporary folder.

    Parameters
    ----------
    config : as for `run`
    calibrate_seconds : about so long for the blocks, and as long for training; None does not calibrate
    on_event : is told what is going on

    Raises
    ------
    InputError
        for bad input, as `run` does; but what may not fit is no error here
    """
    listener = on_event or (lambda event: None)
    assumed = _Assumptions()
    with _running_cluster(config) as remote:
        device = device_planned(config, remote)
        who = partial(workers_planned, config, device, remote)
        plan = _prepare(config, device, assumed, who)
        for sentence in plan.warnings:
            listener(Message(sentence, "warning"))
        workers = who()
        calibration, reporting = None, 0.0
        if calibrate_seconds is not None and plan.state != "finished":
            calibration = _calibrate(plan, workers, calibrate_seconds, remote, assumed, listener)
        if calibration is not None and config.report:
            psf, threads = plan.psfs[0].array, workers.threads
            try:
                a_voxel = _on_a_worker(plan, remote, Call(time_box, (psf, threads)))
                reporting = report_seconds(plan, workers, calibration, a_voxel)
            except RunError as error:
                assumed.told.append(f"the time of the report is not known: {error}")
    share = _masked_share(plan)
    if share < 1:
        assumed.told.append(f"about {share:.0%} of the blocks touch the mask; the others are left out.")
    found = estimate(plan, workers, _room_at(plan.output), calibration, _part_done(plan), share, reporting)
    to_choose = assumed.choices[0].tuning.wanted if assumed.choices else ()
    return Forecast(plan, found, calibration, tuple(assumed.told), find_obstacles(found), to_choose)


def _prepare(
    config: RunConfig, device: str, assumed: _Assumptions, workers: Callable[[], WorkersPlanned]
) -> RunPlan:
    """Plan as a run would; another run's output in the way is no reason not to plan."""
    try:
        return prepare(config, device, assumed.tune, assumed.measure, workers)
    except OutputError as error:
        if config.overwrite:
            raise
        plan = prepare(replace(config, overwrite=True), device, assumed.tune, assumed.measure, workers)
        assumed.told.append(f"the run itself would be refused: {error}")
        return plan


def _running_cluster(config: RunConfig) -> AbstractContextManager[Connection | None]:
    """Connect to a scheduler that is there; workers that are yet to be started are not started for a plan."""
    return nullcontext() if config.cluster in OWN_CLUSTERS else connect(config.cluster)


def _calibrate(
    plan: RunPlan,
    workers: WorkersPlanned,
    seconds: float,
    remote: Connection | None,
    assumed: _Assumptions,
    listener: Listener,
) -> Calibration | None:
    """Calibrate here, or on a worker of a cluster; without a result where nothing can be read or computed."""
    if workers.jobs is not None and not computes_here(plan.device):
        assumed.told.append(
            "there are no times, as the jobs would compute on GPUs and this machine has none; give the same "
            "command in a job with a GPU (srun --gres=gpu:1 bigdecon plan ...) to have them."
        )
        return None
    if workers.jobs is not None:
        assumed.told.append("the nodes of the jobs were taken to be as fast as this machine.")
    listener(Message("Calibrating on a few blocks: it takes some seconds."))
    try:
        work = Call(calibrate, (plan, workers.threads, seconds, assumed.choices))
        found: Calibration = _on_a_worker(plan, remote, work)
        return found
    except RunError as error:
        assumed.told.append(f"there are no times, as the calibration failed: {error}")
        return None


def _on_a_worker(plan: RunPlan, remote: Connection | None, work: Call) -> Any:
    """Do a piece of work here, or on a worker of a cluster."""
    if remote is None:
        return work.function(*work.arguments)
    able = gpu_workers(remote.client) if plan.device != "cpu" else ()
    found: dict[str, Any] = {}
    task = Task("calibrate", lambda: work, "calibrate", workers=able)
    run_tasks(remote.client, [task], in_flight=1, on_done=found.__setitem__)
    return found["calibrate"]


def _room_at(output: Place) -> Room:
    """Find out what is free where the output goes: in its folder, or the next one above that exists."""
    if not isinstance(output, Path):
        return Room(None, None)  # an object store tells of no end
    folder = output.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
        status = os.statvfs(folder) if hasattr(os, "statvfs") else None
    except OSError:
        return Room(None, None)
    # Some file systems make inodes as they need them, and tell none.
    return Room(free, status.f_favail if status is not None and status.f_files else None)


def _part_done(plan: RunPlan) -> float:
    """Tell which part of the regions an earlier run of the same command has finished."""
    if plan.state == "new":
        return 0.0
    regions = plan.volume.n_timepoints * plan.volume.n_channels * len(plan.regions)
    finished = Ledger(plan.bookkeeping / "ledger").scan().finished
    return sum(key.level == 0 for key in finished) / regions


def _masked_share(plan: RunPlan) -> float:
    """Estimate which part of the blocks a mask leaves, from some that are spread over the volume."""
    if plan.mask is None:
        return 1.0
    counts = [len(cuts) - 1 for cuts in plan.grid.cuts]
    total = len(plan.grid)
    asked = range(total) if total <= BLOCKS_ASKED else range(0, total, total // BLOCKS_ASKED)
    touched = 0
    for number in asked:
        index = np.unravel_index(number, counts)
        sides = zip(plan.grid.cuts, index, strict=True)
        touched += plan.mask.touches(tuple(slice(cuts[i], cuts[i + 1]) for cuts, i in sides))
    return touched / len(asked)
