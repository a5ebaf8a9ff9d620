"""Progress in a notebook: one cell of output that is drawn anew as a run goes on.

IPython is not needed to import this; `in_notebook` tells whether there is a notebook.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from html import escape
from typing import Any

from bigdecon.distributed.progress import (
    BlockProgress,
    ChoosingProgress,
    Event,
    Message,
    RegionDone,
    StageFinished,
    StageStarted,
    TrainingProgress,
)
from bigdecon.notebook_html import progress_bar

__all__ = ["NotebookProgress", "in_notebook"]

PERIOD_S = 0.25
MESSAGES = 12
LINKS = ("Progress page: ", "Dask dashboard: ")


@dataclass
class _Stage:
    """A stage as it is shown."""

    name: str
    part: float = 0.0
    detail: str = ""
    seconds: float | None = None


class NotebookProgress:
    """A listener that shows stages, bars, messages and links in the output of a cell.

    May be called from any thread. Front ends that show no HTML get text.

    Examples
    --------
    >>> run(config, on_event=NotebookProgress())  # doctest: +SKIP
    """

    def __init__(self) -> None:
        self._stages: list[_Stage] = []
        self._messages: deque[tuple[str, bool]] = deque(maxlen=MESSAGES)
        self._lock = threading.Lock()
        self._shown = 0.0
        self._handle: Any = None

    def __call__(self, event: Event) -> None:
        """Note an event, and draw, though not more than a few times a second."""
        with self._lock:
            self._note(event)
            now = time.monotonic()
            progress = isinstance(event, TrainingProgress | ChoosingProgress | RegionDone | BlockProgress)
            if progress and now < self._shown + PERIOD_S and self._stages and self._stages[-1].part < 1:
                return
            self._shown = now
            self._draw()

    def _repr_html_(self) -> str:
        """Give all of it as HTML."""
        rows = "".join(_row(stage) for stage in self._stages)
        lines = "".join(_line(text, is_warning) for text, is_warning in self._messages)
        return f'<div class="bigdecon"><table style="margin:0">{rows}</table>{lines}</div>'

    def __repr__(self) -> str:
        """Give all of it as text."""
        stages = [f"{s.name}: {_state(s)}" for s in self._stages]
        texts = [f"Warning: {text}" if is_warning else text for text, is_warning in self._messages]
        return "\n".join([*stages, *texts])

    def _note(self, event: Event) -> None:
        match event:
            case StageStarted():
                self._stages.append(_Stage(event.name))
            case Message():
                self._messages.append((event.text, event.level == "warning"))
            case StageFinished():
                self._last.seconds = event.seconds
            case TrainingProgress():
                self._last.part = event.step / max(1, event.steps)
                error = "" if event.held_out_error is None else f", held-out error {event.held_out_error:.4g}"
                step = f"step {event.step} of {event.steps}"
                self._last.detail = f"{step}, loss {event.loss:.4g}{error}{_left(event.seconds_left)}"
            case ChoosingProgress():
                self._count("setting", event.done, event.total, event.seconds_left)
                self._last.detail += f", {event.setting}" * bool(event.setting)
            case RegionDone() if not event.all_blocks:
                self._count("region", event.done, event.total, event.seconds_left)
            case RegionDone():
                self._count("block", event.blocks, event.all_blocks, event.seconds_left)
            case BlockProgress():
                self._count("block", event.done, event.total, event.seconds_left)

    def _count(self, noun: str, done: int, total: int, seconds_left: float | None) -> None:
        self._last.part = done / max(1, total)
        self._last.detail = f"{done} of {total} {noun}{'s' * (total != 1)}{_left(seconds_left)}"

    @property
    def _last(self) -> _Stage:
        if not self._stages:
            self._stages.append(_Stage("run"))
        return self._stages[-1]

    def _draw(self) -> None:
        bundle = {"text/html": self._repr_html_(), "text/plain": repr(self)}
        if self._handle is None:
            from IPython.display import display

            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


def in_notebook() -> bool:
    """Tell whether this is the kernel of a notebook."""
    shell = sys.modules.get("IPython")
    return shell is not None and getattr(shell.get_ipython(), "kernel", None) is not None


def _row(stage: _Stage) -> str:
    part = 1.0 if stage.seconds is not None and not stage.detail else stage.part
    return (
        f'<tr><td style="text-align:left">{escape(stage.name)}</td>'
        f'<td>{progress_bar(part)}</td><td style="text-align:left">{escape(_state(stage))}</td></tr>'
    )


def _state(stage: _Stage) -> str:
    done = "" if stage.seconds is None else f"done in {_duration(stage.seconds)}"
    return ", ".join(text for text in (stage.detail, done) if text) or "…"


def _line(text: str, is_warning: bool) -> str:
    for start in LINKS:
        address = text.removeprefix(start)
        if address != text and address.startswith(("http://", "https://", "/")):
            link = escape(address, quote=True)
            return f'<div>{escape(start)}<a href="{link}" target="_blank" rel="noopener">{link}</a></div>'
    bold = "<strong>Warning:</strong> " if is_warning else ""
    return f"<div>{bold}{escape(text)}</div>"


def _left(seconds: float | None) -> str:
    return f", {_duration(seconds)} left" if seconds else ""


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
