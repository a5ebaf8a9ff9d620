"""Only a part of the work: empty places, dim ones, and a mask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bigdecon import pipeline
from bigdecon.config import RunConfig, TilingConfig
from bigdecon.deconvolution.block import BlockRules
from bigdecon.errors import OutputError
from bigdecon.optics.psf import psf_from_array, save_psf
from bigdecon.running import block_size
from tests.runs import SIZE, kernel, specimen, voxels, write_image, write_in_chunks


@pytest.fixture
def config(tmp_path, cluster, monkeypatch):
    monkeypatch.setattr(block_size, "REGION_VOXELS", 1)
    save_psf(psf_from_array(kernel(), voxel_size_um=SIZE, psf_voxel_size_um=SIZE), tmp_path / "psf.tif")
    return RunConfig(
        str(tmp_path / "a.ome.zarr"),
        (str(tmp_path / "psf.tif"),),
        method="richardson-lucy",
        iterations=2,
        sieve=0.0,
        background=0.0,
        device="cpu",
        cluster=cluster,
        ome_version="0.4",
        tiling=TilingConfig(block=64),
    )


def run(config, tmp_path, name, **changes):
    return pipeline.run(replace(config, output=str(tmp_path / name), **changes))


@pytest.mark.parametrize("method", ["richardson-lucy", pytest.param("siamese", marks=pytest.mark.slow)])
def test_missing_chunks_are_restored_once_and_give_the_same_bytes(config, tmp_path, monkeypatch, method):
    data = specimen((8, 64, 640))
    data[..., 128:512] = 0
    image = write_in_chunks(tmp_path / "a.ome.zarr", data)
    assert not (image / "0" / "0" / "0" / "4").exists(), "a chunk of zeros is not stored"
    config = replace(config, method=method)
    if method == "siamese":
        config = replace(config, steps=2, iterations=None, sieve=None)
    result = run(config, tmp_path, "quick")
    assert result.skipped >= 2
    model = {"model": str(result.output), "steps": None} if result.models else {}
    with monkeypatch.context() as patch:
        patch.setattr("bigdecon.running.region_work.BlockRules", lambda name, dim: BlockRules("", dim))
        plain = run(config, tmp_path, "plain", **model)
    assert plain.skipped == 0
    np.testing.assert_array_equal(voxels(result.output), voxels(plain.output))


@pytest.mark.slow
def test_two_images_with_the_same_settings_on_the_same_workers(config, tmp_path):
    """What a worker remembers of constant blocks is of one run: the next has another background."""
    results = []
    for number, offset in enumerate((100, 130)):
        data = specimen((8, 64, 640), seed=number) + (offset - 100)
        data[..., 128:512] = 0
        image = write_in_chunks(tmp_path / f"{number}.ome.zarr", data.astype("uint16"))
        both = replace(config, input=str(image), background=float(offset))
        alone = run(both, tmp_path, f"alone{number}", cluster="local", workers=1, threads=1)
        results.append((run(both, tmp_path, f"shared{number}"), alone))
    assert results[0][0].plan.stats != results[1][0].plan.stats
    for shared, alone in results:
        np.testing.assert_array_equal(voxels(shared.output), voxels(alone.output))


def test_dim_blocks_are_left_as_they_are_on_request(config, tmp_path):
    data = specimen((8, 30, 600))
    data[..., 200:500] = 100
    data[0, 0, 300] = 101  # dim, but not constant
    image = write_image(tmp_path / "a.ome.zarr", data)
    everything = run(config, tmp_path, "everything")
    result = run(config, tmp_path, "bright", skip_dim=110.0)
    assert result.skipped == 3  # 256 to 448
    found, whole = voxels(result.output), voxels(everything.output)
    np.testing.assert_array_equal(found[..., 256:448], data[..., 256:448])
    rest = np.r_[0:256, 448:600]
    np.testing.assert_array_equal(found[..., rest], whole[..., rest])
    assert image.exists()
    with pytest.raises(OutputError, match=r"skip-dim \(110.0 then, default now\)"):
        run(config, tmp_path, "bright")


def test_a_mask_limits_the_work(config, tmp_path):
    data = specimen((8, 30, 600))
    write_image(tmp_path / "a.ome.zarr", data)
    coarse = np.zeros((2, 10, 50), "uint8")
    coarse[:, 3:7, 12:20] = 1
    size = tuple(s * n / m for s, n, m in zip(SIZE, data.shape, coarse.shape, strict=True))
    place = [(b - a) / 2 for a, b in zip(SIZE, size, strict=True)]
    write_image(tmp_path / "mask.ome.zarr", coarse, size=size, translation=place)
    whole = voxels(run(config, tmp_path, "whole").output)
    masked = {"mask": str(tmp_path / "mask.ome.zarr")}
    for engine in ("direct", "map-overlap"):
        tiling = TilingConfig(block=64, engine=engine)
        result = run(config, tmp_path, engine, tiling=tiling, **masked)
        inside = np.zeros(data.shape, bool)
        inside[:, 9:21, 144:240] = True
        np.testing.assert_array_equal(voxels(result.output), np.where(inside, whole, 0))
        stored = {p.name for p in (result.output / "0" / "0" / "0").iterdir()}
        assert stored == {"1"}, "shards without any wanted voxel take no room"
    with pytest.raises(OutputError, match="which differed in the mask; "):
        run(config, tmp_path, "direct")
    coarse[0, 3, 12] = 0
    edited = write_image(tmp_path / "edited.ome.zarr", coarse, size=size, translation=place)
    with pytest.raises(OutputError, match="which differed in the mask; "):
        run(config, tmp_path, "direct", mask=str(edited))
    assert run(config, tmp_path, "direct", **masked).state == "found finished"
