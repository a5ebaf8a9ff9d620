"""`run`: from a blurred, noisy volume to a restored OME-Zarr, readable top to bottom."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any
from uuid import uuid4

from bigdecon.config import CLASSICAL, RunConfig
from bigdecon.deconvolution.lease import Lease
from bigdecon.deconvolution.ledger import Fault
from bigdecon.distributed.cluster import Connection
from bigdecon.distributed.notebook_progress import NotebookProgress, in_notebook
from bigdecon.distributed.progress import Listener, Message, stage, subscribe
from bigdecon.distributed.scheduling import Call, Task, run_tasks
from bigdecon.errors import OutputError, RunError
from bigdecon.forecasting.obstacles import refuse_too_little_memory
from bigdecon.io.output_folder import is_own_output, remove_output
from bigdecon.io.provenance import (
    CurvePoint,
    Provenance,
    PSFRecord,
    RunRecord,
    TrainingRecord,
    now,
    read_run,
    write_run,
)
from bigdecon.io.stored_psf import FOLDER as KEPT_PSFS
from bigdecon.io.stored_psf import keep_psfs
from bigdecon.io.writing import (
    create_ome_zarr,
    measure_windows,
    set_display_windows,
    set_provenance,
)
from bigdecon.learning.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from bigdecon.reporting.making import Report, report_of_run
from bigdecon.reporting.report_names import has_report
from bigdecon.running.choosing import forget_trials, make_tuner
from bigdecon.running.planning import RunPlan, prepare
from bigdecon.running.regions import able_workers, restore_regions, write_coarser_levels
from bigdecon.running.resuming import check_unchanged
from bigdecon.running.worker_tasks import train_on_worker
from bigdecon.running.workforce import Workforce, workers_planned
from bigdecon.ssi_config import Training
from bigdecon.storage import places
from bigdecon.storage.object_path import ObjectPath
from bigdecon.storage.places import Place

__all__ = ["RunResult", "run"]

TRAINING_REMEDY = "give the workers more memory and the same command again, or --overwrite and --preset fast"


@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Attributes
    ----------
    plan : what was to be done
    state : "planned" (dry run), "finished", "incomplete" (blocks are missing), or "found finished" (by an
        earlier run)
    clipped : voxels outside the range of an integer output type
    skipped : blocks for which the method was not asked, being constant or dim
    missing : blocks that could not be restored; the same command does them again
    models : trained networks, one for every channel; none for methods without training
    seconds : time it took
    report : what the result is like, on a page beside it; None where it was not asked for, or failed
    """

    plan: RunPlan
    state: str
    clipped: int = 0
    skipped: int = 0
    missing: tuple[Fault, ...] = ()
    models: tuple[Place, ...] = ()
    seconds: float = 0.0
    report: Report | None = None

    @property
    def output(self) -> Place:
        """Folder of the result."""
        return self.plan.output

    def __repr__(self) -> str:
        """Describe the result in a line."""
        missing = f", {len(self.missing)} blocks missing" if self.missing else ""
        return f"<RunResult {self.state}: {self.output}{missing}, {self.seconds:.0f} s>"

    def _repr_html_(self) -> str:
        """Show a thumbnail of the result and a table in notebooks."""
        from bigdecon.running.result_display import result_html

        return result_html(self)


