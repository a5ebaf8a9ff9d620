"""The time of a report: boxes counted as the report counts them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bigdecon.config import RunConfig, TilingConfig
from bigdecon.forecasting.calibration import Calibration
from bigdecon.forecasting.report_time import PAGE_SECONDS, report_seconds, time_box
from bigdecon.optics.psf import psf_from_array, save_psf
from bigdecon.running.planning import prepare
from bigdecon.running.workforce import WorkersPlanned
from tests.runs import SIZE, kernel, specimen, write_image

PLAIN = {"method": "richardson-lucy", "iterations": 2, "sieve": 0.0, "background": 0.0}
NOTHING = Calibration(None, 0.0, 0.0, 0.0, 0.0, None, None, (), (), True, 0.0)
ONE = WorkersPlanned(1, 1, 0)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report-time")
    image = write_image(folder / "a.ome.zarr", specimen((64, 128, 128)))
    save_psf(psf_from_array(kernel(), voxel_size_um=SIZE, psf_voxel_size_um=SIZE), folder / "psf.tif")
    config = RunConfig(str(image), (str(folder / "psf.tif"),), device="cpu", report=True, **PLAIN)
    return prepare(replace(config, tiling=TilingConfig(block=128)), "cpu")


def test_all_boxes_are_looked_at_and_one_is_deconvolved_twice(plan):
    assert report_seconds(plan, ONE, NOTHING, 0.0) == PAGE_SECONDS
    # 4 boxes of 64 voxels a side fill the volume
    assert report_seconds(plan, ONE, NOTHING, 1e-6) == pytest.approx(PAGE_SECONDS + 64 * 128 * 128 * 1e-6)
    halves = report_seconds(plan, ONE, replace(NOTHING, block_seconds=3.0), 0.0) - PAGE_SECONDS
    assert 2 * 3.0 / 4 < halves <= 2 * 3.0  # a box with its halo is less than the whole, and more than a box


def test_workers_share_the_boxes(plan):
    few, many = (report_seconds(plan, WorkersPlanned(n, 1, 0), NOTHING, 1e-6) - PAGE_SECONDS for n in (1, 4))
    assert many == pytest.approx(few / 4)
    more = report_seconds(plan, WorkersPlanned(400, 1, 0), NOTHING, 1e-6) - PAGE_SECONDS
    assert more == pytest.approx(many)


def test_a_box_is_timed():
    assert 0 < time_box(kernel(), threads=1) < 1e-3
    assert 0 < time_box(kernel()[4], threads=1) < 1e-3
