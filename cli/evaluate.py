"""`bigdecon evaluate`: scores of a result against the truth."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bigdecon.errors import OptionError, OutputError, VolumeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bigdecon.evaluation.metrics import Evaluation, Scores
    from bigdecon.volume import Box, Stack, Volume

__all__ = ["command"]

HEADINGS = {"rmse": "RMSE", "psnr": "PSNR (dB)", "ssim": "SSIM", "mi": "MI", "smi": "SMI"}
# How exactly metadata must agree for one image to be a part of another.
SAME_SIZE = 1e-3
WHOLE_VOXEL = 0.01


@click.command()
@click.argument("result", type=click.Path())
@click.argument("truth", type=click.Path())
@click.option(
    "--level", type=click.IntRange(min=0), default=0, show_default=True, help="Pyramid level of both."
)
@click.option("--channel", help="Index or name [default: the first].")
@click.option("--timepoint", type=click.IntRange(min=0), help="Index of the time point [default: the first].")
@click.option("--data-range", type=float, help="Peak for PSNR and SSIM [default: the truth's range].")
@click.option(
    "--crop-border",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Leave out N voxels at every side.",
)
@click.option(
    "--without-smi", is_flag=True, help="Leave out SMI, which needs temporary files for large images."
)
@click.option("--picture", type=click.Path(path_type=Path), help="Write a PNG of result and truth.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    result: str,
    truth: str,
    level: int,
    channel: str | None,
    timepoint: int | None,
    data_range: float | None,
    crop_border: int,
    without_smi: bool,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Score RESULT against TRUTH, two images of one shape, or a part of an image and the whole.

    The row "plain" compares the values as they are; the row "affine" after the scale and offset that
    fit the result to the truth best, as the 3D scores of Papkov et al. 2023 do. MI is the mutual information
    of the values, SMI that of their cosine transforms, both over the joint entropy.

    Images may be larger than memory. SMI then needs temporary files in the folder that TMPDIR names: 4 to
    8 bytes a voxel of each image. Where RESULT is a part of TRUTH, as after `bigdecon run --roi`, TRUTH is
    cropped to it.

    \b
    Examples:
      bigdecon evaluate demo/noisy.deconvolved.ome.zarr demo/truth.ome.zarr
      bigdecon evaluate result.tif truth.tif --data-range 1 --crop-border 8 --json
    """  # noqa: D301 (click needs the control character)
    from bigdecon.io.image_paths import check_image_path

    if picture is not None:
        _check_picture(picture)
    for image in (result, truth):
        check_image_path(image)
    from bigdecon.evaluation.boxwise import evaluate_stacks
    from bigdecon.io.provenance import is_unfinished
    from bigdecon.io.reading import open_volume

    if is_unfinished(result):
        raise VolumeError(f"{result} is not finished; give the same bigdecon run command again first.")
    scored, known = (
        open_volume(path, level=level, channel=channel, timepoint=timepoint) for path in (result, truth)
    )
    if scored.spatial_shape != known.spatial_shape:
        known = _crop_to(scored, known, result, truth)
    stacks = scored.stack(), known.stack()
    scores = evaluate_stacks(*stacks, data_range=data_range, smi=not without_smi, crop_border=crop_border)
    shape = [n - 2 * crop_border for n in scored.spatial_shape]
    click.echo(_as_json(scores, shape) if as_json else _as_table(scores))
    if picture is not None:
        _draw(stacks, crop_border, scored.voxel_size_um or known.voxel_size_um, picture)


def _check_picture(path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise OptionError(f"--picture {path} is no PNG; give a name that ends in .png.")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"the picture {path} cannot be written: there is no folder {path.parent}.")


def _crop_to(scored: Volume, known: Volume, result: str, truth: str) -> Volume:
    """Crop the truth to where the result lies in it, by their metadata; say so in one line."""
    box = _place(scored, known)
    if box is None:
        shapes = scored.spatial_shape, known.spatial_shape
        raise VolumeError(f"{result} has the shape {shapes[0]} and {truth} {shapes[1]}; they must agree.")
    ranges = ", ".join(
        f"{axis} {part.start}:{part.stop}" for axis, part in zip(known.spatial_axes, box, strict=True)
    )
    click.echo(f"{truth} is cropped to the place of {result} in it: {ranges}", err=True)
    return known.crop(box)


def _place(part: Volume, whole: Volume) -> Box | None:
    """Find where one image lies within another, in whole voxels; None if it does not."""
    sizes = [volume.voxel_size_um for volume in (part, whole)]
    if part.spatial_axes != whole.spatial_axes:
        return None
    if all(sizes) and any(abs(a - b) > SAME_SIZE * b for a, b in zip(*sizes, strict=True)):
        return None
    corners = zip(_corner(part), _corner(whole), strict=True)
    starts = [own - origin for own, origin in corners]
    if any(abs(start - round(start)) > WHOLE_VOXEL for start in starts):
        return None
    box = tuple(slice(round(s), round(s) + n) for s, n in zip(starts, part.spatial_shape, strict=True))
    fits = all(b.start >= 0 and b.stop <= n for b, n in zip(box, whole.spatial_shape, strict=True))
    return box if fits else None


def _corner(volume: Volume) -> list[float]:
    """Place of the first voxel, in voxels; where their size is unknown the metadata count in voxels."""
    step = volume.voxel_size_um or (1.0,) * len(volume.spatial_axes)
    return [t / s for t, s in zip(volume.translation_um, step, strict=True)]


def _draw(stacks: tuple[Stack, Stack], border: int, size_um: tuple[float, ...] | None, path: Path) -> None:
    """Draw what a picture shows of large images, and read no more of them."""
    from bigdecon.evaluation.boxwise import without_border
    from bigdecon.evaluation.pictures import centre_box, comparison_picture

    inner = [without_border(stack, border) for stack in stacks]
    box = centre_box(inner[0].shape)
    images = [(name, stack[box]) for name, stack in zip(("result", "truth"), inner, strict=True)]
    comparison_picture(images, path, voxel_size_um=size_um)


def _as_json(scores: Evaluation, shape: Sequence[int]) -> str:
    content = {**asdict(scores), "shape": shape}
    for row in ("plain", "affine"):
        if content[row]["psnr"] == float("inf"):
            content[row]["psnr"] = None
    return json.dumps(content)


def _as_table(scores: Evaluation) -> str:
    known = [field.name for field in fields(scores.plain) if getattr(scores.plain, field.name) is not None]
    lines = ["        " + "".join(f"{HEADINGS[name]:>11}" for name in known)]
    for label, row in (("plain", scores.plain), ("affine", scores.affine)):
        lines.append(f"{label:<8}" + "".join(f"{_rounded(row, name):>11}" for name in known))
    lines.append(f"affine fit: {scores.fit.scale:.4g} x result {scores.fit.offset:+.4g}")
    lines.append(f"data range: {scores.data_range:.4g}")
    return "\n".join(lines)


def _rounded(row: Scores, name: str) -> str:
    value = getattr(row, name)
    return f"{value:.2f}" if name == "psnr" else f"{value:.4g}" if name == "rmse" else f"{value:.3f}"
