"""Charts as SVG, inline in the page: their colours follow its light or dark style, and print.

Colours are names of classes (`magenta`, `green`, `grey`); dashes tell lines apart without colour. All text
is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

__all__ = ["Chart", "Line", "Mark", "draw_chart", "draw_map", "ticks", "viridis"]

WIDTH, HEIGHT = 360.0, 220.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 12.0, 12.0, 38.0
MOST_POINTS = 200
LETTER = 6.2
"""Width of a letter of the style sheet's font in charts, on average."""
DASHES = {"magenta": "", "green": "6 3", "grey": "2 3"}
NICE = (1.0, 2.0, 2.5, 5.0, 10.0)


class Line(NamedTuple):
    """A curve: its name in the legend, its points, and its colour."""

    name: str
    x: NDArray[Any]
    y: NDArray[Any]
    colour: str


class Mark(NamedTuple):
    """A line across the chart: at an x, or at a y, with words."""

    axis: str
    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """What a chart shows.

    Attributes
    ----------
    alt : what it says, for those who do not see it
    x_label, y_label : names and units of the axes
    lines, marks : what is drawn
    y_range : ends of the axis; from the lines if None
    log_y : whether y is logarithmic
    """

    alt: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    marks: tuple[Mark, ...] = ()
    y_range: tuple[float, float] | None = None
    log_y: bool = False


class _Scale(NamedTuple):
    """From values to places on the paper."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, self.low))
        part = (value - low) / (high - low)
        return self.start + min(max(part, -0.02), 1.02) * (self.end - self.start)


def draw_chart(chart: Chart) -> Markup:
    """Draw lines over common axes."""
    x, y = _scales(chart)
    height = HEIGHT + 16 * ((len(chart.lines) + 1) // 2)
    parts = [*_axes(chart, x, y), *_marks(chart, x, y)]
    parts += [_line(line, x, y) for line in chart.lines]
    parts += _legend(chart.lines)
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        f"{WIDTH:g}", f"{height:g}", chart.alt, Markup("").join(parts)
    )


def _scales(chart: Chart) -> tuple[_Scale, _Scale]:
    xs = np.concatenate([line.x for line in chart.lines])
    ys = np.concatenate([line.y[np.isfinite(line.y)] for line in chart.lines])
    marks = [mark.at for mark in chart.marks if mark.axis == "x"]
    right = max([float(xs.max()), *marks])
    if chart.y_range:
        low, high = chart.y_range
    elif chart.log_y:
        low = 10 ** math.floor(math.log10(max(float(ys[ys > 0].min(initial=1.0)), 1e-12)))
        high = 10 ** math.ceil(math.log10(max(float(ys.max(initial=1.0)), low * 10)))
    else:
        levels = [float(v) for v in ys] + [mark.at for mark in chart.marks if mark.axis == "y"]
        low, high = min([0.0, *levels]), max(levels, default=1.0) * 1.05
    high = high if high > low else low + 1
    left = float(xs.min())
    x = _Scale(left, right if right > left else left + 1, LEFT, WIDTH - RIGHT)
    return x, _Scale(low, high, HEIGHT - BOTTOM, TOP, chart.log_y)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Give round values within a range, about as many as wanted."""
    raw = (high - low) / wanted
    power = 10 ** math.floor(math.log10(raw))
    step = next(n * power for n in NICE if n * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _axes(chart: Chart, x: _Scale, y: _Scale) -> Iterator[Markup]:
    bottom = HEIGHT - BOTTOM
    levels = (
        [10.0**i for i in range(round(math.log10(y.low)), round(math.log10(y.high)) + 1)]
        if chart.log_y
        else ticks(y.low, y.high, 4)
    )
    for level in levels:
        at = y(level)
        yield Markup('<path class="grid" d="M{0} {1}H{2}"/>').format(LEFT, f"{at:.1f}", WIDTH - RIGHT)
        yield _text(LEFT - 5, at + 3.5, _level_in_words(level), "end")
    for value in ticks(x.low, x.high):
        yield Markup('<path class="axis" d="M{0} {1}v4"/>').format(f"{x(value):.1f}", bottom)
        yield _text(x(value), bottom + 15, f"{value:.4g}", "middle")
    yield Markup('<path class="axis" d="M{0} {1}V{2}H{3}"/>').format(LEFT, TOP, bottom, WIDTH - RIGHT)
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, chart.x_label, "middle")
    middle = (TOP + bottom) / 2
    yield Markup(
        '<text x="11" y="{0}" transform="rotate(-90 11 {0})" text-anchor="middle">{1}</text>'
    ).format(f"{middle:g}", chart.y_label)


