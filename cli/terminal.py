"""What the terminal gets: colours where they are wanted, and no noise from libraries."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import click

__all__ = ["libraries_quiet", "say_error", "say_warning", "wants_colour"]


def wants_colour(stream: TextIO) -> bool:
    """Whether to write colours: on terminals, unless the environment says otherwise.

    NO_COLOR (https://no-color.org) switches them off, FORCE_COLOR and CLICOLOR_FORCE on, for pipes as well.
    """
    if os.environ.get("NO_COLOR"):
        return False
    if any(os.environ.get(name, "0") not in ("", "0") for name in ("FORCE_COLOR", "CLICOLOR_FORCE")):
        return True
    if os.environ.get("CLICOLOR") == "0" or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def say_error(text: str) -> None:
    """Write an error to the standard error stream."""
    _say("Error:", text, "red")


def say_warning(text: str) -> None:
    """Write a warning to the standard error stream."""
    _say("Warning:", text, "yellow")


def _say(label: str, text: str, colour: str) -> None:
    coloured = wants_colour(sys.stderr)
    shown = click.style(label, fg=colour, bold=True) if coloured else label
    click.echo(f"{shown} {text}", err=True, color=coloured)


@contextmanager
def libraries_quiet() -> Iterator[None]:
    """Keep off the terminal what libraries log and warn of; a log file still gets it.

    What bigdecon itself warns of in this process is for the user.
    """
    import logging

    class Tell(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say_warning(record.getMessage())

    root, ours = logging.getLogger(), logging.getLogger("bigdecon")
    nobody, tell = logging.NullHandler(), Tell(logging.WARNING)
    root.addHandler(nobody)  # else Python writes warnings that nobody takes to the terminal
    ours.addHandler(tell)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        ours.removeHandler(tell)
        root.removeHandler(nobody)