def run(
    config: RunConfig,
    *,
    on_plan: Callable[[RunPlan], None] | None = None,
    on_event: Listener | None = None,
    command: str = "",
) -> RunResult:
    """Restore a volume: plan, train, deconvolve region by region, write, and record how.

    The same call continues a run that was interrupted, and recognises one that is finished.

    Parameters
    ----------
    config : what to do
    on_plan : gets the plan before anything is written
    on_event : gets progress, from several threads; in a notebook it is shown below the cell by default,
        elsewhere it is not shown
    command : what was typed, for the record of the run

    Raises
    ------
    InputError
        for bad input; nothing has been written
    RunError
        for failures while running; what is finished is kept
    """
    started = time.monotonic()
    listener = on_event or _shown_here()
    with ExitStack() as stack:
        workforce = Workforce(config, stack, listener)
        tuner = make_tuner(workforce.choosers, workforce.device, listener)
        who = partial(workers_planned, config, workforce.device, workforce.running)
        plan = prepare(config, workforce.device, tuner, workers=who)
        if on_plan:
            on_plan(plan)
        for sentence in plan.warnings:
            listener(Message(sentence, "warning"))
        if config.dry_run:
            return RunResult(plan, "planned")
        if plan.state == "finished":
            report = report_of_run(plan, listener) if _lacks_report(plan) else None
            return RunResult(plan, "found finished", models=_model_paths(plan), report=report)
        if plan.state == "continue":
            Lease(plan.bookkeeping).refuse_living()  # before workers are called, which may take a while
        refuse_too_little_memory(plan, who())
        connection = workforce.call()
        connection.page.begin(str(plan.output.name))
        listener = connection.page.beside(listener)
        lease = _open_output(plan, stack, command)
        models = _train(plan, connection, listener, lease)
        walked = restore_regions(plan, connection, models, listener, lease)
        write_coarser_levels(plan, connection, walked.faults, listener, lease)
        lease.check()
        _finish(plan, models, command, complete=not walked.faults)
        seconds = time.monotonic() - started
        report = report_of_run(plan, listener, connection, seconds=seconds) if config.report else None
        return RunResult(
            plan,
            "incomplete" if walked.faults else "finished",
            walked.clipped,
            walked.skipped,
            tuple(itertools.chain.from_iterable(walked.faults.values())),
            models,
            seconds,
            report,
        )


def _shown_here() -> Listener:
    """Show progress in a notebook, and nowhere else."""
    return NotebookProgress() if in_notebook() else lambda event: None


def _open_output(plan: RunPlan, stack: ExitStack, command: str) -> Lease:
    """Create the arrays, or take up an interrupted run's; nobody else writes there until the stack ends.

    A folder is made beside its place and renamed, and the lease lies in it. Objects cannot be renamed, and
    there the lease comes first.
    """
    try:
        lease = _enter_output(plan, stack, command)
    except OutputError:
        # Another run of this command was quicker, and its record holds the answer.
        if not plan.config.overwrite and is_own_output(plan.output):
            forget_trials(plan.output)
        raise
    if plan.tuned:
        forget_trials(plan.output)  # what was chosen is in the output's record from here on
    keep_psfs(plan.bookkeeping / KEPT_PSFS, plan.psfs)
    return lease


def _enter_output(plan: RunPlan, stack: ExitStack, command: str) -> Lease:
    lease = Lease(plan.bookkeeping)
    lease_first = plan.state == "continue" or isinstance(plan.output, ObjectPath)
    if lease_first:
        stack.enter_context(lease)
    if plan.state == "continue":
        _take_up(plan)
    else:
        _create_output(plan, lease, command)
    if not lease_first:
        stack.enter_context(lease)
    return lease


def _take_up(plan: RunPlan) -> None:
    """Continue a run: note the input's files as they are now, some of which may have been mended."""
    check_unchanged(plan.output, plan.earlier)
    if plan.earlier is not None and plan.identity.changed_files(plan.earlier.provenance["input"]["files"]):
        noted = {**plan.earlier.provenance["input"], "files": [list(file) for file in plan.identity.files]}
        provenance = {**plan.earlier.provenance, "input": noted}
        write_run(plan.bookkeeping / "run.json", replace(plan.earlier, provenance=provenance))


def _create_output(plan: RunPlan, lease: Lease, command: str = "") -> None:
    """Create the arrays and their metadata; what lies there is replaced if that was asked for."""
    if plan.config.overwrite:
        if places.exists(plan.bookkeeping):
            lease.refuse_living()
        remove_output(plan.output)
    # The record is there from the start: a run that is killed at any time can be continued.
    record = RunRecord(plan.fingerprint, _provenance(plan, (), command).as_json(), work=plan.work.as_json())
    name = plan.output.name.removesuffix(".ome.zarr")
    try:
        create_ome_zarr(plan.output, plan.volume, plan.layout, name=name, record=record)
    except OutputError as error:
        if isinstance(plan.output, ObjectPath) or not is_own_output(plan.output):
            raise
        raise OutputError(
            f"{plan.output} has just been made by another bigdecon; wait until that one has finished, or "
            "choose another output with -o."
        ) from error


# --- training ------------------------------------------------------------------------------------


