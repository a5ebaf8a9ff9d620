"""The stopwatch: what waiting costs by the clock, and not by what is computed."""

from __future__ import annotations

import threading
import time

import pytest

from bigdecon.forecasting.stopwatch import Stopwatch, computing_threads, load_of_machine


def compute(seconds):
    """Keep one core busy for so long, by the processor's time of this thread."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@pytest.mark.parametrize("threads", [1, 2])
def test_waiting_does_not_count(threads):
    watch = Stopwatch(threads)
    compute(0.02)
    time.sleep(0.2)
    lap = watch.lap()
    assert lap.clock >= 0.22
    assert 0.02 <= lap.own <= lap.processor < 0.2


def test_by_the_clock_all_of_it_counts():
    watch = Stopwatch(None)
    time.sleep(0.05)
    lap = watch.lap()
    assert lap.own == lap.clock >= 0.05


def test_threads_that_compute_share_their_time():
    watch = Stopwatch(2)
    crew = [threading.Thread(target=compute, args=(0.1,)) for _ in range(2)]
    for one in crew:
        one.start()
    for one in crew:
        one.join()
    lap = watch.lap()
    assert lap.processor >= 0.2
    assert lap.own == pytest.approx(lap.processor / 2)


def test_laps_follow_one_another():
    watch = Stopwatch(1)
    compute(0.05)
    watch.lap()
    assert watch.lap().own < 0.05


def test_no_more_threads_compute_than_there_are_cores():
    assert computing_threads("cuda") is None
    assert computing_threads("cpu", 1) == 1
    assert 1 <= computing_threads("cpu") <= computing_threads("cpu", 10**6) < 10**6
    assert load_of_machine() is None or load_of_machine() >= 0
