"""`run`: from a blurred, noisy volume to a restored OME-Zarr, readable top to bottom."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask.array as da
from dask.delayed import Delayed, delayed

from bigdecon.choosing import make_tuner
from bigdecon.config import CLASSICAL, RunConfig
from bigdecon.deconvolution.blockwise import deconvolve_stack
from bigdecon.deconvolution.lease import Lease
from bigdecon.deconvolution.ledger import Ledger, RegionKey, RegionRecord
from bigdecon.deconvolution.methods import classical_method
from bigdecon.distributed.cluster import Connection, connect
from bigdecon.distributed.devices import choose_device, gpu_workers
from bigdecon.distributed.progress import Listener, Message, RegionCounter, stage, subscribe
from bigdecon.distributed.scheduling import Call, Task, run_tasks
from bigdecon.io.layout import OutputLayout
from bigdecon.io.output_folder import remove_output
from bigdecon.io.provenance import CurvePoint, Provenance, PSFRecord, RunRecord, TrainingRecord, write_run
from bigdecon.io.writing import (
    create_ome_zarr,
    measure_windows,
    pyramid_boxes,
    set_display_windows,
    set_provenance,
)
from bigdecon.learning.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from bigdecon.planning import RunPlan, prepare
from bigdecon.ssi_config import Training
from bigdecon.volume import Box
from bigdecon.worker_tasks import (
    load_network,
    summarize_region,
    train_on_worker,
    write_coarse_unit,
    write_unit,
)

__all__ = ["RunResult", "run"]

# A smaller block makes another run: what is finished could not be continued.
REGION_REMEDY = (
    "give the workers more memory and the same command again, or start anew with a smaller --block, "
    "--overwrite, and --model with this output if it is trained"
)
TRAINING_REMEDY = "give the workers more memory and the same command again, or --overwrite and --preset fast"


@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Attributes
    ----------
    plan : what was to be done
    state : "planned" (dry run), "finished", or "found finished" (by an earlier run)
    clipped : voxels outside the range of an integer output type
    models : trained networks, one for every channel; none for methods without training
    seconds : time it took
    """

    plan: RunPlan
    state: str
    clipped: int = 0
    models: tuple[Path, ...] = ()
    seconds: float = 0.0

    @property
    def output(self) -> Path:
        """Folder of the result."""
        return self.plan.output


def run(
    config: RunConfig,
    *,
    on_plan: Callable[[RunPlan], None] | None = None,
    on_event: Listener | None = None,
) -> RunResult:
    """Restore a volume: plan, train, deconvolve region by region, write, and record how.

    The same call continues a run that was interrupted, and recognises one that is finished.

    Parameters
    ----------
    config : what to do
    on_plan : gets the plan before anything is written
    on_event : gets progress, from several threads

    Raises
    ------
    InputError
        for bad input; nothing has been written
    RunError
        for failures while running; what is finished is kept
    """
    started = time.monotonic()
    listener = on_event or (lambda event: None)
    with ExitStack() as stack:
        remote = stack.enter_context(_connect(config)) if config.cluster != "local" else None
        device = choose_device(config.device, remote.client if remote else None)
        plan = prepare(config, device, make_tuner(remote, device, listener))
        if on_plan:
            on_plan(plan)
        for sentence in plan.warnings:
            listener(Message(sentence, "warning"))
        if config.dry_run:
            return RunResult(plan, "planned")
        if plan.state == "finished":
            return RunResult(plan, "found finished", models=_model_paths(plan))
        connection = remote or stack.enter_context(_connect(config, plan.device))
        if connection.dashboard_link:
            listener(Message(f"Dask dashboard: {connection.dashboard_link}"))
        _open_output(plan)
        lease = stack.enter_context(Lease(plan.bookkeeping))
        models = _train(plan, connection, listener)
        clipped = _deconvolve(plan, connection, models, listener, lease)
        _coarser_levels(plan, connection, listener, lease)
        _finish(plan, models)
        return RunResult(plan, "finished", clipped, _model_paths(plan), time.monotonic() - started)


def _connect(config: RunConfig, device: str = "auto") -> AbstractContextManager[Connection]:
    return connect(
        config.cluster,
        workers=config.workers,
        threads=config.threads,
        memory_limit=config.memory_limit,
        dashboard_address=config.dashboard_address,
        device="cpu" if device == "cpu" else config.device,
    )


