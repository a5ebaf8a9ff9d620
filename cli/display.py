"""How progress looks: bars on a terminal, plain lines elsewhere, JSON lines for programs, or nothing."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

import click
from bigdecon_cli.terminal import say_warning, wants_colour

from bigdecon.distributed.progress import (
    BlockProgress,
    BlocksRestored,
    ChoosingProgress,
    Event,
    Message,
    RegionDone,
    StageFinished,
    StageStarted,
    TrainingProgress,
    to_dict,
)
from bigdecon.errors import BigdeconError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Display", "JsonLines", "PlainLines", "Quiet", "RichProgress", "choose_display", "endings_told"]

LINE_SECONDS = 10.0

Moves = TrainingProgress | ChoosingProgress | RegionDone | BlockProgress
"""Events that move a bar."""


class Display(AbstractContextManager["Display"]):
    """A listener that is open for the length of a `with` block; this one shows warnings alone."""

    def __call__(self, event: Event) -> None:
        """Show an event; may be called from any thread."""
        if isinstance(event, Message) and event.level == "warning":
            say_warning(event.text)

    def log(self, text: str) -> None:
        """Take what is for a log file alone."""

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
            elif isinstance(event, Moves) and not self._is_due(event):
                return
            warns = isinstance(event, Message) and event.level == "warning"
            text = describe(event)
            if warns and wants_colour(self._stream):
                text = click.style(text, fg="yellow")
            print(text, file=self._stream, flush=True)

    def _is_due(self, event: Moves) -> bool:
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
                self._stage = self._progress.add_task(event.name, total=event.total or None, detail="")
            elif isinstance(event, Message):
                style = "yellow" if event.level == "warning" else None
                self._progress.console.print(describe(event), style=style, markup=False, highlight=False)
            elif self._stage is not None:
                self._move(self._stage, event)

    def _move(self, stage: TaskID, event: Moves | StageFinished | BlocksRestored) -> None:
        if isinstance(event, StageFinished):
            # Training may end early: a full bar would claim steps that were never made.
            self._progress.update(stage, detail=_duration(event.seconds))
            self._stage = None
        elif isinstance(event, TrainingProgress):
            self._progress.update(stage, completed=event.step, total=event.steps, detail=_detail(event))
        elif isinstance(event, RegionDone) and event.all_blocks:
            blocks, total = event.blocks, event.all_blocks
            self._progress.update(stage, completed=blocks, total=total, detail=_detail(event))
        elif not isinstance(event, BlocksRestored):
            self._progress.update(stage, completed=event.done, total=event.total, detail=_detail(event))


def choose_display(
    *, quiet: bool = False, as_json: bool = False, log_file: str | None = None, title: str = ""
) -> Display:
    """Choose how progress is shown: by the flags, and by whether somebody sits at a terminal.

    Parameters
    ----------
    quiet, as_json : the flags
    log_file : where all messages go as well
    title : first line in that file

    Raises
    ------
    OptionError
        if the log file cannot be written
    """
    display = _choose(quiet=quiet, as_json=as_json)
    if log_file is None:
        return display
    from bigdecon_cli.log_file import Logged

    return Logged(display, log_file, title)


def _choose(*, quiet: bool, as_json: bool) -> Display:
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
        case ChoosingProgress():
            return f"  {event.done} of at most {event.total} settings tried  {_detail(event)}".rstrip()
        case RegionDone():
            blocks = f"block {event.blocks}/{event.all_blocks}, " if event.all_blocks else ""
            return f"  {blocks}region {event.done}/{event.total}  {_detail(event)}".rstrip()
        case BlockProgress():
            return f"  block {event.done}/{event.total}  {_detail(event)}".rstrip()
        case BlocksRestored():
            return f"  {event.blocks} blocks of region {event.region}"
        case StageFinished():
            return f"{event.name}: done in {_duration(event.seconds)}"
        case Message():
            return f"Warning: {event.text}" if event.level == "warning" else event.text


def _detail(event: Moves) -> str:
    parts = []
    if isinstance(event, TrainingProgress):
        parts.append(f"loss {event.loss:.4g}")
        if event.held_out_error is not None:
            parts.append(f"held-out error {event.held_out_error:.4g}")
    if isinstance(event, ChoosingProgress) and event.setting:
        parts.append(f"{event.setting}, on {_parts(event.parts)}")
    if event.seconds_left is not None and not _is_last(event):
        at_most = "at most " if isinstance(event, ChoosingProgress) else ""
        parts.append(f"{at_most}{_duration(event.seconds_left)} left")
    return "  ".join(parts)


def _parts(parts: int) -> str:
    return "the whole image" if parts == 1 else f"{parts} parts of the image"


def _is_last(event: Moves) -> bool:
    if isinstance(event, TrainingProgress):
        return event.step >= event.steps
    if isinstance(event, BlockProgress):
        return False  # the last region is still to be written
    return event.done >= event.total


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    return shell is not None and getattr(shell.get_ipython(), "kernel", None) is not None


@contextmanager
def endings_told(stopped: str, *, as_json: bool) -> Iterator[None]:
    """Say what Ctrl-C leaves behind, and give errors to programs as JSON too.

    Parameters
    ----------
    stopped : what to say after Ctrl-C
    as_json : whether who reads is a program
    """
    try:
        yield
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            click.echo(err=True)  # below the bar
        click.echo(stopped, err=True)
        raise SystemExit(130) from None
    except BigdeconError as error:
        if as_json:
            click.echo(json.dumps({"event": "Error", "text": str(error), "exit_code": error.exit_code}))
        raise
