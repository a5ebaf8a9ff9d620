"""The quickest of the scenarios of benchmarks/chaos.py, which runs them all."""

from __future__ import annotations

import pytest

from benchmarks import chaos

CHOSEN = (chaos.worker_killed, chaos.scheduler_killed, chaos.three_misfortunes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chaos")
    chaos.write_case(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("scenario", CHOSEN, ids=lambda scenario: scenario.__name__)
def test_the_bytes_are_those_of_an_undisturbed_run(scenario, folder):
    chaos.disturb(scenario, folder, chaos.CLASSICAL)
