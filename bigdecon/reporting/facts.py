"""How a result was made, as rows of a table: image, settings, time and machine, versions."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from bigdecon.addresses import shown_url
from bigdecon.config import RunConfig
from bigdecon.distributed.allocation import allocated_cores
from bigdecon.reporting.subject import Subject
from bigdecon.running.classical_settings import how_chosen, settings_in_words

__all__ = ["Row", "describe_machine", "facts_of", "method_in_words"]

EARLIER = "without what an earlier, interrupted run had done"
SLACK_SECONDS = 300.0
"""Making the report may take as long, and it comes after the run."""
TOLD_ELSEWHERE = {"input", "output", "psf", "method", "tiling", "slurm", "dry_run", "overwrite", "report"}


class Row(NamedTuple):
    """A line of a table."""

    name: str
    value: str
    remark: str = ""


def facts_of(
    subject: Subject, seconds: float | None, machine: str
) -> tuple[tuple[str, tuple[Row, ...]], ...]:
    """Gather the tables, each with a heading."""
    groups = (
        ("Image", _image(subject)),
        ("Method", _method(subject)),
        ("Time and machine", _time(subject, seconds, machine)),
        ("Versions", _versions(subject)),
    )
    return tuple((heading, tuple(rows)) for heading, rows in groups)


def _image(subject: Subject) -> Iterator[Row]:
    source = subject.record.provenance["input"]
    yield Row("Input", shown_url(str(source.get("location") or subject.config.input)))
    yield Row("Result", str(subject.output))
    result = subject.result
    shape = " × ".join(str(n) for n in result.shape)
    yield Row("Shape", f"{shape} ({', '.join(result.axes)})", f"{source.get('dtype')} → {result.dtype}")
    size = result.voxel_size_um
    yield Row("Voxel size", " × ".join(f"{s:g}" for s in size) + " µm" if size else "unknown")
    for channel, stats in zip(result.channels, subject.stats, strict=True):
        name = f"Brightness, {channel.name}" if result.n_channels > 1 else "Brightness"
        yield Row(name, f"{stats.minimum:.4g} to {stats.maximum:.4g}, mean {stats.mean:.4g}", stats.unread)


def _method(subject: Subject) -> Iterator[Row]:
    config = subject.config
    yield Row("Method", method_in_words(config))
    for channel, tuned in enumerate(subject.tuned):
        several = len(subject.tuned) > 1
        name = f"Settings, {subject.result.channels[channel].name}" if several else "Settings"
        yield Row(name, settings_in_words(config.method, tuned.settings), how_chosen(tuned))
    for model in subject.models[:1]:
        network, steps = model.config.network, model.config.steps
        taken = model.curve[-1].step if model.curve else steps
        yield Row("Network", f"{network.channels} channels, {network.depth} levels")
        yield Row(
            "Training",
            f"{taken} of {steps} steps",
            f"ended by {model.stopped_by}, {model.training_precision}",
        )
    given = [row for row in _given(config) if row.name not in TOLD_ELSEWHERE]
    if given:
        yield Row("Asked for", ", ".join(f"{row.name.replace('_', '-')} {row.value}" for row in given))
    yield Row("Seed", str(config.seed))


def method_in_words(config: RunConfig) -> str:
    """Name the method, and what follows it."""
    after = f", then {config.refine} iterations of richardson-lucy" if config.refine is not None else ""
    return f"{config.method}{after}"


def _given(config: RunConfig) -> Iterator[Row]:
    """List the settings that are not what they are by default."""
    plain = RunConfig(input="", psf=())
    for field in fields(RunConfig):
        value = getattr(config, field.name)
        if value != getattr(plain, field.name) and field.name != "seed":
            yield Row(field.name, shown_url(_short(value)))
    for field in fields(type(plain.tiling)):
        value = getattr(config.tiling, field.name)
        if value != getattr(plain.tiling, field.name):
            yield Row(field.name, _short(value))


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, tuple):
        return " ".join(map(_short, value))
    return str(value)


def _time(subject: Subject, seconds: float | None, machine: str) -> Iterator[Row]:
    yield Row("Begun", subject.status.created.replace("T", " ").replace("+00:00", " UTC"))
    if seconds is not None:
        earlier = "" if _in_one_go(subject.status.created, seconds) else EARLIER
        yield Row("Run", duration(seconds), earlier)
    for channel, model in zip(subject.result.channels, subject.models, strict=False):
        name = f"Training, {channel.name}" if len(subject.models) > 1 else "Training"
        yield Row(name, duration(model.seconds), f"on {model.device}")
    yield Row("Regions", duration(subject.status.seconds), "sum over all, some of them at the same time")
    skipped = subject.status.skipped
    if skipped:
        yield Row("Skipped", f"{skipped} blocks", "constant, or dimmer than --skip-dim")
    yield Row("Device", str(subject.record.provenance.get("device", "unknown")), machine)


def _in_one_go(created: str, seconds: float) -> bool:
    """Tell whether a run of so many seconds that has just ended is the one that began the result."""
    try:
        begun = datetime.fromisoformat(created)
        return (datetime.now(UTC) - begun).total_seconds() < seconds + SLACK_SECONDS
    except (ValueError, TypeError):
        return True


def duration(seconds: float) -> str:
    """Put a time into words."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _versions(subject: Subject) -> Iterator[Row]:
    versions = subject.record.provenance.get("versions")
    for name, version in versions.items() if isinstance(versions, dict) else ():
        yield Row(str(name), str(version))


def describe_machine() -> str:
    """Say on what this process runs: processor, cores, GPU."""
    cores = allocated_cores()
    parts = [_processor(), f"{cores} cores" if cores != 1 else "1 core"]
    import torch

    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name(0))
    return ", ".join(part for part in parts if part)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
