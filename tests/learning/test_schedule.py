"""The learning rate: halved or in one cycle, hurried by the clock, and brought to an end at a plateau."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigdecon.config import TrainingConfig
from bigdecon.learning.checkpoint import CurvePoint
from bigdecon.learning.schedule import last_step, plateau, rate_factor, stop_reason

HALVING = TrainingConfig(steps=100, halve_every=25)
CYCLE = replace(HALVING, schedule="one-cycle")


def curve(*errors: float, every: int = 10) -> tuple[CurvePoint, ...]:
    return tuple(CurvePoint(every * (i + 1), 0.0, error) for i, error in enumerate(errors))


def test_halving_by_steps_or_sooner_by_the_clock() -> None:
    assert rate_factor(HALVING, 60, 0.0, ()) == 0.25
    assert rate_factor(replace(HALVING, minutes=1.0), 60, 48.0, ()) == 0.125


@given(st.integers(10, 2000))
def test_one_cycle_rises_to_the_full_rate_and_falls_to_nothing(steps: int) -> None:
    config = replace(CYCLE, steps=steps)
    factors = [rate_factor(config, step, 0.0, ()) for step in range(steps)]
    top = factors.index(max(factors))
    assert 0.9 < max(factors) <= 1
    assert abs(top - 0.1 * steps) <= 1
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert 0 <= factors[-1] < 0.1


def test_the_clock_hurries_one_cycle() -> None:
    hurried = replace(CYCLE, minutes=1.0)
    assert rate_factor(hurried, 5, 30.0, ()) == pytest.approx(rate_factor(CYCLE, 50, 0.0, ()), abs=0.02)
    assert rate_factor(hurried, 5, 60.0, ()) == 0


@pytest.mark.parametrize(
    ("errors", "at"),
    [
        ((1.0, 0.9), None),
        ((1.0, 1.0, 1.0), 30),
        ((1.0, 1.1, 0.9), None),
        ((0.9, 1.0, 1.0), 30),
        ((1.0, 0.9, 0.8, 0.8, 0.9, 0.5), 50),
    ],
)
def test_a_plateau_is_no_improvement_over_all_that_came_before(
    errors: tuple[float, ...], at: int | None
) -> None:
    assert plateau(replace(HALVING, patience=2), curve(*errors)) == at
    assert plateau(HALVING, curve(*errors)) is None


def test_halving_stops_at_the_plateau_and_one_cycle_comes_to_its_end_first() -> None:
    flat = curve(1.0, 1.0, 1.0)
    assert stop_reason(replace(HALVING, patience=2), 30, 0.0, flat) == "plateau"
    cycle = replace(CYCLE, patience=2)
    assert last_step(cycle, flat) == 40
    factors = [rate_factor(cycle, step, 0.0, flat) for step in range(29, 41)]
    assert factors == sorted(factors, reverse=True)
    assert factors[1] == pytest.approx(rate_factor(CYCLE, 30, 0.0, ()))
    assert factors[-1] == 0
    assert [stop_reason(cycle, step, 0.0, flat) for step in (30, 39, 40)] == ["", "", "plateau"]
    assert last_step(cycle, curve(*[1.0] * 9, every=12)) == 46


def test_the_rate_never_rises_again_when_clock_and_plateau_meet() -> None:
    config = replace(CYCLE, steps=1000, patience=2, minutes=1.0)
    points = curve(*[1.0] * 9, every=50)
    assert plateau(config, points) == 200
    factors = [rate_factor(config, step, 0.2 * step, points[: step // 50]) for step in range(100, 301)]
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] == 0


def test_what_is_measured_while_the_rate_rises_does_not_count() -> None:
    rising = curve(1.0, 1.1, 1.2, 1.2, 0.9, every=2)
    assert plateau(replace(CYCLE, patience=2), rising) is None
    assert plateau(replace(HALVING, patience=2), rising) == 6


@pytest.mark.parametrize("config", [HALVING, CYCLE])
def test_the_other_ends(config: TrainingConfig) -> None:
    assert stop_reason(config, 99, 1e9, ()) == ""
    assert stop_reason(config, 100, 0.0, ()) == "steps"
    assert stop_reason(replace(config, minutes=2.0), 5, 120.0, ()) == "time"
