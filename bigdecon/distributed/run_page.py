"""The page /bigdecon on Dask's dashboard: a map of blocks, training curves, speeds, messages.

Bokeh is loaded here and nowhere else. All that the page loads comes from the scheduler, by relative
addresses, so that it works behind the proxy of a notebook server.

Colours are those of Okabe and Ito, which colour-blind readers tell apart.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from itertools import product
from typing import Any

from bokeh.document import Document
from bokeh.layouts import column, row
from bokeh.models import ColumnDataSource, FactorRange, HoverTool, Range1d
from bokeh.models.widgets import Div
from bokeh.plotting import figure
from distributed import Scheduler
from jinja2 import Template
from tornado.ioloop import IOLoop

from bigdecon.distributed.run_state import BlockMap, RunState

__all__ = ["PATH", "RunPage", "add_page"]

PATH = "/bigdecon"
PERIOD_MS = 1000
MOST_WORKERS = 24
MAP_WIDTH, MAP_HEIGHT, MAP_LEAST = 480, 320, 40  # in pixels

WAITING, DONE, FLYING, MISSING = "#e6e6e6", "#0072B2", "#E69F00", "#D55E00"
LOSS, HELD_OUT = "#0072B2", "#D55E00"
INK = "#333333"

TEMPLATE = Template(
    """<!DOCTYPE html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <title>{{ title }}</title>
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <link rel="icon" href="data:,">
  {{ bokeh_css }}
  {{ bokeh_js }}
  <style>
    body { margin: 0 auto; max-width: 1200px; padding: 12px 20px; color: #333; background: #fff;
           font-family: system-ui, sans-serif; }
    nav { font-size: 13px; color: #666; display: flex; gap: 14px; flex-wrap: wrap; }
    nav a { color: #0072B2; text-decoration: none; }
    nav a:hover { text-decoration: underline; }
  </style>
</head>
<body>
  <nav><strong>bigdecon</strong> <span>Dask:</span> <a href="status">status</a> <a href="workers">workers</a>
  <a href="tasks">tasks</a> <a href="system">system</a></nav>
  {{ plot_div }}
  {{ plot_script }}
</body>
</html>
"""
)


def add_page(scheduler: Scheduler, find_state: Callable[[], RunState]) -> Any:
    """Add the page to the web server of a running scheduler.

    Parameters
    ----------
    scheduler : with a dashboard; without one there is no page
    find_state : gives what is to be shown now

    Returns
    -------
    the bokeh application, to be stopped at the end; None where there is no dashboard
    """
    from distributed.dashboard.core import BokehApplication

    server: Any = scheduler
    if not any("Bokeh" in type(one).__name__ for one in server.http_application.applications):
        return None

    def open_page(scheduler: Scheduler, extra: dict[str, Any], document: Document) -> None:
        RunPage(find_state).open(document)

    application = BokehApplication({PATH: open_page}, scheduler, prefix="")
    server.http_application.add_application(application)
    application.initialize(IOLoop.current())
    application.start()
    return application


class RunPage:
    """One reader's page.

    Parameters
    ----------
    find_state : gives what is to be shown now
    """

    def __init__(self, find_state: Callable[[], RunState]) -> None:
        self._find_state = find_state
        self._seen: tuple[int, int] | None = None
        self._drawn: BlockMap | None = None
        self._cells = ColumnDataSource(
            {name: [] for name in ("left", "right", "top", "bottom", "fill", "line", "width", "text")}
        )
        self._losses = ColumnDataSource({"step": [], "loss": []})
        self._held_out = ColumnDataSource({"step": [], "error": []})
        self._speeds = ColumnDataSource({"worker": [], "speed": [], "text": []})
        self._head = Div(sizing_mode="stretch_width", stylesheets=[":host > div { width: 100%; }"])
        self._messages = Div(
            sizing_mode="stretch_width", min_width=300, height=240, styles={"overflow-y": "auto"}
        )
        self._map, self._curve, self._bars = self._map_figure(), self._curve_figure(), self._bar_figure()
        self._legend = Div(text=_legend())

    def open(self, document: Document) -> None:
        """Lay the page out and keep it up to date."""
        document.title = "bigdecon"
        document.template = TEMPLATE
        document.add_root(
            column(
                self._head,
                row(
                    column(self._map, self._legend),
                    self._curve,
                    sizing_mode="stretch_width",
                    styles={"flex-wrap": "wrap"},
                ),
                row(
                    self._bars,
                    self._messages,
                    sizing_mode="stretch_width",
                    styles={"flex-wrap": "wrap"},
                ),
                sizing_mode="stretch_width",
            )
        )
        self.update()
        document.add_periodic_callback(self.update, PERIOD_MS)

    def update(self) -> None:
        """Show what has changed since the last time."""
        state = self._find_state()
        self._head.text = _head(state)
        seen = id(state), state.version
        if seen == self._seen:
            return
        self._seen = seen
        self._draw_map(state.map)
        self._draw_curve(state)
        self._draw_speeds(state)
        self._messages.text = _messages(state)

    def _draw_map(self, blocks: BlockMap | None) -> None:
        self._map.visible = self._legend.visible = blocks is not None
        if blocks is None:
            return
        size = blocks.outline.voxel_size_um
        if blocks is not self._drawn:
            self._drawn = blocks
            height, width = (axis[-1] * s for axis, s in zip(blocks.edges, size or (1, 1), strict=True))
            self._map.x_range.start, self._map.x_range.end = 0, width
            self._map.y_range.start, self._map.y_range.end = height, 0
            scale = min(MAP_WIDTH / width, MAP_HEIGHT / height)
            self._map.frame_width = max(MAP_LEAST, round(width * scale))
            self._map.frame_height = max(MAP_LEAST, round(height * scale))
            unit = ", µm" if size else ""
            self._map.xaxis.axis_label, self._map.yaxis.axis_label = f"x{unit}", f"y{unit}"
        self._cells.data = _cells(blocks)

    def _draw_curve(self, state: RunState) -> None:
        curve = state.curve
        self._curve.visible = curve is not None
        if curve is None:
            return
        self._curve.title.text = f"Loss, {curve.name}"
        self._curve.x_range.end = 1.02 * max(1, curve.steps)
        kept = [(step, loss) for step, loss, _ in curve.points if loss > 0]
        self._losses.data = {"step": [s for s, _ in kept], "loss": [v for _, v in kept]}
        measured = {error: step for step, _, error in reversed(curve.points) if error and error > 0}
        pairs = sorted((step, error) for error, step in measured.items())
        self._held_out.data = {"step": [s for s, _ in pairs], "error": [e for _, e in pairs]}
        values = [value for _, value in kept] + [error for _, error in pairs]
        if values:  # a range of Bokeh's own complains of a logarithmic axis without values
            self._curve.y_range.start, self._curve.y_range.end = 0.8 * min(values), 1.25 * max(values)

    def _draw_speeds(self, state: RunState) -> None:
        speeds = sorted(state.speeds.now().items())
        self._bars.visible = bool(speeds)
        shown = speeds[:MOST_WORKERS]
        names = [worker.rpartition("://")[2] for worker, _ in shown]
        total = sum(speed for _, speed in speeds)
        many = "1 worker" if len(speeds) == 1 else f"{len(speeds)} workers"
        self._bars.title.text = f"Voxels per second: {_short(total)} by {many}"
        if list(self._bars.y_range.factors) != names[::-1]:
            self._bars.y_range.factors = names[::-1]
            self._bars.height = 110 + 22 * len(names)
        self._speeds.data = {
            "worker": names,
            "speed": [speed for _, speed in shown],
            "text": [_short(speed) for _, speed in shown],
        }

    def _map_figure(self) -> Any:
        plot: Any = figure(
            title="Blocks, seen along z",
            tools="pan,wheel_zoom,reset",
            toolbar_location=None,
            x_range=Range1d(start=0, end=1),
            y_range=Range1d(start=1, end=0),
        )
        cells = plot.quad(
            left="left",
            right="right",
            top="top",
            bottom="bottom",
            fill_color="fill",
            line_color="line",
            line_width="width",
            source=self._cells,
        )
        plot.add_tools(HoverTool(renderers=[cells], tooltips="@text"))
        return _calm(plot)

    def _curve_figure(self) -> Any:
        plot: Any = figure(
            height=380,
            min_width=340,
            sizing_mode="stretch_width",
            y_axis_type="log",
            x_axis_label="step",
            x_range=Range1d(start=0, end=1),
            y_range=Range1d(start=0.1, end=1),
            tools="",
            toolbar_location=None,
        )
        plot.line("step", "loss", source=self._losses, color=LOSS, line_width=2, legend_label="loss")
        held_out: dict[str, Any] = {
            "source": self._held_out,
            "color": HELD_OUT,
            "legend_label": "error at held-out voxels",
        }
        plot.line("step", "error", line_width=1.5, line_dash="dashed", **held_out)
        plot.scatter("step", "error", size=6, marker="diamond", **held_out)
        plot.legend.location, plot.legend.border_line_color = "top_right", None
        plot.legend.background_fill_alpha = 0.8
        return _calm(plot)

    def _bar_figure(self) -> Any:
        plot: Any = figure(
            height=240,
            min_width=340,
            sizing_mode="stretch_width",
            y_range=FactorRange(),
            tools="",
            toolbar_location=None,
        )
        plot.hbar("worker", right="speed", height=0.6, source=self._speeds, color=DONE, line_color=None)
        plot.text(
            x="speed",
            y="worker",
            text="text",
            source=self._speeds,
            x_offset=5,
            text_baseline="middle",
            text_font_size="12px",
            text_color=INK,
        )
        plot.x_range.start, plot.x_range.range_padding = 0, 0.5
        plot.grid.visible = plot.xaxis.visible = False
        return _calm(plot)


def _calm(plot: Any) -> Any:
    """Take away what draws the eye without telling anything."""
    plot.outline_line_color = None
    plot.title.text_color = INK
    plot.title.text_font_style = "normal"
    plot.title.text_font_size = "14px"
    plot.axis.axis_line_color = plot.axis.minor_tick_line_color = None
    plot.axis.axis_label_text_font_style = "normal"
    plot.grid.grid_line_color = "#eeeeee"
    return plot


def _cells(blocks: BlockMap) -> dict[str, list[Any]]:
    """Give every cell its place and look: filled by what is done, framed while a worker is at it."""
    size = blocks.outline.voxel_size_um or (1.0, 1.0)
    ys, xs = ([edge * s for edge in edges] for edges, s in zip(blocks.edges, size, strict=True))
    done, flying = blocks.done(), blocks.flying()
    found: dict[str, list[Any]] = {name: [] for name in ("left", "right", "top", "bottom")}
    found |= {name: [] for name in ("fill", "line", "width", "text")}
    for y, x in product(range(len(ys) - 1), range(len(xs) - 1)):
        total, ready, busy, lost = (int(a[y, x]) for a in (blocks.total, done, flying, blocks.missing))
        fill = MISSING if lost else _mix(WAITING, DONE, ready / max(1, total))
        text = f"{ready} of {total} blocks done" + f", {busy} in flight" * bool(busy)
        values = (xs[x], xs[x + 1], ys[y], ys[y + 1], fill, FLYING if busy else "#ffffff", 3 if busy else 1)
        text += f", {lost} could not be restored" * bool(lost)
        for name, value in zip(found, (*values, text), strict=True):
            found[name].append(value)
    return found


def _mix(first: str, second: str, part: float) -> str:
    """Go from one colour to another; whatever is begun looks begun."""
    part = 0.0 if part <= 0 else 0.15 + 0.85 * min(1.0, part)
    pairs = ((int(first[i : i + 2], 16), int(second[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(a + part * (b - a)):02x}" for a, b in pairs)


def _legend() -> str:
    def square(fill: str, line: str = "#bbbbbb") -> str:
        return (
            f'<span style="display:inline-block;width:11px;height:11px;background:{fill};'
            f'border:2px solid {line};vertical-align:-2px;margin:0 4px 0 10px"></span>'
        )

    half = _mix(WAITING, DONE, 0.4)
    return (
        f'<span style="font-size:12px;color:{INK}">{square(WAITING, WAITING)}to do{square(half, half)}'
        f"part of the depth done{square(DONE, DONE)}done{square(WAITING, FLYING)}in flight"
        f"{square(MISSING, MISSING)}could not be restored</span>"
    )


def _head(state: RunState) -> str:
    if not state.name:
        return "<p>No run has begun yet. This page follows it as soon as it does.</p>"
    part, left_s = state.progress()
    stage = state.stage or "between stages"
    left = f", about {_duration(left_s)} left" if left_s is not None and part < 1 else ""
    bar = (
        f'<div style="height:8px;background:{WAITING};border-radius:4px"><div style="height:8px;'
        f'width:{100 * min(1.0, part):.1f}%;background:{DONE};border-radius:4px"></div></div>'
    )
    return (
        f'<div style="font-size:20px;color:{INK};margin:8px 0 2px;overflow-wrap:anywhere">'
        f'{escape(state.name)}</div><div style="font-size:14px;color:{INK};margin-bottom:6px">'
        f"{escape(stage)}: {100 * part:.0f} %{left}</div>{bar}"
    )


def _messages(state: RunState) -> str:
    lines = [
        f'<div style="margin:3px 0"><span style="color:#777">{clock}</span> '
        + (f'<strong style="color:{MISSING}">Warning:</strong> ' if is_warning else "")
        + f"{escape(text)}</div>"
        for clock, text, is_warning in reversed(state.messages)
    ]
    return (
        f'<div style="font-size:13px;color:{INK}">'
        '<div style="font-size:14px;margin-bottom:4px">Messages</div>' + "".join(lines) + "</div>"
    )


def _short(speed: float) -> str:
    for size, name in ((1e9, " billion"), (1e6, " million"), (1e3, " thousand")):
        if speed >= size:
            return f"{speed / size:.3g}{name}"
    return f"{speed:.3g}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
