"""`--block auto`: within the memory, never more work than by default, and kept by a run that goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigdecon import pipeline
from bigdecon.config import RunConfig, TilingConfig, training_preset
from bigdecon.deconvolution.lease import Lease
from bigdecon.deconvolution.network import NetworkNeeds, inference_bytes_per_voxel
from bigdecon.deconvolution.richardson_lucy import RichardsonLucy
from bigdecon.deconvolution.tiling import BlockGrid, tile_boxes
from bigdecon.errors import OptionError, OutputError
from bigdecon.forecasting.estimating import estimate_memory
from bigdecon.forecasting.forecast import forecast
from bigdecon.forecasting.plan_report import forecast_numbers
from bigdecon.optics.psf import psf_from_array, save_psf
from bigdecon.running.block_size import NEAR, SHARE, Work, choose_block, cut_work
from bigdecon.running.early_checks import check_options
from bigdecon.running.plan_text import describe_plan
from bigdecon.running.planning import prepare
from bigdecon.running.sizing import (
    LARGEST_FIELD,
    PROGRAM_BYTES,
    choose_tile,
    computed_voxels,
    memory_of_waiting,
)
from bigdecon.running.workforce import WorkersPlanned
from bigdecon.volume import Volume
from tests.runs import SIZE, kernel, specimen, write_image

GIB = 2**30
AUTO = TilingConfig(block="auto")
PLAIN = {"method": "richardson-lucy", "iterations": 2, "sieve": 0.0, "background": 0.0}
SHAPES = st.one_of(
    st.tuples(*[st.integers(1, 1200)] * 3),
    st.tuples(st.integers(1, 90), st.integers(1, 3000), st.integers(1, 3000)),
    st.tuples(*[st.integers(1, 9000)] * 2),
)


def work(shape, *, network=True, device="cpu", preset="fast"):
    """Something to cut: a network, or Richardson-Lucy with a halo of its own."""
    volume = Volume.from_array(np.broadcast_to(np.uint16(0), shape), "zyx"[-len(shape) :])
    config = RunConfig("a", ("p",), tiling=AUTO, preset=preset)
    if network:
        training = training_preset(preset, ndim=len(shape), accelerator=device != "cpu")
        return Work(config, volume, (), (NetworkNeeds.of(training.network),), training, device)
    psf = kernel((7, 5, 5)[-len(shape) :])
    method = RichardsonLucy(psf / psf.sum(), iterations=20)
    return Work(config, volume, (method,), (method,), None, device)


def held(cut, workers, device):
    """What a worker's process takes at most, added up anew."""
    program = PROGRAM_BYTES["cpu" if device == "cpu" else "cuda"]
    waiting = memory_of_waiting(cut.grid, cut.regions, cut.layout, 2, workers.threads)
    return program + waiting + (cut.block_bytes if device == "cpu" else 0)