def _open_output(plan: RunPlan) -> None:
    """Create the arrays, or take up an interrupted run's."""
    if plan.state == "continue":
        return
    if plan.config.overwrite:
        if plan.bookkeeping.exists():
            with Lease(plan.bookkeeping):
                pass  # refused while another process writes it
        remove_output(plan.output)
    # The record is there from the start: a run that is killed at any time can be continued.
    record = RunRecord(plan.fingerprint, _provenance(plan, ()).as_json())
    name = plan.output.name.removesuffix(".ome.zarr")
    create_ome_zarr(plan.output, plan.volume, plan.layout, name=name, record=record)


# --- training ------------------------------------------------------------------------------------


def _train(plan: RunPlan, connection: Connection, listener: Listener) -> tuple[Path, ...]:
    """Train a network for every channel that has none yet; each is kept as soon as it is done."""
    if plan.config.method in CLASSICAL:
        return ()
    paths = _model_paths(plan)
    for channel, path in enumerate(paths):
        if path.with_suffix(".json").exists() and path.exists():
            continue
        if plan.models:
            save_checkpoint(plan.models[channel], path)
        elif plan.training is not None:
            save_checkpoint(_train_channel(plan, plan.training, channel, connection, listener), path)
    shutil.rmtree(plan.bookkeeping / "training", ignore_errors=True)
    return paths


def _train_channel(
    plan: RunPlan, training: Training, channel: int, connection: Connection, listener: Listener
) -> Checkpoint:
    name = f"train channel {channel}" if plan.volume.n_channels > 1 else "train"
    state = plan.bookkeeping / "training" / f"channel-{channel}.safetensors"
    threads = connection.threads_per_worker
    setting = (plan.psfs[channel], training, channel, plan.device, plan.stats[channel])
    run_id = uuid4().hex
    work = Call(train_on_worker, (plan.volume, *setting, state.absolute(), threads, run_id))
    trained: dict[int, Checkpoint] = {}
    with stage(name, training.steps, listener), subscribe(connection.client, listener, run_id):
        workers = _able_workers(plan, connection)
        task = Task(channel, lambda: work, name.replace(" ", "-"), TRAINING_REMEDY, workers)
        run_tasks(connection.client, [task], in_flight=1, on_done=trained.__setitem__)
    return trained[channel]


def _able_workers(plan: RunPlan, connection: Connection) -> tuple[str, ...]:
    """Keep a GPU's work off workers without one; a cluster of our own has workers of one kind only."""
    if connection.owns_cluster or plan.device == "cpu":
        return ()
    return gpu_workers(connection.client)


def _model_paths(plan: RunPlan) -> tuple[Path, ...]:
    if plan.config.method in CLASSICAL:
        return ()
    folder = plan.bookkeeping / "model"
    return tuple(folder / f"channel-{c}.safetensors" for c in range(plan.volume.n_channels))


# --- deconvolution -------------------------------------------------------------------------------


def _deconvolve(
    plan: RunPlan, connection: Connection, models: tuple[Path, ...], listener: Listener, lease: Lease
) -> int:
    """Walk the regions that the ledger does not have yet; returns the number of clipped voxels."""
    ledger = Ledger(plan.bookkeeping / "ledger")
    ledger.sweep()
    everything = [
        RegionKey.from_box(box, level=0, timepoint=t, channel=c)
        for t, c in itertools.product(range(plan.volume.n_timepoints), range(plan.volume.n_channels))
        for box in plan.regions
    ]
    methods = [_method(plan, c, models, connection) for c in range(plan.volume.n_channels)]
    workers = _able_workers(plan, connection)

    def task(key: RegionKey) -> Task[RegionKey]:
        return Task(key, _region_builder(plan, methods[key.channel], key), "region", REGION_REMEDY, workers)

    in_flight = 2 * (len(workers) or connection.n_workers)
    with stage("deconvolve", len(everything), listener):
        return _walk(everything, task, ledger, connection, listener, lease, in_flight)


def _walk(
    keys: list[RegionKey],
    task: Callable[[RegionKey], Task[RegionKey]],
    ledger: Ledger,
    connection: Connection,
    listener: Listener,
    lease: Lease,
    in_flight: int,
) -> int:
    """Do the tasks of all regions that the ledger lacks, and enter them; returns all clipped voxels."""
    finished = ledger.read()
    earlier = [key for key in keys if key in finished]
    counter = RegionCounter(listener, len(keys), len(earlier), sum(key.voxels for key in earlier))
    clipped = sum(finished[key].clipped for key in earlier)

    def done(key: RegionKey, record: RegionRecord) -> None:
        nonlocal clipped
        lease.check()
        ledger.mark(key, record)
        clipped += record.clipped
        counter.advance(key.voxels)

    missing = (task(key) for key in keys if key not in finished)
    run_tasks(connection.client, missing, in_flight=in_flight, on_done=done)
    return clipped


