"""`bigdecon run` from the outside: bad input, what it prints, and what it leaves alone."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from bigdecon.config import NetworkConfig, TrainingConfig
from bigdecon.distributed.cluster import connect
from bigdecon.intensity import IntensityStats
from bigdecon.io.reading import open_volume
from bigdecon.io.writing import write_ome_zarr
from bigdecon.learning.checkpoint import Checkpoint, save_checkpoint
from bigdecon.learning.unet import UNet
from bigdecon.optics.psf import load_psf
from bigdecon.volume import Channel, Volume
from tests.conftest import workers_forked
from tests.runs import listing

SHAPE = (16, 28, 32)
SIZE = (0.3, 0.2, 0.2)
ON_CPU = ("--device", "cpu", "--dashboard-address", "none", "--no-report")
PLAIN = ("--method", "richardson-lucy", "--iterations", "2", "--background", "0", "--sieve", "0")
QUICK = (*PLAIN, *ON_CPU)


def bead(shape, sigma=1.5):
    axes = np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij")
    return np.exp(-sum(a**2 for a in axes) / (2 * sigma**2)).astype("float32")


def image(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).poisson(100 + 900 * bead(shape, 4)).astype("uint16")


def write_psf(path, array, size=SIZE):
    """Write an ImageJ TIFF with its voxel size, or none."""
    axes = "ZYX"[-array.ndim :]
    if size is None:
        tifffile.imwrite(path, array, photometric="minisblack")
        return
    scale = {"spacing": size[0]} if array.ndim == 3 else {}
    tifffile.imwrite(
        path,
        array,
        imagej=True,
        resolution=(1 / size[-1], 1 / size[-2]),
        metadata={"unit": "um", "axes": axes, **scale},
    )


def write_image(path, data, axes="zyx", size=SIZE, **options):
    volume = Volume.from_array(data, axes, voxel_size_um=size)
    if "c" in axes:
        named = (Channel("nuclei", "0000FF"), Channel("actin", "00FF00"))
        volume = replace(volume, channels=named)
    write_ome_zarr(volume, path, dtype=data.dtype.name, **options)


def write_model(path, psf_path, voxel_size_um=SIZE):
    psf = load_psf(psf_path, voxel_size_um=voxel_size_um)
    config = TrainingConfig(network=NetworkConfig(channels=4))
    weights = {name: value.numpy() for name, value in UNet(config.network).state_dict().items()}
    stats = IntensityStats(100, 10, 50, 1000, 95)
    save_checkpoint(Checkpoint(weights, config, stats, psf.array, psf.sha256, voxel_size_um), path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of good and bad files."""
    folder = tmp_path_factory.mktemp("data")
    good = image()
    write_image(folder / "good.ome.zarr", good)
    write_image(folder / "two.ome.zarr", np.stack([good, good[::-1]]), "czyx")
    write_image(folder / "flat.ome.zarr", np.full(SHAPE, 7, "uint16"))
    hole = good.astype("float32")
    hole[3, 4, 5] = np.nan
    write_image(folder / "hole.ome.zarr", hole)
    write_image(folder / "fractions.ome.zarr", good.astype("float32") / good.max())
    tifffile.imwrite(folder / "sizeless.tif", good, photometric="minisblack")
    (folder / "text.tif").write_text("no image")
    (folder / "empty").mkdir()
    (folder / "mine").mkdir()
    (folder / "mine" / "letter.txt").write_text("keep me")
    psf = bead((9, 7, 7))
    write_psf(folder / "psf.tif", psf)
    write_psf(folder / "wide.tif", bead((9, 7, 7), 3))
    write_psf(folder / "sizeless-psf.tif", psf, None)
    write_psf(folder / "zero.tif", np.zeros_like(psf))
    write_psf(folder / "negative.tif", psf - 2)
    write_psf(folder / "nan.tif", np.where(psf == 1, np.nan, psf).astype("float32"))
    write_psf(folder / "plane.tif", psf[4])
    np.save(folder / "four.npy", np.stack([psf] * 2))
    write_model(folder / "wide.safetensors", folder / "wide.tif")
    (folder / "torn.safetensors").write_bytes(b"torn")
    return folder


@pytest.fixture(scope="module")
def cluster():
    """Address of a cluster that several tests share."""
    with (
        workers_forked(),
        connect(workers=1, threads=2, memory_limit="2GiB", dashboard_address="none", device="cpu") as opened,
    ):
        yield opened.client.scheduler.address