@settings(max_examples=25, deadline=None)
@given(
    shape=SHAPES,
    network=st.booleans(),
    gpu=st.sampled_from([None, 4 * GIB, 24 * GIB, 139 * GIB]),
    memory=st.integers(GIB // 2, 128 * GIB),
    more=st.floats(1, 8),
    count=st.integers(1, 40),
    threads=st.integers(1, 16),
)
def test_the_choice_holds_what_it_promises(shape, network, gpu, memory, more, count, threads):
    device = "cuda" if gpu else "cpu"
    asked = work(shape, network=network, device=device)
    workers = WorkersPlanned(count, threads, memory, gpu)
    cut, choice = choose_block(asked, workers)

    if choice.fits:  # the memory suffices, with a margin where blocks are larger than usual
        share = SHARE if cut.side > choice.default_side else 1
        assert held(cut, workers, device) <= share * memory
        assert gpu is None or cut.block_bytes <= share * gpu
    if choice.default_fits:
        assert choice.overhead <= choice.default_overhead

    # Blocks reach no further than their neighbours, and files, blocks and regions fit one another.
    for cuts, halo, unit in zip(cut.grid.cuts, cut.grid.halo, cut.layout.write_shape, strict=True):
        assert len(cuts) == 2 or min(np.diff(cuts)) >= halo
        assert len(cuts) == 2 or unit >= cuts[-1] or unit % cuts[1] == 0 or cuts[1] % unit == 0
    assert sum(prod(p.stop - p.start for p in box) for box in cut.regions) == prod(shape)

    larger = WorkersPlanned(count, threads, int(more * memory), gpu and int(more * gpu))
    other, grown = choose_block(asked, larger)
    if choice.fits:
        assert grown.fits
        on_gpu = gpu is not None
        times = [found.time(count, asked.stacks, on_gpu=on_gpu) for found in (cut, other)]
        assert times[1] <= NEAR * times[0] or other.computed <= cut.computed


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 70)] * 2),
    block=st.integers(8, 80).map(lambda n: 4 * (n // 4)),
    halo=st.sampled_from([0, 4, 8]),
    tile=st.sampled_from([None, 16, 24, 40]),
)
def test_computed_voxels_are_those_of_all_tiles_of_all_blocks(shape, block, halo, tile):
    grid = BlockGrid.plan(shape, block, halo)
    by_block = []
    for core in grid:
        extent = [-(-(p.stop - p.start) // 4) * 4 for p in grid.grow(core)]
        sides = [tile or n for n in extent]
        tiles = tile_boxes(extent, sides, 4, 4)
        by_block.append((sum(prod(t.shape) for t in tiles), prod(extent), extent))
    counted, most = computed_voxels(grid, tile, 4, 4)
    if all(n % 4 == 0 for n in shape):
        assert (counted, most) == (sum(n for n, *_ in by_block), max(n for n, *_ in by_block))
    if tile is None:
        assert counted == round(grid.overhead * prod(shape))


@settings(max_examples=15, deadline=None)
@given(shape=st.tuples(*[st.integers(60, 400)] * 3), memory=st.integers(10**8, 10**10))
def test_a_tile_fits_and_none_that_is_larger_computes_less(shape, memory):
    asked = work(shape)
    needs, per_voxel = asked.needs[0], inference_bytes_per_voxel(asked.network.network)
    grid = cut_work(asked, 128).grid

    def count(tile):
        return computed_voxels(grid, tile, needs.halo[0], needs.alignment)[0]

    def size(tile):
        return per_voxel * prod(min(n, tile) for n in grid.largest_block)

    tile = choose_tile(asked.config, grid, asked.network, "cpu", memory)
    if tile is None:
        assert per_voxel * prod(grid.largest_block) <= memory
    elif size(tile) <= memory:
        larger = range(tile, max(grid.largest_block), needs.alignment)
        assert all(count(tile) <= count(n) for n in larger if size(n) <= memory)


def test_a_pass_on_a_gpu_stays_within_what_its_kernels_count():
    asked = work((600, 600, 600), device="cuda", preset="auto")
    cut = cut_work(asked, 512)
    assert cut.tile is not None
    channels = asked.network.network.channels
    assert channels * prod(min(n, cut.tile) for n in cut.grid.largest_block) <= LARGEST_FIELD
    assert cut_work(asked, 128).tile is None


@pytest.mark.parametrize(
    ("count", "sides"),
    [(1, {(0, 300)}), (4, {(0, 160, 300)})],
    ids=["one worker takes all of it", "four take two even blocks a side"],
)
def test_a_volume_of_300_is_cut_evenly_or_not_at_all(count, sides):
    cut, choice = choose_block(work((300,) * 3), WorkersPlanned(count, 4, 64 * GIB))
    assert set(cut.grid.cuts) == sides
    assert choice.overhead < 0.65 * choice.default_overhead


def test_many_workers_get_smaller_blocks_than_few():
    asked = work((512, 512, 512), network=False)
    few, many = (choose_block(asked, WorkersPlanned(n, 2, 64 * GIB))[0] for n in (1, 30))
    assert len(few.grid) == 8
    assert len(many.grid) == 27  # one turn of nearly equal blocks


def test_what_does_not_fit_is_told():
    cut, choice = choose_block(work((400, 400, 400)), WorkersPlanned(1, 2, 3 * GIB // 2))
    assert choice.fits
    assert not choice.default_fits
    assert cut.side < choice.default_side == 128
    assert f"blocks of 128 voxels do not fit the memory, and --block auto takes {cut.side}" in choice.warning
    cut, choice = choose_block(work((400, 400, 400)), WorkersPlanned(1, 2, GIB // 4))
    assert (cut.side, choice.fits) == (128, False)
    assert "no smaller ones do" in choice.warning


def test_memory_that_nobody_knows_yet_is_assumed_and_told():
    asked = work((2000, 2000, 2000), device="cuda")
    asked = replace(asked, config=replace(asked.config, cluster="slurm"))
    unknown, choice = choose_block(asked, WorkersPlanned(4, 4, 0, None))
    assert "the memory of the workers is not known yet: --block auto took 8.00 GiB" in choice.warning
    assert unknown.block_bytes <= 8 * GIB
    known, choice = choose_block(asked, WorkersPlanned(4, 4, 64 * GIB, 80 * GIB))
    assert choice.warning is None
    assert known.computed < unknown.computed


# --- in a run -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("block")
    write_image(folder / "a.ome.zarr", specimen((40, 150, 300)))
    save_psf(psf_from_array(kernel(), voxel_size_um=SIZE, psf_voxel_size_um=SIZE), folder / "psf.tif")
    named = (str(folder / "a.ome.zarr"), (str(folder / "psf.tif"),))
    return RunConfig(*named, device="cpu", tiling=AUTO, memory_limit="8GiB", threads=2, **PLAIN)


def test_a_run_that_goes_on_keeps_its_block_whatever_the_memory(config, tmp_path):
    config = replace(config, output=str(tmp_path / "out.ome.zarr"))
    plan = prepare(config, "cpu")
    assert len(plan.grid) == 1
    pipeline._create_output(plan, Lease(plan.bookkeeping))
    elsewhere = replace(config, memory_limit="600MiB", workers=8, threads=1)
    assert prepare(replace(elsewhere, output=str(tmp_path / "new.ome.zarr")), "cpu").block < plan.block
    again = prepare(elsewhere, "cpu")
    assert (again.state, again.block, again.work) == ("continue", plan.block, plan.work)
    assert again.fingerprint == plan.fingerprint
    words = dict(describe_plan(again))["block"]
    assert words == f"{plan.block} wide, as --block auto chose when the run began"
    with pytest.raises(OutputError, match=r"differed in block \(auto then, 64 now\)"):
        prepare(replace(config, tiling=TilingConfig(block=64)), "cpu")


@pytest.mark.parametrize("block", [None, "large", 0, -3])
def test_a_record_without_a_sound_block_is_damaged(config, tmp_path, block):
    config = replace(config, output=str(tmp_path / "out.ome.zarr"))
    plan = prepare(config, "cpu")
    pipeline._create_output(plan, Lease(plan.bookkeeping))
    path = plan.bookkeeping / "run.json"
    record = json.loads(path.read_text())
    record["provenance"]["configuration"]["chosen"]["block"] = block
    path.write_text(json.dumps(record))
    with pytest.raises(OutputError, match="damaged"):
        prepare(config, "cpu")


def test_the_plan_says_what_was_chosen_and_why(config):
    plan = prepare(config, "cpu")
    words = dict(describe_plan(plan))["block"]
    assert words.startswith(f"--block auto took {plan.block}: 1.00 voxels computed for one written (")
    assert f"{plan.block_choice.default_overhead:.2f} with 128" in words
    workers = WorkersPlanned(1, 2, 8 * GIB)
    assert plan.block_choice.memory_bytes == estimate_memory(plan, workers).peak
    numbers = forecast_numbers(forecast(config, calibrate_seconds=None))["plan"]
    assert numbers["block"] == numbers["block_choice"]["side"] == plan.block


@pytest.mark.parametrize("block", ["large", 1.5, True])
def test_a_script_is_told_what_a_block_may_be(config, block):
    with pytest.raises(OptionError, match="give a whole number of voxels, or auto"):
        check_options(replace(config, tiling=TilingConfig(block=block)))
