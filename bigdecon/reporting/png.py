"""The report as one picture, for a slide or a message: the same content, drawn by matplotlib."""

from __future__ import annotations

import io
import re
import textwrap
from typing import TYPE_CHECKING, NamedTuple

from bigdecon.reporting.charts import Chart
from bigdecon.reporting.content import Content, Section
from bigdecon.reporting.pictures import Plane, Views, Window, grey_value, scale_bar
from bigdecon.reporting.report_names import picture_mark
from bigdecon.reporting.verdict import Statement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

__all__ = ["render_png"]

WIDTH_INCHES = 11.0
DPI = 110
COLOURS = {"magenta": "#b0177f", "green": "#1b7837", "grey": "#5b666c"}
TONES = {
    "good": "#0d6b52",
    "note": "#5b666c",
    "warning": "#8a5a00",
    "distrust": "#a1145e",
    "unknown": "#5b666c",
}
DASHES = {"magenta": "-", "green": "--", "grey": ":"}
HEAD_INCHES, LINE_INCHES = 1.3, 0.15
"""Height of the verdict: above its reasons, and of each of their lines."""
MOST_LETTERS = 420
ORDER = ("residual", "detail", "lateral", "axial")
MOST_SECTIONS = 4
"""Channels and times that one picture holds."""


class _Panel(NamedTuple):
    """Planes that are shown together, and their window."""

    word: str
    window: Window
    planes: dict[str, Plane | None]


def render_png(content: Content) -> bytes:
    """Give the report as a PNG: the verdict, the first channels with their charts, and the PSF."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = content.sections[:MOST_SECTIONS]
    heights = [
        _height_of_verdict(content),
        *(height for section in shown for height in _heights(section)),
        _height_of_last(content),
    ]
    with rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
                     "text.parse_math": False, "font.family": ["DejaVu Sans"]}):  # fmt: skip
        figure = Figure(figsize=(WIDTH_INCHES, sum(heights)), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        rows = iter(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
        _draw_verdict(next(rows), content)
        for section in shown:
            _draw_views(next(rows), section.detail, section.heading, "through the place with most contrast")
            if section.overview:
                _draw_views(next(rows), section.overview, section.heading, "maximum projections of all")
            if section.charts:
                _draw_charts(next(rows), section)
        _draw_last(next(rows), content)
        buffer, about = io.BytesIO(), picture_mark(content.title)
        figure.savefig(buffer, dpi=DPI, format="png", metadata=about, bbox_inches="tight", pad_inches=0.25)
    return buffer.getvalue()


def _because(statement: Statement) -> list[str]:
    """Give the reason of an answer as lines, cut only behind a sentence."""
    sentences = re.split(r"(?<=[.!?]) (?=[A-Z])", statement.because)
    kept = sentences[:1]
    for sentence in sentences[1:]:
        if len(" ".join([*kept, sentence])) > MOST_LETTERS:
            kept.append("More on the page.")
            break
        kept.append(sentence)
    return textwrap.wrap(" ".join(kept), 58)


def _height_of_verdict(content: Content) -> float:
    lines = max(len(_because(one)) for one in content.verdict.statements)
    return HEAD_INCHES + LINE_INCHES * lines


def _heights(section: Section) -> list[float]:
    """Heights of a section's rows, in inches."""
    shown = [section.detail, *([section.overview] if section.overview else [])]
    rows = [_height_of_views(views) for views in shown]
    return [*rows, 2.6] if section.charts else rows


def _height_of_last(content: Content) -> float:
    return 2.7 if content.psfs or content.curves else 1.6


def _extent(views: Views) -> tuple[float, float]:
    """Width and height of the planes at one scale: xy, yz beside it, xz below."""
    planes = {pair.name: pair.after for pair in views.pairs}
    xy, xz, yz = (planes.get(name) for name in ("xy", "xz", "yz"))
    if xy is None:
        return 1.0, 1.0
    return xy.width + (yz.width if yz else 0), xy.height + (xz.height if xz else 0)


def _height_of_views(views: Views) -> float:
    width, height = _extent(views)
    across = 0.96 * WIDTH_INCHES / max(2, len(_panels(views)))
    return float(min(6.5, across * height / width) + 0.35)


def _draw_verdict(part: SubFigure, content: Content) -> None:
    axes = part.subplots()
    axes.axis("off")
    inches = _height_of_verdict(content)
    axes.set(xlim=(0, 1), ylim=(inches, 0))  # downwards, in inches
    axes.text(0, 0, content.title, fontsize=15, fontweight="bold", va="top")
    axes.text(0, 0.32, textwrap.shorten(content.state, 150), color="0.35", va="top")
    for i, one in enumerate(content.verdict.statements):
        x = i / 3
        axes.text(x, 0.65, one.question, color="0.35", va="top", fontsize=8)
        axes.text(x, 0.86, one.answer, color=TONES[one.tone], fontsize=13, fontweight="bold", va="top")
        axes.text(x, 1.2, "\n".join(_because(one)), va="top", fontsize=8, linespacing=1.3)


