"""`bigdecon psf reorder`: bring the axes of a PSF file into the order z, y, x."""

from __future__ import annotations

from pathlib import Path

import click
from bigdecon_cli.psf_output import check_output

__all__ = ["command"]

ORDERS = ("yzx", "yxz", "xyz", "xzy", "zxy")
EXAMPLE = "bigdecon psf reorder psf.tif --axes yxz -o psf_zyx.tif"


@click.command("reorder", epilog=f"\b\nExample:\n  {EXAMPLE}")
@click.argument("psf", type=click.Path())
@click.option("--axes", required=True, type=click.Choice(ORDERS), help="The order that the file has now.")
@click.option("-o", "--output", required=True, type=click.Path(), help="TIFF file to write.")
@click.option(
    "--voxel-size", nargs=3, type=float, metavar="Z Y X", help="Of the PSF, in µm; default its own."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output file.")
def command(
    psf: str, axes: str, output: str, voxel_size: tuple[float, float, float] | None, overwrite: bool
) -> None:
    """Bring the axes of a PSF into the order z, y, x.

    Where the file has voxel sizes they are moved with the axes; check what is printed, and give --voxel-size
    where they stood in the right order before.
    """
    from bigdecon.errors import OutputError, PSFError
    from bigdecon.optics.psf_path import check_psf_path

    check_output(Path(output), overwrite)
    check_psf_path(psf)
    import numpy as np

    from bigdecon.optics.psf_file import read_psf_file, write_psf_file

    array, size = read_psf_file(psf)
    if array.ndim != 3:
        raise PSFError(f"{psf} has {array.ndim} dimensions; only three can be in another order than z, y, x.")
    places = [axes.index(axis) for axis in "zyx"]
    ordered = np.ascontiguousarray(array.transpose(places), np.float32)
    moved = voxel_size or (None if size is None else tuple(size[place] for place in places))
    try:
        write_psf_file(output, ordered, moved)
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror or error}.") from error
    shape = " × ".join(map(str, ordered.shape))
    voxels = "unknown size" if moved is None else f"{' × '.join(f'{v:g}' for v in moved)} µm"
    click.echo(f"{output}: {shape} voxels of {voxels} (z, y, x)")
