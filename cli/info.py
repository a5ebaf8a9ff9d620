"""`bigdecon info`: show what bigdecon sees in an image file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bigdecon.io.reading import LevelSummary, VolumeSummary

BYTES_PER_STEP = 1024


@click.command("info", short_help="Show what bigdecon sees in an image file.")
@click.argument("volume", type=click.Path())
@click.option("--follow-links", is_flag=True, help="Links inside a Zarr store may lead out of it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def command(volume: str, follow_links: bool, as_json: bool) -> None:
    """Show what bigdecon sees in VOLUME: format, axes, levels, voxel size, channels.

    VOLUME is an OME-Zarr, plain Zarr, TIFF, OME-TIFF or ImageJ TIFF image: a local path, or an
    http(s):// or s3:// address. Only metadata is read.

    \b
    Example:
      bigdecon info volume.ome.zarr
      bigdecon info --json s3://bucket/volume.ome.zarr
    """  # noqa: D301
    from bigdecon.io.image_paths import check_image_path

    check_image_path(volume)
    from bigdecon.io.provenance import is_unfinished
    from bigdecon.io.reading import inspect_volume

    summary = inspect_volume(volume, follow_links=follow_links)
    if as_json:
        click.echo(json.dumps(summary.as_dict()))
        return
    lines = describe(summary)
    if is_unfinished(volume):
        lines.append(f"{'note':<11} not finished: give the same bigdecon run command again")
    click.echo("\n".join(lines))


def describe(summary: VolumeSummary) -> list[str]:
    """Give the lines of the text, labels aligned."""
    finest = summary.levels[0]
    rows = [
        ("location", summary.location),
        ("format", summary.format),
        ("axes", ", ".join(summary.axes)),
        ("shape", sizes(finest.shape)),
        ("type", finest.dtype),
        ("voxel size", voxel_size(finest.voxel_size_um, summary.axes)),
        ("channels", ", ".join(channel.name for channel in summary.channels if channel.name)),
        ("objective", objective(summary)),
        ("time step", "" if summary.time_step is None else f"{summary.time_step:g} {summary.time_unit}"),
        ("in memory", readable_bytes(summary.voxel_bytes)),
        ("on disk", "" if summary.stored_bytes is None else readable_bytes(summary.stored_bytes)),
    ]
    lines = [f"{label:<11} {value}" for label, value in rows if value]
    for i, level in enumerate(summary.levels):
        lines.append(f"{f'level {i}':<11} {describe_level(level)}")
    return lines + [f"{'note':<11} {note}" for note in summary.notes]


def objective(summary: VolumeSummary) -> str:
    """Say what the file tells of objective and light."""
    known = summary.objective
    parts = [] if known.numerical_aperture is None else [f"NA {known.numerical_aperture:g}"]
    if known.refractive_index is not None:
        parts.append(f"immersion of index {known.refractive_index:g}")
    light = [f"{channel.emission_um:g}" for channel in summary.channels if channel.emission_um is not None]
    return ", ".join([*parts, *([f"light of {', '.join(light)} µm"] if light else [])])


def describe_level(level: LevelSummary) -> str:
    """Give one level's shape, chunks, shards and voxel size in a line."""
    parts = [sizes(level.shape), f"chunks {sizes(level.chunks)}"]
    if level.shards is not None:
        parts.append(f"shards {sizes(level.shards)}")
    if level.voxel_size_um is not None:
        parts.append(f"voxels {sizes(level.voxel_size_um)} µm")
    return ", ".join(parts)


def voxel_size(size_um: Sequence[float] | None, axes: str) -> str:
    """Give the voxel size with its axes, or what to do where it is unknown."""
    letters = ", ".join(axis for axis in axes if axis in "zyx")
    if size_um is None:
        return "unknown (give it to run, plan or convert with --voxel-size, in micrometres)"
    return f"{sizes(size_um)} µm ({letters})"


def sizes(values: Sequence[float]) -> str:
    """Join numbers with a multiplication sign."""
    return " × ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def readable_bytes(n: float) -> str:
    """Give a size in the largest unit that leaves a number of at least 1."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if n < BYTES_PER_STEP or unit == "TiB":
            return f"{n:.0f} B" if unit == "B" else f"{n:.1f} {unit}"
        n /= BYTES_PER_STEP
    return ""
