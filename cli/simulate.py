"""`bigdecon simulate`: a test volume of any size, with its truth and its PSF."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bigdecon.errors import OptionError, OutputError

if TYPE_CHECKING:
    from bigdecon.optics.psf import PSF
    from bigdecon.optics.simulation import NoiseModel, SimulatedSource

__all__ = ["command"]

KINDS = ("filaments", "points", "nuclei", "bars")
NOISY, TRUTH, PSF_FILE = "noisy.ome.zarr", "truth.ome.zarr", "psf.tif"


@click.command()
@click.argument("kind", type=click.Choice(KINDS))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder to write into.")
@click.option(
    "--shape",
    nargs=3,
    type=click.IntRange(min=1),
    default=(64, 128, 128),
    show_default=True,
    metavar="Z Y X",
    help="Extent in voxels; with Z = 1 a 2D image.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another seed, another volume."
)
@click.option("--psf", type=click.Path(path_type=Path), help="PSF file [default: that of the paper, NA 0.8].")
@click.option(
    "--voxel-size",
    nargs=3,
    type=click.FloatRange(min=0, min_open=True),
    metavar="Z Y X",
    help="Voxel size in µm, to which the PSF is resampled [default: the PSF's own; not used along Z in 2D].",
)
@click.option(
    "--poisson", type=float, default=0.001, show_default=True, help="Variance of shot noise per signal."
)
@click.option(
    "--gaussian", type=float, default=0.1, show_default=True, help="Standard deviation of read-out noise."
)
@click.option("--salt-and-pepper", type=float, help="Share of dead and hot voxels [default: 0; in 2D 0.01].")
@click.option(
    "--bits", type=int, default=10, show_default=True, help="Depth of the camera; 0 for no rounding."
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "uint16"]),
    default="float32",
    show_default=True,
    help="float32 runs from 0 to 1, uint16 in counts from 0 to 2^bits - 1.",
)
@click.option(
    "--offset", type=float, default=0.0, show_default=True, help="Camera offset, in the output's units."
)
def command(
    kind: str,
    output: Path,
    shape: tuple[int, int, int],
    seed: int,
    psf: Path | None,
    voxel_size: tuple[float, float, float] | None,
    poisson: float,
    gaussian: float,
    salt_and_pepper: float | None,
    bits: int,
    dtype: str,
    offset: float,
) -> None:
    """Make a test volume: noisy image, truth and PSF.

    KIND is filaments, points, nuclei or bars. The folder receives noisy.ome.zarr, truth.ome.zarr and
    psf.tif. Noise and PSF default to those of Papkov et al. 2023. Volumes may be larger than memory.

    \b
    Examples:
      bigdecon simulate filaments -o demo
      bigdecon simulate nuclei -o large --shape 1024 2048 2048 --dtype uint16 --offset 100
      bigdecon simulate bars -o flat --shape 1 512 512
    """  # noqa: D301 (click needs the control character)
    extents = shape if shape[0] > 1 else shape[1:]
    _refuse_existing(output)
    from bigdecon.optics.simulation import NoiseModel, paper_noise

    if salt_and_pepper is None:
        salt_and_pepper = paper_noise(len(extents)).salt_and_pepper
    noise = NoiseModel(poisson, gaussian, salt_and_pepper, bits)
    used_psf = _open_psf(psf, voxel_size, extents)
    source = _source(kind, extents, seed, used_psf, noise, dtype, offset)
    _write(output, source, used_psf, dtype)


def _refuse_existing(output: Path) -> None:
    for name in (NOISY, TRUTH, PSF_FILE):
        if (output / name).exists():
            raise OutputError(f"{output / name} exists already; give another folder with --output.")
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file; give a folder with --output.")


def _open_psf(path: Path | None, voxel_size: tuple[float, ...] | None, extents: tuple[int, ...]) -> PSF:
    """Load the PSF at the simulated volume's voxel size, or at its own where none is given."""
    if path is None:
        from bigdecon.optics.simulation import paper_psf

        if voxel_size is not None:
            raise OptionError("--voxel-size needs --psf: the paper's PSF has voxels of 0.406 µm.")
        return paper_psf(len(extents))
    from bigdecon.optics.psf import load_psf, read_psf_file

    own = read_psf_file(path)[1]
    given = None if voxel_size is None else voxel_size[-len(extents) :]
    return load_psf(
        path, voxel_size_um=given or own, psf_voxel_size_um=None if own else given, ndim=len(extents)
    )


def _source(
    kind: str,
    extents: tuple[int, ...],
    seed: int,
    psf: PSF,
    noise: NoiseModel,
    dtype: str,
    offset: float,
) -> SimulatedSource:
    from bigdecon.optics.simulation import SimulatedSource
    from bigdecon.optics.specimens import SPECIMENS

    if dtype == "float32":
        gain = 1.0
    else:
        gain = float(2 ** (noise.bits or 16) - 1)
        if not 0 <= offset <= 65535 - gain:
            raise OptionError(f"--offset {offset:g} does not fit into uint16: give 0 to {65535 - gain:g}.")
    return SimulatedSource(SPECIMENS[kind], "noisy", extents, seed, psf.array, noise, gain, offset)


def _write(output: Path, source: SimulatedSource, psf: PSF, dtype: str) -> None:
    """Write image, truth (always float32, in the image's units) and PSF."""
    from bigdecon.io.writing import write_ome_zarr
    from bigdecon.optics.psf import save_psf
    from bigdecon.volume import Volume

    try:
        output.mkdir(parents=True, exist_ok=True)
        save_psf(psf, output / PSF_FILE)
    except OSError as error:
        raise OutputError(f"{output} cannot be written into: {error.strerror or error}.") from error
    for name, part, kept in ((TRUTH, source.truth, "float32"), (NOISY, source, dtype)):
        axes = "zyx"[-len(source.shape) :]
        volume = Volume(part, axes, psf.voxel_size_um, name=name.removesuffix(".ome.zarr"))
        write_ome_zarr(volume, output / name, dtype=kept)
    shape = " x ".join(str(n) for n in source.shape)
    for name in (NOISY, TRUTH, PSF_FILE):
        click.echo(output / name)
    click.echo(f"{shape} voxels, seed {source.seed}")
