"""What a run reads, writes and leaves: counted in one go, against counting block by block and a real run."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bigdecon.config import RunConfig, TilingConfig
from bigdecon.deconvolution.tiling import region_boxes
from bigdecon.forecasting.traffic import count_traffic
from bigdecon.io.layout import plan_output
from bigdecon.optics.psf import psf_from_array, save_psf
from bigdecon.pipeline import run
from bigdecon.running.planning import prepare
from tests.runs import SIZE, kernel, specimen, write_image, write_in_chunks

PLAIN = {"method": "richardson-lucy", "iterations": 2, "sieve": 0.0, "background": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("traffic")
    psf = psf_from_array(kernel((3, 3, 3), 0.7), voxel_size_um=SIZE, psf_voxel_size_um=SIZE)
    save_psf(psf, folder / "psf.tif")
    write_in_chunks(folder / "chunks.ome.zarr", specimen((40, 70, 90)), chunk=32)
    write_image(folder / "many.ome.zarr", np.stack([specimen((24, 40, 44), seed) for seed in (0, 1)]), "czyx")
    return folder


def planned(folder, name, **changes):
    config = RunConfig(str(folder / name), (str(folder / "psf.tif"),), device="cpu", **{**PLAIN, **changes})
    return prepare(config, "cpu")


def boxes_read(plan):
    """What tasks read: blocks with their halos; or a region's blocks and what lies around them, once."""
    if plan.engine == "direct":
        return [plan.grid.grow(core) for core in plan.grid]
    cells = []
    for region in plan.regions:
        around, cuts = plan.grid.grow(region), plan.grid.cuts_within(region)
        axes = [sorted({a.start, *c, a.stop}) for a, c in zip(around, cuts, strict=True)]
        cells += itertools.product(*([slice(*pair) for pair in itertools.pairwise(axis)] for axis in axes))
    return cells


@pytest.mark.parametrize("engine", ["direct", "map-overlap"])
@pytest.mark.parametrize("roi", [None, "3:37,20:65,1:70"])
@pytest.mark.parametrize("block", [16, 32])
def test_reads_are_those_of_the_blocks(folder, engine, roi, block):
    """A sum of products over the grid equals the sum over all blocks, off the chunk grid too."""
    plan = planned(folder, "chunks.ome.zarr", roi=roi, tiling=TilingConfig(block=block, engine=engine))
    regions = region_boxes(plan.grid, (block,) * 3, target_voxels=2 * block**3)
    plan = replace(plan, regions=tuple(regions))
    start = [int(part.split(":")[0]) for part in roi.split(",")] if roi else [0, 0, 0]
    chunks = voxels = 0
    for box in boxes_read(plan):
        voxels += np.prod([part.stop - part.start for part in box])
        parts = [range(part.start + s, part.stop + s) for part, s in zip(box, start, strict=True)]
        touched = [{i // 32 for i in part} for part in parts]
        chunks += len(list(itertools.product(*touched)))
    traffic = count_traffic(plan)
    assert len(plan.regions) > 1
    assert traffic.read_bytes == voxels * 2
    assert traffic.chunks_read == chunks
    assert traffic.decoded_bytes == chunks * 32**3 * 2


def test_every_channel_counts(folder):
    both, one = (count_traffic(planned(folder, "many.ome.zarr", channel=c)) for c in ((), ("0",)))
    assert both.read_bytes == 2 * one.read_bytes
    assert both.chunks_read == 2 * one.chunks_read
    assert both.written_bytes == 2 * one.written_bytes
    assert both.shards_written == 2 * one.shards_written


@pytest.mark.parametrize(
    ("version", "method"),
    [
        ("0.5", "richardson-lucy"),
        ("0.4", "richardson-lucy"),
        pytest.param("0.5", "siamese", marks=pytest.mark.slow),
    ],
)
def test_a_real_run_leaves_the_files_that_were_planned(
    folder, tmp_path, cluster, monkeypatch, version, method
):
    """Every file and folder counts; the lease is gone in the end, and folders of the ledger may be shared."""
    monkeypatch.setattr("bigdecon.running.block_size.REGION_VOXELS", 2 * 32**3)
    monkeypatch.setattr("bigdecon.running.block_size.plan_output", partial(plan_output, chunk=16, shard=32))
    monkeypatch.setattr("bigdecon.io.layout.COARSEST", 32)
    settings = PLAIN if method == "richardson-lucy" else {}
    training = {"steps": 1} if method == "siamese" else {}
    config = RunConfig(
        str(folder / "chunks.ome.zarr"),
        (str(folder / "psf.tif"),),
        output=str(tmp_path / "out.ome.zarr"),
        ome_version=version,
        tiling=TilingConfig(block=32),
        device="cpu",
        cluster=cluster,
        **{**settings, **training},
    )
    plan = run(config).plan
    traffic = count_traffic(plan)
    found = list(os.walk(tmp_path / "out.ome.zarr"))
    files = sum(len(names) for _, _, names in found)
    assert files == traffic.files - 1
    entries = sum(len(names) for place, _, names in found if "ledger" in place)
    assert len(found) <= traffic.folders <= len(found) + entries
    assert len(plan.layout.levels) > 1
    assert len(plan.regions) > 1
    size = sum((Path(place) / name).stat().st_size for place, _, names in found for name in names)
    assert size <= traffic.largest_output_bytes


def test_coarser_levels_are_made_of_the_finer(folder):
    plan = planned(folder, "chunks.ome.zarr")
    traffic = count_traffic(plan)
    sizes = [np.prod(level.shape) * 4 for level in plan.layout.levels]
    assert traffic.written_bytes == sum(sizes)
    assert traffic.reread_bytes == sum(sizes[:-1])
    narrow = count_traffic(replace(plan, layout=replace(plan.layout, dtype="uint16")))
    assert narrow.written_bytes == traffic.written_bytes // 2
