"""`bigdecon status` and `bigdecon verify`: what is on disk is told, and what is damaged is done again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bigdecon_cli.main import bigdecon
from click.testing import CliRunner

from bigdecon import pipeline
from bigdecon.config import RunConfig, TilingConfig
from bigdecon.deconvolution.lease import Lease
from bigdecon.deconvolution.ledger import Ledger
from bigdecon.errors import BigdeconError, OutputError
from bigdecon.io.provenance import read_run
from bigdecon.optics.psf import psf_from_array, save_psf
from bigdecon.running import block_size
from bigdecon.running.resuming import WorkRecord
from bigdecon.running.run_status import run_status
from bigdecon.running.verification import repair_output, verify_output
from bigdecon.running.worker_tasks import Output, UnitJob, write_unit
from tests.runs import SIZE, kernel, snapshot, specimen, voxels, write_image, write_ledger_as_before


@pytest.fixture
def config(tmp_path, cluster, monkeypatch):
    """Five regions in a row, of one shard each, and three levels."""
    monkeypatch.setattr(block_size, "REGION_VOXELS", 1)
    save_psf(psf_from_array(kernel(), voxel_size_um=SIZE, psf_voxel_size_um=SIZE), tmp_path / "psf.tif")
    image = write_image(tmp_path / "a.ome.zarr", specimen((8, 30, 600)))
    return RunConfig(
        str(image),
        (str(tmp_path / "psf.tif"),),
        output=str(tmp_path / "out"),
        method="richardson-lucy",
        iterations=2,
        sieve=0.0,
        background=0.0,
        device="cpu",
        cluster=cluster,
        ome_version="0.4",
        tiling=TilingConfig(block=64),
    )


def command(*words):
    result = CliRunner().invoke(bigdecon, [str(word) for word in words])
    if isinstance(result.exception, BigdeconError):
        return result.exception.exit_code, str(result.exception)
    return result.exit_code, result.output


def shard(output, number: int, level: int = 0) -> Path:
    return output / str(level) / "0" / "0" / str(number)


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(bytes(content))


def swap(output):
    """Put a shard of the same shape, well formed, in the place of another."""
    shard(output, 1).write_bytes(shard(output, 2).read_bytes())


DAMAGE = {
    "a flipped byte": (lambda output: flip_a_byte(shard(output, 1)), [(0, 1)]),
    "a shard that is gone": (lambda output: shard(output, 1).unlink(), [(0, 1)]),
    "a truncated edge shard": (lambda output: shard(output, 4).write_bytes(b"torn"), [(0, 4)]),
    "another's voxels": (swap, [(0, 1)]),
    "the coarser level": (lambda output: flip_a_byte(shard(output, 0, level=1)), [(1, 0)]),
    "several": (
        lambda output: [
            flip_a_byte(shard(output, 0)),
            shard(output, 3).unlink(),
            shard(output, 2, 1).unlink(),
        ],
        [(0, 0), (0, 3), (1, 2)],
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found_marked_and_done_again(config, kind):
    damage, places = DAMAGE[kind]
    output = pipeline.run(config).output
    expected = [voxels(output, level) for level in (0, 1)]
    assert verify_output(output).sound
    damage(output)
    found = verify_output(output)
    assert [(d.key.level, d.unit.start[-1] // 128) for d in found.damaged] == places
    assert not found.sound
    before = snapshot(output)
    assert command("verify", output)[0] == 3
    assert snapshot(output) == before, "nothing is changed without --repair"
    code, text = command("verify", "--repair", output)
    assert code == 0
    assert "give the same bigdecon run command again" in text
    assert pipeline.run(replace(config, dry_run=True)).plan.state == "continue"
    times = {path: time for path, (_, time) in snapshot(output).items()}
    assert pipeline.run(config).state == "finished"
    for level in (0, 1):
        np.testing.assert_array_equal(voxels(output, level), expected[level])
    assert verify_output(output).sound
    rewritten = {
        str(shard(output, number, level))
        for level in (0, 1)
        for number in range(5)
        if shard(output, number, level).exists()
        and shard(output, number, level).stat().st_mtime_ns != times.get(str(shard(output, number, level)))
    }
    again = {(level, number) for level, number in places} | {(1, n // 2) for level, n in places if not level}
    assert rewritten == {str(shard(output, number, level)) for level, number in again}
    assert command("verify", "--repair", output)[0] == 0


def test_a_result_of_an_earlier_version_is_verified_and_continued(config):
    """Its ledger holds hashes of another kind, which still tell whether the voxels are as they were."""
    output = pipeline.run(config).output
    expected = [voxels(output, level) for level in (0, 1)]
    write_ledger_as_before(output)
    assert verify_output(output).sound
    swap(output)
    found = verify_output(output)
    assert [(d.key.level, d.unit.start[-1] // 128) for d in found.damaged] == [(0, 1)]
    repair_output(output, found.damaged)
    assert pipeline.run(config).state == "finished"
    for level in (0, 1):
        np.testing.assert_array_equal(voxels(output, level), expected[level])
    assert verify_output(output).sound
    entries = Ledger(output / "bigdecon" / "ledger").read()
    again = {key.name for key, entry in entries.items() if ":" in "".join(entry.digests.values())}
    assert again == {key.name for key in entries if (key.level, key.start[-1]) in ((0, 128), (1, 0), (2, 0))}


def test_what_was_averaged_from_a_damaged_shard_is_done_again_too(config, monkeypatch):
    """The shard is gone before the coarser level is made of it, whose hash then fits what is wrong."""
    expected = [
        voxels(pipeline.run(replace(config, output=config.output + "-whole")).output, n) for n in (0, 1)
    ]
    write = pipeline.write_coarser_levels

    def lose_a_shard(plan, *rest):
        shard(plan.output, 1).unlink()
        write(plan, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "write_coarser_levels", lose_a_shard)
        output = pipeline.run(config).output
    assert np.any(voxels(output, 1) != expected[1])
    found = verify_output(output)
    assert [damage.key.level for damage in found.damaged] == [0]
    repair_output(output, found.damaged)
    pipeline.run(config)
    assert verify_output(output).sound
    for level in (0, 1):
        np.testing.assert_array_equal(voxels(output, level), expected[level])


def test_a_task_of_a_run_that_has_ended_writes_nothing(config):
    """It may still be under way when its successor writes."""
    result = pipeline.run(config)
    key = result.plan.work.keys()[1]
    before = snapshot(result.output)
    job = UnitJob(Output(result.output, result.plan.layout, "an earlier lease"), key, key.box)
    with Lease(result.output / "bigdecon") as lease:
        with pytest.raises(OutputError, match="has ended, and this task of it with it"):
            write_unit(job, [])
        files = {path: kept for path, kept in snapshot(result.output).items() if "lease" not in path}
        assert files == before
        write_unit(replace(job, output=replace(job.output, writer=lease.id)), [])
    assert verify_output(result.output).damaged


def test_a_run_says_when_it_began_and_what_has_changed_since(config):
    output = pipeline.run(config).output
    path = output / "bigdecon" / "run.json"
    record = json.loads(path.read_text())
    record["finished"] = False
    record["provenance"]["created"] = "2020-01-01T00:00:00+00:00"
    record["provenance"]["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(record))
    plan = pipeline.run(config).plan
    assert any("begun with torch 1.0 and goes on with" in sentence for sentence in plan.warnings)
    assert run_status(output).created == "2020-01-01T00:00:00+00:00"


def test_a_sound_result_is_said_to_be_so(config):
    output = pipeline.run(config).output
    code, text = command("verify", output)
    assert code == 0
    assert "is complete and as it was written" in text
    assert json.loads(command("verify", "--json", output)[1])["sound"]
    status = run_status(output)
    assert (status.state, status.writer, status.missing) == ("finished", None, ())
    assert [(level.done, level.total) for level in status.levels] == [(5, 5), (3, 3), (2, 2)]
    assert command("status", output)[0] == 0


def test_a_run_half_done(config, monkeypatch):
    """Two regions are written, then the run ends: all of it is told from disk."""
    done = []
    mark = Ledger.mark

    def stop_after_two(self, key, record):
        mark(self, key, record)
        done.append(key)
        if len(done) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Ledger, "mark", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(config)
    output = Path(config.output)
    status = run_status(output)
    assert status.state == "unfinished"
    assert status.levels[0][:3] == (0, 2, 5)
    assert "give the same bigdecon run command again" in command("status", output)[1]
    verified = verify_output(output)
    assert (verified.damaged, verified.unwritten, verified.checked) == ((), 8, 2)
    code, text = command("verify", output)
    assert code == 3
    assert "8 regions are not written yet" in text


def test_a_writer_is_named_while_it_lives(config):
    output = pipeline.run(config).output
    with Lease(output / "bigdecon"):
        assert run_status(output).writer is not None
        with pytest.raises(OutputError, match="another bigdecon"):
            repair_output(output, ())
    assert run_status(output).writer is None


def test_a_torn_ledger_entry_is_passed_over_by_name(config):
    output = pipeline.run(config).output
    entry = next((output / "bigdecon" / "ledger").rglob("l0*.json"))
    entry.write_bytes(entry.read_bytes()[:40])
    status = run_status(output)
    assert status.state == "unfinished"
    assert str(entry) in status.passed_over[0]


def test_what_is_no_result_is_refused(config, tmp_path):
    for path in (config.input, tmp_path, tmp_path / "nothing"):
        for words in (["status"], ["verify"]):
            code, text = command(*words, path)
            assert code == 2
            assert str(path) in text


def test_how_the_work_was_cut_comes_back(config):
    result = pipeline.run(config)
    record = read_run(result.output / "bigdecon" / "run.json")
    assert WorkRecord.from_json(record.work) == result.plan.work
    with pytest.raises(OutputError, match=r"run\.json is damaged"):
        WorkRecord.from_json({"grid": {}})