@pytest.fixture
def run(bigdecon):
    """Give `bigdecon run`."""
    return lambda *arguments: bigdecon("run", *arguments)


GOOD = ("good.ome.zarr", "--psf", "psf.tif")
BAD = {
    "missing": (["none.ome.zarr", "--psf", "psf.tif"], "none.ome.zarr"),
    "no image": (["text.tif", "--psf", "psf.tif"], "text.tif"),
    "no image in the folder": (["empty", "--psf", "psf.tif"], "empty"),
    "constant": (["flat.ome.zarr", "--psf", "psf.tif"], "the value 7"),
    "NaN": (["hole.ome.zarr", "--psf", "psf.tif"], "z=3, y=4, x=5"),
    "no PSF": (["good.ome.zarr"], "--psf"),
    "PSF missing": (["good.ome.zarr", "--psf", "none.tif"], "none.tif"),
    "PSF no image": (["good.ome.zarr", "--psf", "text.tif"], "text.tif"),
    "PSF zero": (["good.ome.zarr", "--psf", "zero.tif"], "zero.tif is 0"),
    "PSF negative": (["good.ome.zarr", "--psf", "negative.tif"], "negative.tif sum to -"),
    "PSF NaN": (["good.ome.zarr", "--psf", "nan.tif"], "1 voxels that are NaN"),
    "PSF in 2D": (["good.ome.zarr", "--psf", "plane.tif"], "2 dimensions"),
    "PSF in 4D": (["good.ome.zarr", "--psf", "four.npy"], "4 dimensions"),
    "PSFs for channels": ([*GOOD, "--psf", "wide.tif"], "2 PSFs were given for 1 channels"),
    "PSF without size": (["good.ome.zarr", "--psf", "sizeless-psf.tif"], "--psf-voxel-size"),
    "volume without size": (["sizeless.tif", "--psf", "psf.tif"], "--voxel-size"),
    "voxel size 0": ([*GOOD, "--voxel-size", 0, 1, 1], "voxel size 0 1 1"),
    "PSF voxel size": ([*GOOD, "--psf-voxel-size", -1, 1, 1], "-1.0"),
    "channel": ([*GOOD, "--channel", "actin"], "no channel 'actin'"),
    "channel number": (["two.ome.zarr", "--psf", "psf.tif", "--channel", 2], "no channel 2"),
    "level": ([*GOOD, "--level", 3], "no level 3"),
    "negative level": ([*GOOD, "--level", -1], "no level -1"),
    "timepoint": ([*GOOD, "--timepoint", 1], "no time point 1"),
    "ROI of words": ([*GOOD, "--roi", "left"], "'left'"),
    "ROI of two axes": ([*GOOD, "--roi", "0:4,0:4"], "'0:4,0:4'"),
    "ROI outside": ([*GOOD, "--roi", "0:4,0:4,30:40"], "40"),
    "ROI empty": ([*GOOD, "--roi", "4:4,0:4,0:9"], "4:4"),
    "ROI backwards": ([*GOOD, "--roi", "5:4,0:4,0:9"], "5:4"),
    "output of others": ([*GOOD, "-o", "mine"], "mine"),
    "output of others, overwrite": ([*GOOD, "-o", "mine", "--overwrite"], "mine"),
    "output is a file": ([*GOOD, "-o", "psf.tif"], "psf.tif"),
    "output is a TIFF": ([*GOOD, "-o", "new.tif"], "new.ome.zarr"),
    "output exists": ([*GOOD, "-o", "two.ome.zarr"], "--overwrite"),
    "output in the input": ([*GOOD, "-o", "good.ome.zarr/out"], "inside the input"),
    "output is the input": ([*GOOD, "-o", "good.ome.zarr", "--overwrite"], "inside the input"),
    "output around the input": ([*GOOD, "-o", ".", "--overwrite"], "inside the output"),
    "output not writable": ([*GOOD, "-o", "/proc/nowhere/out.ome.zarr"], "/proc"),
    "output remote": ([*GOOD, "-o", "s3://bucket/out.ome.zarr"], "s3://bucket/out.ome.zarr"),
    "halo": ([*GOOD, "--halo", 8, "--method", "siamese"], "halo of 8"),
    "halo of RL": ([*GOOD, "--halo", 1], "halo of 1"),
    "block 0": ([*GOOD, "--block", 0], "--block is 0"),
    "block -8": ([*GOOD, "--block", -8], "--block is -8"),
    "block of words": ([*GOOD, "--block", "big"], "'big' is neither a whole number nor auto"),
    "block off the alignment": ([*GOOD, "--block", 66, "--method", "siamese"], "block of 66"),
    "tile": ([*GOOD, "--tile", 50, "--method", "siamese"], "tile of 50"),
    "iterations": ([*GOOD, "--iterations", 0], "0"),
    "steps": ([*GOOD, "--steps", 0, "--method", "siamese"], "--steps is 0"),
    "steps of RL": (
        [*GOOD, "--steps", 5],
        "--steps belongs to the methods siamese and ssi, not to",
    ),
    "iterations of siamese": (
        [*GOOD, "--iterations", 5, "--method", "siamese"],
        "--iterations belongs to the methods richardson-lucy, conjugate-gradient and chambolle-pock",
    ),
    "steps of a model": (
        [*GOOD, "--model", "wide.safetensors", "--steps", 5, "--method", "siamese"],
        "--steps is about training",
    ),
    "minutes": ([*GOOD, "--train-minutes", "nan", "--method", "siamese"], "--train-minutes is nan"),
    "background": ([*GOOD, "--background", "inf"], "--background is inf"),
    "loss": ([*GOOD, "--loss", "best", "--method", "siamese"], "'best'"),
    "loss of nothing": ([*GOOD, "--loss", "inv=1", "--method", "siamese"], "bsp and rec"),
    "whole numbers of fractions": (
        ["fractions.ome.zarr", "--psf", "psf.tif", "--dtype", "uint16"],
        "leave out --dtype uint16",
    ),
    "dtype": ([*GOOD, "--dtype", "complex64"], "complex64"),
    "model for RL": ([*GOOD, "--model", "wide.safetensors"], "richardson-lucy"),
    "model missing": ([*GOOD, "--model", "no.safetensors", "--method", "siamese"], "no.safetensors"),
    "model torn": ([*GOOD, "--model", "torn.safetensors", "--method", "siamese"], "torn.safetensors"),
    "model folder": ([*GOOD, "--model", "empty", "--method", "siamese"], "empty holds no model"),
    "model of another PSF": ([*GOOD, "--model", "wide.safetensors", "--method", "siamese"], "another PSF"),
    "model of another size": (
        ["good.ome.zarr", "--model", "wide.safetensors", "--method", "siamese", "--voxel-size", 1, 1, 1],
        "0.3 x 0.2 x 0.2",
    ),
    "method": ([*GOOD, "--method", "best"], "'best' is not one of 'siamese',"),
    "steps of words": ([*GOOD, "--steps", "many", "--method", "siamese"], "'many' is not a valid integer"),
    "sieve -1": ([*GOOD, "--sieve", -1], "the sieve is -1 voxels wide"),
    "sieve nan": ([*GOOD, "--sieve", "nan"], "the sieve is nan voxels wide"),
    "sieve of words": ([*GOOD, "--sieve", "wide"], "'wide' is neither a number nor auto"),
    "sieve of siamese": (
        [*GOOD, "--sieve", 1, "--method", "siamese"],
        "--sieve belongs to the method richardson-lucy, not to siamese",
    ),
    "total variation 1": (
        [*GOOD, "--total-variation", 1],
        "total variation is 1; give 0 (none) to less than",
    ),
    "total variation of ssi": (
        [*GOOD, "--total-variation", 0.1, "--method", "ssi"],
        "--total-variation belongs",
    ),
    "acceleration of wiener": ([*GOOD, "--accelerate", "--method", "wiener"], "--accelerate belongs"),
    "no acceleration of wiener": ([*GOOD, "--no-accelerate", "--method", "wiener"], "--accelerate belongs"),
    "iterations of wiener": (
        [*GOOD, "--iterations", "auto", "--method", "wiener"],
        "--iterations belongs to",
    ),
    "iterations of parts": ([*GOOD, "--iterations", 1.5], "'1.5' is neither a whole number nor auto"),
    "iterations auto elsewhere": (
        [*GOOD, "--iterations", "auto", "--method", "chambolle-pock"],
        "--iterations auto belongs to the method richardson-lucy, not to chambolle-pock",
    ),
    "iterations, chambolle-pock": ([*GOOD, "--iterations", 0, "--method", "chambolle-pock"], "0 iterations"),
    "iterations, conjugate-gradient": (
        [*GOOD, "--iterations", 5, "--method", "conjugate-gradient"],
        "5 iterations may leave the equations unsolved",
    ),
    "regularization of RL": (
        [*GOOD, "--regularization", 0.1],
        "--regularization belongs to the methods wiener,",
    ),
    "regularization -1": (
        [*GOOD, "--regularization", -1, "--method", "wiener"],
        "the regularization is -1; it is finite and above 0",
    ),
    "regularization -1, chambolle-pock": (
        [*GOOD, "--regularization", -1, "--background", 0, "--method", "chambolle-pock"],
        "the regularization is -1; it is finite and at least 0",
    ),
    "regularization nan": (
        [*GOOD, "--regularization", "nan", "--method", "conjugate-gradient"],
        "the regularization is nan",
    ),
    "background below 0": ([*GOOD, "--background", -5], "the background is -5; it is finite and at least 0"),
    "voxel size in nm": ([*GOOD, "--voxel-size", 300, 130, 130], "300 nm is 0.3"),
    "refine 0": ([*GOOD, "--refine", 0, "--method", "siamese"], "--refine is 0"),
    "refine of RL": ([*GOOD, "--refine", 5], "--refine belongs to the methods siamese and ssi"),
    "refine and a background below 0": (
        [*GOOD, "--refine", 5, "--background", -5, "--method", "siamese"],
        "--background is -5; with --refine it is at least 0",
    ),
    "background above all": ([*GOOD, "--background", 50000], "--background is 50000, but the brightest"),
    "loss of ssi": (
        [*GOOD, "--loss", "noise2self", "--method", "ssi"],
        "--loss belongs to the method siamese",
    ),
    "model of wiener": ([*GOOD, "--model", "wide.safetensors", "--method", "wiener"], "--model belongs to"),
    "device": ([*GOOD, "--device", "abacus"], "'abacus'"),
    "no GPU": ([*GOOD, "--device", "cuda:99"], "'cuda:99'"),
    "workers": ([*GOOD, "--workers", 0], "--workers is 0"),
    "threads": ([*GOOD, "--threads", -1], "--threads is -1"),
    "memory limit": ([*GOOD, "--memory-limit", "much"], "'much'"),
    "memory limit, siamese": ([*GOOD, "--memory-limit", "much", "--method", "siamese"], "'much'"),
    "dashboard": ([*GOOD, "--dashboard-address", "here"], "'here'"),
    "cluster": ([*GOOD, "--cluster", "moon"], "'moon'"),
    "scheduler file": ([*GOOD, "--cluster", "none.json"], "none.json"),
}


