"""The command as a whole: its help, its speed, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata

import pytest
from bigdecon_cli import main as entry
from bigdecon_cli.main import COMMANDS, bigdecon
from click.testing import CliRunner

import bigdecon as bigdecon_package
from bigdecon.errors import BigdeconError, InputError, RunError


def run_main(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bigdecon", *arguments])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    return ended.value.code


def leaves(command, path=()):
    """Every command that does something, with the words that lead to it."""
    if not hasattr(command, "list_commands"):
        return [(path, command)]
    return [
        leaf
        for name in command.list_commands(None)
        for leaf in leaves(command.get_command(None, name), (*path, name))
    ]


def test_help_lists_all_commands_and_loads_none():
    code = (
        "import sys; sys.argv = ['bigdecon', '--help']\n"
        "from bigdecon_cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'dask', 'zarr', 'distributed', 'numpy', 'tifffile'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    before = os.times()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    after = os.times()
    assert (done.returncode, done.stderr) == (0, "")
    assert all(name in done.stdout for name in COMMANDS)
    used = after.children_user + after.children_system - before.children_user - before.children_system
    assert used < 0.5


def test_every_command_has_help_with_an_example():
    found = leaves(bigdecon)
    assert len(found) >= len(COMMANDS)
    for path, _ in found:
        done = CliRunner().invoke(bigdecon, [*path, "--help"])
        assert done.exit_code == 0, path
        assert "Example" in done.output, path
        assert f"  bigdecon {' '.join(path)} " in done.output, path


def test_version(monkeypatch, capsys):
    assert run_main(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"bigdecon, version {bigdecon_package.__version__}\n"
    assert bigdecon_package.__version__ == metadata.version("bigdecon")


def test_a_mistyped_command_is_told_the_nearest(monkeypatch, capsys):
    assert run_main(monkeypatch, "docter") == 2
    assert "No such command 'docter'. Did you mean doctor?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["walk"], ["run"], ["run", "a", "--steps", "many"], ["run", "a", "--colour", "red"]]
)
def test_a_wrong_command_line_is_code_2(monkeypatch, capsys, arguments):
    assert run_main(monkeypatch, *arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "Error: " in told.err
    assert "Traceback" not in told.err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (InputError("no such thing as 7."), 2, "Error: no such thing as 7.\n"),
        (RunError("the chunk 3 is torn."), 3, "Error: the chunk 3 is torn.\n"),
        (BigdeconError("something else."), 1, "Error: something else.\n"),
        (KeyboardInterrupt(), 130, "Stopped.\n"),
    ],
)
def test_errors_become_a_sentence_and_a_code(monkeypatch, capsys, error, code, text):
    def fail(**options):
        raise error

    monkeypatch.setattr(bigdecon.get_command(None, "info"), "callback", fail)
    assert run_main(monkeypatch, "info", "image.tif") == code
    told = capsys.readouterr()
    assert (told.out.strip(), told.err.lstrip()) == ("", text)
