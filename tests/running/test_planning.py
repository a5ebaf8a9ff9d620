"""Plans: names, regions of interest, what blocks and memory come to, and what they say."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigdecon.config import RunConfig, TilingConfig
from bigdecon.deconvolution.lease import Lease
from bigdecon.deconvolution.tuning import Trial, Tuned
from bigdecon.errors import OptionError, VolumeError
from bigdecon.io.output_folder import default_output
from bigdecon.io.writing import write_ome_zarr
from bigdecon.optics.psf import psf_from_array, save_psf
from bigdecon.pipeline import _create_output
from bigdecon.running import sizing
from bigdecon.running.classical_settings import what_to_tune
from bigdecon.running.plan_text import describe_plan
from bigdecon.running.planning import prepare
from bigdecon.running.run_inputs import parse_roi
from bigdecon.running.size_warnings import size_warnings
from bigdecon.volume import Volume
from tests.runs import kernel, specimen

SIZE = (0.3, 0.2, 0.2)
PLAIN = {"method": "richardson-lucy", "iterations": 2, "sieve": 0.0, "background": 0.0}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A good configuration for an image of 40 x 150 x 300 voxels."""
    folder = tmp_path_factory.mktemp("plan")
    data = np.random.default_rng(0).poisson(100, (40, 150, 300)).astype("uint16")
    volume = Volume.from_array(data, "zyx", voxel_size_um=SIZE)
    write_ome_zarr(volume, folder / "a.ome.zarr", dtype="uint16")
    axes = np.meshgrid(*(np.arange(-3, 4) for _ in range(3)), indexing="ij")
    kernel = np.exp(-sum(a**2 for a in axes) / 4).astype("float32")
    save_psf(psf_from_array(kernel, voxel_size_um=SIZE, psf_voxel_size_um=SIZE), folder / "psf.tif")
    return RunConfig(str(folder / "a.ome.zarr"), (str(folder / "psf.tif"),), device="cpu")


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=2, max_size=3))
def test_a_roi_is_read_as_it_is_written(bounds):
    text = ",".join(f"{start}:{stop}" for start, stop in bounds)
    assert parse_roi(text, "zyx"[-len(bounds) :]) == tuple(slice(*b) for b in bounds)


def test_a_bound_left_out_is_the_edge():
    assert parse_roi(":5, 3:, :", "zyx") == (slice(None, 5), slice(3, None), slice(None))


@pytest.mark.parametrize("text", ["", "1", "1:2", "1:2,3:4", "a:b,1:2,3:4", "1:2:3,1:2,1:2", "1.5:2,1:2,1:2"])
def test_what_is_no_roi_is_told_the_form(text):
    with pytest.raises(OptionError, match="give z0:z1,y0:y1,x0:x1"):
        parse_roi(text, "zyx")


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("/data/a.ome.zarr", "/data/a.deconvolved.ome.zarr"),
        ("/data/a.ome.zarr/", "/data/a.deconvolved.ome.zarr"),
        ("/data/a.zarr", "/data/a.deconvolved.ome.zarr"),
        ("/data/A.OME.TIF", "/data/A.deconvolved.ome.zarr"),
        ("/data/stack.v2.tiff", "/data/stack.v2.deconvolved.ome.zarr"),
        ("/data/folder", "/data/folder.deconvolved.ome.zarr"),
        ("https://host/a/b.zarr/", "b.deconvolved.ome.zarr"),
        ("s3://bucket/b.ome.zarr", "b.deconvolved.ome.zarr"),
    ],
)
def test_the_result_is_named_after_the_input(location, name):
    assert default_output(location) == Path(name)


