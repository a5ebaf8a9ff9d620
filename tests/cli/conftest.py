"""What the tests of several commands share."""

from __future__ import annotations

import sys

import pytest
from bigdecon_cli import main as entry


@pytest.fixture
def bigdecon(monkeypatch, capsys):
    """Run a command in this process; gives the exit code, stdout and stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["bigdecon", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            entry.main()
        return ended.value.code, *capsys.readouterr()

    return call
