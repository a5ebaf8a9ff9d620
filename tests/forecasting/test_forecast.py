"""Forecasts: what is known, what is assumed, and that nothing is written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bigdecon.config import RunConfig, TilingConfig
from bigdecon.deconvolution.search import COUNTS, REGULARIZATIONS, SIEVES
from bigdecon.distributed.cluster import connect
from bigdecon.errors import ConstantImageError, OptionError, PSFError
from bigdecon.forecasting.estimating import Room
from bigdecon.forecasting.forecast import _room_at, forecast
from bigdecon.forecasting.job_times import duration
from bigdecon.forecasting.plan_report import describe_forecast
from bigdecon.io.layout import plan_output
from bigdecon.io.writing import create_ome_zarr
from bigdecon.optics.psf import psf_from_array, save_psf
from bigdecon.pipeline import run
from bigdecon.running.planning import prepare
from bigdecon.storage.object_path import ObjectPath
from bigdecon.volume import ArraySource, Volume
from tests.conftest import workers_forked
from tests.runs import SIZE, kernel, specimen, write_image

PLAIN = {"method": "richardson-lucy", "iterations": 2, "sieve": 0.0, "background": 0.0}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forecast")
    write_image(folder / "a.ome.zarr", specimen((40, 70, 90)))
    save_psf(psf_from_array(kernel(), voxel_size_um=SIZE, psf_voxel_size_um=SIZE), folder / "psf.tif")
    return RunConfig(
        str(folder / "a.ome.zarr"),
        (str(folder / "psf.tif"),),
        device="cpu",
        threads=1,
        dashboard_address="none",
        tiling=TilingConfig(block=32),
    )


def text_of(found):
    return "\n".join(f"{heading} {words}" for heading, words in describe_forecast(found))


def write_empty(path, side):
    """Write the metadata of a cube whose chunks are all missing."""
    nothing = np.broadcast_to(np.uint16(0), (side,) * 3)
    volume = Volume(ArraySource(nothing), "zyx", voxel_size_um=SIZE)
    create_ome_zarr(path, volume, plan_output(volume, dtype="uint16", shard=512), name="empty")


def test_a_million_million_voxels_that_are_not_there_yet(config, tmp_path):
    write_empty(tmp_path / "empty.ome.zarr", 10_000)
    huge = replace(config, input=str(tmp_path / "empty.ome.zarr"), tiling=TilingConfig())
    found = forecast(huge, calibrate_seconds=None)
    assert found.estimate.blocks == 78**3
    assert found.estimate.regions == len(found.plan.regions) < 31_000
    assert found.estimate.traffic.written_bytes > 4e12
    assert "disk" in [obstacle.what for obstacle in found.obstacles]
    (sentence,) = found.assumptions
    assert "all have one value" in sentence
    text = text_of(found)
    assert "(assumed)" in text
    assert "not estimated" in text


def test_a_single_file_is_said_in_the_singular(config, tmp_path):
    image = write_image(tmp_path / "a.ome.zarr", specimen((8, 24, 24)))
    text = text_of(
        forecast(replace(config, input=str(image), tiling=TilingConfig(), **PLAIN), calibrate_seconds=None)
    )
    assert "in 1 file (shard), all levels" in text
    assert "in 1 chunk\n" in text


def test_a_run_refuses_what_a_plan_assumes(config, tmp_path):
    write_empty(tmp_path / "empty.ome.zarr", 64)
    empty = replace(config, input=str(tmp_path / "empty.ome.zarr"), **PLAIN)
    with pytest.raises(ConstantImageError, match="every voxel of"):
        run(empty)
    found = forecast(empty, calibrate_seconds=0.0)
    assert not found.calibration.on_real_voxels
    assert found.estimate.times.total > 0
    assert "voxels of noise" in text_of(found)


def test_times_come_from_the_blocks_of_the_image(config, tmp_path):
    output = tmp_path / "out.ome.zarr"
    found = forecast(replace(config, **PLAIN, output=str(output)), calibrate_seconds=0.0)
    assert found.estimate.times.deconvolution > 0
    assert found.assumptions == ()
    assert "calibrated on 32 x 32 x 32 voxels of the image" in text_of(found)
    assert not output.exists()
    assert found.plan.grid == prepare(replace(config, **PLAIN), "cpu").grid


def test_a_long_training_is_told_how_to_be_shorter(config):
    found = forecast(replace(config, **PLAIN), calibrate_seconds=0.0)
    for seconds, told in ((60.0, False), (4 * 3600.0, True)):
        times = replace(found.estimate.times, training=seconds)
        text = text_of(replace(found, estimate=replace(found.estimate, times=times)))
        assert ("--train-minutes limits it, and --method richardson-lucy needs none" in text) is told
        assert "on a machine that does nothing else" in text


@pytest.mark.parametrize(("load", "told"), [(None, False), (0.2, False), (3.0, True)])
def test_a_busy_machine_is_told_of(config, load, told):
    found = forecast(replace(config, **PLAIN), calibrate_seconds=0.0)
    text = text_of(replace(found, calibration=replace(found.calibration, load=load)))
    assert ("it is busy now (load 300% of its cores)" in text) is told


def test_a_report_is_part_of_the_time_where_one_is_made(config):
    found = forecast(replace(config, **PLAIN, report=True), calibrate_seconds=0.0)
    times = found.estimate.times
    assert times.report > 0
    assert times.total == pytest.approx(times.deconvolution + times.pyramid + times.report)
    assert ", report " in text_of(found)


def test_features_of_a_network_are_not_called_channels(config):
    text = text_of(forecast(replace(config, method="siamese"), calibrate_seconds=None))
    assert "a network 16 features wide, at most 450 training steps on 1 patch of the image each" in text


def test_what_is_auto_is_planned_as_costly_as_it_can_become(config):
    found = forecast(replace(config, method="richardson-lucy"), calibrate_seconds=None)
    settings = found.plan.tuned[0].settings
    assert (settings.iterations, settings.sieve) == (max(COUNTS), max(SIEVES))
    assert found.assumptions[0].startswith("background, sieve and iterations are chosen from the image")
    given = forecast(replace(config, **PLAIN | {"sieve": "auto"}), calibrate_seconds=None)
    assert given.plan.tuned[0].settings.iterations == 2
    assert given.assumptions[0].startswith("sieve is chosen")
    assert max(given.plan.grid.halo) < max(found.plan.grid.halo)
    wiener = forecast(replace(config, method="wiener"), calibrate_seconds=None)
    assert wiener.plan.tuned[0].settings.regularization == min(REGULARIZATIONS)


@pytest.mark.parametrize("method", ["richardson-lucy", "wiener"])
def test_choosing_is_part_of_the_time_and_is_said_plainly(config, method):
    chosen = forecast(replace(config, method=method), calibrate_seconds=0.0)
    times = chosen.estimate.times
    assert 0 < times.choosing < times.choosing_at_most
    assert times.total == times.choosing + times.deconvolution + times.pyramid
    assert chosen.calibration.choosing_seconds == times.choosing_at_most
    text = text_of(chosen)
    assert f"{', '.join(chosen.to_choose)} chosen from the image when the run starts" in text
    assert "planned for: " in text
    assert "choosing settings " in text
    assert "settings are chosen in at most " in text
    given = forecast(replace(config, **PLAIN), calibrate_seconds=0.0)
    assert given.estimate.times.choosing == 0
    assert given.to_choose == ()
    assert "chosen" not in text_of(given)
    assert "choosing" not in text_of(given)


def test_a_run_that_was_begun_has_its_settings_and_what_is_done(config, tmp_path):
    began = replace(config, **PLAIN | {"sieve": "auto"}, output=str(tmp_path / "out.ome.zarr"))
    plan = run(began).plan
    found = forecast(began, calibrate_seconds=0.0)
    assert found.plan.state == "finished"
    assert found.plan.tuned == plan.tuned
    assert found.assumptions == ()
    assert (found.estimate.done, found.calibration) == (1.0, None)
    assert [o.what for o in found.obstacles] == []


def test_a_mask_leaves_work_out(config, tmp_path):
    mask = np.zeros((40, 70, 90), "uint8")
    mask[:, :, :30] = 1
    write_image(tmp_path / "mask.ome.zarr", mask)
    whole = forecast(replace(config, **PLAIN), calibrate_seconds=0.0)
    part = forecast(replace(config, **PLAIN, mask=str(tmp_path / "mask.ome.zarr")), calibrate_seconds=0.0)
    assert part.assumptions == ("about 33% of the blocks touch the mask; the others are left out.",)
    blocks = [f.estimate.times.deconvolution / f.estimate.times.block for f in (whole, part)]
    assert blocks[1] == pytest.approx(blocks[0] / 3)


def test_a_bad_psf_is_no_matter_of_planning(config, tmp_path):
    with pytest.raises(PSFError):
        forecast(replace(config, psf=(str(tmp_path / "none.tif"),)))


@pytest.mark.slow
def test_on_a_cluster_that_is_there_its_workers_count_and_calibrate(config):
    with (
        workers_forked(),
        connect(workers=2, threads=3, memory_limit="3GiB", dashboard_address="none", device="cpu") as opened,
    ):
        there = replace(config, **PLAIN, cluster=opened.client.scheduler.address)
        found = forecast(there, calibrate_seconds=0.0)
    workers = found.estimate.workers
    assert (workers.count, workers.threads, workers.memory_bytes) == (2, 3, 3 * 2**30)
    assert found.calibration.block_seconds > 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.1, "1 s"), (100, "100 s"), (600, "10 min"), (3 * 3600, "3.0 h"), (10 * 86400, "10 days")],
)
def test_durations_are_told_as_a_person_would(seconds, text):
    assert duration(seconds) == text


def test_an_object_store_does_not_tell_what_is_free():
    assert _room_at(ObjectPath("s3://bucket/out.ome.zarr")) == Room(None, None)


@pytest.mark.parametrize("side", [4, 8])
def test_an_image_too_small_to_choose_from_is_told_as_by_the_run(config, tmp_path, side):
    write_image(tmp_path / "a.ome.zarr", specimen((side, side)), "yx")
    psf = psf_from_array(kernel((7, 7)), voxel_size_um=SIZE[1:], psf_voxel_size_um=SIZE[1:])
    save_psf(psf, tmp_path / "psf.tif")
    own = {"input": str(tmp_path / "a.ome.zarr"), "psf": (str(tmp_path / "psf.tif"),)}
    small = replace(config, **own, method="richardson-lucy", tiling=TilingConfig())
    told = []
    for look in (lambda: prepare(small, "cpu"), lambda: forecast(small, calibrate_seconds=0.1)):
        with pytest.raises(OptionError, match="voxels is too small to choose from; give --") as error:
            look()
        told.append(str(error.value))
    assert told[0] == told[1]