def settings(arguments):
    """Quick ones, for the method that is asked for."""
    return ON_CPU if "--method" in arguments else QUICK


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_writes_nothing(case, data, run, monkeypatch):
    monkeypatch.chdir(data)
    before = listing(data)
    arguments, told = BAD[case]
    code, out, err = run(arguments[0], *settings(arguments), "--quiet", *arguments[1:])
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert err.endswith(".\n") or case == "scheduler file"
    assert told in err
    assert listing(data) == before


def test_a_scheduler_that_does_not_answer(data, run, monkeypatch):
    monkeypatch.chdir(data)
    monkeypatch.setattr("bigdecon.distributed.cluster.SCHEDULER_SECONDS", 0.5)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    before = listing(data)
    code, out, err = run(*GOOD, *QUICK, "--cluster", address)
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: no Dask scheduler answers at {address}")
    assert err.count("\n") == 1
    assert listing(data) == before


def test_an_error_for_a_program_is_json(data, run, monkeypatch):
    monkeypatch.chdir(data)
    code, out, err = run("none.ome.zarr", "--psf", "psf.tif", *QUICK, "--json")
    told = json.loads(out)
    assert (code, told["event"], told["exit_code"]) == (2, "Error", 2)
    assert "none.ome.zarr" in told["text"]
    assert err == f"Error: {told['text']}\n"


