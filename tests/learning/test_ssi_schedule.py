"""Self-Supervised Inversion over time: mask, noise, learning rate, and the end, by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import pytest

from bigdecon.learning.ssi_schedule import Watch, mask_density, parameter_noise, stop_reason, training_noise
from bigdecon.ssi_config import SSIConfig

PUBLISHED = SSIConfig()
HASTY = replace(PUBLISHED, rate_patience=2, patience=4, steps=100)


def watched(config: SSIConfig, *losses: float) -> Watch:
    watch = Watch()
    for loss in losses:
        watch = watch.after(loss, config)
    return watch


def test_the_mask_thins_out_from_half_of_the_voxels_to_a_twentieth() -> None:
    assert mask_density(PUBLISHED, 0) == pytest.approx(0.995 * 0.5 + 0.005 * 0.05)
    assert mask_density(PUBLISHED, 0) == pytest.approx(0.49775)
    assert mask_density(PUBLISHED, 1) == pytest.approx(0.49551125)
    steps = accumulate(range(3000), lambda density, _: 0.995 * density + 0.005 * 0.05, initial=0.5)
    for step, density in enumerate(list(steps)[1:]):
        assert mask_density(PUBLISHED, step) == pytest.approx(density, rel=1e-9)
    assert mask_density(PUBLISHED, 2999) == pytest.approx(0.05, abs=1e-6)


def test_the_noise_on_the_input_fades_with_the_share_of_steps_done() -> None:
    assert training_noise(PUBLISHED, 0) == 0.1
    assert training_noise(PUBLISHED, 3) == pytest.approx(0.1 / 11)
    assert training_noise(replace(PUBLISHED, steps=300), 3) == pytest.approx(0.1 / 101)


def test_the_noise_on_the_weights_fades_with_the_steps_and_the_rate() -> None:
    assert parameter_noise(PUBLISHED, 0, 0.01) == pytest.approx(0.001)
    assert parameter_noise(PUBLISHED, 9, 0.01) == pytest.approx(0.0001)
    assert parameter_noise(PUBLISHED, 9, 0.005) == pytest.approx(0.00005)


def test_the_rate_falls_by_a_tenth_once_the_loss_has_stood_still_for_longer_than_the_patience() -> None:
    assert watched(HASTY, 1.0, 1.0, 1.0).factor == 1
    assert watched(HASTY, 1.0, 1.0, 1.0, 1.0).factor == 0.9
    assert watched(HASTY, 1.0, *[1.0] * 5).factor == 0.9
    assert watched(HASTY, 1.0, *[1.0] * 6).factor == pytest.approx(0.81)
    assert watched(HASTY, 1.0, 1.0, 1.0, 0.99, 1.0, 1.0).factor == 1
    # A fall of less than one part in ten thousand holds nothing off, but is a new best.
    crawling = watched(HASTY, 1.0, 0.99999, 0.99998, 0.99997)
    assert (crawling.factor, crawling.best, crawling.waited) == (0.9, 0.99997, 0)


def test_published_patience_is_150_steps_for_the_rate_and_300_for_the_end() -> None:
    assert watched(PUBLISHED, *[1.0] * 151).factor == 1
    assert watched(PUBLISHED, *[1.0] * 152).factor == 0.9
    assert stop_reason(PUBLISHED, 300, 0, watched(PUBLISHED, *[1.0] * 300)) == ""
    assert stop_reason(PUBLISHED, 301, 0, watched(PUBLISHED, *[1.0] * 301)) == "plateau"


def test_a_loss_that_is_no_number_is_no_best() -> None:
    assert watched(HASTY, 1.0, float("nan")).best == 1
    assert watched(HASTY, float("nan")).waited == 1


def test_the_ends() -> None:
    flat = watched(HASTY, *[1.0] * 5)
    assert stop_reason(HASTY, 100, 0, flat) == "steps"
    assert stop_reason(replace(HASTY, minutes=1.0), 50, 60, Watch()) == "time"
    assert stop_reason(HASTY, 5, 1e9, flat) == "plateau"
    assert stop_reason(replace(HASTY, patience=0), 5, 1e9, flat) == ""
