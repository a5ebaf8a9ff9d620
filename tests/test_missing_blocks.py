"""Blocks that cannot be restored: the rest is finished, they alone are done again, the bytes are the same."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bigdecon import pipeline
from bigdecon.config import RunConfig, TilingConfig
from bigdecon.deconvolution import block
from bigdecon.deconvolution.ledger import Ledger
from bigdecon.distributed.cluster import connect
from bigdecon.distributed.progress import Message, RegionDone
from bigdecon.errors import OutputError, ReadError, RunError
from bigdecon.io.provenance import is_unfinished
from bigdecon.optics.psf import psf_from_array, save_psf
from bigdecon.running import block_size, planning
from bigdecon.running.run_status import run_status
from tests.runs import (
    SIZE,
    kernel,
    snapshot,
    specimen,
    voxels,
    write_in_chunks,
    write_ledger_as_before,
)

LONG = (8, 30, 600)
FAULTY = "0/0/0/7"
"""File of the chunk with x from 448 to 512, in the last of four regions of the result."""


def hurry() -> None:
    block.PAUSES_SECONDS = (0.0, 0.0)


@pytest.fixture(scope="module")
def hurried(cluster):
    """The shared cluster, whose workers do not wait before they try again."""
    with connect(cluster) as opened:
        opened.client.run(hurry)
    return cluster


@pytest.fixture(scope="module")
def psf(tmp_path_factory):
    path = tmp_path_factory.mktemp("psf") / "psf.tif"
    save_psf(psf_from_array(kernel(), voxel_size_um=SIZE, psf_voxel_size_um=SIZE), path)
    return path


@pytest.fixture
def restore(hurried, psf, monkeypatch):
    """Run with small regions on the shared cluster; keyword arguments are those of RunConfig."""
    monkeypatch.setattr(block_size, "REGION_VOXELS", 1)

    def call(image, output=None, engine="auto", events=None, **changes):
        settings = {
            "psf": (str(psf),),
            "method": "richardson-lucy",
            "iterations": 2,
            "sieve": 0.0,
            "background": 0.0,
            "device": "cpu",
            "cluster": hurried,
            "ome_version": "0.4",
            "tiling": TilingConfig(block=64, engine=engine),
        }
        config = RunConfig(str(image), output=output and str(output), **(settings | changes))
        return pipeline.run(config, on_event=events.append if events is not None else None)

    return call


@pytest.fixture
def image(tmp_path):
    return write_in_chunks(tmp_path / "a.ome.zarr", specimen(LONG))


def tear(file: Path) -> bytes:
    good = file.read_bytes()
    file.write_bytes(good[: len(good) // 2])
    return good


def stored(output, level="0"):
    """Files of a level, and when they were written."""
    files = (p for p in (output / level).rglob("*") if p.is_file() and p.name.isdigit())
    return {p.name: p.stat().st_mtime_ns for p in files}


def missing_x(result):
    """Where along x blocks are missing."""
    return sorted((fault.extent.start[-1], fault.extent.stop[-1]) for fault in result.missing)


@pytest.mark.parametrize("engine", ["direct", pytest.param("map-overlap", marks=pytest.mark.slow)])
def test_a_torn_chunk_costs_its_blocks_only_and_mending_it_gives_the_same_bytes(
    image, tmp_path, restore, engine
):
    whole = restore(image, tmp_path / "whole").output
    good = tear(image / FAULTY)
    events = []
    result = restore(image, events=events, engine=engine)
    output = result.output
    # The halo is 12 voxels: the chunk's own block, and both its neighbours.
    assert (result.state, missing_x(result)) == ("incomplete", [(384, 448), (448, 512), (512, 576)])
    assert all(FAULTY in fault.reason for fault in result.missing)
    warned = [e.text for e in events if isinstance(e, Message) and e.level == "warning"]
    assert any("could not be restored and will be left empty" in text and FAULTY in text for text in warned)
    assert is_unfinished(output)
    found, expected = voxels(output), voxels(whole)
    rest = np.r_[0:384, 576:600]
    np.testing.assert_array_equal(found[..., rest], expected[..., rest])
    assert not found[..., 384:576].any()
    before = stored(output)

    (image / FAULTY).write_bytes(good)
    events = []
    result = restore(image, events=events, engine=engine)
    assert (result.state, result.missing) == ("finished", ())
    assert not is_unfinished(output)
    for level in (0, 1):
        np.testing.assert_array_equal(voxels(output, level), voxels(whole, level))
    after = stored(output)
    assert {name for name in after if after[name] != before.get(name)} == {"3", "4"}
    done = [e.done for e in events if isinstance(e, RegionDone)]
    assert done[0] == len(after) - 2
    ours, theirs = (
        {key: record.digests for key, record in Ledger(p / "bigdecon" / "ledger").read().items()}
        for p in (output, whole)
    )
    assert ours == theirs


@pytest.mark.parametrize("earlier", [False, True], ids=["", "begun by an earlier version"])
def test_a_block_beside_a_missing_one_in_the_same_shard_is_kept(image, tmp_path, restore, earlier):
    """A write unit of two blocks, of which one is missing: the other is there, and is not computed again."""
    tiling = {"ome_version": "0.5"}  # shards of several blocks
    whole = restore(image, tmp_path / "whole", **tiling).output
    good = tear(image / "0/0/0/0")
    result = restore(image, **tiling)
    assert missing_x(result) == [(0, 64), (64, 128)]
    np.testing.assert_array_equal(voxels(result.output)[..., 128:], voxels(whole)[..., 128:])
    assert voxels(result.output)[..., 128:256].any()
    if earlier:
        write_ledger_as_before(result.output)
    (image / "0/0/0/0").write_bytes(good)
    np.testing.assert_array_equal(voxels(restore(image, **tiling).output), voxels(whole))


@pytest.mark.slow
def test_what_was_written_beside_a_missing_block_is_not_trusted_blindly(image, tmp_path, restore):
    whole = restore(image, tmp_path / "whole", ome_version="0.5").output
    good = tear(image / "0/0/0/0")
    output = restore(image, ome_version="0.5").output
    (image / "0/0/0/0").write_bytes(good)
    shard = next(p for p in (output / "0" / "c").rglob("0") if p.is_file())
    shard.unlink()
    result = restore(image, ome_version="0.5")
    assert result.state == "finished"
    np.testing.assert_array_equal(voxels(output), voxels(whole))


def test_as_long_as_the_chunk_is_torn_nothing_else_is_touched(image, restore):
    tear(image / FAULTY)
    first = restore(image)
    before = stored(first.output)
    again = restore(image)
    assert (again.state, missing_x(again)) == ("incomplete", missing_x(first))
    assert {name for name, when in stored(again.output).items() if when != before.get(name)} <= {"3", "4"}


def test_a_nan_costs_its_blocks_only(tmp_path, restore, monkeypatch):
    data = specimen(LONG, dtype="float32")
    data[3, 4, 500] = np.nan
    image = write_in_chunks(tmp_path / "a.ome.zarr", data)
    measure = (
        planning.measure_intensity
    )  # look at one chunk only, as with a volume too large to be read twice
    barely = partial(
        planning.prepare, measure=lambda stacks, name: measure(stacks, sample_voxels=1, name=name)
    )
    monkeypatch.setattr(pipeline, "prepare", barely)
    result = restore(image)
    assert missing_x(result) == [(448, 512), (512, 576)]
    assert "first at voxel (3, 4, 500)" in result.missing[0].reason


def test_more_missing_blocks_than_allowed_end_the_run(image, restore):
    tear(image / FAULTY)
    with pytest.raises(
        RunError, match=r"blocks could not be restored, more than the 1 of --max-failed, .*0/0/0/7"
    ):
        restore(image, max_failed=1)
    assert restore(image, max_failed=3).state == "incomplete"


def test_an_image_that_cannot_be_read_at_all_is_refused_before_anything_is_written(image, tmp_path, restore):
    for file in (image / "0").rglob("*"):
        if file.is_file() and file.name.isdigit():
            file.write_bytes(b"torn")
    before = snapshot(tmp_path)
    with pytest.raises(ReadError, match="0/0/0/0"):
        restore(image)
    assert snapshot(tmp_path) == before


def test_chunks_mended_before_their_turn_are_no_other_input(image, tmp_path, restore):
    """The run ends at the first missing block; the second torn chunk has not been read by any region."""
    whole = restore(image, tmp_path / "whole").output
    good = {name: tear(image / "0/0/0" / name) for name in ("0", "9")}
    with pytest.raises(RunError, match="more than the 0 of --max-failed"):
        restore(image, max_failed=0)
    for name, content in good.items():
        (image / "0/0/0" / name).write_bytes(content)
    result = restore(image)
    assert result.state == "finished"
    np.testing.assert_array_equal(voxels(result.output), voxels(whole))


def test_a_mended_chunk_stays_mended_when_the_next_run_is_interrupted(image, restore, monkeypatch):
    good = tear(image / FAULTY)
    restore(image)
    (image / FAULTY).write_bytes(good)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "write_coarser_levels", interrupt)
        with pytest.raises(KeyboardInterrupt):
            restore(image)
    assert restore(image).state == "finished"


def test_only_the_missing_blocks_chunk_may_change(image, restore):
    """A chunk that was read well is part of what the input is: another one is another input."""
    tear(image / FAULTY)
    restore(image)
    other = image / "0/0/0/0"
    other.write_bytes((image / "0/0/0/5").read_bytes())
    with pytest.raises(OutputError, match=r"the input image was changed since: .*0/0/0"):
        restore(image)


@pytest.mark.slow
def test_training_leaves_a_torn_chunk_aside(image, tmp_path, restore):
    good = tear(image / FAULTY)
    trained = {"method": "siamese", "steps": 2, "iterations": None, "sieve": None, "background": "auto"}
    result = restore(image, **trained)
    assert result.state == "incomplete"
    assert "the brightness was measured without" in " ".join(result.plan.warnings)
    (image / FAULTY).write_bytes(good)
    mended = restore(image, **trained)
    assert mended.state == "finished"
    assert mended.plan.stats == result.plan.stats, "measured once, or blocks would disagree"
    edge = 448 - 64
    np.testing.assert_array_equal(
        voxels(mended.output)[..., : edge - 64], voxels(result.output)[..., : edge - 64]
    )


@pytest.mark.slow
def test_the_command_ends_with_code_3_and_names_the_cause(image, tmp_path, psf, hurried):
    tear(image / FAULTY)
    words = ["run", str(image), "--psf", str(psf), "--method", "richardson-lucy", "--iterations", "2"]
    words += ["--background", "0", "--sieve", "0", "--block", "64", "--no-report", "--cluster", hurried]
    process = subprocess.run(
        [sys.executable, "-m", "bigdecon_cli", *words, "--json"], capture_output=True, text=True, check=False
    )
    assert (process.returncode, process.stderr) == (3, "")
    last = json.loads(process.stdout.splitlines()[-1])
    assert (last["state"], last["missing_blocks"]) == ("incomplete", 3)
    process = subprocess.run(
        [sys.executable, "-m", "bigdecon_cli", *words, "--quiet"], capture_output=True, text=True, check=False
    )
    assert process.returncode == 3
    assert process.stderr.splitlines()[-1] == (
        "Error: 3 blocks could not be restored and are empty in the result; mend the input and give the same "
        "command again, it does only those. "
        f"bigdecon status {tmp_path / 'a.deconvolved.ome.zarr'} lists them."
    )


def test_status_counts_the_voxels_that_are_there(image, restore):
    tear(image / FAULTY)
    result = restore(image)
    level = run_status(result.output).levels[0]
    assert level.all_voxels - level.voxels == 8 * 30 * 3 * 64
    assert level.done == level.total - 2
