"""The log of a run: its lines, and that they are there after a crash."""

from __future__ import annotations

import logging
import re
import subprocess
import sys

import pytest
from bigdecon_cli.display import Quiet, choose_display
from bigdecon_cli.log_file import Logged

from bigdecon.distributed.cluster import connect
from bigdecon.distributed.progress import Message, RegionDone, StageFinished, StageStarted, subscribe
from bigdecon.distributed.worker_messages import messages_sent
from bigdecon.errors import OptionError, RunError

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d (INFO|WARNING|ERROR) +(.*)")


def entries(path):
    """Take the lines apart; every one must be whole."""
    return [LINE.fullmatch(line).groups() for line in path.read_text().splitlines()]


def test_messages_have_times_and_levels_one_line_each(tmp_path):
    with choose_display(quiet=True, log_file=str(tmp_path / "log"), title="bigdecon run a.tif") as show:
        show(StageStarted("deconvolve", 2))
        show(RegionDone(1, 2, 10, None, 3, 6))
        show(RegionDone(2, 2, 20, None, 6, 6))  # soon after
        show(Message("two\nlines \x1b[31m and https://me:word@host/a?sig=1"))
        show(StageFinished("deconvolve", 3.0))
        show.log("plan: device cpu")
    first, *others = entries(tmp_path / "log")
    assert first[1].startswith("bigdecon run a.tif (process ")
    assert others == [
        ("INFO", "deconvolve ..."),
        ("INFO", "block 3/6, region 1/2"),
        ("INFO", "two | lines  [31m and https://host/a"),
        ("INFO", "deconvolve: done in 3.0 s"),
        ("INFO", "plan: device cpu"),
        ("INFO", "ended in order"),
    ]


def test_a_log_is_appended_to_and_tells_how_it_ended(tmp_path, capsys):
    def end(error):
        with Logged(Quiet(), str(tmp_path / "log"), "again") as show:
            show(Message("look here", "warning"))
            raise error

    for error in (RunError("the disk is full."), KeyboardInterrupt(), ValueError("a bug")):
        with pytest.raises(type(error)):
            end(error)
    found = entries(tmp_path / "log")
    assert [level for level, _ in found] == [
        "INFO", "WARNING", "ERROR", "INFO", "WARNING", "WARNING", "INFO", "WARNING", "ERROR"
    ]  # fmt: skip
    assert found[2][1] == "the disk is full."
    assert found[5][1] == "stopped"
    assert "Traceback" in found[8][1]
    assert "ValueError: a bug" in found[8][1]
    assert capsys.readouterr().err == "Warning: look here\n" * 3


def test_what_libraries_log_is_there(tmp_path):
    with Logged(Quiet(), str(tmp_path / "log"), "t"):
        logging.getLogger("tifffile").warning("odd %s", "tag")
        logging.getLogger("tifffile").info("nothing")
    assert [text for _, text in entries(tmp_path / "log")][1:-1] == ["tifffile: odd tag"]


def warn_in_worker(run_id):
    with messages_sent(run_id):
        logging.getLogger("bigdecon.test").warning("smaller tiles")


def test_what_workers_warn_of_is_there(tmp_path, cluster):
    log = Logged(Quiet(), str(tmp_path / "log"), "t")
    with log as show, connect(cluster) as connection, subscribe(connection.client, show, "r"):
        connection.client.submit(warn_in_worker, "r", pure=False).result()
    assert ("WARNING", "worker 0: smaller tiles") in entries(tmp_path / "log")


def test_it_can_be_read_after_a_crash(tmp_path):
    code = (
        "import os\nfrom bigdecon_cli.log_file import Logged\nfrom bigdecon_cli.display import Quiet\n"
        "from bigdecon.distributed.progress import Message\n"
        "with Logged(Quiet(), 'log', 'begun') as show:\n    show(Message('last words'))\n    os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    assert [text for _, text in entries(tmp_path / "log")][1:] == ["last words"]


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "image.tif").write_bytes(b"II*\x00")
    with pytest.raises(OptionError, match=r"image\.tif exists and is no log of bigdecon"):
        choose_display(log_file=str(tmp_path / "image.tif"))
    assert (tmp_path / "image.tif").read_bytes() == b"II*\x00"
    (tmp_path / "empty").touch()
    with choose_display(quiet=True, log_file=str(tmp_path / "empty"), title="t"):
        pass
    assert len(entries(tmp_path / "empty")) == 2


@pytest.mark.parametrize("place", ["absent/log", "."])
def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path, place):
    with pytest.raises(OptionError, match=r"--log-file .* cannot be written"):
        choose_display(log_file=str(tmp_path / place))
