"""How far a run is, told from its output on disk alone: no scheduler, no worker, no input is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from bigdecon.config import CLASSICAL
from bigdecon.deconvolution.lease import Holder, find_holder
from bigdecon.deconvolution.ledger import Fault, Ledger, LedgerScan, RegionKey, RegionRecord
from bigdecon.errors import OutputError
from bigdecon.io.output_folder import BOOKKEEPING, result_place
from bigdecon.io.provenance import RunRecord, read_run
from bigdecon.learning.training_progress import read_progress
from bigdecon.running.resuming import WorkRecord
from bigdecon.storage import places
from bigdecon.storage.places import Place, PlaceLike
from bigdecon.untrusted import is_whole

__all__ = ["LevelStatus", "RunStatus", "TrainingStatus", "find_run", "run_status"]

State = Literal["finished", "incomplete", "unfinished"]


class LevelStatus(NamedTuple):
    """How much of one resolution level is written.

    Attributes
    ----------
    level : 0 is the finest
    done, total : regions, of all channels and time points
    voxels, all_voxels : the same, in voxels
    """

    level: int
    done: int
    total: int
    voxels: int
    all_voxels: int


class TrainingStatus(NamedTuple):
    """How far a training is, by its last saved state.

    Attributes
    ----------
    channel : index of the channel
    step, steps : done, and planned at most; 0 where the record does not say
    seconds : time it took so far
    held_out_error : newest measurement; None before the first
    """

    channel: int
    step: int
    steps: int
    seconds: float
    held_out_error: float | None


@dataclass(frozen=True)
class RunStatus:
    """How far a run is.

    Attributes
    ----------
    output : folder of the result
    state : "finished"; "incomplete" (all is done but for blocks that cannot be restored); "unfinished"
    writer : process that holds the lease; None if there is none, or it is known to be dead
    trained, to_train : networks there are, and should be; 0 of 0 for methods without training
    levels : progress of each level
    missing : blocks that could not be restored, with the region each is part of
    passed_over : files of the ledger that cannot be used, and why; their regions are done again
    clipped, skipped : voxels cut to the output's range; blocks that were constant or dim
    seconds : sum of the time that all regions took
    method : name of the method
    created : when the run began, UTC
    command : what was typed, as far as it is known and not secret
    training : trainings that have begun and are not over
    """

    output: Place
    state: State
    writer: Holder | None
    trained: int
    to_train: int
    levels: tuple[LevelStatus, ...]
    missing: tuple[tuple[RegionKey, Fault], ...]
    passed_over: tuple[str, ...]
    clipped: int
    skipped: int
    seconds: float
    method: str
    created: str
    command: str = ""
    training: tuple[TrainingStatus, ...] = ()


def run_status(path: PlaceLike) -> RunStatus:
    """Look at an output.

    Parameters
    ----------
    path : folder or URL of the result, finished or not

    Raises
    ------
    OutputError
        if there is no output of bigdecon, or its records are damaged
    """
    root, record, work = find_run(path)
    folder = root / BOOKKEEPING
    scan = Ledger(folder / "ledger").scan()
    known = scan.finished | scan.faulty
    levels = tuple(_level(work, level, scan) for level in range(len(work.layout.levels)))
    missing = tuple(
        (key, fault) for key, entry in scan.faulty.items() if key.level == 0 for fault in entry.faults
    )
    networks = 0 if _method(record) in (*CLASSICAL, "convert") else work.layout.n_channels
    done = sum(level.done for level in levels) == sum(level.total for level in levels)
    written = all(key in known for level in range(len(work.layout.levels)) for key in work.keys(level))
    return RunStatus(
        output=root,
        state="finished"
        if record.finished and done
        else "incomplete"
        if written and missing
        else "unfinished",
        writer=_writer(folder),
        trained=_trained(folder / "model"),
        to_train=networks,
        levels=levels,
        missing=missing,
        passed_over=tuple(f"{ignored.path}: {ignored.reason}" for ignored in scan.ignored),
        clipped=sum(entry.clipped for entry in known.values()),
        skipped=sum(entry.skipped for entry in known.values()),
        seconds=sum(entry.seconds for entry in known.values()),
        method=_method(record),
        created=str(record.provenance.get("created", "")),
        command=str(record.provenance.get("command", "")),
        training=tuple(_trainings(folder, networks, _steps(record))),
    )


def find_run(path: PlaceLike) -> tuple[Place, RunRecord, WorkRecord]:
    """Find the records of a run in its output.

    Raises
    ------
    OutputError
        if there is no output of bigdecon, or its records are damaged or of an older version
    """
    root = result_place(path)
    record = read_run(root / BOOKKEEPING / "run.json")
    if record is None or record.work is None:
        raise OutputError(
            f"{root} does not tell how it was made, as write_ome_zarr or an older bigdecon wrote it; "
            "give the folder that bigdecon run wrote."
        )
    return root, record, WorkRecord.from_json(record.work)


def _level(work: WorkRecord, level: int, scan: LedgerScan) -> LevelStatus:
    keys = work.keys(level)
    done = [key for key in keys if key in scan.finished]
    voxels = sum(key.voxels for key in done)
    voxels += sum(
        key.voxels - _missing_voxels(scan.faulty[key]) for key in keys if key in scan.faulty and not level
    )
    return LevelStatus(level, len(done), len(keys), voxels, sum(key.voxels for key in keys))


def _missing_voxels(record: RegionRecord) -> int:
    """Count the voxels of the blocks that a region lacks."""
    return sum(RegionKey(0, 0, 0, *fault.extent).voxels for fault in record.faults)


def _method(record: RunRecord) -> str:
    return str(record.provenance["configuration"].get("method", ""))


def _trained(folder: Place) -> int:
    """Count the networks that are described."""
    try:
        found = places.names(folder)
    except OSError as error:
        raise OutputError(f"{folder} cannot be listed ({error.strerror or error}).") from error
    return sum(name.startswith("channel-") and name.endswith(".json") for name in found)


def _trainings(folder: Place, channels: int, steps: int) -> Iterator[TrainingStatus]:
    """Give the trainings that have saved a state, and no network yet."""
    for channel in range(channels):
        name = f"channel-{channel}"
        try:
            if places.exists(folder / "model" / f"{name}.json"):
                continue
            progress = read_progress(folder / "training" / f"{name}.safetensors")
        except OSError:
            continue  # a look at progress is no reason to fail
        if progress is not None:
            yield TrainingStatus(channel, progress.step, steps, progress.seconds, progress.held_out_error)


def _steps(record: RunRecord) -> int:
    """Give the steps that a training takes at most; 0 where the record does not say."""
    training = record.provenance["configuration"].get("chosen", {}).get("training")
    steps = training.get("steps") if isinstance(training, dict) else None
    return int(steps) if steps is not None and is_whole(steps, 1) else 0


def _writer(folder: Place) -> Holder | None:
    """Tell who is writing; a lease that a dead process of this machine left behind counts as none."""
    holder = find_holder(folder)
    return None if holder is None or holder.is_dead else holder
