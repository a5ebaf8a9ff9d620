"""`bigdecon plan` from the outside: what it says, that it ends with 0, and that it leaves nothing behind."""

from __future__ import annotations

import json

import pytest
from bigdecon_cli import main as entry
from bigdecon_cli.plan import command as plan_command
from bigdecon_cli.run import command as run_command

from bigdecon.optics.psf import psf_from_array, save_psf
from tests.runs import SIZE, kernel, snapshot, specimen, write_image

QUICK = ("--method", "richardson-lucy", "--iterations", "2", "--background", "95", "--sieve", "0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    write_image(folder / "a.ome.zarr", specimen((40, 70, 90)))
    save_psf(psf_from_array(kernel(), voxel_size_um=SIZE, psf_voxel_size_um=SIZE), folder / "psf.tif")
    return folder


@pytest.fixture
def plan(folder, capsys, monkeypatch):
    def call(*flags):
        monkeypatch.chdir(folder)
        common = ("--psf", "psf.tif", "--device", "cpu", "--block", "32", "--threads", "1")
        arguments = ["bigdecon", "plan", "a.ome.zarr", *common, *flags]
        monkeypatch.setattr("sys.argv", arguments)
        with pytest.raises(SystemExit) as end:
            entry.main()
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    return call


def test_all_options_of_run_are_taken():
    names = {parameter.name for parameter in run_command.params}
    assert names <= {parameter.name for parameter in plan_command.params}


def test_the_plan_in_words(plan, folder):
    before = snapshot(folder)
    code, out, err = plan(*QUICK, "--no-calibrate")
    assert (code, err) == (0, "")
    for part in ("richardson-lucy, 2 iterations", "reads", "writes", "disk", "files", "memory", "direct"):
        assert part in out
    assert "not fit" not in out
    assert snapshot(folder) == before


def test_what_does_not_fit_ends_with_0_and_the_remedy(plan):
    code, out, _ = plan(*QUICK, "--no-calibrate", "--memory-limit", "300MiB", "--quiet")
    assert code == 0
    assert out.startswith("Does not fit: a worker needs at least")
    assert "smaller --block" in out


def test_numbers_for_programs(plan):
    code, out, _ = plan(*QUICK, "--json", "--no-calibrate", "--workers", "3")
    assert code == 0
    told = json.loads(out)
    assert told["event"] == "Forecast"
    assert told["estimate"]["workers"]["count"] == 3
    assert told["estimate"]["blocks"] == 1 * 2 * 3  # what is left of the first axis is less than a halo
    assert told["estimate"]["times"] is None
    assert told["estimate"]["memory"]["peak_bytes"] > 0
    assert told["plan"]["halo"]
    assert told["fits"] is True


def test_calibrated_by_default(plan):
    code, out, err = plan(*QUICK, "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    times = told["estimate"]["times"]
    stages = ("training", "deconvolution", "pyramid", "report")
    assert times["total"] == pytest.approx(sum(times[stage] for stage in stages))
    assert times["report"] > 0
    assert told["estimate"]["engines"]["workers_kept_busy"]["direct"] > 0
    assert told["calibration"]["block_seconds"] > 0


SLURM = ("--cluster", "slurm", "--walltime", "30", "--jobs", "1:3", "--workers", "2", "--mem", "4G")


def test_jobs_of_slurm_are_planned_without_any(plan, folder):
    before = snapshot(folder)
    code, out, err = plan(*QUICK, *SLURM)
    assert (code, err) == (0, "")
    for part in (
        "6 in 3 jobs of 30 min, at least 1 of them alive, each with 1 thread",
        "of 2.00 GiB",
        "3 at a time, no job needs a successor",
        "29 min of 30 min for blocks, the rest to leave in time",
        "taken to be as fast as this machine",
    ):
        assert part in out
    assert snapshot(folder) == before


def test_numbers_of_jobs(plan):
    told = json.loads(plan(*QUICK, *SLURM, "--json")[1])["estimate"]
    assert told["workers"]["jobs"] == {"least": 1, "most": 3, "workers": 2, "walltime_seconds": 1800}
    assert told["jobs"]["in_turn"] == 1


@pytest.mark.parametrize("method", [QUICK, ("--steps", "10")])
def test_a_login_node_without_gpus_plans_for_jobs_with_some(plan, monkeypatch, method):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, out, _ = plan("--cluster", "slurm", "--device", "auto", "--gpus", "2", *method)
    assert code == 0
    assert "cuda" in out
    assert "GPU memory" in out
    assert "2 in 1 job of 4.0 h" in out
    assert "there are no times, as the jobs would compute on GPUs and this machine has none" in out


def test_bad_input_is_refused_as_run_does(plan):
    code, _, err = plan("--method", "wiener", "--sieve", "1", "--no-calibrate")
    assert code == 2
    assert "--sieve belongs to" in err
