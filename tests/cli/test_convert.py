"""`bigdecon convert`, as it is typed; killed, and in little memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tifffile
from bigdecon_cli.convert import command
from click.testing import CliRunner

from bigdecon.deconvolution.ledger import Ledger
from bigdecon.io.reading import open_volume
from bigdecon.running.verification import verify_output


def run(*arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)


def typed(*arguments):
    return [sys.executable, "-m", "bigdecon_cli", "convert", *map(str, arguments)]


def write_planes(folder, n=4):
    folder.mkdir()
    data = np.random.default_rng(1).integers(0, 99, (n, 30, 40)).astype("uint16")
    for z in range(n):
        tifffile.imwrite(folder / f"z{z}.tif", data[z], photometric="minisblack")
    return data


def test_words(tmp_path):
    data = write_planes(tmp_path / "planes")
    target = tmp_path / "a.ome.zarr"
    text = run(tmp_path / "planes" / "*.tif", target, "--voxel-size", 0.3, 0.1, 0.1).output
    for part in (
        "z, y, x = 4 × 30 × 40, uint16",
        "0.3 × 0.1 × 0.1 µm",
        "along 4 planes",
        f"Result: {target}",
    ):
        assert part in text
    assert (
        "nothing was done" in run(tmp_path / "planes" / "*.tif", target, "--voxel-size", 0.3, 0.1, 0.1).output
    )
    lines = run(target, tmp_path / "b.ome.tif", "--json").output.splitlines()
    events = [json.loads(line) for line in lines]
    assert [e["event"] for e in events] == ["StageStarted", "RegionDone", "StageFinished", "Result"]
    assert events[-1]["output"] == str(tmp_path / "b.ome.tif")
    assert np.array_equal(np.asarray(open_volume(tmp_path / "b.ome.tif")), data)
    assert run(target, tmp_path / "c.ome.tif", "--quiet", "--tiled").output == ""


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"", "a.tif"),
        (b"II*\0" + bytes(40), "a.tif"),
        (b"{]", "zarr.json"),
        (b'{"zarr_format": 3}', "zarr.json"),
    ],
)
def test_malformed_input_is_one_sentence_and_exit_code_2(tmp_path, content, name):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / name).write_bytes(content)
    process = subprocess.run(
        typed(folder, tmp_path / "b.ome.zarr"), capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 2
    assert process.stderr.startswith("Error: ")
    assert len(process.stderr.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


# The second channel takes long, so that there is time to kill.
SLOWLY = """
import time
from bigdecon.running import zarr_copy
from bigdecon_cli.main import main

write = zarr_copy.write_box

def slowly(*arguments):
    time.sleep(6 * arguments[4])
    return write(*arguments)

zarr_copy.write_box = slowly
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_conversion_continues(tmp_path, sign):
    data = np.random.default_rng(1).integers(0, 99, (2, 4, 64, 64)).astype("uint16")
    tifffile.imwrite(tmp_path / "a.tif", data, metadata={"axes": "CZYX"}, ome=True, photometric="minisblack")
    target = tmp_path / "b.ome.zarr"
    ledger = Ledger(tmp_path / ".b.ome.zarr.converting" / "b.ome.zarr" / "bigdecon" / "ledger")
    arguments = ["convert", tmp_path / "a.tif", target]
    process = subprocess.Popen([sys.executable, "-c", SLOWLY, *map(str, arguments)])
    try:
        deadline = time.monotonic() + 60
        while len(ledger.read() if ledger.folder.exists() else ()) < 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(sign)
        assert process.wait(60) in (-sign, 130)
    finally:
        process.kill()
        process.wait()
    assert not target.exists()
    assert len(ledger.read()) == 1
    done = subprocess.run(
        typed(*arguments[1:], "--json"), capture_output=True, text=True, timeout=120, check=True
    )
    first = next(e for line in done.stdout.splitlines() if (e := json.loads(line))["event"] == "RegionDone")
    assert (first["done"], first["total"]) == (1, 2)
    assert verify_output(target).sound
    assert np.array_equal(np.asarray(open_volume(target)), data)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "b.ome.zarr"]


MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="measures memory the Unix way")
def test_memory_does_not_grow_with_the_image(tmp_path):
    """Half a gigabyte from a series of files into shards by workers, and from there into TIFFs."""
    folder = tmp_path / "planes"
    folder.mkdir()
    plane = np.random.default_rng(0).poisson(20, (1024, 1024)).astype("uint16")
    for z in range(256):
        tifffile.imwrite(folder / f"z{z}.tif", np.roll(plane, z, 0), photometric="minisblack")
    steps = [
        (folder, tmp_path / "a.ome.zarr", "--quiet", "--threads", "1"),
        (tmp_path / "a.ome.zarr", tmp_path / "b.ome.tif", "--quiet"),
        (tmp_path / "a.ome.zarr", tmp_path / "c.ome.tif", "--quiet", "--tiled"),
    ]
    for step in steps:
        # A process begins with the peak of the one that started it: a small one has to.
        measured = subprocess.run(
            [sys.executable, "-c", MEASURE, *typed(*step)], capture_output=True, text=True, check=True
        )
        assert int(measured.stdout) < 540 * 1024, step  # KiB; Python and its packages take 150 MiB
    for name in ("a.ome.zarr", "b.ome.tif", "c.ome.tif"):
        stack = open_volume(tmp_path / name).stack()
        for z in (0, 130, 255):
            assert np.array_equal(stack[slice(z, z + 1), 0:1024, 0:1024][0], np.roll(plane, z, 0)), name
