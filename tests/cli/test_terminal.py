"""Colours, and the silence of libraries."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import warnings

import pytest
from bigdecon_cli.terminal import libraries_quiet, say_error, wants_colour


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("settings", "on_terminal", "on_pipe"),
    [
        ({}, True, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": ""}, True, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"FORCE_COLOR": "0"}, True, False),
        ({"CLICOLOR_FORCE": "1"}, True, True),
        ({"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}, False, False),
        ({"CLICOLOR": "0"}, False, False),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_colours_follow_the_environment(monkeypatch, settings, on_terminal, on_pipe):
    for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "CLICOLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert wants_colour(Terminal()) is on_terminal
    assert wants_colour(io.StringIO()) is on_pipe


def test_errors_are_red_only_where_wanted(monkeypatch, capsys):
    say_error("no such thing.")
    assert capsys.readouterr().err == "Error: no such thing.\n"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")
    say_error("no such thing.")
    assert capsys.readouterr().err == "\x1b[31m\x1b[1mError:\x1b[0m no such thing.\n"


def test_libraries_say_nothing_on_the_terminal():
    code = (
        "import logging, warnings\nfrom bigdecon_cli.terminal import libraries_quiet\n"
        "with libraries_quiet():\n    logging.getLogger('tifffile').error('noise')\n"
        "    warnings.warn('noise')\n    logging.getLogger('bigdecon.x').warning('ours')\n"
        "logging.getLogger('tifffile').error('heard again')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "Warning: ours\nheard again\n")


def test_warnings_stay_errors_for_those_who_want_them():
    before = logging.getLogger().handlers[:]
    with libraries_quiet(), pytest.raises(UserWarning):  # as in these tests
        warnings.warn("serious", stacklevel=1)
    assert logging.getLogger().handlers == before