def _method(
    plan: RunPlan, channel: int, models: tuple[Path, ...], connection: Connection
) -> Callable[[], Delayed]:
    """Say how to make the deconvolver: small in every region's graph, loaded once by every worker."""
    if plan.config.method in CLASSICAL:
        threads = connection.threads_per_worker if plan.device == "cpu" else None
        name, psf = plan.config.method, plan.psfs[channel].array
        method = classical_method(name, psf, plan.tuned[channel].settings, plan.device, threads)
        # A key of its own each time: under one key the scheduler would mix up channels and runs.
        return lambda: delayed(method, name=f"{name}-{uuid4().hex}", traverse=False)
    arguments = (
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
    return lambda: delayed(load_network, pure=False)(*arguments)


def _region_builder(plan: RunPlan, method: Callable[[], Delayed], key: RegionKey) -> Callable[[], Delayed]:
    """Make the graph of one region when its turn comes: deconvolve its blocks, write its shards."""

    def build() -> Delayed:
        stack = plan.volume.stack(timepoint=key.timepoint, channel=key.channel)
        restored = deconvolve_stack(stack, method(), grid=plan.grid, engine=plan.engine, box=key.box)
        offset = plan.background(key.channel) if plan.config.subtract_background else 0.0
        write = delayed(write_unit, pure=False)
        place = (plan.output.absolute(), plan.layout, key.timepoint, key.channel)
        written = [
            write(*place, unit, _part(restored, unit, key.box), offset)
            for unit in _units_within(plan.layout, key.box)
        ]
        result: Delayed = delayed(summarize_region, pure=False)(written, time.time())
        return result

    return build


def _part(array: da.Array, unit: Box, region: Box) -> da.Array:
    inner = tuple(slice(u.start - r.start, u.stop - r.start) for u, r in zip(unit, region, strict=True))
    part: da.Array = array[inner]
    return part


def _units_within(layout: OutputLayout, region: Box) -> list[Box]:
    """Find the write units that make up a region."""
    steps = zip(region, layout.write_shape, strict=True)
    sides = [
        [slice(start, min(start + step, part.stop)) for start in range(part.start, part.stop, step)]
        for part, step in steps
    ]
    return list(itertools.product(*sides))


# --- coarser levels, metadata --------------------------------------------------------------------


def _coarser_levels(plan: RunPlan, connection: Connection, listener: Listener, lease: Lease) -> None:
    """Fill the resolution pyramid, each level from the one before."""
    ledger = Ledger(plan.bookkeeping / "ledger")
    places = list(itertools.product(range(plan.volume.n_timepoints), range(plan.volume.n_channels)))
    for level in range(1, len(plan.layout.levels)):
        keys = [
            RegionKey.from_box(box, level=level, timepoint=t, channel=c)
            for t, c in places
            for box in pyramid_boxes(plan.layout, level)
        ]

        def task(key: RegionKey) -> Task[RegionKey]:
            return Task(key, _pyramid_builder(plan, key), f"write-level-{key.level}")

        with stage(f"level {level}", len(keys), listener):
            _walk(keys, task, ledger, connection, listener, lease, 4 * connection.n_workers)


def _pyramid_builder(plan: RunPlan, key: RegionKey) -> Callable[[], Call]:
    arguments = (plan.output.absolute(), plan.layout, key.level, key.timepoint, key.channel, key.box)
    return lambda: Call(write_coarse_unit, arguments)


def _finish(plan: RunPlan, models: tuple[Path, ...]) -> None:
    """Set display windows, write provenance, and mark the run as finished."""
    set_display_windows(plan.output, measure_windows(plan.output, plan.layout))
    provenance = _provenance(plan, tuple(load_checkpoint(path) for path in models)).as_json()
    set_provenance(plan.output, provenance)
    write_run(plan.bookkeeping / "run.json", RunRecord(plan.fingerprint, provenance, finished=True))


def _provenance(plan: RunPlan, models: tuple[Checkpoint, ...]) -> Provenance:
    training = tuple(
        TrainingRecord(
            (channel,),
            model_sha256=model.sha256,
            why_stopped="a model was given" if plan.models else model.stopped_by,
            curve=tuple(CurvePoint(p.step, p.loss, p.held_out_error) for p in model.curve),
        )
        for channel, model in enumerate(models)
    )
    chosen: dict[str, Any] = {"engine": plan.engine, "tile": plan.tile}
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
    )
