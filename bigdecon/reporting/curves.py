"""What the charts of a report show: training, choice of settings, residual, agreement of halves, quality."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from markupsafe import Markup

from bigdecon.evaluation.detail import LEAST_KEPT
from bigdecon.reporting.charts import Chart, Line, Mark, draw_map
from bigdecon.reporting.measures import Agreement, StackMeasures
from bigdecon.reporting.subject import Subject

__all__ = [
    "agreement_chart",
    "detail_charts",
    "quality_map",
    "quality_marks",
    "spectrum_chart",
    "training_charts",
    "tuning_charts",
]

CRITERION = 1 / 7
STEEP = 10.0
"""Power over noise from which the chart of the residual is logarithmic."""
MOST_KEPT = 1.6
"""Top of the chart of detail: noise that went into a result raises what seems kept."""
WORST_SHOWN = math.log2(16.0)
"""A misfit of 1 gets the darkest colour of the map, one of 16 (or 1/16) and beyond the lightest."""
MARKS = 5
"""Of the scale beside the map."""


def training_charts(subject: Subject) -> Iterator[tuple[str, Chart]]:
    """Give the course of every training, with its error on voxels that were never trained on."""
    for channel, model in zip(subject.result.channels, subject.models, strict=False):
        steps = np.array([point.step for point in model.curve], float)
        if not len(steps):
            continue
        loss = np.array([point.loss for point in model.curve], float)
        held = [(p.step, p.held_out_error) for p in model.curve if p.held_out_error is not None]
        lines = [Line("training loss", steps, loss, "magenta")]
        alt = f"Training loss over {int(steps[-1])} steps, from {loss[0]:.3g} to {loss[-1]:.3g}"
        if held:
            x, y = (np.array(values, float) for values in zip(*held, strict=True))
            lines.append(Line("held-out error", x, y, "green"))
            alt += f"; held-out error from {y[0]:.3g} to {y[-1]:.3g}"
        heading = f"Training of {channel.name}" if len(subject.models) > 1 else "Training"
        positive = all(float(line.y.min()) > 0 for line in lines)
        yield heading, Chart(alt, "step", "error", tuple(lines), log_y=positive)


def tuning_charts(subject: Subject) -> Iterator[tuple[str, Chart]]:
    """Give the error on hidden voxels by which iterations were chosen."""
    for channel, tuned in zip(subject.result.channels, subject.tuned, strict=False):
        curve = tuned.curve()
        if len(curve) < 2:
            continue
        x, y = (np.array(values, float) for values in zip(*curve, strict=True))
        root = np.sqrt(y)
        best = tuned.settings.iterations
        alt = f"Error on hidden voxels over iterations; least at {best} iterations"
        heading = (
            f"Choice of iterations, {channel.name}" if len(subject.tuned) > 1 else "Choice of iterations"
        )
        low, high = float(root.min()), float(root.max())
        room = 0.1 * (high - low or high or 1.0)
        line = Line("error on hidden voxels", x, root, "magenta")
        mark = Mark("x", float(best), f"chosen: {best}")
        yield (
            heading,
            Chart(alt, "iterations", "error, data units", (line,), (mark,), (low - room, high + room)),
        )


def spectrum_chart(measures: StackMeasures) -> Chart:
    """Show the power of the residual over frequency: flat at 1 where noise is all that is left."""
    frequency, power = measures.spectrum or (np.zeros(1), np.ones(1))
    known = power[np.isfinite(power)]
    highest = float(known.max(initial=1.0))
    steep = highest > STEEP and float(known.min(initial=1.0)) > 0
    alt = (
        f"Power of the residual over frequency, relative to white noise: from {known.min(initial=0):.2g} "
        f"to {known.max(initial=0):.2g}; 1 is noise"
    )
    return Chart(
        alt,
        "frequency, cycles a voxel",
        "power over noise",
        (Line("residual", frequency, power, "magenta"),),
        (Mark("y", 1.0, "white noise"),),
        None if steep else (0.0, max(2.0, 1.15 * highest)),
        log_y=steep,
    )


def agreement_chart(agreement: Agreement, in_um: bool, subject: Subject) -> Chart:
    """Show up to which detail two halves of the data agree, before and after."""
    unit = "µm" if in_um else "voxel"
    ends = [f"{word} {value:.3g} {unit}" if value else f"{word} nowhere"
            for word, value in (("before", agreement.before_um), ("after", agreement.after_um))]  # fmt: skip
    alt = f"Fourier shell correlation of two halves, {agreement.direction}: above 1/7 up to {', '.join(ends)}"
    return Chart(
        alt,
        f"spatial frequency, 1/{unit}",
        "correlation of halves",
        (
            Line("before", agreement.frequency, agreement.before, "green"),
            Line("after", agreement.frequency, agreement.after, "magenta"),
        ),
        (Mark("y", CRITERION, "1/7"), Mark("x", agreement.bound, "limit of optics and sampling")),
        (min(0.0, float(np.nanmin(agreement.after)), float(np.nanmin(agreement.before))), 1.0),
    )


def detail_charts(measures: StackMeasures, *, in_um: bool) -> Iterator[Chart]:
    """Show which part of the image's detail the result carries; no chart where the image tells nothing."""
    unit = "µm" if in_um else "voxel"
    lines, ends = [], []
    for curve, colour in zip(measures.detail, ("magenta", "green"), strict=False):
        told = np.isfinite(curve.kept)
        if told.any() and curve.image_reach:
            lines.append(Line(curve.direction, curve.frequency[told], curve.kept[told], colour))
            end = f"{1 / curve.result_reach:.3g} {unit}" if curve.result_reach else "nowhere"
            ends.append(f"{curve.direction} to {end} of {1 / curve.image_reach:.3g} {unit}")
    if lines:
        yield Chart(
            f"Part of the image's detail that the result carries, over frequency: {', '.join(ends)}",
            f"spatial frequency, 1/{unit}",
            "part of the detail carried",
            tuple(lines),
            (Mark("y", 1.0, "all of it"), Mark("y", LEAST_KEPT, "half")),
            (min(0.0, *(float(line.y.min()) for line in lines)), MOST_KEPT),
        )


def quality_map(measures: StackMeasures, size: tuple[float, ...] | None) -> Markup | None:
    """Draw the boxes from above; along z the worst one counts."""
    if not measures.measured and not measures.lost:
        return None
    values: dict[tuple[int, int], float] = {}
    labels: dict[tuple[int, int], str] = {}
    for index, measured in measures.measured.items():
        misfit = abs(math.log2(measured.chi_square))
        place = index[-2], index[-1]
        if misfit >= values.get(place, 0.0):
            values[place], labels[place] = misfit, _short(measured.chi_square)
    lost = {(index[-2], index[-1]) for index in measures.lost}
    worst = (measures.worst[-2], measures.worst[-1]) if measures.worst else None
    alt = f"Map of {len(values)} places looked at, by how far their misfit is from that of noise"
    if lost:
        alt += f"; {len(lost)} places lack blocks"
    aspect = size[-2] / size[-1] if size else 1.0
    spread = (0.0, WORST_SHOWN)
    return draw_map(measures.sample.cuts[-2:], values, lost, worst, spread, alt, aspect, labels)


def quality_marks() -> tuple[str, ...]:
    """Give the numbers of the scale beside the map, from 1 upwards."""
    return tuple(f"{2 ** (WORST_SHOWN * mark / (MARKS - 1)):.2g}" for mark in range(MARKS))


def _short(misfit: float) -> str:
    return f"{misfit:.2f}" if misfit < 3 else f"{misfit:.1f}" if misfit < 10 else f"{misfit:.0f}"
