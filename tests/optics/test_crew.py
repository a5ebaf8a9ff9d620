"""A crew does all of the work once, each thread alone, and tells what went wrong."""

from __future__ import annotations

import threading

import pytest
import torch

from bigdecon.optics.crew import Crew


@pytest.fixture(autouse=True)
def _threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("count", "step"), [(1, 1), (7, 3), (64, 100)])
def test_every_item_is_done_once(threads: int, count: int, step: int) -> None:
    torch.set_num_threads(threads)
    done = torch.zeros(count)
    with Crew() as crew:
        for _ in range(2):
            crew.share(lambda part: done[part].add_(1), count, step)
    assert bool((done == 2).all())


def test_each_thread_computes_alone_and_the_setting_stays() -> None:
    torch.set_num_threads(2)
    seen: dict[str, int] = {}
    meet = threading.Barrier(2, timeout=60)

    def look(_: slice) -> None:
        meet.wait()
        torch.ones(100_000).add_(1)  # asks torch for its threads
        seen[threading.current_thread().name] = torch.get_num_threads()

    with Crew() as crew:
        crew.share(look, 2, 1)
    assert list(seen.values()) == [1, 1]
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("threads", [1, 2])
def test_a_failure_comes_back(threads: int) -> None:
    torch.set_num_threads(threads)

    def fail(part: slice) -> None:
        if part.start:
            raise MemoryError("none left")

    with pytest.raises(MemoryError, match="none left"), Crew() as crew:
        crew.share(fail, 4, 1)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("inference", [True, False])
def test_work_is_done_in_the_mode_of_whoever_asks(threads: int, inference: bool) -> None:
    torch.set_num_threads(threads)
    modes = set()
    with torch.inference_mode(inference), Crew() as crew:
        crew.share(lambda _: modes.add((torch.is_inference_mode_enabled(), torch.is_grad_enabled())), 4, 1)
    assert modes == {(inference, False)}
