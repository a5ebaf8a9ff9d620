"""`bigdecon psf from-beads`: measure a point spread function on an image of beads."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from bigdecon_cli.psf_options import microscope_options, objective_options
from bigdecon_cli.psf_output import VOXEL_INCLUDED, attention, check_output, widths_in_words, write_psf

if TYPE_CHECKING:
    from bigdecon.diagnosis.findings import Finding
    from bigdecon.optics.beads import BeadPSF
    from bigdecon.optics.microscopes import Microscope
    from bigdecon.volume import Volume

__all__ = ["command"]

EXAMPLE = """bigdecon psf from-beads beads.ome.tif -o psf.tif --na 1.4 --wavelength 0.52 \\
      --refractive-index 1.515 --bead-diameter 0.1"""


@click.command("from-beads", epilog=f"\b\nExample:\n  {EXAMPLE}")
@click.argument("image", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), help="TIFF file to write.")
@objective_options(required=False)
@microscope_options
@click.option("--bead-diameter", type=float, metavar="UM", help="Of the beads, in µm.")
@click.option("--correct-bead-size", is_flag=True, help="Take the beads' own size out of the PSF.")
@click.option(
    "--voxel-size", nargs=3, type=float, metavar="Z Y X", help="The image's, in µm, if its file lacks it."
)
@click.option("--channel", help="Which channel, by index from 0 or by name.")
@click.option("--timepoint", type=int, default=0, show_default=True, help="Which time point, from 0.")
@click.option(
    "--shape",
    "--size",
    nargs=3,
    type=int,
    metavar="Z Y X",
    help="Of the PSF, in odd numbers of voxels [default: what the beads allow, four FWHM to either side].",
)
@click.option(
    "--max-beads", type=int, default=100, show_default=True, help="Average the brightest N good ones."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    image: str,
    output: str,
    na: float | None,
    wavelength: float | None,
    refractive_index: float | None,
    microscope: Microscope | None,
    bead_diameter: float | None,
    correct_bead_size: bool,
    voxel_size: tuple[float, ...] | None,
    channel: str | None,
    timepoint: int,
    shape: tuple[int, ...] | None,
    max_beads: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Measure a PSF on an image of beads: find good ones, bring them to one place, average.

    IMAGE is an OME-Zarr, TIFF or OME-TIFF image of fluorescent beads, smaller than what the microscope
    resolves, far from each other.
    """
    from bigdecon.io.image_paths import check_image_path

    check_output(Path(output), overwrite)
    check_image_path(image)
    from bigdecon.diagnosis.bead_findings import bead_findings
    from bigdecon.optics.beads import psf_from_beads

    volume, index = _open(image, channel, voxel_size)
    ndim = len(volume.spatial_axes)
    measured = psf_from_beads(
        volume,
        channel=index,
        timepoint=timepoint,
        numerical_aperture=na,
        wavelength_um=wavelength,
        refractive_index=refractive_index,
        microscope=microscope,
        bead_diameter_um=bead_diameter,
        correct_bead_size=correct_bead_size,
        shape=shape[-ndim:] if shape else None,
        max_beads=max_beads,
    )
    write_psf(measured.psf, Path(output))
    findings = bead_findings(measured)
    if as_json:
        click.echo(json.dumps(_as_json(output, measured, findings), indent=2))
    else:
        click.echo("\n".join([*_as_text(output, measured), *attention(findings)]))


def _open(image: str, channel: str | None, voxel_size: tuple[float, ...] | None) -> tuple[Volume, int]:
    """Open the image; also gives the channel's index, and refuses to guess one."""
    from bigdecon.errors import OptionError
    from bigdecon.io.reading import open_volume

    chosen = None if channel is None else int(channel) if channel.isdecimal() else channel
    volume = open_volume(image, channel=chosen, voxel_size_um=voxel_size)
    if volume.n_channels > 1:
        names = ", ".join(f"{i} ({c.name})" for i, c in enumerate(volume.channels))
        raise OptionError(f"{image} has {volume.n_channels} channels: {names}; choose one with --channel.")
    return volume, 0


def _as_text(output: str, measured: BeadPSF) -> list[str]:
    psf, size = measured.psf, measured.psf.voxel_size_um or ()
    shape = " × ".join(map(str, psf.array.shape))
    counts = [f"{r.count} {r.reason}" for r in measured.rejections]
    if measured.unused:
        counts.append(f"{measured.unused} beyond --max-beads")
    lines = [
        f"{output}: {shape} voxels of {' × '.join(f'{v:g}' for v in size)} µm",
        f"{'beads':<17}{measured.n_used} used of {measured.n_found} found"
        + (f"; left out: {', '.join(counts)}" if counts else ""),
        f"{'FWHM':<17}{widths_in_words(measured.fwhm_um)}",
    ]
    if measured.expectation is not None and measured.conditions is not None:
        kind = measured.conditions.microscope.kind
        lines.append(
            f"{'by theory':<17}{widths_in_words(measured.expectation.fwhm_um)} "
            f"({kind}, a point; {VOXEL_INCLUDED})"
        )
    axes = "zyx"[-len(size) :]
    shown = [("asymmetry", measured.asymmetry)]
    if measured.n_used > 1:
        shown.insert(0, ("spread of beads", measured.width_spread))
    for label, values in shown:
        lines.append(
            f"{label:<17}" + ", ".join(f"{v:.1%} along {a}" for a, v in zip(axes, values, strict=True))
        )
    if measured.widening and not measured.bead_size_corrected:
        figures = ", ".join(f"{w - 1:.1%} along {a}" for a, w in zip(axes, measured.widening, strict=True))
        lines.append(f"{'widened by beads':<17}{figures}")
    return lines


def _as_json(output: str, measured: BeadPSF, findings: list[Finding]) -> dict[str, Any]:
    expectation = measured.expectation
    return {
        "psf": output,
        "shape": list(measured.psf.array.shape),
        "voxel_size_um": list(measured.psf.voxel_size_um or ()),
        "beads_found": measured.n_found,
        "beads_used": measured.n_used,
        "beads_beyond_max": measured.unused,
        "rejected": {r.reason: r.count for r in measured.rejections},
        "fwhm_um": list(measured.fwhm_um),
        "theory": None if expectation is None else asdict(expectation),
        "width_spread": list(measured.width_spread),
        "asymmetry": list(measured.asymmetry),
        "bead_diameter_um": measured.bead_diameter_um,
        "widening": None if measured.widening is None else list(measured.widening),
        "bead_size_corrected": measured.bead_size_corrected,
        "beads": [asdict(bead) for bead in measured.beads],
        "findings": [finding.as_json() for finding in findings],
    }
