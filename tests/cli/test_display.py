"""How progress looks, on paper, for programs and on a terminal."""

from __future__ import annotations

import io
import json

import pytest
from bigdecon_cli import display
from bigdecon_cli.display import JsonLines, PlainLines, Quiet, RichProgress, choose_display

from bigdecon.distributed.progress import (
    BlockProgress,
    ChoosingProgress,
    Message,
    RegionDone,
    StageFinished,
    StageStarted,
    TrainingProgress,
    from_dict,
    to_dict,
)

CHOOSING = [
    StageStarted("choose settings", 14),
    ChoosingProgress(0, 14, "background 100, sieve 1", 4),
    ChoosingProgress(3, 14, "sieve 1", 4, 1, 93.0),
    ChoosingProgress(12, 12, "", 1, 1, 0.0),
    StageFinished("choose settings", 40.0),
]
RUN = [
    StageStarted("train channel 0", 300),
    TrainingProgress(100, 300, 0.51234, None, 125.0),
    TrainingProgress(200, 300, 0.41234, 0.39, 64.0),
    TrainingProgress(300, 300, 0.31234, 0.29, 0.0),
    StageFinished("train channel 0", 191.0),
    Message("the PSF was moved by 0.3 voxel", "warning"),
    StageStarted("deconvolve", 8),
    BlockProgress(2, 8, 6.3),
    RegionDone(1, 2, 10**6, 4.2, 4, 8),
    RegionDone(2, 2, 2 * 10**6, None, 8, 8),
    StageFinished("deconvolve", 8.4),
    StageStarted("level 1", 3),
    RegionDone(3, 3, 100),
    StageFinished("level 1", 0.2),
]


def test_json_lines_can_be_read_back():
    stream = io.StringIO()
    with JsonLines(stream) as show:
        for event in RUN:
            show(event)
    assert [from_dict(json.loads(line)) for line in stream.getvalue().splitlines()] == RUN


def test_a_choice_of_settings_is_told():
    stream = io.StringIO()
    with PlainLines(stream, line_seconds=0) as show:
        for event in CHOOSING:
            show(event)
            assert from_dict(to_dict(event)) == event
    assert stream.getvalue().splitlines() == [
        "choose settings ...",
        "  0 of at most 14 settings tried  background 100, sieve 1, on 4 parts of the image",
        "  3 of at most 14 settings tried  sieve 1, on 4 parts of the image  at most 2 min left",
        "  12 of at most 12 settings tried",
        "choose settings: done in 40 s",
    ]


def test_plain_lines_come_at_intervals_and_the_last_always():
    stream = io.StringIO()
    with PlainLines(stream, line_seconds=100) as show:
        for event in RUN:
            show(event)
    assert stream.getvalue().splitlines() == [
        "train channel 0 ...",
        "  step 300/300  loss 0.3123  held-out error 0.29",
        "train channel 0: done in 3 min",
        "Warning: the PSF was moved by 0.3 voxel",
        "deconvolve ...",
        "  block 8/8, region 2/2",
        "deconvolve: done in 8.4 s",
        "level 1 ...",
        "  region 3/3",
        "level 1: done in 0.2 s",
    ]


def test_plain_lines_tell_the_time_left():
    stream = io.StringIO()
    show = PlainLines(stream, line_seconds=0)
    show(RUN[1])
    assert stream.getvalue() == "  step 100/300  loss 0.5123  2 min left\n"


def test_the_bar_moves_with_blocks(capsys):
    with RichProgress() as show:
        show(StageStarted("deconvolve", 8))
        show(BlockProgress(5, 8, 6.3))
    assert "5/8" in capsys.readouterr().out


def test_quiet_shows_warnings_alone(capsys):
    with Quiet() as show:
        for event in RUN:
            show(event)
    assert capsys.readouterr() == ("", "Warning: the PSF was moved by 0.3 voxel\n")


def test_bars_survive_any_order_of_events(capsys):
    with RichProgress() as show:
        for event in [*RUN, *reversed(RUN)]:
            show(event)
    output = capsys.readouterr().out
    assert "300/300" in output
    assert "the PSF was moved by 0.3 voxel" in output


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.95, "9.9 s"), (59, "59 s"), (60, "1 min"), (7260, "2 h 01 min")]
)
def test_durations_are_short(seconds, text):
    assert display._duration(seconds) == text


def test_the_display_fits_the_place(capsys):
    assert isinstance(choose_display(as_json=True), JsonLines)
    assert isinstance(choose_display(quiet=True), Quiet)
    assert isinstance(choose_display(), PlainLines)
