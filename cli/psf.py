"""`bigdecon psf`: compute a point spread function, measure one on beads, or check one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from bigdecon_cli import psf_beads, psf_reorder
from bigdecon_cli.psf_options import MICROSCOPES, microscope_options, objective_options
from bigdecon_cli.psf_output import (
    VOXEL_INCLUDED,
    attention,
    check_output,
    numbers,
    widths_in_words,
    write_psf,
)

if TYPE_CHECKING:
    from bigdecon.optics.expectation import Expectation
    from bigdecon.optics.microscopes import Microscope
    from bigdecon.optics.psf import PSFReport
    from bigdecon.optics.psf_origin import PSFOrigin

__all__ = ["command"]

MODELS = {
    "gaussian": "approximation by Zhang et al. 2007",
    "born-wolf": "scalar, paraxial: low apertures",
    "gibson-lanni": "scalar, with the aberration of an emitter deep in\n"
    "                 a medium of another index than the immersion's",
    "richards-wolf": "vectorial: high apertures",
}
MODEL_LIST = "Models:\n" + "\n".join(f"  {name:<15}{what}" for name, what in MODELS.items())
MICROSCOPE_LIST = "Microscopes, and what each needs:\n" + "\n".join(
    f"  {name:<15}{what}" for name, what in MICROSCOPES.items()
)

LIGHT_IN_OUTER_PLANES = 0.5
MAKE_EXAMPLE = """bigdecon psf make richards-wolf -o psf.tif --na 1.4 --wavelength 0.52 \\
      --refractive-index 1.515 --voxel-size 0.2 0.1 0.1 --shape 65 65 65"""
BEADS_EXAMPLE = "bigdecon psf from-beads beads.ome.tif -o psf.tif"
CHECK_EXAMPLE = "bigdecon psf check psf.tif"


@click.group(epilog=f"\b\nExample:\n  {MAKE_EXAMPLE}\n  {BEADS_EXAMPLE}\n  {CHECK_EXAMPLE}")
def command() -> None:
    """Make, measure, check or reorder a point spread function."""


command.add_command(psf_beads.command)
command.add_command(psf_reorder.command)


@command.command(epilog=f"\b\n{MODEL_LIST}\n\n\b\n{MICROSCOPE_LIST}\n\n\b\nExample:\n  {MAKE_EXAMPLE}")
@click.argument("model", type=click.Choice(list(MODELS)), metavar="MODEL")
@click.option("-o", "--output", required=True, type=click.Path(), help="TIFF file to write.")
@objective_options(required=True)
@microscope_options
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
    microscope: Microscope | None,
    voxel_size: tuple[float, float, float],
    shape: tuple[int, int, int],
    sample_refractive_index: float | None,
    depth: float,
    defocus: float,
    overwrite: bool,
) -> None:
    """Compute a PSF from the optics."""
    check_output(Path(output), overwrite)
    from bigdecon.optics.conditions import ImagingConditions
    from bigdecon.optics.expectation import expect
    from bigdecon.optics.models import make_psf
    from bigdecon.optics.widths import fwhm

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
        microscope=microscope,
    )
    write_psf(psf, Path(output))
    size = " × ".join(f"{v:g}" for v in voxel_size[-ndim:])
    click.echo(f"{output}: {model}, {' × '.join(map(str, psf.array.shape))} voxels of {size} µm")
    if ndim == 3 or not defocus:
        widths = [w and w * v for w, v in zip(fwhm(psf.array), voxel_size[-ndim:], strict=True)]
        conditions = ImagingConditions.from_numbers(na, wavelength, refractive_index, microscope)
        theory = conditions and expect(conditions, voxel_size[-ndim:])
        click.echo("\n".join(_width_rows(widths, theory)))
    planes = psf.array.reshape(psf.array.shape[0], -1).sum(1)
    kept = float(min(planes[0], planes[-1]) / planes.max())
    widefield = microscope is None or microscope.kind == "widefield"
    if ndim == 3 and widefield and model != "gaussian" and kept < LIGHT_IN_OUTER_PLANES:
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
@objective_options(required=False)
@microscope_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(
    psf: str,
    na: float | None,
    wavelength: float | None,
    refractive_index: float | None,
    microscope: Microscope | None,
    voxel_size: tuple[float, float, float] | None,
    psf_voxel_size: tuple[float, float, float] | None,
    as_json: bool,
) -> None:
    """Show what a PSF looks like, what loading it would correct, and what seems wrong with it.

    A PSF that bigdecon made knows its optics; --na and the like go before what the file says.
    """
    from bigdecon.optics.psf_path import check_psf_path

    check_psf_path(psf)
    from bigdecon.diagnosis.bead_findings import width_findings
    from bigdecon.diagnosis.input_checks import check_psf_alone
    from bigdecon.diagnosis.optics_checks import KnownOptics
    from bigdecon.optics.conditions import ImagingConditions
    from bigdecon.optics.expectation import expect
    from bigdecon.optics.psf import check_psf, load_psf, read_psf_file

    array, size_in_file = read_psf_file(psf)
    report = check_psf(
        array, psf_voxel_size or size_in_file, volume_voxel_size_um=voxel_size, name=Path(psf).name
    )
    told = ImagingConditions.from_numbers(na, wavelength, refractive_index, microscope)
    size = (voxel_size or report.voxel_size_um or ())[-array.ndim :] or None
    loaded = load_psf(psf, voxel_size_um=size, psf_voxel_size_um=psf_voxel_size or None)
    conditions = told or (loaded.origin and loaded.origin.conditions)
    knows = told is not None or report.voxel_size_um is not None
    theory = expect(conditions, _known_size(report, psf)) if conditions and knows else None
    findings = check_psf_alone(loaded, size, KnownOptics.of(told), of_image=voxel_size is not None)
    if told is not None and theory is not None and report.fwhm_um is not None:
        findings += width_findings(report.fwhm_um, theory)
    if as_json:
        more = {"theory": asdict(theory)} if theory else {}
        made = {"origin": asdict(loaded.origin)} if loaded.origin else {}
        found = {"findings": [finding.as_json() for finding in findings]}
        click.echo(json.dumps({"psf": psf, **asdict(report), **made, **more, **found}, indent=2))
    else:
        click.echo("\n".join([_as_text(report, theory, loaded.origin), *attention(findings)]))


def _known_size(report: PSFReport, name: str) -> tuple[float, ...]:
    from bigdecon.errors import PSFError

    if report.voxel_size_um is None:
        raise PSFError(
            f"the voxel size of {name} is unknown, and theory needs it; give --psf-voxel-size Z Y X in µm."
        )
    return report.voxel_size_um


def _width_rows(widths_um: Sequence[float | None], theory: Expectation | None) -> list[str]:
    rows = [f"{'FWHM':<17}{widths_in_words(widths_um)}"]
    if theory is not None:
        rows.append(
            f"{'by theory':<17}{widths_in_words(theory.fwhm_um)}"
            f" (vectorial, without aberration; {VOXEL_INCLUDED})"
        )
    return rows


def _made(origin: PSFOrigin) -> str:
    """Say how a PSF was made."""
    parts = [origin.model]
    if origin.conditions is not None:
        known = origin.conditions
        parts.append(f"{known.microscope.kind}, NA {known.numerical_aperture:g}")
        parts.append(f"light of {known.wavelength_um:g} µm, immersion {known.refractive_index:g}")
    return ", ".join(parts)


def _as_text(report: PSFReport, theory: Expectation | None, origin: PSFOrigin | None) -> str:
    axes = "zyx"[-len(report.shape) :]
    shape = " × ".join(map(str, report.shape))
    flips = [axis for axis, same in zip(axes, report.symmetries.flips, strict=True) if same]
    turns = ["quarter turns in yx"] if report.symmetries.rot90 else []
    rows = [
        *([("made", _made(origin))] if origin else []),
        ("size", f"{shape} voxels ({axes})"),
        ("voxel size", numbers(report.voxel_size_um, " µm") if report.voxel_size_um else "unknown"),
        ("centre", numbers(report.centre_offset, " voxel off the middle", "+z.2f")),
        ("background", f"{report.background:.4g} ({report.background / report.peak:.2%} of the peak)"),
        ("FWHM", numbers(report.fwhm_voxels, " voxels")),
        *([("", widths_in_words(report.fwhm_um))] if report.fwhm_um else []),
        *([("by theory", f"{widths_in_words(theory.fwhm_um)} ({VOXEL_INCLUDED})")] if theory else []),
        ("light in centre", f"{report.core_energy:.1%} of all, within one FWHM of the centre"),
        ("symmetric under", ", ".join([f"flips of {axis}" for axis in flips] + turns) or "nothing"),
        ("after loading", f"{' × '.join(map(str, report.loaded_shape))} voxels"),
    ]
    lines = [f"{name:<17}{value}" for name, value in rows]
    notes = report.corrections or ("Nothing would be corrected.",)
    return "\n".join(lines + [f"{'loading' if not i else '':<17}{note}" for i, note in enumerate(notes)])