@pytest.mark.parametrize("case", ["NaN", "model of another PSF"])
def test_bad_input_as_a_process(case, data):
    before = listing(data)
    arguments, told = BAD[case]
    done = subprocess.run(
        [sys.executable, "-m", "bigdecon_cli", "run", *settings(arguments), *map(str, arguments)],
        cwd=data,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert told in done.stderr
    assert listing(data) == before


# --- what it prints, and where the result goes ---------------------------------------------------


@pytest.fixture
def here(data, tmp_path, monkeypatch):
    """A folder of one's own with the good files."""
    shutil.copytree(data / "good.ome.zarr", tmp_path / "good.ome.zarr")
    shutil.copy(data / "psf.tif", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_plan_progress_and_result(here, run, cluster):
    code, out, err = run(*GOOD, *QUICK, "--cluster", cluster)
    assert (code, err) == (0, "")
    for part in (
        "16 x 28 x 32, uint16",
        "0.3 x 0.2 x 0.2 µm",
        "9 x 7 x 7",
        "blocks",
        "memory",
        "cpu",
    ):
        assert part in out
    assert out.endswith(f"Result: {here / 'good.deconvolved.ome.zarr'}\n")
    before = listing(here)
    code, out, err = run(*GOOD, *QUICK, "--cluster", cluster)
    assert (code, err) == (0, "")
    assert "was finished by an earlier run" in out
    assert listing(here) == before
    code, out, err = run(*GOOD, *QUICK, "--iterations", 3, "--cluster", cluster)
    assert (code, out) == (2, "")
    assert "iterations (2 then, 3 now)" in err
    assert listing(here) == before
    assert run(*GOOD, *QUICK, "--iterations", 3, "--overwrite", "--cluster", cluster)[0] == 0
    assert listing(here) != before


def test_quiet_is_silent_but_for_warnings(here, run, cluster):
    code, out, err = run(*GOOD, *QUICK, "--quiet", "-o", "out", "--cluster", cluster)
    assert (code, out, err) == (0, "", "")
    code, out, err = run(*GOOD, *QUICK, "--quiet", "-o", "b", "--dtype", "uint8", "--cluster", cluster)
    assert (code, out) == (0, "")
    assert err.startswith("Warning: ")
    assert "voxels were beyond the range of uint8" in err


def test_json_is_one_object_a_line(here, run, cluster):
    code, out, err = run(*GOOD, *QUICK, "--json", "-o", "out", "--dtype", "uint8", "--cluster", cluster)
    lines = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert lines[0]["event"] == "Plan"
    assert {"StageStarted", "RegionDone", "StageFinished"} <= {line["event"] for line in lines}
    assert lines[-1]["event"] == "Result"
    assert lines[-1]["state"] == "finished"
    assert lines[-1]["output"] == str(here / "out")
    assert lines[-1]["clipped_voxels"] > 0


def test_settings_are_saved_once_they_are_known_to_work(here, run, cluster):
    assert run("none.ome.zarr", "--psf", "psf.tif", *QUICK, "--save-config", "run.toml")[0] == 2
    assert not Path("run.toml").exists()
    saving = ("--save-config", "run.toml", "-o", "out", "--cluster", cluster)
    code, out, err = run(*GOOD, *QUICK, *saving, "--dry-run")
    assert (code, err) == (0, "")
    assert "use them with --config run.toml" in out
    assert not Path("out").exists()
    before = listing(here)
    code, out, err = run("--config", "run.toml", "--save-config", "psf.tif")
    assert (code, out) == (2, "")
    assert "psf.tif exists and was not written by --save-config" in err
    assert listing(here) == before
    code, out, err = run("--config", "run.toml", "--log-file", "log.txt")
    assert (code, err) == (0, "")
    assert "Result: " in out
    assert "finished: " in Path("log.txt").read_text()
    record = json.loads(Path("out/bigdecon/run.json").read_text())
    assert record["provenance"]["command"] == "bigdecon run --config run.toml --log-file log.txt"
    assert "was finished by an earlier run" in run(*GOOD, *QUICK, "-o", "out", "--cluster", cluster)[1]


@pytest.mark.parametrize("style", [[], ["--json"], ["--quiet"]])
def test_a_dry_run_writes_nothing(here, run, style):
    before = listing(here)
    code, out, err = run(*GOOD, *QUICK, "--dry-run", *style)
    assert (code, err) == (0, "")
    assert ("good.deconvolved.ome.zarr (new)" in out) == (style != ["--quiet"])
    assert listing(here) == before


def test_sizes_unknown_on_both_sides_are_assumed_equal_with_a_warning(data, run, tmp_path, cluster):
    arguments = (data / "sizeless.tif", "--psf", data / "sizeless-psf.tif", "-o", tmp_path / "out")
    code, out, err = run(*arguments, *QUICK, "--quiet", "--cluster", cluster)
    assert (code, out) == (0, "")
    assert err.startswith("Warning: ")
    assert "assumed equal" in err


def test_local_cluster_of_its_own(here):
    """All as a user does it: a process, a cluster, and nothing left of either."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "bigdecon_cli", "run", *GOOD, *QUICK, "--quiet"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TMPDIR": str(here)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {p.name for p in here.iterdir()} == {"good.ome.zarr", "psf.tif", "good.deconvolved.ome.zarr"}


# --- every method from end to end ----------------------------------------------------------------


CHOSEN = {
    "richardson-lucy": ({"background", "sieve", "iterations"}, ()),
    "wiener": ({"regularization"}, ()),
    "conjugate-gradient": ({"regularization"}, ()),
    "chambolle-pock": ({"regularization"}, ("--iterations", 5)),
}


@pytest.mark.parametrize("method", CHOSEN)
def test_a_classical_method_from_end_to_end(method, here, run, cluster):
    """All is chosen from the image, recorded, and not chosen again for a result that is there."""
    wanted, more = CHOSEN[method]
    # With one thread: small transforms lose more to threads than they gain, the more so where others compute.
    arguments = (*GOOD, *ON_CPU, "--method", method, *more, "--threads", 1, "--cluster", cluster)
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert "chosen by hidden voxels" in out
    assert out.endswith(f"Result: {here / 'good.deconvolved.ome.zarr'}\n")
    assert ("error there by iterations" in out) == (method == "richardson-lucy")
    record = json.loads((here / "good.deconvolved.ome.zarr" / "bigdecon" / "run.json").read_text())
    assert record["finished"]
    (tuned,) = record["provenance"]["configuration"]["chosen"]["tuned"]
    assert tuned["trials"]
    tried = [trial["settings"] for trial in tuned["trials"]]
    assert tuned["settings"] in tried
    changing = {name for name in tried[0] if len({trial[name] for trial in tried}) > 1}
    assert changing == wanted - {"background"}
    assert 80 < tuned["settings"]["background"] < 150
    restored = np.asarray(open_volume(here / "good.deconvolved.ome.zarr").stack()[(slice(None),) * 3])
    assert restored.shape == SHAPE
    assert restored.max() > image().max() * 0.7
    before = listing(here)
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert "was finished by an earlier run" in out
    assert listing(here) == before


def test_a_refined_network_from_end_to_end(here, run, cluster):
    """Richardson-Lucy follows the network, with a background of its own, and its blocks fit together."""
    arguments = (*GOOD, *ON_CPU, "--method", "siamese", "--steps", 2, "--threads", 1, "--cluster", cluster)
    code, out, err = run(*arguments, "--refine", 3, "-o", "a.ome.zarr")
    assert (code, err) == (0, "")
    assert "then 3 accelerated iterations of richardson-lucy" in out
    record = json.loads((here / "a.ome.zarr" / "bigdecon" / "run.json").read_text())
    (tuned,) = record["provenance"]["configuration"]["chosen"]["tuned"]
    assert tuned["settings"]["background"] > 0
    again = (*GOOD, *ON_CPU, "--model", "a.ome.zarr", "--threads", 1, "--cluster", cluster)
    assert run(*again, "-o", "plain.ome.zarr")[0] == 0
    assert run(*again, "--refine", 3, "-o", "b.ome.zarr", "--block", 16)[0] == 0
    a, b, plain = (np.asarray(open_volume(here / f"{n}.ome.zarr").stack()[(slice(None),) * 3]) for n in
                   ("a", "b", "plain"))  # fmt: skip
    assert np.abs(a - b).max() < 1e-3 * np.ptp(a)
    assert np.abs(a - plain).max() > 0.05 * np.ptp(a)


def test_ssi_from_end_to_end(here, run, cluster):
    arguments = (*GOOD, *ON_CPU, "--method", "ssi", "--steps", 2, "--cluster", cluster)
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert "2 training steps" in out
    record = json.loads((here / "good.deconvolved.ome.zarr" / "bigdecon" / "run.json").read_text())
    assert record["finished"]
    assert record["provenance"]["configuration"]["chosen"]["training"]["steps"] == 2
    before = listing(here)
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert "was finished by an earlier run" in out
    assert listing(here) == before
