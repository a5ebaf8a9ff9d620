"""Calibration: the real method on real voxels, scaled up by the work that is left."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import pytest

from bigdecon.config import RunConfig, TilingConfig
from bigdecon.deconvolution.network import NetworkDeconvolver
from bigdecon.deconvolution.richardson_lucy import RichardsonLucy
from bigdecon.deconvolution.tiling import tile_boxes
from bigdecon.deconvolution.wiener import Wiener
from bigdecon.errors import RunError
from bigdecon.forecasting.calibration import _shortened, _work, calibrate
from bigdecon.intensity import IntensityStats
from bigdecon.optics.psf import psf_from_array, save_psf
from bigdecon.running.planning import prepare
from tests.runs import SIZE, kernel, snapshot, specimen, write_image, write_in_chunks

PLAIN = {"method": "richardson-lucy", "iterations": 2, "sieve": 0.0, "background": 0.0}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibration")
    write_image(folder / "a.ome.zarr", specimen((48, 100, 120)))
    save_psf(psf_from_array(kernel(), voxel_size_um=SIZE, psf_voxel_size_um=SIZE), folder / "psf.tif")
    return RunConfig(str(folder / "a.ome.zarr"), (str(folder / "psf.tif"),), device="cpu")


def test_a_classical_method_is_timed_and_nothing_is_written(config, tmp_path):
    place = replace(config, **PLAIN, output=str(tmp_path / "out.ome.zarr"))
    before = snapshot(config.input)
    plan = prepare(place, "cpu")
    found = calibrate(plan, threads=1, seconds=0.0)
    assert found.piece == (32, 32, 32)  # without time the first piece is all there is
    assert min(found.block_seconds, found.read_seconds, found.write_seconds, found.coarse_seconds) > 0
    assert (found.step_seconds, found.patch, found.gpu_bytes) == (None, (), None)
    assert found.on_real_voxels
    assert 0.3 < found.stored_share < 1.1
    assert snapshot(config.input) == before
    assert list(tmp_path.iterdir()) == []


def test_with_time_the_whole_block_is_done(config):
    plan = prepare(replace(config, **PLAIN, tiling=TilingConfig(block=32)), "cpu")
    assert calibrate(plan, threads=1, seconds=60.0).piece == plan.grid.largest_block


@pytest.mark.parametrize("method", ["siamese", pytest.param("ssi", marks=pytest.mark.slow)])
def test_a_network_that_is_not_trained_yet_is_timed(config, method):
    plan = prepare(replace(config, method=method, background="auto"), "cpu")
    found = calibrate(plan, threads=1, seconds=0.0)
    assert found.patch == (32, 32, 32)
    assert found.step_seconds > 0
    assert found.block_seconds > 0


def test_an_image_without_voxels_is_timed_on_noise(tmp_path, config):
    write_in_chunks(tmp_path / "empty.ome.zarr", np.zeros((48, 64, 64), "uint16"))
    stats = IntensityStats(200, 100, 0, 65535, 100, sampled=0.0)
    empty = replace(config, **PLAIN, input=str(tmp_path / "empty.ome.zarr"))
    found = calibrate(prepare(empty, "cpu", measure=lambda stacks, name: stats), threads=1, seconds=0.0)
    assert not found.on_real_voxels
    assert found.stored_share is None
    assert found.block_seconds > 0


def test_voxels_that_cannot_be_computed_with_are_told(config, tmp_path):
    data = specimen((48, 64, 64)).astype("float32")
    write_image(tmp_path / "hole.ome.zarr", data)
    plan = prepare(replace(config, **PLAIN, input=str(tmp_path / "hole.ome.zarr")), "cpu")
    data[24, 32, 32] = np.nan
    write_image(tmp_path / "hole.ome.zarr", data, overwrite=True)
    with pytest.raises(RunError, match="NaN or infinity"):
        calibrate(plan, threads=1, seconds=0.0)


def test_iterations_of_a_fixed_number_are_cut_short():
    psf = kernel((5, 5, 5))
    method, factor = _shortened(RichardsonLucy(psf, iterations=60))
    assert (method.iterations, factor) == (6, 10)
    for untouched in (RichardsonLucy(psf, iterations=5), Wiener(psf)):
        assert _shortened(untouched) == (untouched, 1)


def test_work_is_what_is_computed(config):
    """Tiles overlap, and a classical method computes beyond the block by the PSF."""
    plan = prepare(replace(config, tiling=TilingConfig(tile=80)), "cpu")
    method = NetworkDeconvolver.__new__(NetworkDeconvolver)  # only its needs are asked for
    object.__setattr__(method, "checkpoint", type("Trained", (), {"config": plan.training})())
    shape = (100, 100, 100)
    tiles = tile_boxes(shape, (80,) * 3, method.halo, method.alignment)
    assert _work(plan, method, shape) == sum(prod(tile.shape) for tile in tiles) > prod(shape)
    assert _work(plan, method, (80, 80, 80)) == 80**3
    lucy = RichardsonLucy(kernel((9, 9, 9)), iterations=2)
    small, large = (_work(plan, lucy, (n,) * 3) for n in (32, 64))
    assert 1 < large / small < 8
