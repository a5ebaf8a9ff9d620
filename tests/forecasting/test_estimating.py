"""Estimates: what goes with the volume, with the workers, and what may not fit."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bigdecon.config import RunConfig
from bigdecon.errors import OptionError
from bigdecon.forecasting.calibration import Calibration
from bigdecon.forecasting.estimating import (
    SCHEDULER_SECONDS,
    SCHEDULER_SECONDS_OF_BUNDLE,
    Room,
    estimate,
    estimate_memory,
)
from bigdecon.forecasting.job_times import job_times
from bigdecon.forecasting.obstacles import find_obstacles, refuse_too_little_memory
from bigdecon.io.layout import plan_output
from bigdecon.optics.psf import psf_from_array, save_psf
from bigdecon.running.bundles import bundle_bytes
from bigdecon.running.planning import prepare
from bigdecon.running.sizing import PROGRAM_BYTES
from bigdecon.running.workforce import JobsPlanned, WorkersPlanned
from tests.runs import SIZE, kernel, specimen, write_image

PLAIN = {"method": "richardson-lucy", "iterations": 2, "sieve": 0.0, "background": 0.0}
RECORDED = Path(__file__).parents[2] / "benchmarks" / "results" / "engine_overhead.json"
ROOM = Room(10**12, 10**6)
SPEEDS = Calibration(
    step_seconds=2.0,
    block_seconds=1.0,
    read_seconds=0.25,
    write_seconds=0.75,
    coarse_seconds=1e-6,
    stored_share=0.5,
    gpu_bytes=None,
    piece=(32, 32, 32),
    patch=(32, 32, 32),
    on_real_voxels=True,
    seconds=3.0,
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("estimates")
    write_image(folder / "a.ome.zarr", specimen((40, 150, 300)))
    save_psf(psf_from_array(kernel(), voxel_size_um=SIZE, psf_voxel_size_um=SIZE), folder / "psf.tif")
    return RunConfig(str(folder / "a.ome.zarr"), (str(folder / "psf.tif"),), device="cpu")


@pytest.fixture(scope="module")
def plan(config):
    return prepare(replace(config, **PLAIN), "cpu")


def workers(count=1, memory=0, **changes):
    return WorkersPlanned(count, 2, memory, **changes)


def test_a_block_takes_what_was_measured_and_workers_share_the_blocks(plan):
    alone, four = (estimate(plan, workers(n), ROOM, SPEEDS) for n in (1, 4))
    assert alone.times.block <= 2.0  # edges are smaller than the block that was measured
    assert alone.times.deconvolution == pytest.approx(len(plan.grid) * alone.times.block)
    assert four.times.deconvolution == pytest.approx(alone.times.deconvolution / 4)
    assert alone.times.total == sum((alone.times.training, alone.times.deconvolution, alone.times.pyramid))
    assert alone.times.training == 0
    assert estimate(plan, workers(), ROOM, None).times is None


def test_on_a_gpu_reading_hides_behind_computing(plan):
    on_gpu = replace(plan, device="cuda")
    slow = replace(SPEEDS, read_seconds=30.0)
    cases = ((plan, SPEEDS), (on_gpu, SPEEDS), (on_gpu, slow))
    cpu, gpu, waits = (estimate(p, workers(), ROOM, s).times.block for p, s in cases)
    assert gpu == pytest.approx(cpu / 2)
    assert waits > 10 * gpu


def test_training_is_done_channel_by_channel_within_its_minutes(config):
    plan = prepare(replace(config, steps=100), "cpu")
    assert estimate(plan, workers(8), ROOM, SPEEDS).times.training == 200
    short = prepare(replace(config, steps=100, train_minutes=1), "cpu")
    assert estimate(short, workers(), ROOM, SPEEDS).times.training == 60
    assert estimate(plan, workers(), ROOM, SPEEDS, done=0.5).times.training == 0


def test_what_is_done_or_masked_takes_no_time(plan):
    whole, half, masked = (
        estimate(plan, workers(), ROOM, SPEEDS, **part).times.deconvolution
        for part in ({}, {"done": 0.5}, {"wanted": 0.5})
    )
    assert half == masked == whole / 2


def test_the_scheduler_bounds_the_speed(plan):
    """More workers than one scheduler keeps busy are no faster, and the plan says how many that is."""
    few, many = (estimate(plan, workers(n), ROOM, SPEEDS) for n in (10, 100_000))
    kept = few.engines.workers_kept_busy["direct"]
    assert kept == pytest.approx(few.times.block / SCHEDULER_SECONDS["direct"])
    assert few.engines.load["direct"] == pytest.approx(10 / kept)
    assert many.times.deconvolution == pytest.approx(len(plan.grid) * SCHEDULER_SECONDS["direct"])
    assert few.engines.workers_kept_busy["map-overlap"] < kept
    assert [o.what for o in find_obstacles(few)] == []
    (obstacle,) = find_obstacles(many)
    assert obstacle.what == "scheduler"
    assert f"keeps about {kept:.0f} workers busy" in obstacle.sentence


def test_the_plan_says_why_the_engine_was_chosen(plan, config):
    quick = replace(SPEEDS, block_seconds=0.02, read_seconds=0.0, write_seconds=0.0)
    busy = estimate(plan, workers(4), ROOM, quick).engines
    assert busy.load["map-overlap"] > 0.05
    assert "map-overlap would keep the scheduler busy" in busy.why
    assert "either engine" in estimate(plan, workers(), ROOM, replace(SPEEDS, block_seconds=60)).engines.why
    tiling = replace(config.tiling, engine="map-overlap")
    asked = prepare(replace(config, **PLAIN, tiling=tiling), "cpu")
    assert estimate(asked, workers(), ROOM, SPEEDS).engines.why == "as asked for"


def test_the_cost_of_a_block_is_the_recorded_one():
    """Measured by benchmarks/engine_overhead.py: seconds of scheduler and client together."""
    recorded = json.loads(RECORDED.read_text())
    assert not recorded["quick"]
    assert recorded["identical_bytes"]
    for engine, seconds in SCHEDULER_SECONDS.items():
        measured = recorded["engines"][engine]
        assert measured["flat"]
        assert measured["scheduler_seconds_per_block"] == pytest.approx(seconds, rel=0.1)
    bundles = recorded["engines"]["bundles"]
    per_bundle = bundles["scheduler_seconds_per_block"] * bundles["blocks_in_bundle"]
    assert per_bundle == pytest.approx(SCHEDULER_SECONDS_OF_BUNDLE, rel=0.1)


def test_quick_blocks_are_restored_a_shard_at_a_time(config):
    """They cost the scheduler less, read less, and a worker has more of them in hand."""
    tiling = replace(config.tiling, block=32)
    plan = prepare(replace(config, **PLAIN, tiling=tiling, ome_version="0.5"), "cpu")
    plan = replace(plan, layout=plan_output(plan.volume, chunk=32, shard=64, unit=32))
    quick = replace(SPEEDS, block_seconds=0.02, read_seconds=0.2)
    slow, fast = (estimate(plan, workers(), ROOM, speeds) for speeds in (SPEEDS, quick))
    assert (slow.blocks_at_once, fast.blocks_at_once) == (4, 4)  # a single one along z
    slow = estimate(plan, workers(), ROOM, replace(SPEEDS, block_seconds=5.0))
    assert (slow.blocks_at_once, estimate(plan, workers(), ROOM, None).blocks_at_once) == (1, 1)
    assert estimate(plan, workers(1000), ROOM, quick).blocks_at_once == 1  # too few for all
    assert fast.engines.seconds_per_block["direct"] == SCHEDULER_SECONDS_OF_BUNDLE / 4
    assert slow.engines.seconds_per_block["direct"] == SCHEDULER_SECONDS["direct"]
    alone = 0.02 + quick.read_seconds + quick.write_seconds
    assert fast.times.largest_block < 0.02 + 0.8 * quick.read_seconds + quick.write_seconds < alone
    threads = [estimate(plan, WorkersPlanned(1, n, 0), ROOM, None).memory.waiting for n in (5, 6, 7)]
    assert threads[2] - threads[1] == threads[1] - threads[0] == bundle_bytes(plan)
    jobs = estimate(plan, in_jobs(60), ROOM, quick).jobs
    assert jobs.task == pytest.approx(2 * 4 * jobs.block)


def test_memory_is_program_and_block_or_training(plan, config):
    restoring = estimate_memory(plan, workers())
    assert restoring.step == restoring.pool == 0
    assert restoring.least == PROGRAM_BYTES["cpu"] + plan.bytes_per_worker
    assert restoring.peak == restoring.least + restoring.waiting
    training = prepare(replace(config, preset="paper"), "cpu")
    taken = estimate_memory(training, workers())
    assert taken.pool == 40 * 150 * 300 * 2
    assert taken.least >= PROGRAM_BYTES["cpu"] + taken.pool + taken.step
    assert taken.step > 10 * estimate_memory(prepare(config, "cpu"), workers()).step


def test_on_a_gpu_its_memory_is_told_apart(config):
    plan = replace(prepare(config, "cpu"), device="cuda")
    memory = estimate_memory(plan, workers())
    assert memory.gpu == max(memory.block, memory.step)
    assert memory.least == PROGRAM_BYTES["cuda"] + memory.pool
    tight = estimate(plan, workers(gpu_bytes=memory.gpu // 2), ROOM, None)
    (obstacle,) = find_obstacles(tight)
    assert (obstacle.what, obstacle.certain) == ("gpu", False)


def test_too_little_memory_is_refused_with_the_remedy(plan):
    memory = estimate_memory(plan, workers())
    refuse_too_little_memory(plan, workers(memory=memory.least))
    refuse_too_little_memory(plan, workers(memory=0))
    with pytest.raises(OptionError, match=r"needs at least .* but has .*--block, fewer --workers than 3, or"):
        refuse_too_little_memory(plan, workers(3, memory.least - 1))
    found = {
        limit: find_obstacles(estimate(plan, workers(memory=limit), ROOM, None))
        for limit in (memory.least - 1, memory.peak - 1, memory.peak)
    }
    certain = {limit: [(o.what, o.certain) for o in obstacles] for limit, obstacles in found.items()}
    assert list(certain.values()) == [[("memory", True)], [("memory", False)], []]


def test_a_training_that_is_too_large_is_told_its_own_remedy(config):
    plan = prepare(replace(config, preset="paper", memory_limit="2GiB"), "cpu")
    with pytest.raises(OptionError, match="--preset fast"):
        refuse_too_little_memory(plan, workers(memory=2**31))


def test_a_disk_that_is_too_small_is_a_warning(plan):
    traffic = estimate(plan, workers(), ROOM, None).traffic
    most = traffic.largest_output_bytes
    cases = {
        (most, None): None,
        (most - 1, None): "depends on how well",
        (most - 1, SPEEDS): "may still fit",
        (most // 4, SPEEDS): "not likely to fit",
    }
    for (free, speeds), words in cases.items():
        found = find_obstacles(estimate(plan, workers(), Room(free, None), speeds))
        assert [(o.what, o.certain) for o in found] == ([] if words is None else [("disk", False)])
        assert words is None or words in found[0].sentence
    half_done = estimate(plan, workers(), Room(most // 2 + 1, None), None, done=0.5)
    assert find_obstacles(half_done) == ()


def test_files_are_compared_with_inodes(plan):
    traffic = estimate(plan, workers(), ROOM, None).traffic
    needed = traffic.files + traffic.folders
    for free, what in ((needed, []), (needed - 1, ["files"]), (None, [])):
        found = find_obstacles(estimate(plan, workers(), Room(10**12, free), None))
        assert [o.what for o in found] == what


def in_jobs(minutes, most=1, memory=0):
    jobs = JobsPlanned(1, most, 2, 60 * minutes)
    return WorkersPlanned(2 * most, 2, memory, jobs=jobs)


def test_jobs_follow_one_another_until_all_is_done():
    """Two blocks at a time, of 100 s each alone: no task is begun 1.25 times 200 s before the margin."""
    hour = JobsPlanned(1, 1, 2, 3600)
    found = job_times(hour, 2, 100.0, 8, 10_000.0)
    assert (found.limit, found.task, found.region) == (3540, 200, 400)
    assert found.usable == 3540 - 250
    assert found.in_turn == 4
    assert job_times(hour, 2, 100.0, 8, found.usable).in_turn == 1
    assert job_times(hour, 2, 100.0, 8, 0.0).in_turn == 1
    longer = job_times(JobsPlanned(1, 1, 2, 7200), 2, 100.0, 8, 10_000.0)
    assert longer.in_turn == 2
    full = job_times(hour, 1, 3500.0, 8, 35_000.0)
    assert full.in_turn == 10, "the first task of a job is done even if no second one fits"


def test_more_jobs_at_a_time_need_fewer_successors(config):
    plan = prepare(replace(config, **PLAIN, tiling=replace(config.tiling, block=32)), "cpu")
    slow = replace(SPEEDS, block_seconds=100.0)
    one, four = (estimate(plan, in_jobs(12, most), ROOM, slow) for most in (1, 4))
    assert one.jobs.in_turn >= 2 * four.jobs.in_turn >= 2
    assert one.jobs.block == one.times.largest_block == 101.0
    assert one.jobs.task == 2 * one.jobs.block
    assert estimate(plan, workers(), ROOM, slow).jobs is None
    assert estimate(plan, in_jobs(12), ROOM, None).jobs is None


def test_what_does_not_end_within_a_job_is_told_with_the_remedy(config):
    """From blocks that fit easily to one that fits no job even alone."""
    plan = prepare(replace(config, **PLAIN, tiling=replace(config.tiling, block=32)), "cpu")
    cases = {
        (10.0, 1): None,
        (200.0, 1): r"a region, .* or --jobs 2 or more\.$",
        (200.0, 2): None,
        (400.0, 2): r"a block takes about 13 min while 2 take turns, .*--walltime, fewer --threads, or",
        (700.0, 2): r"a block takes about 12 min, and a job of 12 min has 11 min for it; .*--walltime, or",
    }
    for (seconds, most), words in cases.items():
        speeds = replace(SPEEDS, block_seconds=seconds)
        found = find_obstacles(estimate(plan, in_jobs(12, most), ROOM, speeds))
        assert [o.what for o in found] == ([] if words is None else ["walltime"]), (seconds, found)
        assert words is None or re.search(words, found[0].sentence), found[0].sentence
        assert not any(o.certain for o in found)


def test_the_memory_of_a_job_is_asked_for_with_mem(plan):
    least = estimate_memory(plan, workers()).least
    with pytest.raises(OptionError, match=r"fewer --workers than 2, or a larger --mem or --memory-limit"):
        refuse_too_little_memory(plan, in_jobs(12, 4, least - 1))
