"""`bigdecon evaluate`: scores of a result against the truth."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bigdecon.errors import OptionError, VolumeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bigdecon.evaluation.metrics import Evaluation, Scores
    from bigdecon.volume import Volume

__all__ = ["command"]

HEADINGS = {"rmse": "RMSE", "psnr": "PSNR (dB)", "ssim": "SSIM", "mi": "MI", "smi": "SMI"}


@click.command()
@click.argument("result")
@click.argument("truth")
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
    picture: Path | None,
    as_json: bool,
) -> None:
    """Score RESULT against TRUTH, two images of one shape.

    The row "plain" compares the values as they are; the row "affine" after the scale and offset that
    fit the result to the truth best, as the 3D scores of Papkov et al. 2023 do. MI is the mutual information
    of the values, SMI that of their cosine transforms, both over the joint entropy.

    \b
    Examples:
      bigdecon evaluate demo/noisy.deconvolved.ome.zarr demo/truth.ome.zarr
      bigdecon evaluate result.tif truth.tif --data-range 1 --crop-border 8 --json
    """  # noqa: D301 (click needs the control character)
    from bigdecon.evaluation.metrics import evaluate
    from bigdecon.io.provenance import is_unfinished
    from bigdecon.io.reading import open_volume

    if is_unfinished(result):
        raise VolumeError(f"{result} is not finished; give the same bigdecon run command again first.")
    volumes = [
        open_volume(path, level=level, channel=channel, timepoint=timepoint) for path in (result, truth)
    ]
    shapes = [volume.spatial_shape for volume in volumes]
    if shapes[0] != shapes[1]:
        raise VolumeError(f"{result} has the shape {shapes[0]} and {truth} {shapes[1]}; they must agree.")
    images = [_read(volume, crop_border) for volume in volumes]
    scores = evaluate(*images, data_range=data_range)
    if picture is not None:
        _draw(images, volumes, picture)
    click.echo(_as_json(scores, images[0].shape) if as_json else _as_table(scores))


def _read(volume: Volume, crop_border: int) -> NDArray[Any]:
    stack = volume.stack()
    if min(stack.shape) <= 2 * crop_border:
        raise OptionError(f"--crop-border {crop_border} leaves nothing of the shape {stack.shape}.")
    return stack[tuple(slice(crop_border, n - crop_border) for n in stack.shape)]


def _draw(images: list[NDArray[Any]], volumes: list[Volume], path: Path) -> None:
    from bigdecon.evaluation.pictures import comparison_picture

    size = volumes[0].voxel_size_um or volumes[1].voxel_size_um
    comparison_picture([("result", images[0]), ("truth", images[1])], path, voxel_size_um=size)


def _as_json(scores: Evaluation, shape: tuple[int, ...]) -> str:
    content = {**asdict(scores), "shape": shape}
    for row in ("plain", "affine"):
        if content[row]["psnr"] == float("inf"):
            content[row]["psnr"] = None
    return json.dumps(content)


def _as_table(scores: Evaluation) -> str:
    names = [field.name for field in fields(scores.plain)]
    lines = ["        " + "".join(f"{HEADINGS[name]:>11}" for name in names)]
    for label, row in (("plain", scores.plain), ("affine", scores.affine)):
        lines.append(f"{label:<8}" + "".join(f"{_rounded(row, name):>11}" for name in names))
    lines.append(f"affine fit: {scores.fit.scale:.4g} x result {scores.fit.offset:+.4g}")
    lines.append(f"data range: {scores.data_range:.4g}")
    return "\n".join(lines)


def _rounded(row: Scores, name: str) -> str:
    value = getattr(row, name)
    return f"{value:.2f}" if name == "psnr" else f"{value:.4g}" if name == "rmse" else f"{value:.3f}"
