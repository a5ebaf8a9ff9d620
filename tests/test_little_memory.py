"""Whole runs where memory is short or a GPU fails: they end as others do, and tell of it."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from distributed import Client

from bigdecon import pipeline
from bigdecon.config import RunConfig, TilingConfig
from bigdecon.distributed.cluster import connect
from bigdecon.distributed.progress import Message
from bigdecon.errors import RunError
from bigdecon.optics.psf import psf_from_array, save_psf
from tests.conftest import workers_forked
from tests.runs import SIZE, kernel, specimen, voxels, write_image

ILLEGAL = "CUDA error: an illegal memory access was encountered"


@pytest.fixture
def cluster():
    """Two workers for one test: what is done to them is gone with them."""
    with (
        workers_forked(),
        connect(workers=2, threads=1, memory_limit="2GiB", dashboard_address="none", device="cpu") as opened,
    ):
        yield opened.client


@pytest.fixture
def restore(tmp_path):
    psf = tmp_path / "psf.tif"
    save_psf(psf_from_array(kernel((5, 5, 5), 1.0), voxel_size_um=SIZE, psf_voxel_size_um=SIZE), psf)
    image = write_image(tmp_path / "image.ome.zarr", specimen((32, 48, 150)))

    def call(client: Client, name: str, events: list[Any] | None = None, **changes: Any):
        settings = {
            "psf": (str(psf),),
            "method": "richardson-lucy",
            "iterations": 2,
            "sieve": 0.0,
            "background": 100.0,
            "device": "cpu",
            "cluster": client.scheduler.address,
            "tiling": TilingConfig(block=64),
        }
        config = RunConfig(str(image), output=str(tmp_path / f"{name}.ome.zarr"), **(settings | changes))
        return pipeline.run(config, on_event=events.append if events is not None else None).output

    return call


def limit_memory(most: int) -> None:
    """Let Richardson-Lucy in this process hold only so many voxels."""
    import torch

    from bigdecon.deconvolution.richardson_lucy import RichardsonLucy

    call = RichardsonLucy.__call__

    def with_little_memory(self: RichardsonLucy, block: Any) -> Any:
        if block.size > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return call(self, block)

    RichardsonLucy.__call__ = with_little_memory


def break_gpu_in_blocks() -> None:
    """Let Richardson-Lucy fail in this process, as on a GPU that is lost to it."""
    from bigdecon.deconvolution.richardson_lucy import RichardsonLucy

    def fail(self: RichardsonLucy, block: Any) -> Any:
        raise RuntimeError(ILLEGAL)

    RichardsonLucy.__call__ = fail


def break_gpu_in_training(at_step: int) -> None:
    """Let a training in this process fail at a step, as on a GPU that is lost to it."""
    from bigdecon.learning.training import _Trainer

    learn = _Trainer.learn

    def fail(self: Any, batch: Any) -> Any:
        if self.step == at_step:
            raise RuntimeError(ILLEGAL)
        return learn(self, batch)

    _Trainer.learn = fail


def texts(events: list[Any]) -> list[str]:
    return [event.text for event in events if isinstance(event, Message) and event.level == "warning"]


@pytest.mark.parametrize("engine", ["direct", pytest.param("map-overlap", marks=pytest.mark.slow)])
def test_workers_with_little_memory_gives_the_same_result(cluster, restore, engine) -> None:
    tiling = TilingConfig(block=64, engine=engine)
    expected = voxels(restore(cluster, "undisturbed", tiling=tiling)).astype(float)
    cluster.run(limit_memory, 90_000)
    events: list[Any] = []
    found = voxels(restore(cluster, "disturbed", events, tiling=tiling)).astype(float)
    # Rounding to whole counts may fall to the other side.
    assert np.abs(found - expected).max() <= 1 + 1e-4 * np.ptp(expected)
    assert 1 <= len(texts(events)) <= 2  # once for each worker that got a block
    assert all("richardson-lucy computes a block of" in text for text in texts(events))


def test_where_no_part_fits_the_run_ends_with_a_remedy(cluster, restore) -> None:
    cluster.run(limit_memory, 0)
    with pytest.raises(RunError, match=r"does not suffice for .* voxels, the smallest part of a block"):
        restore(cluster, "a")


def test_workers_whose_gpu_failed_are_replaced_and_the_bytes_stay(cluster, restore) -> None:
    expected = voxels(restore(cluster, "undisturbed"))
    before = set(cluster.run(os.getpid).values())
    cluster.run(break_gpu_in_blocks)
    events: list[Any] = []
    np.testing.assert_array_equal(voxels(restore(cluster, "disturbed", events)), expected)
    cluster.wait_for_workers(2, timeout=120)
    assert set(cluster.run(os.getpid).values()) != before
    assert any(f"the GPU of this worker failed ({ILLEGAL})" in text for text in texts(events))


@pytest.mark.slow
def test_a_gpu_that_fails_for_ever_ends_the_run_with_its_words(cluster, restore) -> None:
    from distributed import WorkerPlugin

    class Broken(WorkerPlugin):
        def setup(self, worker: Any) -> None:
            break_gpu_in_blocks()

    cluster.register_plugin(Broken())
    with pytest.raises(RunError, match=rf"the GPU failed in 4 processes .* at last with: {ILLEGAL}"):
        restore(cluster, "a")


@pytest.mark.slow
def test_a_training_whose_gpu_failed_goes_on_from_its_last_state(cluster, restore) -> None:
    settings = {"method": "siamese", "iterations": None, "sieve": None, "background": "auto", "steps": 4}
    expected = voxels(restore(cluster, "undisturbed", **settings))
    cluster.run(break_gpu_in_training, 2)
    events: list[Any] = []
    np.testing.assert_array_equal(voxels(restore(cluster, "disturbed", events, **settings)), expected)
    assert any(f"the GPU of this worker failed ({ILLEGAL})" in text for text in texts(events))
