"""How progress looks: bars on a terminal, plain lines elsewhere, JSON lines for programs, or nothing."""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from bigdecon.distributed.progress import (
    Event,
    Message,
    RegionDone,
    StageFinished,
    StageStarted,
    TrainingProgress,
    to_dict,
)

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Display", "JsonLines", "PlainLines", "Quiet", "RichProgress", "choose_display"]

LINE_SECONDS = 10.0


class Display(AbstractContextManager["Display"]):
    """A listener that is open for the length of a `with` block; this one shows warnings alone."""

    def __call__(self, event: Event) -> None:
        """Show an event; may be called from any thread."""
        if isinstance(event, Message) and event.level == "warning":
            print(f"Warning: {event.text}", file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""


class Quiet(Display):
    """For --quiet: warnings only."""


class JsonLines(Display):
    """For --json: one object a line."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Print the event as JSON."""
        with self._lock:
            print(json.dumps(to_dict(event)), file=self._stream, flush=True)


class PlainLines(Display):
    """For log files: a line now and then."""

    def __init__(self, stream: TextIO | None = None, line_seconds: float = LINE_SECONDS) -> None:
        self._stream = stream or sys.stdout
        self._line_seconds = line_seconds
        self._last = -float("inf")
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Print a line if the event is worth it, or the last line is long enough ago."""
        with self._lock:
            if isinstance(event, StageStarted):
                self._last = time.monotonic()
            elif isinstance(event, TrainingProgress | RegionDone) and not self._is_due(event):
                return
            print(describe(event), file=self._stream, flush=True)

    def _is_due(self, event: TrainingProgress | RegionDone) -> bool:
        now = time.monotonic()
        if now < self._last + self._line_seconds and not _is_last(event):
            return False
        self._last = now
        return True


class RichProgress(Display):
    """For terminals and notebooks: a bar for each stage."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._progress: Progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
        )
        self._stage: TaskID | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> RichProgress:
        """Begin to draw."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop drawing; the bars stay as they are."""
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Move the bar of the stage, or print above it."""
        with self._lock:
            if isinstance(event, StageStarted):
                self._stage = self._progress.add_task(event.name, total=event.total, detail="")
            elif isinstance(event, Message):
                style = "yellow" if event.level == "warning" else None
                self._progress.console.print(describe(event), style=style, markup=False, highlight=False)
            elif self._stage is not None:
                self._move(self._stage, event)

    def _move(self, stage: TaskID, event: TrainingProgress | RegionDone | StageFinished) -> None:
        if isinstance(event, StageFinished):
            # Training may end early: a full bar would claim steps that were never made.
            self._progress.update(stage, detail=_duration(event.seconds))
            self._stage = None
        elif isinstance(event, TrainingProgress):
            self._progress.update(stage, completed=event.step, total=event.steps, detail=_detail(event))
        else:
            self._progress.update(stage, completed=event.done, total=event.total, detail=_detail(event))


def choose_display(*, quiet: bool = False, as_json: bool = False) -> Display:
    """Choose how progress is shown: by the flags, and by whether somebody sits at a terminal."""
    if as_json:
        return JsonLines()
    if quiet:
        return Quiet()
    return RichProgress() if sys.stdout.isatty() or _in_notebook() else PlainLines()


def describe(event: Event) -> str:
    """Put an event into a line of text."""
    match event:
        case StageStarted():
            return f"{event.name} ..."
        case TrainingProgress():
            return f"  step {event.step}/{event.steps}  {_detail(event)}"
        case RegionDone():
            return f"  region {event.done}/{event.total}  {_detail(event)}".rstrip()
        case StageFinished():
            return f"{event.name}: done in {_duration(event.seconds)}"
        case Message():
            return f"Warning: {event.text}" if event.level == "warning" else event.text


def _detail(event: TrainingProgress | RegionDone) -> str:
    parts = []
    if isinstance(event, TrainingProgress):
        parts.append(f"loss {event.loss:.4g}")
        if event.held_out_error is not None:
            parts.append(f"held-out error {event.held_out_error:.4g}")
    if event.seconds_left is not None and not _is_last(event):
        parts.append(f"{_duration(event.seconds_left)} left")
    return "  ".join(parts)


def _is_last(event: TrainingProgress | RegionDone) -> bool:
    if isinstance(event, TrainingProgress):
        return event.step >= event.steps
    return event.done >= event.total


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    return shell is not None and getattr(shell.get_ipython(), "kernel", None) is not None