def _draw_views(part: SubFigure, views: Views, heading: str, what: str) -> None:
    part.suptitle(f"{heading}: {what}" if heading else what.capitalize(), fontsize=9, x=0.01, ha="left")
    shown = _panels(views)
    panels = part.subplots(1, max(2, len(shown)), squeeze=False)[0]
    for axes in panels[len(shown) :]:
        axes.axis("off")
    for axes, (word, window, planes) in zip(panels, shown, strict=False):
        greys = f"{grey_value(window.low)} to {grey_value(window.high)}"
        axes.set_title(f"{word} (grey values {greys})", fontsize=9, loc="left")
        _draw_together(axes, planes.get("xy"), planes.get("xz"), planes.get("yz"))


def _panels(views: Views) -> list[_Panel]:
    """Tell what is shown side by side: before, before in its own contrast where it is dim, and after."""
    panels = []
    if all(pair.before is not None for pair in views.pairs):
        panels.append(_Panel("before", views.window, {p.name: p.before for p in views.pairs}))
    if views.own_window:
        planes = {p.name: p.brighter for p in views.pairs}
        panels.append(_Panel("before, brighter", views.own_window, planes))
    return [*panels, _Panel("after", views.window, {p.name: p.after for p in views.pairs})]


def _draw_together(axes: Axes, xy: Plane | None, xz: Plane | None, yz: Plane | None) -> None:
    """Put planes side by side at one scale: xy, yz to the right of it, xz below."""
    if xy is None:
        return
    gap = 0.012 * xy.width
    _show(axes, xy)
    right, bottom = xy.width, xy.height
    if yz is not None:
        _show(axes, yz, xy.width + gap, 0.0)
        right += gap + yz.width
    if xz is not None:
        _show(axes, xz, 0.0, xy.height + gap)
        bottom += gap + xz.height
    axes.set(xlim=(0, right), ylim=(bottom, 0), anchor="NW")
    _bar(axes, xy)


def _show(axes: Axes, plane: Plane, x: float = 0.0, y: float = 0.0) -> None:
    axes.imshow(
        plane.pixels,
        cmap="gray",
        vmin=0,
        vmax=255,
        extent=(x, x + plane.width, y + plane.height, y),
        interpolation="nearest",
    )
    axes.axis("off")


def _bar(axes: Axes, plane: Plane) -> None:
    from matplotlib.patches import Rectangle

    length = scale_bar(plane)
    margin, thick = 0.03 * plane.width, 0.012 * plane.height
    left, top = plane.width - margin - length, plane.height - margin - thick
    axes.add_patch(Rectangle((left, top), length, thick, color="white"))
    unit = "µm" if plane.in_um else "voxels"
    box = {"facecolor": "black", "alpha": 0.5, "linewidth": 0, "pad": 1.0}
    axes.text(left + length / 2, top - thick, f"{length:g} {unit}", color="white", ha="center", va="bottom",
              fontsize=8, bbox=box)  # fmt: skip


def _draw_charts(part: SubFigure, section: Section) -> None:
    panels = part.subplots(1, 5 if any(name == "detail" for name, _ in section.charts) else 4)
    for axes, (name, plane) in zip(panels, list(section.residuals.items())[:1], strict=False):
        _show(axes, plane)
        axes.set_title(f"what is left, {name} (±4 σ)", fontsize=9)
    charts = sorted(section.charts, key=lambda pair: ORDER.index(pair[0]))
    for axes, (name, chart) in zip(panels[1:], charts, strict=False):
        titles = {
            "residual": "power of what is left",
            "detail": "detail carried",
            "lateral": "agreement, lateral",
            "axial": "agreement, axial",
        }
        _draw_chart(axes, chart, titles.get(name, name))
    for axes in panels:
        if not axes.has_data():
            axes.axis("off")


def _draw_chart(axes: Axes, chart: Chart, title: str) -> None:
    for line in chart.lines:
        axes.plot(
            line.x, line.y, DASHES[line.colour], color=COLOURS[line.colour], label=line.name, linewidth=1.4
        )
    for mark in chart.marks:
        (axes.axvline if mark.axis == "x" else axes.axhline)(mark.at, color="0.5", linestyle=":", linewidth=1)
    if chart.log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")  # powers would be set as formulas
    elif chart.y_range:
        axes.set_ylim(*chart.y_range)
    axes.set_xlabel(chart.x_label, fontsize=8)
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=8)
    if len(chart.lines) > 1:
        axes.legend(fontsize=7, frameon=False)


def _draw_last(part: SubFigure, content: Content) -> None:
    """Draw the first PSF, the first curve, and how it was made."""
    panels = part.subplots(1, 4)
    for axes in panels:
        axes.axis("off")
    if content.psfs:
        for axes, (name, plane) in zip(panels, list(content.psfs[0].planes.items())[:2], strict=False):
            _show(axes, plane)
            axes.set_title(f"PSF, {name}", fontsize=9)
    if content.curves:
        heading, chart = content.curves[0]
        panels[2].axis("on")
        _draw_chart(panels[2], chart, heading)
    rows = [
        row for heading, group in content.facts if heading in ("Method", "Time and machine") for row in group
    ]
    lines = [line for row in rows[:7] for line in textwrap.wrap(f"{row.name}: {row.value}", 44)]
    panels[3].text(
        0, 1, "\n".join(lines[:16]), va="top", fontsize=7.5, transform=panels[3].transAxes, linespacing=1.35
    )
