"""Killing `bigdecon run`, in processes of their own: the same command ends with the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zarr
from scipy.ndimage import gaussian_filter

from bigdecon.deconvolution.ledger import Ledger
from bigdecon.distributed.cluster import Connection, connect
from bigdecon.io.writing import write_ome_zarr
from bigdecon.optics.psf import psf_from_array, save_psf
from bigdecon.volume import Volume
from tests.conftest import workers_forked

pytestmark = pytest.mark.slow

# The real command with a network, checkpoints, regions and pauses small enough for a test.
COMMAND = """
from dataclasses import replace
from bigdecon.running import block_size, training_settings
from bigdecon.config import NetworkConfig
from bigdecon.storage import servers
from bigdecon_cli.main import main

preset = training_settings.training_preset

def small(*choice, **how):
    network = NetworkConfig(how["ndim"], 4, 2)
    return replace(preset(*choice, **how), network=network, patch_shape=(32, 32), batch=1,
                   checkpoint_every=20, evaluate_every=50)

training_settings.training_preset = small
block_size.REGION_VOXELS = 1
servers.FIRST_PAUSE_S = 0.02

if __name__ == "__main__":
    main()
"""
SETTINGS = (
    "--json",
    "--no-report",
    "--device",
    "cpu",
    "--dashboard-address",
    "none",
    "--threads",
    "1",
    "--ome-version",
    "0.4",
)
TRAINED = ("--steps", "120", "--block", "64")
PLAIN = ("--method", "richardson-lucy", "--iterations", "8", "--background", "0", "--sieve", "0")
ITERATED = (*PLAIN, "--block", "64")
UNIT = 128


def write_case(folder, shape):
    """Write image, PSF and command into a folder."""
    random = np.random.default_rng(0)
    points = np.zeros(shape)
    points[tuple(random.integers(0, n, 60) for n in shape)] = 4000
    data = random.poisson(gaussian_filter(points, 1.5) + 100).astype("uint16")
    size = (0.2,) * len(shape)
    write_ome_zarr(Volume.from_array(data, "zyx"[-len(shape) :], voxel_size_um=size), folder / "a.ome.zarr")
    axes = np.meshgrid(*(np.arange(-3, 4) for _ in shape), indexing="ij")
    kernel = np.exp(-sum(a**2 for a in axes) / 4).astype("float32")
    save_psf(psf_from_array(kernel, voxel_size_um=size, psf_voxel_size_um=size), folder / "psf.tif")
    (folder / "command.py").write_text(COMMAND)


def start(folder, output, *arguments) -> subprocess.Popen:
    words = ["run", "a.ome.zarr", "--psf", "psf.tif", "-o", output, *SETTINGS, *arguments]
    return subprocess.Popen(
        [sys.executable, "command.py", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"TMPDIR": str(folder)},
    )


def finish(process) -> list[dict]:
    """Wait for a run to end well; gives its events."""
    out, err = process.communicate(timeout=200)
    assert (process.returncode, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


def wait_for(process, folder: Path, pattern: str) -> None:
    """Wait until a file that fits the pattern appears."""
    deadline = time.monotonic() + 120
    while not any(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextmanager
def cluster_elsewhere() -> Iterator[Connection]:
    """Run a cluster of one worker, forked."""
    with (
        workers_forked(),
        connect(workers=1, threads=1, memory_limit="3GiB", dashboard_address="none", device="cpu") as opened,
    ):
        yield opened


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[tuple[str, str]]:
    """Options of a run that uses a cluster that is there: whose workers compute must not matter."""
    with cluster_elsewhere() as opened:
        yield "--cluster", str(opened.client.scheduler.address)


def voxels(path):
    return zarr.open_group(path, mode="r")["0"][:]


def test_killed_in_training(tmp_path, elsewhere):
    write_case(tmp_path, (60, 70))
    finish(start(tmp_path, "undisturbed", *TRAINED, *elsewhere))
    output = tmp_path / "out"
    process = start(tmp_path, "out", *TRAINED)
    wait_for(process, output, "bigdecon/training/channel-0.safetensors")
    process.kill()
    process.communicate()
    assert not (output / "bigdecon" / "model").exists()
    events = finish(start(tmp_path, "out", *TRAINED, *elsewhere))
    steps = [event["step"] for event in events if event["event"] == "TrainingProgress"]
    assert steps[0] > 20
    np.testing.assert_array_equal(voxels(output), voxels(tmp_path / "undisturbed"))
    model = Path("bigdecon", "model", "channel-0.safetensors")
    assert (output / model).read_bytes() == (tmp_path / "undisturbed" / model).read_bytes()
    assert not (output / "bigdecon" / "training").exists()


def test_killed_in_deconvolution(tmp_path, elsewhere):
    write_case(tmp_path, (16, 80, 900))
    finish(start(tmp_path, "undisturbed", *ITERATED, *elsewhere))
    output = tmp_path / "out"
    process = start(tmp_path, "out", *ITERATED)
    wait_for(process, output, "bigdecon/ledger/??/l0*.json")
    process.kill()
    process.communicate()
    written = Ledger(output / "bigdecon" / "ledger").read()
    assert 1 <= len(written) < 900 // UNIT
    shards = [output / "0" / "0" / "0" / str(key.start[-1] // UNIT) for key in written]
    before = {shard: shard.stat().st_mtime_ns for shard in shards}
    events = finish(start(tmp_path, "out", *ITERATED, *elsewhere))
    counted = [event["done"] for event in events if event["event"] == "RegionDone"]
    assert counted[0] == len(written)
    assert {shard: shard.stat().st_mtime_ns for shard in shards} == before
    for level in ("0", "1"):
        mine, theirs = (zarr.open_group(tmp_path / name, mode="r")[level] for name in ("out", "undisturbed"))
        np.testing.assert_array_equal(mine[:], theirs[:])


def wait_for_more(process, folder: Path, files: int) -> None:
    """Wait until a folder holds more finished files than so many."""
    deadline = time.monotonic() + 120
    while len(list(folder.glob("*[0-9a-f].npz"))) <= files:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


CHOSEN = ("--method", "richardson-lucy", "--block", "64")


def test_stopped_twice_while_settings_are_chosen(tmp_path, elsewhere):
    write_case(tmp_path, (12, 48, 48))
    undisturbed = finish(start(tmp_path, "undisturbed", *CHOSEN, *elsewhere))
    kept, before = tmp_path / ".out.choosing", 0
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = start(tmp_path, "out", *CHOSEN)
        wait_for_more(process, kept, before)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        if number == signal.SIGTERM:
            assert err == "Stopped. What is finished is kept; the same command continues.\n"
        assert len(list(kept.glob("*[0-9a-f].npz"))) >= max(1, before)
        before = len(list(kept.glob("*[0-9a-f].npz")))
        assert not (tmp_path / "out").exists()
    events = finish(start(tmp_path, "out", *CHOSEN, *elsewhere))
    steps = [event for event in events if event["event"] == "ChoosingProgress"]
    assert steps[-1]["done"] == steps[-1]["total"] > before
    assert steps[-1]["kept"] == before  # those were not evaluated again
    assert not kept.exists()
    first, second = (next(e["plan"] for e in some if e["event"] == "Plan") for some in (undisturbed, events))
    assert [line for line in first if line[0] != "output"] == [line for line in second if line[0] != "output"]
    np.testing.assert_array_equal(voxels(tmp_path / "out"), voxels(tmp_path / "undisturbed"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])  # SIGTERM: while settings are chosen
def test_a_signal_stops_it_in_order(tmp_path, number):
    write_case(tmp_path, (60, 70))
    process = start(tmp_path, "out", "--steps", "100000", "--block", "64")
    wait_for(process, tmp_path, "out/bigdecon/training/channel-0.safetensors")
    process.send_signal(number)
    if number != signal.SIGINT:  # as a shell does that loses its terminal
        time.sleep(0.1)
        process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, (out, err)
    assert err == "Stopped. What is finished is kept; the same command continues.\n"
    assert [json.loads(line)["event"] for line in out.splitlines()][:2] == ["Plan", "StageStarted"]
    left = {p.name for p in tmp_path.iterdir() if not p.name.startswith("torchinductor")}
    assert left == {"a.ome.zarr", "psf.tif", "command.py", "out"}
