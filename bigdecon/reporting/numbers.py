"""The numbers of a report in words: how well the model explains the data, and how fine the detail is."""

from __future__ import annotations

import math
from typing import NamedTuple

from bigdecon.evaluation.detail import DetailCurve
from bigdecon.reporting.facts import Row
from bigdecon.reporting.measures import StackMeasures
from bigdecon.reporting.subject import Subject

__all__ = ["Reach", "numbers_of", "reaches_of"]

DIRECTIONS = {"lateral": "in the plane", "axial": "along z"}
NOWHERE, UNTOLD = "none", "not known"


class Reach(NamedTuple):
    """The finest detail along one direction, as lengths in words.

    Attributes
    ----------
    direction : in the plane, or along z
    optics : that optics and sampling let through
    image : that stands out of the image's noise
    carried : of that, what the result carries at half of its strength or more
    before, after : on which two halves of the data agree, as they are, and deconvolved
    """

    direction: str
    optics: str
    image: str
    carried: str
    before: str
    after: str


def numbers_of(subject: Subject, measures: StackMeasures) -> tuple[Row, ...]:
    """Give the rows of the table below the residual."""
    rows = []
    if measures.chi_square is not None:
        rows.append(
            Row("Misfit over noise", f"{measures.chi_square:.2f}", "1 where noise is all that is left")
        )
        axes = subject.result.spatial_axes
        steps = zip(axes, measures.correlation, strict=True)
        correlation = ", ".join(f"{axis} {value:+.2f}" for axis, value in steps)
        rows.append(Row("Neighbouring residuals", correlation, "0 for white noise"))
    if measures.kept is not None:
        rows.append(
            Row(
                "Intensity kept",
                f"{measures.kept:.1%}",
                "the result blurred again, above the background, in the boxes",
            )
        )
    if measures.noise is not None:
        read_out = math.sqrt(max(0.0, measures.noise.variance))
        gain = f"gain {measures.noise.gain:.3g}, read-out noise {read_out:.3g}"
        rows.append(
            Row("Noise of the image", gain, f"data units; background {measures.noise.background:.4g}")
        )
    seen = len(measures.looks)
    total = math.prod(measures.sample.counts)
    if seen:
        rows.append(Row("Boxes looked at", f"{seen} of {total}", "evenly spread over the volume"))
    return tuple(rows)


def reaches_of(measures: StackMeasures, *, in_um: bool) -> tuple[Reach, ...]:
    """Put all lengths that tell how fine the detail is beside one another."""
    agreements = {one.direction: one for one in measures.agreements}
    curves: dict[str, DetailCurve] = {one.direction: one for one in measures.detail}

    def length(value: float | None, otherwise: str = NOWHERE) -> str:
        if not value:
            return otherwise
        figures = f"{value:.0f}" if value >= 10 else f"{value:.2g}"
        return f"{figures} {'µm' if in_um else 'voxels'}"

    reaches = []
    for direction, words in DIRECTIONS.items():
        halves, curve = agreements.get(direction), curves.get(direction)
        if halves is None and curve is None:
            continue
        image, carried = (None, None) if curve is None else (curve.image_reach, curve.result_reach)
        told = curve is not None and bool(image)
        reaches.append(
            Reach(
                words,
                length(1 / halves.bound) if halves else UNTOLD,
                length(1 / image if image else None, UNTOLD if curve is None else NOWHERE),
                length(1 / carried if carried else None, NOWHERE if told else UNTOLD),
                length(halves.before_um) if halves else UNTOLD,
                length(halves.after_um) if halves else UNTOLD,
            )
        )
    return tuple(reaches)