def _level_in_words(level: float) -> str:
    """Write a level so short that it fits beside the axis."""
    if level >= 1e4 and math.log10(level).is_integer():
        return "10" + str(round(math.log10(level))).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{level:.10g}" if level >= 1 else f"{level:.4g}"


def _marks(chart: Chart, x: _Scale, y: _Scale) -> Iterator[Markup]:
    for mark in chart.marks:
        if mark.axis == "x":
            at = x(mark.at)
            yield Markup('<path class="mark" d="M{0} {1}V{2}"/>').format(f"{at:.1f}", TOP, HEIGHT - BOTTOM)
            end = "end" if at > WIDTH / 2 else "start"
            yield _text(
                at + (-4 if end == "end" else 4), _free_height(chart, at, mark.text, x, y), mark.text, end
            )
        else:
            at = y(mark.at)
            yield Markup('<path class="mark" d="M{0} {1}H{2}"/>').format(LEFT, f"{at:.1f}", WIDTH - RIGHT)
            left, baseline = _free_place(chart, mark, x, y)
            yield _text(left, baseline, mark.text, "start")


def _free_place(chart: Chart, mark: Mark, x: _Scale, y: _Scale) -> tuple[float, float]:
    """Choose where the words of a level stand: as far to the right as no line crosses them."""
    width, level = LETTER * len(mark.text), y(mark.at)
    points = np.concatenate([_on_paper(line, x, y) for line in chart.lines])
    upright = [x(other.at) for other in chart.marks if other.axis == "x"]
    places = [
        (left, baseline)
        for left in np.arange(WIDTH - RIGHT - 3 - width, LEFT + 3, -LETTER)
        for baseline in (level - 4, level + 12)
        if TOP + 9 < baseline < HEIGHT - BOTTOM - 2
    ]

    def crossed(place: tuple[float, float]) -> int:
        left, baseline = place
        within = (points[:, 0] > left - 4) & (points[:, 0] < left + width + 4)
        within &= (points[:, 1] > baseline - 12) & (points[:, 1] < baseline + 4)
        return int(within.sum()) + sum(left - 2 < at < left + width + 2 for at in upright)

    return min(places, key=crossed, default=(WIDTH - RIGHT - 3 - width, level - 4))


def _free_height(chart: Chart, at: float, text: str, x: _Scale, y: _Scale) -> float:
    """Choose how high the words beside an upright mark stand: as far up as fewest lines cross them."""
    width = LETTER * len(text) + 8
    left = at - width if at > WIDTH / 2 else at
    points = np.concatenate([_on_paper(line, x, y) for line in chart.lines])
    points = points[(points[:, 0] > left) & (points[:, 0] < left + width)]
    heights = np.arange(TOP + 10, HEIGHT - BOTTOM - 4, 13.0)
    return float(min(heights, key=lambda h: int(((points[:, 1] > h - 12) & (points[:, 1] < h + 4)).sum())))


def _on_paper(line: Line, x: _Scale, y: _Scale) -> NDArray[Any]:
    """Give points of a line, close enough to one another that none of its crossings is missed."""
    known = np.isfinite(line.y)
    at = np.array([(x(float(a)), y(float(b))) for a, b in zip(line.x[known], line.y[known], strict=True)])
    if len(at) < 2:
        return at.reshape(-1, 2)
    fine = np.linspace(0, len(at) - 1, MOST_POINTS * 4)
    return np.stack([np.interp(fine, np.arange(len(at)), at[:, k]) for k in (0, 1)], axis=1)


