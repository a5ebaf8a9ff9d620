"""A method in worker processes: little memory on one GPU, and GPUs that fail under their process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distributed import KilledWorker
from numpy.typing import NDArray

from bigdecon.deconvolution.block import Deconvolver
from bigdecon.deconvolution.blockwise import deconvolve
from bigdecon.deconvolution.recovery import WithinMemory
from bigdecon.deconvolution.richardson_lucy import RichardsonLucy
from bigdecon.distributed.cluster import Connection, connect
from bigdecon.distributed.device_failure import device_failure_of, device_watched
from bigdecon.distributed.progress import Event, Message, subscribe
from bigdecon.errors import DeviceLostError
from bigdecon.running.guarded_method import GuardedMethod
from bigdecon.volume import Volume
from tests.conftest import workers_forked

SHAPE = (64, 192)
ILLEGAL = "CUDA error: an illegal memory access was encountered"


@pytest.fixture(scope="module")
def two_gpus() -> Iterator[Connection]:
    """Two workers, each of which sees one of two GPUs that are not there."""
    with (
        workers_forked(),
        connect(
            threads=1, memory_limit="1GiB", dashboard_address="none", device="cuda", gpus=("3", "7")
        ) as opened,
    ):
        yield opened


@dataclass(frozen=True, eq=False)
class OnGpu:
    """Richardson-Lucy as if on a GPU, one of which holds only so many voxels; the tests see who did what."""

    folder: Path
    limited: str = "7"
    most: int = 3_200
    lucy: RichardsonLucy = RichardsonLucy(np.full((3, 3), 1 / 9, np.float32), iterations=3)  # noqa: RUF009
    device: str = "cuda"
    name: str = "richardson-lucy"
    halo: tuple[int, ...] = lucy.halo
    alignment: int = 1

    def __call__(self, block: NDArray[Any]) -> NDArray[np.float32]:
        gpu = os.environ["CUDA_VISIBLE_DEVICES"]
        note(self.folder, f"{gpu} {block.size}")
        if gpu == self.limited and block.size > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return self.lucy(block)


@dataclass(frozen=True, eq=False)
class Failing(OnGpu):
    """The same on a GPU that fails, so many times."""

    times: int = 1

    def __call__(self, block: NDArray[Any]) -> NDArray[np.float32]:
        if claimed(self.folder, self.times):
            note(self.folder, f"{os.getpid()}")
            raise RuntimeError(f"{ILLEGAL}\nCUDA kernel errors might be asynchronously reported")
        return self.lucy(block)


def claimed(folder: Path, times: int) -> bool:
    """Take one of so many turns; two workers never take the same."""
    number = len(list(folder.glob("turn-*")))
    if number >= times:
        return False
    try:
        (folder / f"turn-{number}").touch(exist_ok=False)
    except FileExistsError:
        return claimed(folder, times)
    return True


def note(folder: Path, text: str) -> None:
    with (folder / "notes").open("a") as file:
        file.write(text + "\n")


def visible_devices() -> str:
    return os.environ["CUDA_VISIBLE_DEVICES"]


def notes(folder: Path) -> list[str]:
    file = folder / "notes"
    return file.read_text().splitlines() if file.exists() else []


def image() -> NDArray[np.float32]:
    return np.random.default_rng(0).poisson(50, SHAPE).astype(np.float32)


def restored_by(
    connection: Connection, method: Deconvolver, worker: str | None = None
) -> NDArray[np.float32]:
    volume = deconvolve(Volume.from_array(image()), method, block=64)
    result = connection.client.compute(volume.source.array, workers=worker).result(timeout=300)
    return np.asarray(result)


def test_only_the_worker_whose_gpu_is_small_works_in_parts(two_gpus: Connection, tmp_path: Path) -> None:
    method = OnGpu(tmp_path)
    heard: list[Event] = []
    with subscribe(two_gpus.client, heard.append, "this run"):
        workers = two_gpus.client.nthreads()
        pieces = [restored_by(two_gpus, GuardedMethod(method, "this run"), w) for w in workers for _ in "ab"]
    expected = np.asarray(deconvolve(Volume.from_array(image()), method.lucy, block=64))
    for piece in pieces:
        assert np.abs(piece - expected).max() <= 1e-4 * np.ptp(expected)
    done = [tuple(map(int, line.split())) for line in notes(tmp_path)]
    assert {gpu for gpu, _ in done} == {3, 7}
    assert all(size > method.most for gpu, size in done if gpu == 3)
    small = [size for gpu, size in done if gpu == 7]
    assert any(size <= method.most for size in small)
    # The first block ran into the wall, twice, and so may a smaller one at the volume's edge; none after it.
    assert sum(size > method.most for size in small) in (2, 4)
    messages = [event for event in heard if isinstance(event, Message)]
    assert len(messages) == 1
    assert messages[0].level == "warning"
    assert messages[0].text.startswith("worker 1: richardson-lucy computes a block of 64 x ")
    assert "the memory of GPU 7 does not suffice for whole ones" in messages[0].text


def test_another_run_hears_nothing(two_gpus: Connection, tmp_path: Path) -> None:
    heard: list[Event] = []
    with subscribe(two_gpus.client, heard.append, "another run"):
        restored_by(two_gpus, GuardedMethod(OnGpu(tmp_path, most=1_500), "this run"))
    assert heard == []


def test_a_process_whose_gpu_fails_ends_and_another_does_its_work(
    two_gpus: Connection, tmp_path: Path
) -> None:
    before = set(two_gpus.client.run(os.getpid).values())
    method = Failing(tmp_path)
    heard: list[Event] = []
    with subscribe(two_gpus.client, heard.append, "this run"):
        result = restored_by(two_gpus, GuardedMethod(method, "this run"))
    expected = np.asarray(deconvolve(Volume.from_array(image()), method.lucy, block=64))
    np.testing.assert_array_equal(result, expected)
    (ended,) = {int(line) for line in notes(tmp_path)}
    assert ended in before
    two_gpus.client.wait_for_workers(2, timeout=120)
    after = set(two_gpus.client.run(os.getpid).values())
    assert ended not in after
    assert len(after) == 2
    # Its successor sees the same GPU.
    visible = two_gpus.client.run(visible_devices)
    assert sorted(visible.values()) == ["3", "7"]
    assert [f"failed ({ILLEGAL})" in event.text for event in heard if isinstance(event, Message)] == [True]


@pytest.mark.slow
def test_a_gpu_that_always_fails_is_named(two_gpus: Connection, tmp_path: Path) -> None:
    method = Failing(tmp_path, times=10**6)
    block = image()
    future = two_gpus.client.submit(GuardedMethod(method), block, key="restore-block-0")
    with pytest.raises(KilledWorker) as caught:
        future.result(timeout=300)
    assert len(notes(tmp_path)) == 4  # as often as Dask allows
    assert device_failure_of(two_gpus.client, caught.value) == ILLEGAL
    other = KilledWorker("some-other-task", None, 3)
    assert device_failure_of(two_gpus.client, other) == ""


def test_outside_a_worker_no_process_ends() -> None:
    with pytest.raises(DeviceLostError, match=r"does not answer .*illegal memory access was encountered\)"):
        fail_on_gpu(ILLEGAL)


def test_neither_does_a_worker_s_without_nanny() -> None:
    from distributed import Client

    with (
        Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as client,
        pytest.raises(DeviceLostError, match="start the process again"),
    ):
        client.submit(fail_on_gpu, ILLEGAL).result(timeout=30)


def fail_on_gpu(text: str) -> None:
    with device_watched():
        raise RuntimeError(text)


def test_it_is_a_deconvolver() -> None:
    method = GuardedMethod(RichardsonLucy(np.ones((1, 1), np.float32)))
    assert isinstance(method, Deconvolver)
    assert isinstance(WithinMemory(method), Deconvolver)
