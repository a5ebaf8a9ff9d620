"""Regions in bundles are regions block by block; and which of them are restored so."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import numpy as np
import pytest
import zarr

from bigdecon.block_names import BUNDLE, DECONVOLVE
from bigdecon.config import RunConfig, TilingConfig
from bigdecon.deconvolution.ledger import RegionKey, RegionRecord
from bigdecon.deconvolution.packed_blocks import MethodOnWorkers
from bigdecon.deconvolution.tiling import BlockGrid, region_boxes
from bigdecon.distributed.progress import BlocksRestored
from bigdecon.io.layout import plan_output
from bigdecon.io.writing import create_ome_zarr
from bigdecon.optics.psf import psf_from_array, save_psf
from bigdecon.running.bundles import LONGEST_SECONDS, Bundling, bundle_bytes, bundles_fit
from bigdecon.running.planning import RunPlan, prepare
from bigdecon.running.region_work import RegionWork
from tests.runs import SIZE, kernel, specimen, write_image

SHAPE = (16, 24, 52)


class LocalMean:
    """Looks as far as the halo: a wrong one would show."""

    name, halo, alignment = "local-mean", (2, 2, 2), 1

    def __call__(self, block: Any) -> Any:
        from scipy.ndimage import uniform_filter

        return uniform_filter(block.astype(np.float32), 5, mode="nearest")


@pytest.fixture
def plan(tmp_path: Path) -> RunPlan:
    save_psf(psf_from_array(kernel(), voxel_size_um=SIZE, psf_voxel_size_um=SIZE), tmp_path / "psf.tif")
    mask = specimen(SHAPE) > np.median(specimen(SHAPE))
    mask[:, :, 30:] = False
    config = RunConfig(
        str(write_image(tmp_path / "a.ome.zarr", specimen(SHAPE))),
        (str(tmp_path / "psf.tif"),),
        output=str(tmp_path / "out.ome.zarr"),
        method="richardson-lucy",
        iterations=1,
        sieve=0.0,
        background=3.0,
        subtract_background=True,
        mask=str(write_image(tmp_path / "mask.ome.zarr", mask.astype(np.uint8))),
        tiling=TilingConfig(block=32, halo=8),
    )
    return prepare(config, "cpu")


def cut(plan: RunPlan, block: int, shard: int, name: str = "out", masked: bool = True) -> RunPlan:
    """Cut the image into small blocks; shards may be smaller, and larger."""
    layout = plan_output(plan.volume, chunk=min(block, shard), shard=shard, unit=min(block, shard))
    grid = BlockGrid.plan(SHAPE, block, 2)
    regions = tuple(region_boxes(grid, layout.write_shape, target_voxels=4000))
    cut = replace(plan, grid=grid, layout=layout, regions=regions, output=plan.output.with_name(name))
    return cut if masked else replace(cut, mask=None)


def regions_of(plan: RunPlan) -> list[RegionKey]:
    return plan.work.keys()


def restored(plan: RunPlan, bundled: bool) -> tuple[Any, list[RegionRecord], list[str]]:
    """Restore all regions in this thread; gives voxels, records, and the tasks there were."""
    create_ome_zarr(plan.output, plan.volume, plan.layout, name="out")
    records, tasks = [], []
    method = MethodOnWorkers(LocalMean)
    for key in regions_of(plan):
        graph = RegionWork(plan, lambda name: method, key, None, "ab", "", lambda key: bundled).build()
        tasks += [str(task) for task in dict(graph.dask)]
        records.append(replace(dask.compute(graph, scheduler="synchronous")[0], seconds=0.0))
    return zarr.open_array(plan.output / "0", mode="r")[...], records, tasks


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("block", "shard"), [(8, 16), (8, 8), (16, 8)])
def test_bundles_write_what_blocks_write(plan: RunPlan, block: int, shard: int, masked: bool) -> None:
    voxels, records, tasks = restored(cut(plan, block, shard, "blocks", masked), bundled=False)
    again, others, few = restored(cut(plan, block, shard, "bundles", masked), bundled=True)
    assert voxels.tobytes() == again.tobytes()
    assert records == others
    assert np.count_nonzero(voxels) > 1000
    assert any(task.startswith(DECONVOLVE) for task in tasks)
    assert not any(task.startswith(DECONVOLVE) for task in few)
    # One for each block or shard, whichever is larger.
    side = max(block, shard)
    assert sum(task.startswith(BUNDLE) for task in few) == math.prod(-(-n // side) for n in SHAPE)


def test_a_region_that_failed_goes_block_by_block(plan: RunPlan) -> None:
    small = cut(plan, 8, 16)
    key = small.work.keys()[0]
    method = MethodOnWorkers(LocalMean)
    work = RegionWork(small, lambda name: method, key, None, "ab", "", lambda key: True)
    first, second = (list(map(str, dict(work.build().dask))) for _ in range(2))
    assert any(name.startswith(BUNDLE) for name in first)
    assert not any(name.startswith(BUNDLE) for name in second)


# --- which regions -------------------------------------------------------------------------------


def bundling(plan: RunPlan, workers: int = 1, threads: int = 1, memory: int = 0) -> Bundling:
    crew = {f"w{i}": {"memory_limit": memory, "nthreads": threads} for i in range(workers)}
    return of_crew(plan, crew, workers, threads)


def of_crew(
    plan: RunPlan, crew: dict[str, Any], workers: int = 1, threads: int = 1, able: Any = ()
) -> Bundling:
    client = SimpleNamespace(scheduler_info=lambda n_workers: {"workers": crew})
    connection = SimpleNamespace(client=client, n_workers=workers, threads_per_worker=threads)
    return Bundling(plan, connection, plan.work.keys(), able)  # type: ignore[arg-type]


def suited(plan: RunPlan, seconds: float | None = 0.01, **how: int) -> list[RegionKey]:
    found = bundling(plan, **how)
    if seconds is not None:
        found.hear(BlocksRestored("l0.t0.c0.some", 4, 4 * seconds))
    return [key for key in regions_of(plan) if found.suits(key)]


def test_quick_blocks_are_bundled_until_there_are_too_few_for_all_workers(plan: RunPlan) -> None:
    small = cut(plan, 8, 16)
    keys = small.work.keys()
    bundles = 2 * 4  # shards of 16 along y and x; one along z
    assert suited(small, None) == []
    assert suited(small, LONGEST_SECONDS / 7) == []
    for workers, threads in [(1, 1), (2, 1), (1, 2)]:
        found = suited(small, workers=workers, threads=threads)
        assert found == keys[: len(found)]
        rest = bundles - sum(key.voxels for key in found) / 16**3
        assert rest >= workers * threads > rest - 4
    assert suited(small, workers=bundles) == []


def test_few_regions_are_in_flight_until_blocks_are_known_to_be_quick(plan: RunPlan) -> None:
    small = cut(plan, 8, 16)
    for workers, threads in [(1, 1), (4, 2), (64, 1)]:
        found = bundling(small, workers, threads)
        blocks = found.in_flight() * len(small.grid.blocks_within(small.regions[0]))
        assert blocks >= 2 * workers * threads
        found.hear(BlocksRestored("l0.t0.c0.some", 1, 0.01))
        assert found.in_flight() == workers * (threads + 1)


def test_what_is_no_bundle(plan: RunPlan) -> None:
    assert suited(cut(plan, 8, 8)) == []  # one block a shard
    assert suited(cut(plan, 16, 8)) == []
    assert suited(replace(cut(plan, 8, 16), engine="map-overlap")) == []


def test_memory_for_all_threads(plan: RunPlan) -> None:
    small = cut(plan, 8, 16)
    limit = next(n for n in range(2**20, 2**40, 2**20) if bundles_fit(small, 1, n))
    assert suited(small, memory=limit)
    assert not suited(small, memory=limit - 2**20)
    assert not bundles_fit(small, 2 + 2**20 // bundle_bytes(small), limit)
    assert bundles_fit(small, 1000, 0)  # no limit


def test_every_worker_needs_the_memory_for_its_own_threads(plan: RunPlan, monkeypatch: Any) -> None:
    """Those that come later as well; and only those that may do it."""
    small = cut(plan, 8, 16)
    first = small.work.keys()[0]
    enough = next(n for n in range(2**20, 2**40, 2**20) if bundles_fit(small, 2, n))
    crew: dict[str, Any] = {}
    found = of_crew(small, crew, 1, 2, able=("good", "late"))
    found.hear(BlocksRestored("l0.t0.c0.some", 1, 0.01))
    now = [1000.0]
    monkeypatch.setattr("bigdecon.running.bundles.time.monotonic", lambda: now[0])

    def suits() -> bool:
        now[0] += 100
        return found.suits(first)

    assert not suits()  # nobody is there
    crew["good"] = {"memory_limit": enough, "nthreads": 2}
    crew["other"] = {"memory_limit": 1, "nthreads": 2}  # may not do it
    assert suits()
    crew["late"] = {"memory_limit": enough, "nthreads": 2**20 // bundle_bytes(small) + 3}
    assert not suits()


def test_each_channel_is_judged_by_the_median_of_its_latest_blocks(plan: RunPlan) -> None:
    small = cut(plan, 8, 16)
    first = small.work.keys()[0]
    found = bundling(small)
    found.hear(BlocksRestored("l0.t0.c0.some", 1, 60.0))  # the GPU starts
    found.hear(BlocksRestored("l0.t0.c1.some", 1, 0.01))
    assert not found.suits(first)
    found.hear(BlocksRestored("l0.t0.c0.some", 4, 0.04))
    found.hear(BlocksRestored("l0.t0.c0.some", 4, 0.04))
    assert found.suits(first)
    for _ in range(20):
        found.hear(BlocksRestored("l0.t0.c1.some", 1, 60.0))
    assert found.suits(first)
    found.stop()
    assert not found.suits(first)
    assert found.in_flight() < 10
