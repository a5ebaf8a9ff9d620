"""Options that say how an image was taken: objective, light, kind of microscope."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bigdecon.optics.microscopes import Microscope

__all__ = ["MICROSCOPES", "microscope_options", "objective_options"]

MICROSCOPES = {
    "widefield": "no more is needed",
    "confocal": "--excitation, --pinhole",
    "spinning-disk": "--excitation, --disk-pinhole, maybe --disk-spacing",
    "light-sheet": "--sheet-thickness, or --sheet-na and --excitation",
    "two-photon": "--excitation",
}
OPTIONS = {
    "excitation": ("excitation_um", "Wavelength that excites, in µm (488 nm is 0.488)."),
    "pinhole": ("pinhole_airy", "Confocal: diameter of the pinhole, in Airy units; inf for an open one."),
    "disk-pinhole": (
        "pinhole_um",
        "Spinning disk: diameter of a pinhole in the specimen, in µm: the disk's, often 50, over the "
        "magnification.",
    ),
    "disk-spacing": (
        "pinhole_spacing_um",
        "Spinning disk: distance of pinholes in the specimen, in µm; the disk's is often 250.",
    ),
    "sheet-thickness": ("sheet_thickness_um", "Light sheet: its FWHM, in µm."),
    "sheet-na": ("sheet_aperture", "Light sheet: its numerical aperture, instead."),
}


def objective_options(required: bool) -> Callable[[Any], Any]:
    """Give a command --na, --wavelength and --refractive-index."""
    why = "" if required else " With these three, theory is told."
    options = [
        click.option(
            "--na", required=required, type=float, help=f"Numerical aperture of the objective.{why}"
        ),
        click.option(
            "--wavelength",
            required=required,
            type=float,
            help="Of the emitted light, in µm (520 nm is 0.52).",
        ),
        click.option(
            "--refractive-index",
            required=required,
            type=float,
            help="Immersion: oil 1.515, water 1.33, air 1.",
        ),
    ]

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def microscope_options(command: Any) -> Any:
    """Give a command the options of the microscope's kind; one `microscope`, None if none is given."""

    @functools.wraps(command)
    def with_microscope(*args: Any, **chosen: Any) -> Any:
        kind = chosen.pop("microscope")
        settings = {field: chosen.pop(flag.replace("-", "_")) for flag, (field, _) in OPTIONS.items()}
        given = {field: value for field, value in settings.items() if value is not None}
        microscope = _microscope(kind or "widefield", given) if kind or given else None
        return command(*args, microscope=microscope, **chosen)

    for flag, (_, help_text) in reversed(OPTIONS.items()):
        with_microscope = click.option(f"--{flag}", type=float, help=help_text)(with_microscope)
    kinds = click.Choice(list(MICROSCOPES))
    return click.option("--microscope", type=kinds, help="Its kind [default: widefield].")(with_microscope)


def _microscope(kind: str, settings: dict[str, float]) -> Microscope:
    from bigdecon.optics.microscopes import Microscope

    return Microscope(kind, **settings)  # type: ignore[arg-type]