def _train(plan: RunPlan, connection: Connection, listener: Listener, lease: Lease) -> tuple[Place, ...]:
    """Train a network for every channel that has none yet; each is kept as soon as it is done."""
    if plan.config.method in CLASSICAL:
        return ()
    paths = _model_paths(plan)
    for channel, path in enumerate(paths):
        if _is_there(path.with_suffix(".json")) and _is_there(path):
            continue
        if plan.models:
            save_checkpoint(plan.models[channel], path)
        elif plan.training is not None:
            trained = _train_channel(plan, plan.training, channel, connection, listener)
            lease.check()
            save_checkpoint(trained, path)
    with suppress(OSError):
        places.remove_all(plan.bookkeeping / "training")
    return paths


def _is_there(path: Place) -> bool:
    try:
        return places.exists(path)
    except OSError as error:
        raise RunError(
            f"{path} cannot be looked at ({error.strerror or error}); what is finished is kept, "
            "and once this is put right the same command continues."
        ) from error


def _train_channel(
    plan: RunPlan, training: Training, channel: int, connection: Connection, listener: Listener
) -> Checkpoint:
    name = f"train channel {channel}" if plan.volume.n_channels > 1 else "train"
    task_name = f"train-{channel}"  # Dask groups and colours by what precedes a number
    state = plan.bookkeeping / "training" / f"channel-{channel}.safetensors"
    threads = connection.threads_per_worker
    setting = (plan.psfs[channel], training, channel, plan.device, plan.stats[channel])
    run_id = uuid4().hex
    work = Call(train_on_worker, (plan.volume, *setting, state.absolute(), threads, run_id))
    trained: dict[int, Checkpoint] = {}
    with stage(name, training.steps, listener), subscribe(connection.client, listener, run_id):
        workers = able_workers(plan, connection)
        task = Task(channel, lambda: work, task_name, TRAINING_REMEDY, workers)
        patience = connection.patience_seconds
        run_tasks(
            connection.client, [task], in_flight=1, on_done=trained.__setitem__, patience_seconds=patience
        )
    return trained[channel]


def _model_paths(plan: RunPlan) -> tuple[Place, ...]:
    if plan.config.method in CLASSICAL:
        return ()
    folder = plan.bookkeeping / "model"
    return tuple(folder / f"channel-{c}.safetensors" for c in range(plan.volume.n_channels))


# --- report and metadata -------------------------------------------------------------------------


def _lacks_report(plan: RunPlan) -> bool:
    """Whether a result that was found finished is to get a report, and has none."""
    try:
        return plan.config.report and not has_report(plan.output)
    except OSError:
        return False


def _finish(plan: RunPlan, models: tuple[Place, ...], command: str, *, complete: bool) -> None:
    """Set display windows, write provenance, and mark the run as finished if nothing is missing."""
    set_display_windows(plan.output, measure_windows(plan.output, plan.layout))
    record = read_run(plan.bookkeeping / "run.json")
    begun = str(record.provenance["created"]) if record else ""
    provenance = _provenance(plan, tuple(load_checkpoint(path) for path in models), command, begun).as_json()
    set_provenance(plan.output, provenance)
    record = RunRecord(plan.fingerprint, provenance, complete, plan.work.as_json())
    write_run(plan.bookkeeping / "run.json", record)


def _provenance(plan: RunPlan, models: tuple[Checkpoint, ...], command: str, begun: str = "") -> Provenance:
    training = tuple(
        TrainingRecord(
            (channel,),
            model_sha256=model.sha256,
            why_stopped="a model was given" if plan.models else model.stopped_by,
            curve=tuple(CurvePoint(p.step, p.loss, p.held_out_error) for p in model.curve),
        )
        for channel, model in enumerate(models)
    )
    stats = [asdict(s) for s in plan.stats]
    chosen: dict[str, Any] = {"engine": plan.engine, "block": plan.block, "tile": plan.tile, "stats": stats}
    if plan.mask:
        chosen["mask"] = plan.mask.digest
    if plan.training:
        chosen["training"] = asdict(plan.training)
    if plan.tuned:
        chosen["tuned"] = [asdict(tuned) for tuned in plan.tuned]
    return Provenance(
        configuration={**plan.config.as_dict(), "chosen": chosen},
        psfs=tuple(PSFRecord(p.name, p.sha256, p.corrections, p.voxel_size_um) for p in plan.psfs),
        input=plan.identity,
        seed=plan.config.seed,
        device=plan.device,
        training=training,
        created=begun or now(),
        command=command,
        findings=tuple(finding.as_json() for finding in plan.findings),
    )
