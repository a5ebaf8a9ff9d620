"""Where a PSF came from, as its file remembers it: model, optics, and the voxels it was made with."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from bigdecon.described import from_json
from bigdecon.errors import PSFError
from bigdecon.optics.conditions import ImagingConditions
from bigdecon.optics.microscopes import Microscope
from bigdecon.optics.psf_corrections import LARGEST_VOXEL_UM
from bigdecon.untrusted import clean_text, is_number, is_whole, parse_json

__all__ = ["PSFOrigin"]

HEADING = "Point spread function of bigdecon"
LONGEST = 10_000
"""Characters; what bigdecon writes has some 500."""


@dataclass(frozen=True)
class PSFOrigin:
    """How a PSF was made.

    Attributes
    ----------
    model : a model of `make_psf`, or "beads"
    voxel_size_um : it was made with, along every axis
    shape : extents it was made with; another extent in a file means that it was cut or resampled since
    conditions : the optics; None where they were not told
    """

    model: str
    voxel_size_um: tuple[float, ...]
    shape: tuple[int, ...]
    conditions: ImagingConditions | None = None

    def as_text(self) -> str:
        """Give the text that a file keeps: a heading, and JSON that people can read, too."""
        entries = asdict(self)
        conditions = entries.pop("conditions") or {}
        microscope = conditions.pop("microscope", {})
        given = {name: value for name, value in microscope.items() if value is not None}
        more = {"microscope": given} if given else {}
        return f"{HEADING}\n{json.dumps({**entries, **conditions, **more}, indent=1)}"

    @classmethod
    def from_text(cls, text: str) -> PSFOrigin | None:
        """Read what `as_text` gave; None for any other text, or one with numbers that no microscope has."""
        heading, _, rest = text.partition("\n")
        if heading.strip() != HEADING or len(text) > LONGEST:
            return None
        try:
            entries = parse_json(rest.encode())
            size, shape = entries["voxel_size_um"], entries["shape"]
            model = clean_text(str(entries["model"]))
            if len(size) != len(shape) or not all(is_number(v) and 0 < v <= LARGEST_VOXEL_UM for v in size):
                return None
            if not all(is_whole(n, 1) for n in shape):
                return None
            conditions = _conditions(entries) if "numerical_aperture" in entries else None
        except (KeyError, TypeError, ValueError, PSFError):
            return None
        return cls(model, tuple(map(float, size)), tuple(shape), conditions)


def _conditions(entries: dict[str, object]) -> ImagingConditions:
    numbers = [entries[name] for name in ("numerical_aperture", "wavelength_um", "refractive_index")]
    if not all(is_number(number) for number in numbers):
        raise ValueError("optics are numbers")
    na, wavelength, index = (float(number) for number in numbers)  # type: ignore[arg-type]
    microscope = from_json(Microscope, entries.get("microscope", {}))
    conditions = ImagingConditions(na, wavelength, index, microscope)
    conditions.check()
    return conditions
