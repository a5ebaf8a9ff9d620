"""`bigdecon convert`: copy an image into another format."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
from bigdecon_cli.options import VoxelSize

if TYPE_CHECKING:
    from bigdecon.running.converting import ConversionPlan, ConversionResult


@click.command("convert", short_help="Copy an image into another format: TIFF, OME-TIFF, OME-Zarr.")
@click.argument("input_path", metavar="INPUT")
@click.argument("output_path", metavar="OUTPUT")
@click.option(
    "--stack", metavar="LETTERS", help="What the numbers in the names of a series mean: t, c or z each."
)
@click.option("--voxel-size", cls=VoxelSize, help="Voxel size of the image, µm (2D: 1 Y X).")
@click.option("--level", default=0, show_default=True, help="Resolution level, 0 is the finest.")
@click.option("--channel", multiple=True, metavar="C", help="Index or name; repeatable; default all.")
@click.option("--timepoint", type=int, help="Index of one time point; default all.")
@click.option("--roi", metavar="z0:z1,y0:y1,x0:x1", help="Region of interest, in voxels.")
@click.option("--follow-links", is_flag=True, help="Links inside a Zarr store may lead out of it.")
@click.option("--dtype", help="Of the values; integers are rounded [default: the input's].")
@click.option(
    "--ome-version",
    type=click.Choice(["0.5", "0.4"]),
    default="0.5",
    show_default=True,
    help="Of an OME-Zarr; 0.4 for older viewers.",
)
@click.option("--tiled", is_flag=True, help="OME-TIFF with compressed tiles and a pyramid, for large planes.")
@click.option("--overwrite", is_flag=True, help="Replace a TIFF, or an earlier result of bigdecon.")
@click.option(
    "--cluster",
    default="local",
    show_default=True,
    metavar="local|tcp://HOST:PORT|FILE",
    help="Who copies into an OME-Zarr: workers here, or a running scheduler's.",
)
@click.option("--workers", type=int, help="Worker processes; default one.")
@click.option("--threads", type=int, help="CPU threads of a worker; default all.")
@click.option("--memory-limit", metavar="SIZE", help="Of a worker, as 4GiB; default the machine's.")
@click.option("--quiet", is_flag=True, help="Print warnings and errors only.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def command(input_path: str, output_path: str, *, quiet: bool, as_json: bool, **settings: Any) -> None:
    """Copy INPUT into OUTPUT, whose name tells the format: .ome.zarr, or .ome.tif.

    INPUT is an OME-Zarr, a TIFF, or a series of TIFFs: their folder, or a pattern in quotes. Voxel size,
    axes, channels, time step and origin are kept, and what OUTPUT cannot hold is told. Images may be larger
    than memory. OUTPUT has its name when it is whole; the same command goes on with an OME-Zarr that was
    interrupted.

    \b
    Examples:
      bigdecon convert stack.tif volume.ome.zarr --voxel-size 0.3 0.13 0.13
      bigdecon convert "planes/*.tif" volume.ome.zarr
      bigdecon convert result.ome.zarr result.ome.tif
    """  # noqa: D301
    from bigdecon_cli.display import choose_display, endings_told

    from bigdecon.running.conversion_checks import Conversion, check_conversion

    settings["channel"] = tuple(settings["channel"])
    config = Conversion(input_path, output_path, **settings)

    def show_plan(plan: ConversionPlan) -> None:
        if not quiet and not as_json:
            click.echo("\n".join(describe(plan)))

    stopped = "Stopped. The same command continues, or begins anew with a TIFF."
    with choose_display(quiet=quiet, as_json=as_json) as display, endings_told(stopped, as_json=as_json):
        check_conversion(config)
        from bigdecon.running.converting import convert_image

        result = convert_image(config, on_plan=show_plan, on_event=display)
    _conclude(result, quiet=quiet, as_json=as_json)


def describe(plan: ConversionPlan) -> list[str]:
    """Give the plan in lines, labels aligned."""
    from bigdecon_cli.info import readable_bytes, sizes, voxel_size

    volume = plan.volume
    rows = [
        ("input", f"{', '.join(volume.axes)} = {sizes(volume.shape)}, {volume.dtype}"),
        ("voxel size", voxel_size(volume.voxel_size_um, volume.axes)),
        ("output", f"{plan.format}, {plan.dtype}, at most {readable_bytes(plan.largest_bytes)}"),
    ]
    return [f"{label:>12}  {text}" for label, text in rows] + [f"{'note':>12}  {note}" for note in plan.notes]


def _conclude(result: ConversionResult, *, quiet: bool, as_json: bool) -> None:
    output = str(result.plan.output)
    if as_json:
        content = {"state": result.state, "output": output, "clipped_voxels": result.clipped}
        click.echo(json.dumps({"event": "Result", **content}))
        return
    if result.clipped:
        click.echo(
            f"Warning: {result.clipped} voxels were beyond the range of {result.plan.dtype}: clipped.",
            err=True,
        )
    if quiet:
        return
    if result.state == "found finished":
        click.echo(f"{output} was finished by an earlier run of this command; nothing was done.")
    else:
        click.echo(f"Result: {output}")
