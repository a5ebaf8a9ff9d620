"""A log of a run: one line for each message, with time and level, on disk as soon as it is written."""

from __future__ import annotations

import logging
import os
import re
import socket
import stat
import time
import traceback
from contextlib import suppress
from datetime import datetime
from types import TracebackType

from bigdecon_cli.display import Display, describe

from bigdecon.addresses import shown_url
from bigdecon.distributed.progress import (
    BlockProgress,
    ChoosingProgress,
    Event,
    Message,
    RegionDone,
    TrainingProgress,
)
from bigdecon.errors import BigdeconError, OptionError

__all__ = ["LogFile", "Logged"]

LINE_SECONDS = 30.0
"""Progress is logged no more often than this."""


class LogFile:
    """Appends lines to a file; several processes may share it.

    Raises
    ------
    OptionError
        if the file cannot be opened for writing, or holds something else than a log
    """

    def __init__(self, path: str) -> None:
        # A pipe without a reader is refused, not waited for.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0)
        try:
            self._handle = os.open(path, flags, 0o666)
            begins = self._first_bytes()
        except OSError as error:
            raise OptionError(
                f"--log-file {path} cannot be written ({error.strerror or error}); "
                "give a file in a folder that exists and is yours."
            ) from error
        if begins and not re.match(rb"\d{4}-\d\d-\d\dT", begins):
            os.close(self._handle)
            raise OptionError(f"--log-file {path} exists and is no log of bigdecon; choose another name.")

    def _first_bytes(self) -> bytes:
        """Read how a file begins; nothing of a device."""
        if not stat.S_ISREG(os.fstat(self._handle).st_mode):
            return b""
        return os.read(self._handle, 20)

    def write(self, level: str, text: str) -> None:
        """Append one line, whole: there is no buffer that a crash could take along."""
        when = datetime.now().astimezone().isoformat(timespec="seconds")
        line = f"{when} {level:<7} {' | '.join(shown_url(text).split(chr(10)))}"
        clean = "".join(c if c.isprintable() else " " for c in line)
        with suppress(OSError):  # a full disk stops the run, with a reason, where the result is written
            os.write(self._handle, (clean + "\n").encode(errors="backslashreplace"))

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


class _Records(logging.Handler):
    """Writes what libraries log."""

    def __init__(self, file: LogFile) -> None:
        super().__init__(logging.WARNING)
        self._file = file

    def emit(self, record: logging.LogRecord) -> None:
        self._file.write(record.levelname, f"{record.name}: {record.getMessage()}")


class Logged(Display):
    """Shows events as another display does, and logs them.

    Parameters
    ----------
    inner : what else is shown
    path : of the log
    title : its first line
    """

    def __init__(self, inner: Display, path: str, title: str) -> None:
        self._inner, self._path, self._title = inner, path, title
        self._file = LogFile(path)
        self._records = _Records(self._file)
        self._last = -float("inf")

    def __enter__(self) -> Logged:
        """Begin."""
        host, pid = socket.gethostname(), os.getpid()
        self._file.write("INFO", f"{self._title} (process {pid} on {host}, in {os.getcwd()})")
        logging.getLogger().addHandler(self._records)
        self._inner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say how it ended."""
        self._inner.__exit__(kind, error, trace)
        logging.getLogger().removeHandler(self._records)
        self._file.write(*_ending(error))
        self._file.close()

    def log(self, text: str) -> None:
        """Log a line."""
        self._file.write("INFO", text)

    def __call__(self, event: Event) -> None:
        """Show an event and log it; progress, of which there is much, now and then."""
        self._inner(event)
        moves = isinstance(event, TrainingProgress | ChoosingProgress | RegionDone | BlockProgress)
        if moves and not self._is_due():
            return
        level = "WARNING" if isinstance(event, Message) and event.level == "warning" else "INFO"
        self._file.write(level, event.text if isinstance(event, Message) else describe(event).strip())

    def _is_due(self) -> bool:
        now = time.monotonic()
        if now < self._last + LINE_SECONDS:
            return False
        self._last = now
        return True


def _ending(error: BaseException | None) -> tuple[str, str]:
    if error is None:
        return "INFO", "ended in order"
    if isinstance(error, BigdeconError):
        return "ERROR", str(error)
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "WARNING", "stopped"
    return "ERROR", "".join(traceback.format_exception(error)).strip()
