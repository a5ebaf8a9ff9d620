"""The stopwatch: what waiting costs by the clock, and not by what is computed."""

from __future__ import annotations

import pytest

from bigdecon.forecasting import stopwatch
from bigdecon.forecasting.stopwatch import Lap, Stopwatch, computing_threads, load_of_machine


@pytest.fixture
def lap(monkeypatch):
    """Give the lap of a stopwatch that saw (clock, all threads, this thread) go on by so much."""

    def call(threads, *passed):
        looks = iter([(100.0, 40.0, 30.0), tuple(a + b for a, b in zip((100, 40, 30), passed, strict=True))])
        monkeypatch.setattr(stopwatch, "_look", lambda: next(looks))
        return Stopwatch(threads).lap()

    return call


def test_waiting_for_a_core_does_not_count(lap):
    """Two threads of a busy machine: each computed 2 s out of 9."""
    assert lap(2, 9, 4, 2) == Lap(clock=9, own=2, processor=4)


def test_what_one_thread_does_alone_is_not_shared_out(lap):
    assert lap(2, 9, 4, 4).own == 4
    assert lap(8, 9, 4, 3).own == 3  # a second in others, meanwhile


def test_work_of_other_threads_counts_while_this_one_waits_for_them(lap):
    assert lap(2, 9, 4, 0).own == 2


def test_nothing_takes_longer_than_by_the_clock(lap):
    assert lap(1, 3, 4, 2).own == 3


def test_on_a_gpu_the_clock_counts(lap):
    assert lap(None, 9, 4, 2).own == 9


def test_real_work_counts_and_laps_follow_one_another():
    watch = Stopwatch(1)
    sum(range(10**6))
    first = watch.lap()
    assert 0 < first.own <= first.clock
    assert watch.lap().clock >= 0


def test_no_more_threads_compute_than_there_are_cores():
    assert computing_threads("cuda") is None
    assert computing_threads("cpu", 1) == 1
    assert 1 <= computing_threads("cpu") <= computing_threads("cpu", 10**6) < 10**6
    assert load_of_machine() is None or load_of_machine() >= 0