@pytest.mark.parametrize("method", ["siamese", "richardson-lucy"])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("block", [32, 64, 100, 128, 512])
def test_regions_are_whole_shards_and_cover_the_volume_once(config, monkeypatch, method, version, block):
    monkeypatch.setattr("bigdecon.running.block_size.REGION_VOXELS", 1)
    tiling = TilingConfig(block=block)
    plain = PLAIN if method == "richardson-lucy" else {}
    plan = prepare(replace(config, ome_version=version, tiling=tiling, **plain), "cpu")
    covered = np.zeros(plan.volume.spatial_shape, int)
    for box in plan.regions:
        covered[box] += 1
        for part, unit, n in zip(box, plan.layout.write_shape, covered.shape, strict=True):
            assert part.start % unit == 0
            assert part.stop % unit == 0 or part.stop == n
        plan.grid.cuts_within(box)
    assert (covered == 1).all()


def test_blocks_smaller_than_a_wide_halo_grow(config):
    plan = prepare(replace(config, **PLAIN, tiling=TilingConfig(block=8)), "cpu")
    assert min(plan.grid.halo) > 8
    for cuts, halo in zip(plan.grid.cuts, plan.grid.halo, strict=True):
        assert cuts[1] >= min(halo, cuts[-1])
        assert cuts[1] % 8 == 0 or cuts[1] == cuts[-1]


def test_a_block_that_had_to_grow_is_told(config):
    small = replace(config, tiling=TilingConfig(block=8), **PLAIN)
    lines = [text for _, text in describe_plan(prepare(small, "cpu"))]
    assert [text for text in lines if "--block" in text] == [
        "--block 8 is less than the halo of 12: a block's core is up to 16 wide"
    ]
    for block in (None, 64, 200):
        plan = prepare(replace(small, tiling=TilingConfig(block=block)), "cpu")
        assert not any("--block" in text for _, text in describe_plan(plan))


def test_the_plan_names_the_numbers_that_are_used(config):
    text = "\n".join(line for _, line in describe_plan(prepare(replace(config, **PLAIN), "cpu")))
    assert "richardson-lucy, 2 iterations, background 0, no sieve" in text
    assert "hidden voxels" not in text
    given = replace(config, **PLAIN | {"background": 3.5, "sieve": 0.5, "accelerate": True})
    text = "\n".join(line for _, line in describe_plan(prepare(given, "cpu")))
    assert "2 accelerated iterations, background 3.5, sieve of 0.5 voxels" in text


def test_what_is_auto_is_chosen_once_and_taken_up_again(config, tmp_path):
    """The plan says what was chosen and from what; a run that goes on does not choose anew."""
    asked = []

    def tuner(stacks, psf, tuning, keep=None):
        asked.append(tuning)
        return Tuned(replace(tuning.settings, sieve=0.5), (Trial(tuning.settings, 2.0, 1.5),))

    automatic = replace(config, method="richardson-lucy", output=str(tmp_path / "out.ome.zarr"))
    plan = prepare(automatic, "cpu", tuner)
    assert [tuning.wanted for tuning in asked] == [("background", "sieve", "iterations")]
    assert plan.tuned[0].settings.sieve == 0.5
    assert plan.tuned[0].settings.accelerate
    assert plan.stats[0].background == plan.tuned[0].settings.background
    assert "chosen by hidden voxels" in "\n".join(t for _, t in describe_plan(plan))
    _create_output(plan, Lease(plan.bookkeeping))

    def refuse(*arguments):
        raise AssertionError("a run that goes on must not choose anew")

    continued = prepare(automatic, "cpu", refuse)
    assert continued.state == "continue"
    assert continued.tuned == plan.tuned
    assert continued.stats == plan.stats
    assert continued.grid == plan.grid


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ("wiener", ("regularization",)),
        ("conjugate-gradient", ("regularization",)),
        ("chambolle-pock", ("regularization",)),
    ],
)
def test_what_other_methods_choose(config, method, wanted):
    assert what_to_tune(replace(config, method=method)) == wanted
    given = replace(config, method=method, regularization=0.2, background=3.0)
    assert what_to_tune(given) == ()
    with pytest.raises(OptionError, match="--iterations auto belongs to the method richardson-lucy"):
        what_to_tune(replace(given, iterations="auto"))