def _line(line: Line, x: _Scale, y: _Scale) -> Markup:
    known = [(a, b) for a, b in zip(line.x.tolist(), line.y.tolist(), strict=True) if math.isfinite(b)]
    every = max(1, len(known) // MOST_POINTS)
    points = [f"{x(a):.1f} {y(b):.1f}" for a, b in known[::every]]
    if len(points) == 1:
        return Markup('<circle class="dot {}" cx="{}" cy="{}" r="3"/>').format(
            line.colour, *points[0].split()
        )
    return Markup('<path class="line {}" stroke-dasharray="{}" d="M{}"/>').format(
        line.colour, DASHES.get(line.colour, ""), "L".join(points)
    )


def _legend(lines: Sequence[Line]) -> Iterator[Markup]:
    for i, line in enumerate(lines):
        left, at = LEFT + (i % 2) * 150, HEIGHT + 10 + 16 * (i // 2)
        yield Markup('<path class="line {}" stroke-dasharray="{}" d="M{} {}h20"/>').format(
            line.colour, DASHES.get(line.colour, ""), left, at - 4
        )
        yield _text(left + 26, at, line.name, "start")


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(
        f"{x:.1f}", f"{y:.1f}", anchor, text
    )


# --- maps ----------------------------------------------------------------------------------------


def viridis(part: float) -> str:
    """Give a colour of viridis, as #rrggbb."""
    from matplotlib import colormaps

    red, green, blue, _ = colormaps["viridis"](min(max(part, 0.0), 1.0), bytes=True)
    return f"#{red:02x}{green:02x}{blue:02x}"


class _Cell(NamedTuple):
    x: float
    y: float
    width: float
    height: float


def draw_map(
    cuts: Sequence[Sequence[int]],
    values: dict[tuple[int, int], float],
    lost: set[tuple[int, int]],
    worst: tuple[int, int] | None,
    spread: tuple[float, float],
    alt: str,
    aspect: float = 1.0,
    labels: Mapping[tuple[int, int], str] | None = None,
) -> Markup:
    """Draw boxes seen from above, coloured by a value.

    Parameters
    ----------
    cuts : along y and x where boxes begin, and the extent, in voxels
    values : of boxes, by their index along y and x; others stay empty
    lost : boxes that the result lacks
    worst : is framed
    spread : values that get the darkest and the lightest colour
    alt : what the map says, for those who do not see it
    aspect : extent of a voxel along y over that along x
    labels : of boxes, written where there is room; the values if None
    """
    named = {index: f"{value:.2f}" for index, value in values.items()} if labels is None else labels
    tall, wide = cuts[0][-1] * aspect, float(cuts[1][-1])
    scale = min(WIDTH / wide, 300 / tall)
    parts = []
    for row in range(len(cuts[0]) - 1):
        for column in range(len(cuts[1]) - 1):
            y, x = cuts[0][row] * aspect * scale, cuts[1][column] * scale
            height = cuts[0][row + 1] * aspect * scale - y
            cell = _Cell(x, y, cuts[1][column + 1] * scale - x, height)
            parts.append(_cell(cell, (row, column), values, lost, worst, spread))
            if (row, column) in named:
                parts.append(_number(cell, named[row, column], values.get((row, column), 0.0), spread))
    size = f"0 0 {max(wide * scale, 1):.1f} {max(tall * scale, 1):.1f}"
    return Markup('<svg class="map" viewBox="{}" role="img" aria-label="{}">{}</svg>').format(
        size, alt, Markup("").join(parts)
    )


def _number(cell: _Cell, text: str, value: float, spread: tuple[float, float]) -> Markup:
    """Write a number into the middle of a cell, black on bright colours, if it fits."""
    if cell.width < 9 * len(text) or cell.height < 20:
        return Markup()
    low, high = spread
    bright = high > low and (value - low) / (high - low) > 0.55
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="middle">{}</text>').format(
        "dark" if bright else "pale",
        f"{cell.x + cell.width / 2:.1f}",
        f"{cell.y + cell.height / 2 + 5:.1f}",
        text,
    )


def _cell(
    cell: _Cell,
    index: tuple[int, int],
    values: dict[tuple[int, int], float],
    lost: set[tuple[int, int]],
    worst: tuple[int, int] | None,
    spread: tuple[float, float],
) -> Markup:
    low, high = spread
    place = Markup('x="{}" y="{}" width="{}" height="{}"').format(*(f"{n:.1f}" for n in cell))
    if index in values:
        part = (values[index] - low) / (high - low) if high > low else 0.0
        drawn = Markup('<rect {} fill="{}"/>').format(place, viridis(part))
    else:
        drawn = Markup('<rect {} class="unseen"/>').format(place)
    x, y, width, height = cell
    if index in lost:
        drawn += Markup('<path class="lost" d="M{0} {1}l{2} {3}m0 -{3}l-{2} {3}"/>').format(
            *(f"{n:.1f}" for n in (x, y, width, height))
        )
    if index == worst:
        inset = [x + 1.5, y + 1.5, max(1, width - 3), max(1, height - 3)]
        drawn += Markup('<rect class="worst" x="{}" y="{}" width="{}" height="{}"/>').format(
            *(f"{n:.1f}" for n in inset)
        )
    return drawn
