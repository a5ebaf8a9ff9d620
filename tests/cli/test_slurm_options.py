"""Options of jobs on SLURM, from the outside: where they are idle, and what a dry run makes of them."""

from __future__ import annotations

import sys

import pytest
from bigdecon_cli import main as entry
from bigdecon_cli.options import SLURM

from bigdecon.optics.psf import psf_from_array, save_psf
from tests.runs import SIZE, kernel, snapshot, specimen, write_image

IDLE = {
    "--partition": "gpu",
    "--account": "lab",
    "--walltime": "1:00:00",
    "--gres": "gpu:2",
    "--mem": "64G",
    "--jobs": "1:4",
    "--job-directive": "--constraint=a100",
    "--prologue": "module load cuda",
    "--log-directory": "logs",
    "--interface": "lo",
    "--no-tls": None,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm-options")
    write_image(folder / "a.ome.zarr", specimen())
    save_psf(psf_from_array(kernel(), voxel_size_um=SIZE, psf_voxel_size_um=SIZE), folder / "psf.tif")
    return folder


@pytest.fixture
def bigdecon(folder, capsys, monkeypatch):
    """Call a command in this process; gives the exit code, stdout and stderr."""

    def call(command, *flags):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["bigdecon", command, "a.ome.zarr", "--psf", "psf.tif", *flags])
        with pytest.raises(SystemExit) as end:
            entry.main()
        return end.value.code, *capsys.readouterr()

    return call


def test_every_option_of_slurm_is_among_those_tried():
    assert {"--" + name.replace("_", "-") for name in SLURM} < set(IDLE)


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize("flag", IDLE)
def test_an_option_of_slurm_is_refused_where_it_is_idle(bigdecon, folder, flag, command):
    before = snapshot(folder)
    value = () if IDLE[flag] is None else (IDLE[flag],)
    for cluster in ((), ("--cluster", "local"), ("--cluster", "tcp://127.0.0.1:1")):
        code, out, err = bigdecon(command, *cluster, flag, *value)
        named = cluster[1] if cluster else "local"
        assert (code, out) == (2, "")
        assert err == f"Error: {flag} belongs to --cluster slurm, not to {named}.\n"
    assert snapshot(folder) == before


def test_a_login_node_without_gpus_chooses_settings_in_a_dry_run(bigdecon, folder, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    before = snapshot(folder)
    code, out, _ = bigdecon(
        "run", "--cluster", "slurm", "--gpus", "2", "--method", "wiener", "--background", "0", "--dry-run"
    )
    assert code == 0
    assert "device  cuda" in out
    assert "chosen by hidden voxels" in out
    assert "#SBATCH --gres=gpu:2" in out
    assert snapshot(folder) == before