def test_a_paper_sized_training_on_a_cpu_is_warned_of(config):
    assert "days on a CPU" in " ".join(prepare(replace(config, preset="paper"), "cpu").warnings)
    assert not prepare(config, "cpu").warnings


@pytest.mark.parametrize(
    ("size", "told"),
    [
        ((0.3, 0.1, 0.1), None),
        ((0.1, 0.3, 0.3), "smaller along z (0.1 µm)"),
        ((0.13, 0.13, 0.3), "0.13 µm along y and 0.3 µm along x"),
        ((0.3, 0.1, 0.12), None),
    ],
)
def test_voxel_sizes_in_another_order_are_warned_of(config, size, told):
    psf = psf_from_array(kernel(), voxel_size_um=size, psf_voxel_size_um=size)
    found = size_warnings(config, Volume.from_array(specimen(), voxel_size_um=size), [psf])
    assert any(told in sentence for sentence in found) if told else not found


@pytest.mark.parametrize("limit", ["100MiB", "400MiB", "2GiB", "64GiB"])
def test_tiles_fit_the_memory_of_a_worker(config, limit):
    plan = prepare(replace(config, memory_limit=limit), "cpu")
    tile = plan.tile or max(plan.grid.largest_block)
    needed = prod(min(n, tile) for n in plan.grid.largest_block) * 4 * 16
    assert needed <= sizing.MEMORY_SHARE * sizing.parse_bytes(limit)
    assert plan.bytes_per_worker >= needed
    assert (plan.tile is None) == (limit == "64GiB") or limit == "2GiB"


def test_workers_share_the_memory(config):
    alone, shared = (sizing.worker_memory(replace(config, workers=n)) for n in (None, 2))
    assert shared == alone // 2


def test_steps_stretch_the_learning_rate(config):
    quick, slow = (prepare(replace(config, steps=n, preset="paper"), "cpu").training for n in (30, 300))
    assert slow.halve_every == 10 * quick.halve_every
    assert (quick.steps, quick.seed, quick.minutes) == (30, 0, None)


def test_the_plan_says_what_matters(config):
    plan = prepare(replace(config, tiling=TilingConfig(block=64)), "cpu")
    text = "\n".join(f"{heading} {words}" for heading, words in describe_plan(plan))
    for part in (
        "zyx 40 x 150 x 300, uint16",
        "0.3 x 0.2 x 0.2 µm",
        "7 x 7 x 7",
        "450 training steps",
        "cpu",
        "(new)",
    ):
        assert part in text
    assert f"{plan.grid.overhead:.2f} voxels computed for one written" in text
    assert f"{len(plan.grid)} in {len(plan.regions)} region" in text
    assert plan.warnings == ()


def test_the_same_work_has_the_same_fingerprint(config):
    base = prepare(config, "cpu").fingerprint
    unseen = [
        {"workers": 4},
        {"threads": 1},
        {"memory_limit": "8GiB"},
        {"output": "elsewhere"},
        {"tiling": TilingConfig(engine="map-overlap")},
        {"dashboard_address": "none"},
    ]
    seen = [{"seed": 1}, {"roi": "0:20,0:20,0:20"}, {"voxel_size": (0.3, 0.2, 0.21)}, {"dtype": "uint16"}]
    assert all(prepare(replace(config, **change), "cpu").fingerprint == base for change in unseen)
    others = {prepare(replace(config, **change), "cpu").fingerprint for change in seen}
    assert len(others | {base}) == len(seen) + 1


def test_a_chunk_that_no_memory_holds_is_refused_before_it_is_read(config, monkeypatch):
    monkeypatch.setattr("bigdecon.running.run_inputs.MEMORY_LIMIT", 1000)
    with pytest.raises(VolumeError, match=r"a chunk of .* takes .* once decoded, and .* of memory are there"):
        prepare(replace(config, **PLAIN), "cpu")
