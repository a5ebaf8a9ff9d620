"""`bigdecon status`: how far a run is, from its output on disk."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bigdecon.deconvolution.lease import Holder
    from bigdecon.deconvolution.ledger import RegionKey
    from bigdecon.running.run_status import RunStatus, TrainingStatus

MOST_LINES = 20
EXPIRE_SECONDS = 60.0
"""A writer that has given no sign for so long may have ended; the clocks of two machines may differ, too."""


@click.command("status", short_help="Show how far a run is, from its result on disk.")
@click.argument("output", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts; lists every missing block.")
def command(output: str, as_json: bool) -> None:
    """Show how far the run that writes OUTPUT is: what is done, what is missing, and why.

    OUTPUT is the folder of the result, finished or not. Only files are read: the run may be going on
    elsewhere, or have crashed.

    \b
    Example:
      bigdecon status volume.deconvolved.ome.zarr
    """  # noqa: D301
    from bigdecon.io.output_folder import result_place

    result_place(output)
    from bigdecon.running.run_status import run_status

    status = run_status(output)
    click.echo(json.dumps(as_plain(status)) if as_json else "\n".join(describe(status)))


def as_plain(status: RunStatus) -> dict[str, Any]:
    """Give plain JSON values."""
    missing = [
        {**_place(key), "start": fault.extent.start, "stop": fault.extent.stop, "reason": fault.reason}
        for key, fault in status.missing
    ]
    levels = [level._asdict() for level in status.levels]
    training = [one._asdict() for one in status.training]
    return {
        **asdict(status),
        "output": str(status.output),
        "levels": levels,
        "missing": missing,
        "training": training,
    }


def describe(status: RunStatus) -> list[str]:
    """Give the lines of the text, labels aligned."""
    rows = [
        ("result", str(status.output)),
        ("state", _state(status)),
        *([("writer", _writer(status))] if status.writer or status.state != "finished" else []),
        ("method", f"{status.method}, begun {status.created}"),
    ]
    if status.command:
        rows.append(("command", status.command))
    if status.to_train:
        rows.append(("trained", f"{status.trained} of {status.to_train} networks"))
    rows += [("", _training(training)) for training in status.training]
    for level in status.levels:
        part = f"{level.voxels / level.all_voxels:.1%}"
        rows.append((f"level {level.level}", f"{level.done} of {level.total} regions, {part} of the voxels"))
    if status.skipped:
        rows.append(("skipped", f"{status.skipped} blocks, constant or dim"))
    if status.clipped:
        rows.append(("clipped", f"{status.clipped} voxels"))
    rows += _missing(status)
    rows += [("passed over", text) for text in status.passed_over[:MOST_LINES]]
    return [f"{label:<11} {value}".rstrip() for label, value in rows]


def _training(training: TrainingStatus) -> str:
    of = f" of {training.steps}" if training.steps else ""
    error = "" if training.held_out_error is None else f", held-out error {training.held_out_error:.4g}"
    took = f"{training.seconds:.0f} s" if training.seconds < 120 else f"{training.seconds / 60:.0f} min"
    return f"channel {training.channel}: step {training.step}{of}, after {took}{error}"


def _state(status: RunStatus) -> str:
    if status.state == "finished":
        return "finished"
    if status.writer and _silent_seconds(status.writer) < EXPIRE_SECONDS:
        return "being written"
    if status.state == "incomplete":
        return f"done but for {len(status.missing)} blocks; the same bigdecon run command tries them again"
    return "not finished: give the same bigdecon run command again"


def _writer(status: RunStatus) -> str:
    if status.writer is None:
        return "none"
    silent = _silent_seconds(status.writer)
    return f"process {status.writer.pid} on {status.writer.host}, last sign {silent:.0f} s ago by our clock"


def _silent_seconds(writer: Holder) -> float:
    return max(0.0, time.time() - writer.renewed)


def _missing(status: RunStatus) -> list[tuple[str, str]]:
    rows = []
    for key, fault in status.missing[:MOST_LINES]:
        sides = zip(fault.extent.start, fault.extent.stop, strict=True)
        place = _place(key)
        where = ",".join(f"{start}:{stop}" for start, stop in sides)
        text = (
            f"block [{where}] of channel {place['channel']}, time point {place['timepoint']}: {fault.reason}"
        )
        rows.append(("missing", text))
    if len(status.missing) > MOST_LINES:
        rows.append(("", f"and {len(status.missing) - MOST_LINES} more blocks; --json lists all"))
    return rows


def _place(key: RegionKey) -> dict[str, int]:
    return {"channel": key.channel, "timepoint": key.timepoint}
