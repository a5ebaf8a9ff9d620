"""`bigdecon psf`: make a point spread function, or check one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bigdecon.optics.psf import PSFReport

__all__ = ["command"]

MODELS = {
    "gaussian": "approximation by Zhang et al. 2007",
    "born-wolf": "scalar, paraxial: low apertures",
    "gibson-lanni": "scalar, with the aberration of an emitter deep in\n"
    "                 a medium of another index than the immersion's",
    "richards-wolf": "vectorial: high apertures",
}
MODEL_LIST = "Models:\n" + "\n".join(f"  {name:<15}{what}" for name, what in MODELS.items())

LIGHT_IN_OUTER_PLANES = 0.5
MAKE_EXAMPLE = """bigdecon psf make richards-wolf -o psf.tif --na 1.4 --wavelength 0.52 \\
      --refractive-index 1.515 --voxel-size 0.2 0.1 0.1 --shape 65 65 65"""
CHECK_EXAMPLE = "bigdecon psf check psf.tif"


@click.group(epilog=f"\b\nExample:\n  {MAKE_EXAMPLE}\n  {CHECK_EXAMPLE}")
def command() -> None:
    """Make or check a point spread function."""


@command.command(epilog=f"\b\n{MODEL_LIST}\n\n\b\nExample:\n  {MAKE_EXAMPLE}")
@click.argument("model", type=click.Choice(list(MODELS)))
@click.option("-o", "--output", required=True, type=click.Path(), help="TIFF file to write.")
@click.option("--na", required=True, type=float, help="Numerical aperture of the objective.")
@click.option("--wavelength", required=True, type=float, help="Of the emitted light, in µm (520 nm is 0.52).")
@click.option(
    "--refractive-index", required=True, type=float, help="Immersion: oil 1.515, water 1.33, air 1."
)
@click.option("--voxel-size", required=True, nargs=3, type=float, metavar="Z Y X", help="In µm.")
@click.option(
    "--shape",
    required=True,
    nargs=3,
    type=int,
    metavar="Z Y X",
    help="Odd numbers of voxels; Z = 1 makes a 2D PSF.",
)
@click.option(
    "--sample-refractive-index", type=float, help="Around the emitter (gibson-lanni); default: as immersion."
)
@click.option(
    "--depth", default=0.0, show_default=True, help="Emitter below the coverslip, in µm (gibson-lanni)."
)
@click.option("--defocus", default=0.0, show_default=True, help="Of a 2D PSF from the best focus, in µm.")
@click.option("--overwrite", is_flag=True, help="Replace an existing output file.")
def make(
    model: str,
    output: str,
    na: float,
    wavelength: float,
    refractive_index: float,
    voxel_size: tuple[float, float, float],
    shape: tuple[int, int, int],
    sample_refractive_index: float | None,
    depth: float,
    defocus: float,
    overwrite: bool,
) -> None:
    """Compute a widefield PSF from the optics."""
    from bigdecon.optics.models import make_psf

    _check_output(Path(output), overwrite)
    ndim = 2 if shape[0] == 1 else 3
    psf = make_psf(
        model,  # type: ignore[arg-type]
        numerical_aperture=na,
        wavelength_um=wavelength,
        refractive_index=refractive_index,
        voxel_size_um=voxel_size[-ndim:],
        shape=shape[-ndim:],
        sample_refractive_index=sample_refractive_index,
        emitter_depth_um=depth,
        defocus_um=defocus,
    )
    _write(psf, Path(output))
    size = " × ".join(f"{v:g}" for v in voxel_size[-ndim:])
    click.echo(f"{output}: {model}, {' × '.join(map(str, psf.array.shape))} voxels of {size} µm")
    planes = psf.array.reshape(psf.array.shape[0], -1).sum(1)
    kept = float(min(planes[0], planes[-1]) / planes.max())
    if ndim == 3 and model != "gaussian" and kept < LIGHT_IN_OUTER_PLANES:
        click.echo(
            f"Note: the outermost planes hold {kept:.0%} of the light of the brightest one, but in widefield "
            "all hold the same; a larger --shape along y and x cuts off less."
        )


@command.command(epilog=f"\b\nExample:\n  {CHECK_EXAMPLE} --voxel-size 0.3 0.13 0.13")
@click.argument("psf", type=click.Path())
@click.option("--voxel-size", nargs=3, type=float, metavar="Z Y X", help="The volume's voxel size, in µm.")
@click.option(
    "--psf-voxel-size", nargs=3, type=float, metavar="Z Y X", help="The PSF's, if its file lacks it."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(
    psf: str,
    voxel_size: tuple[float, float, float] | None,
    psf_voxel_size: tuple[float, float, float] | None,
    as_json: bool,
) -> None:
    """Show what a PSF looks like, and what loading it would correct."""
    from bigdecon.optics.psf import check_psf, read_psf_file

    array, size_in_file = read_psf_file(psf)
    report = check_psf(
        array, psf_voxel_size or size_in_file, volume_voxel_size_um=voxel_size, name=Path(psf).name
    )
    click.echo(json.dumps({"psf": psf, **asdict(report)}, indent=2) if as_json else _as_text(report))


def _check_output(path: Path, overwrite: bool) -> None:
    from bigdecon.errors import OutputError

    if path.suffix.lower() not in (".tif", ".tiff"):
        raise OutputError(f"the PSF is written as TIFF, so {path} must end in .tif.")
    if path.is_dir() or (path.exists() and not overwrite):
        raise OutputError(f"{path} exists; give another name, or --overwrite to replace a file.")
    if not path.parent.is_dir():
        raise OutputError(f"there is no folder {path.parent} to write {path.name} to.")


def _write(psf: object, path: Path) -> None:
    from bigdecon.errors import OutputError
    from bigdecon.optics.psf import save_psf

    try:
        save_psf(psf, path)  # type: ignore[arg-type]
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error


def _as_text(report: PSFReport) -> str:
    axes = "zyx"[-len(report.shape) :]
    shape = " × ".join(map(str, report.shape))
    flips = [axis for axis, same in zip(axes, report.symmetries.flips, strict=True) if same]
    turns = ["quarter turns in yx"] if report.symmetries.rot90 else []
    rows = [
        ("size", f"{shape} voxels ({axes})"),
        ("voxel size", _numbers(report.voxel_size_um, " µm") if report.voxel_size_um else "unknown"),
        ("centre", _numbers(report.centre_offset, " voxel off the middle", "+z.2f")),
        ("background", f"{report.background:.4g} ({report.background / report.peak:.2%} of the peak)"),
        ("FWHM", _numbers(report.fwhm_voxels, " voxels")),
        *([("", _numbers(report.fwhm_um, " µm"))] if report.fwhm_um else []),
        ("energy in core", f"{report.core_energy:.1%} (within one FWHM of the centre)"),
        ("symmetric under", ", ".join([f"flips of {axis}" for axis in flips] + turns) or "nothing"),
        ("after loading", f"{' × '.join(map(str, report.loaded_shape))} voxels"),
    ]
    lines = [f"{name:<17}{value}" for name, value in rows]
    notes = report.corrections or ("Nothing would be corrected.",)
    return "\n".join(lines + [f"{'loading' if not i else '':<17}{note}" for i, note in enumerate(notes)])


def _numbers(values: tuple[float | None, ...], unit: str, form: str = ".3g") -> str:
    return ", ".join("wider than the array" if v is None else format(v, form) for v in values) + unit
