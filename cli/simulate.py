"""`bigdecon simulate`: a test volume, drawn or from an image, with its truth and its PSF."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import click

from bigdecon.errors import OptionError, OutputError, VolumeError

if TYPE_CHECKING:
    from bigdecon.optics.psf import PSF
    from bigdecon.optics.simulation import NoiseModel, SimulatedSource
    from bigdecon.optics.specimens import Specimen
    from bigdecon.volume import Volume

__all__ = ["command"]

KINDS = ("filaments", "points", "nuclei", "bars")
DEFAULT_SHAPE = (64, 128, 128)
NOISY, TRUTH, PSF_FILE = "noisy.ome.zarr", "truth.ome.zarr", "psf.tif"


@click.command()
@click.argument("truth", metavar="KIND|IMAGE", type=click.Path())
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder to write into.")
@click.option(
    "--shape",
    nargs=3,
    type=click.IntRange(min=1),
    metavar="Z Y X",
    help="Extent of a KIND in voxels; with Z = 1 a 2D image [default: 64 128 128].",
)
@click.option("--channel", help="Index or name of the channel of an IMAGE [default: the first].")
@click.option(
    "--timepoint",
    type=click.IntRange(min=0),
    help="Index of the time point of an IMAGE [default: the first].",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Another seed, another volume, or other noise.",
)
@click.option("--psf", type=click.Path(path_type=Path), help="PSF file [default: that of the paper, NA 0.8].")
@click.option(
    "--voxel-size",
    nargs=3,
    type=click.FloatRange(min=0, min_open=True),
    metavar="Z Y X",
    help="Voxel size in µm, to which the PSF is resampled [default: the IMAGE's, else the PSF's own; "
    "not used along Z in 2D].",
)
@click.option(
    "--poisson", type=float, default=0.001, show_default=True, help="Variance of shot noise per signal."
)
@click.option(
    "--gaussian", type=float, default=0.1, show_default=True, help="Standard deviation of read-out noise."
)
@click.option(
    "--salt-and-pepper", type=float, help="Share of voxels replaced by impulses [default: 0; in 2D 0.01]."
)
@click.option(
    "--impulses",
    type=click.Choice(["uniform", "extreme"]),
    default="uniform",
    show_default=True,
    help="Value of these voxels: any from 0 to 1, as in the paper's simulation, or 0 or 1 by halves.",
)
@click.option(
    "--bits", type=int, default=10, show_default=True, help="Depth of the camera; 0 for no rounding."
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "uint16"]),
    default="float32",
    show_default=True,
    help="float32 runs from 0 to 1, uint16 in counts from 0 to 2^bits.",
)
@click.option(
    "--offset", type=float, default=0.0, show_default=True, help="Camera offset, in the output's units."
)
def command(
    truth: str,
    output: Path,
    shape: tuple[int, int, int] | None,
    channel: str | None,
    timepoint: int | None,
    seed: int,
    psf: Path | None,
    voxel_size: tuple[float, float, float] | None,
    poisson: float,
    gaussian: float,
    salt_and_pepper: float | None,
    impulses: Literal["uniform", "extreme"],
    bits: int,
    dtype: str,
    offset: float,
) -> None:
    """Make a test volume: noisy image, truth and PSF.

    KIND is filaments, points, nuclei or bars. IMAGE is a truth of your own: OME-Zarr or TIFF, or a grey PNG;
    its values are scaled to 0..1, and what lies beyond it repeats its edge. The folder receives
    noisy.ome.zarr, truth.ome.zarr and psf.tif. Noise and PSF default to those of Papkov et al. 2023, for 3D
    or for 2D. Volumes may be larger than memory.

    \b
    Examples:
      bigdecon simulate filaments -o demo
      bigdecon simulate nuclei -o large --shape 1024 2048 2048 --dtype uint16 --offset 100
      bigdecon simulate bars -o flat --shape 1 512 512
    \b
    The paper's setting, in 3D and in 2D:
      bigdecon simulate filaments --shape 128 256 512 -o paper3d --seed 0
      bigdecon simulate image.png -o paper2d
    """  # noqa: D301 (click needs the control character)
    _refuse_existing(output)
    if truth in KINDS:
        if channel is not None or timepoint is not None:
            raise OptionError(f"--channel and --timepoint are for an image; {truth} is drawn.")
        scene = _drawn(truth, shape or DEFAULT_SHAPE)
    else:
        _refuse_missing(truth)
        if shape is not None:
            raise OptionError(f"--shape is for {_listed(KINDS)}; an image has a shape of its own.")
        scene = _from_image(truth, channel, timepoint, output)
    from bigdecon.optics.simulation import NoiseModel, paper_noise

    if salt_and_pepper is None:
        salt_and_pepper = paper_noise(len(scene.extents)).salt_and_pepper
    noise = NoiseModel(poisson, gaussian, salt_and_pepper, bits, impulses)
    used_psf = _open_psf(psf, voxel_size, scene)
    source = _source(scene, seed, used_psf, noise, dtype, offset)
    _write(output, source, used_psf, dtype)


class Scene(NamedTuple):
    """What is simulated.

    Attributes
    ----------
    specimen : function of box and seed
    extents : along (z, y, x) or (y, x), in voxels
    voxel_size_um : an image's own, along the same axes; None where unknown
    """

    specimen: Specimen
    extents: tuple[int, ...]
    voxel_size_um: tuple[float, ...] | None


def _refuse_missing(path: str) -> None:
    """Refuse what is neither a kind nor an image that could be there."""
    from bigdecon.storage.places import resolve
    from bigdecon.storage.servers import is_url

    if not is_url(resolve(path)) and not os.path.exists(resolve(path)):
        raise VolumeError(f"{path} is neither an image that exists nor a kind: give {_listed(KINDS)}.")


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _drawn(kind: str, shape: tuple[int, int, int]) -> Scene:
    from bigdecon.optics.specimens import SPECIMENS

    return Scene(SPECIMENS[kind], shape if shape[0] > 1 else shape[1:], None)


def _from_image(path: str, channel: str | None, timepoint: int | None, output: Path) -> Scene:
    """Open an image and find its range; an image of one plane counts as 2D."""
    from bigdecon.optics.image_specimen import image_specimen

    volume = _open_image(path, channel, timepoint)
    _refuse_inside(output, volume)
    stack = volume.stack()
    size = volume.voxel_size_um
    if stack.ndim == 3 and stack.shape[0] == 1:
        plane = stack[tuple(slice(0, n) for n in stack.shape)][0]
        return Scene(image_specimen(plane, path), plane.shape, size and size[1:])
    return Scene(image_specimen(stack, path), stack.shape, size)


def _open_image(path: str, channel: str | None, timepoint: int | None) -> Volume:
    from bigdecon.io.png import is_png, read_png
    from bigdecon.io.provenance import is_unfinished
    from bigdecon.io.reading import open_volume
    from bigdecon.io.stores import resolve

    if is_png(path):
        if channel is not None or timepoint is not None:
            raise OptionError(f"--channel and --timepoint do not fit {path}: a PNG is one grey image.")
        return read_png(resolve(path))
    if is_unfinished(path):
        raise VolumeError(f"{path} is not finished; give the same bigdecon run command again first.")
    volume = open_volume(path, channel=channel, timepoint=timepoint)
    if volume.n_channels > 1 or volume.n_timepoints > 1:
        click.echo(f"{path} holds several images; the first channel and time point are used.", err=True)
    return volume


def _refuse_inside(output: Path, volume: Volume) -> None:
    """Refuse to write into a folder that is the image itself."""
    image = Path(volume.location) if volume.location else None
    if image is not None and image.is_dir() and output.resolve().is_relative_to(image.resolve()):
        raise OutputError(f"the output {output} lies inside the image {image}; give a folder beside it.")


def _refuse_existing(output: Path) -> None:
    for name in (NOISY, TRUTH, PSF_FILE):
        if (output / name).exists():
            raise OutputError(f"{output / name} exists already; give another folder with --output.")
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file; give a folder with --output.")


def _open_psf(path: Path | None, voxel_size: tuple[float, ...] | None, scene: Scene) -> PSF:
    """Load the PSF at the voxel size given, else at the image's, else at its own."""
    ndim = len(scene.extents)
    if path is None:
        from bigdecon.optics.simulation import paper_psf

        if voxel_size is not None:
            raise OptionError("--voxel-size needs --psf: the paper's PSF has voxels of 0.406 µm.")
        if scene.voxel_size_um is not None:
            click.echo("The image's voxel size is not used: the paper's PSF has 0.406 µm.", err=True)
        return paper_psf(ndim)
    from bigdecon.optics.psf import load_psf, read_psf_file

    own = read_psf_file(path)[1]
    given = scene.voxel_size_um if voxel_size is None else voxel_size[-ndim:]
    return load_psf(path, voxel_size_um=given or own, psf_voxel_size_um=None if own else given, ndim=ndim)


def _source(
    scene: Scene, seed: int, psf: PSF, noise: NoiseModel, dtype: str, offset: float
) -> SimulatedSource:
    from bigdecon.optics.simulation import SimulatedSource

    gain = 1.0 if dtype == "float32" else _counts(noise.bits, offset)
    return SimulatedSource(scene.specimen, "noisy", scene.extents, seed, psf.array, noise, gain, offset)


def _counts(bits: int, offset: float) -> float:
    """Give the counts of a voxel of density 1: whole numbers for every level of the camera."""
    if bits == 16:
        raise OptionError("--bits 16 counts up to 65536, one more than uint16 holds: give 0 to 15.")
    gain = float(2**bits if bits else 65535)
    if not 0 <= offset <= 65535 - gain:
        raise OptionError(f"--offset {offset:g} does not fit into uint16: give 0 to {65535 - gain:g}.")
    return gain


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
