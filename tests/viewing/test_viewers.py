"""Results in viewers: neuroglancer in a real browser, napari's reader where it is installed."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bigdecon_cli.main import bigdecon
from bigdecon_cli.view import command
from click.testing import CliRunner
from PIL import Image

from bigdecon.errors import OptionError, VolumeError
from bigdecon.io.reading import open_volume
from bigdecon.io.writing import write_ome_zarr
from bigdecon.viewing.neuroglancer import common_contrast, look_at, viewer_state
from bigdecon.volume import Channel, Volume
from tests.browser import WEBGL

ROOT = Path(__file__).parents[2]

SIZE = (0.3, 0.1, 0.1)
COLORS = (Channel("nuclei", "00FF00"), Channel("actin", "FF00FF"))


def write_spots(path, *, brightness=1000.0, version="0.5", axes="czyx", shape=(24, 280, 320)):
    """Write an image with a bright spot in each channel, in the middle and towards the corner."""
    z, y, x = np.ogrid[tuple(slice(0, n) for n in shape)]
    spots = [
        100 + brightness * np.exp(-(((z - 12) / 8) ** 2 + ((y - v) / 40) ** 2 + ((x - w) / 40) ** 2))
        for v, w in ((140, 160), (60, 60))
    ]
    data = np.stack(spots).astype("float32") if "c" in axes else spots[0].astype("float32")
    volume = replace(Volume.from_array(data, axes, voxel_size_um=SIZE), translation_um=(3.0, 1.0, 2.0))
    if "c" in axes:
        volume = replace(volume, channels=COLORS)
    write_ome_zarr(volume, path, ome_version=version)
    return path


@pytest.fixture
def running(tmp_path):
    """Give a function that starts `bigdecon view` and returns its addresses."""
    started = []

    def start(*arguments):
        command = [sys.executable, "-m", "bigdecon_cli", "view", "--no-browser", *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        lines = iter(process.stdout.readline, "Ctrl-C ends it.\n")
        words = (line.split(maxsplit=1) for line in lines if line.strip() or process.poll() is None)
        return process, {first: rest[0].strip() for first, *rest in words if rest}

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_state_that_neuroglancer_gets(tmp_path):
    dim = write_spots(tmp_path / "a.ome.zarr", brightness=500)
    bright = write_spots(tmp_path / "b.ome.zarr")
    looked = [
        look_at(str(path), name, f"http://x/{name}") for path, name in ((dim, "input"), (bright, "result"))
    ]
    images = common_contrast(looked)
    assert images[0].limits == images[1].limits == looked[1].limits
    low, high = images[0].limits[0]
    assert low == pytest.approx(100, abs=5)
    assert 900 < high < 1100
    state = viewer_state(images)
    assert json.loads(json.dumps(state, allow_nan=False)) == state
    names = [layer["name"] for layer in state["layers"]]
    assert names == ["input: nuclei", "input: actin", "result: nuclei", "result: actin"]
    assert [panel["layers"] for panel in state["layout"]["children"]] == [names[:2], names[2:]]
    assert list(state["dimensions"]) == ["x", "y", "z"]
    assert state["dimensions"]["z"] == pytest.approx([3e-7, "m"])
    assert [layer["localPosition"] for layer in state["layers"]] == [[0], [1], [0], [1]]
    assert '"#ff00ff"' in state["layers"][1]["shader"]


def test_an_empty_image_has_a_contrast(tmp_path):
    write_ome_zarr(Volume.from_array(np.zeros((6, 7), "uint8")), tmp_path / "a.ome.zarr", dtype="uint8")
    image = look_at(str(tmp_path / "a.ome.zarr"), "result", "http://x")
    assert image.limits == ((0.0, 1.0),)
    assert viewer_state([image])["layout"]["layout"] == "xy"


def test_what_cannot_be_shown_is_told(tmp_path):
    Image.new("L", (8, 9)).save(tmp_path / "a.tif")
    ask = CliRunner().invoke
    for arguments, error, words in (
        (["s3://bucket/a.ome.zarr"], OptionError, "aws s3 sync"),
        ([str(tmp_path / "a.tif")], VolumeError, "bigdecon convert .*a.tif a.ome.zarr"),
        ([str(tmp_path / "none")], VolumeError, "there is no file"),
    ):
        with pytest.raises(error, match=words):
            ask(command, arguments, catch_exceptions=False)


@pytest.mark.parametrize("size", [(0.3, 0.1, 0.1), (0.2, 0.1)])
def test_an_input_without_a_voxel_size_is_refused_with_a_command_that_helps(tmp_path, monkeypatch, size):
    monkeypatch.chdir(tmp_path)
    image = np.arange(8 * 9 * 10, dtype="uint8").reshape(8, 9, 10)[(0,) * (3 - len(size))]
    axes = "zyx"[-len(size) :]
    write_ome_zarr(Volume.from_array(image, axes, voxel_size_um=size), tmp_path / "out.ome.zarr")
    write_ome_zarr(Volume.from_array(image, axes), tmp_path / "my b.ome.zarr", dtype="uint8")
    Image.new("L", (8, 9)).save(tmp_path / "my a.tif")
    for name in ("my a.tif", "my b.ome.zarr"):
        with pytest.raises(VolumeError, match="bigdecon convert") as refused:
            CliRunner().invoke(command, ["out.ome.zarr", "--input", name], catch_exceptions=False)
        called = shlex.split(str(refused.value).partition("bigdecon ")[2])
        done = CliRunner().invoke(bigdecon, called, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        copied = open_volume(called[2]).voxel_size_um
        assert copied == (size if name == "my b.ome.zarr" else copied)
        assert copied


def test_it_serves_until_it_is_interrupted(tmp_path, running):
    process, told = running(write_spots(tmp_path / "a.ome.zarr"))
    with urllib.request.urlopen(told["Result:"] + "/zarr.json", timeout=20) as answer:
        metadata = json.loads((tmp_path / "a.ome.zarr" / "zarr.json").read_text())
        del metadata["attributes"]["bigdecon"]  # how it was made is nobody's business
        assert json.load(answer) == metadata
    assert told["napari:"] == f"napari --plugin napari-ome-zarr {tmp_path / 'a.ome.zarr'}"
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert process.stderr.read().splitlines() == ["Stopped."]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(told["Result:"].split(":")[2].split("/")[0])), timeout=5)


# --- neuroglancer, in a browser ------------------------------------------------------------------


def picture(browser) -> np.ndarray:
    """What the page shows below the tool bars, as numbers (y, x, red green blue)."""
    image = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    return np.asarray(image).astype(int)[110:-60]


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert condition()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("neuroglancer") is None, reason="needs neuroglancer")
@pytest.mark.parametrize("browser", [WEBGL], indirect=True, ids=["webgl"])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_neuroglancer_shows_input_and_result(tmp_path, running, browser, version):
    dim = write_spots(tmp_path / "in.ome.zarr", brightness=500, version=version)
    bright = write_spots(tmp_path / "out.ome.zarr", version=version)
    if version == "0.5":
        assert json.loads((bright / "0" / "zarr.json").read_text())["codecs"][0]["name"] == "sharding_indexed"
    _, told = running(bright, "--input", dim)
    browser.set_window_size(1200, 800)
    browser.get(told["Viewer:"])

    def drawn():
        return (picture(browser)[:, 700:, 1] > 200).sum() > 2000

    wait_for(drawn)
    time.sleep(1)  # finer levels come after coarser ones
    seen = picture(browser)
    left, right = seen[:, 5:590], seen[:, 610:1190]
    for side, brightest in ((left, 128), (right, 255)):
        green = (side[..., 1] > 0.75 * brightest) & (side[..., 0] < 0.5 * brightest)
        magenta = (
            (side[..., 0] > 0.75 * brightest)
            & (side[..., 2] > 0.75 * brightest)
            & (side[..., 1] < 0.5 * brightest)
        )
        assert min(green.sum(), magenta.sum()) > 500
        (gy, gx), (my, mx) = (np.argwhere(mask).mean(axis=0) for mask in (green, magenta))
        # From one spot to the other it is 10 µm left and 8 µm up.
        assert my < gy - 50
        assert mx < gx - 50
        assert (gx - mx) / (gy - my) == pytest.approx(100 / 80, rel=0.15)
    brightest = [
        np.percentile(side[..., 1][(side[..., 0] < 30) & (side[..., 2] < 30)], 99.9) for side in (left, right)
    ]
    assert brightest[0] / brightest[1] == pytest.approx(500 / 889, abs=0.06)  # at the same contrast
    assert (right.max(axis=2) < 40).mean() > 0.3  # the background is dark
    own = [
        e["message"]
        for e in browser.get_log("browser")
        if e["level"] == "SEVERE" and "404" not in e["message"]
    ]
    assert own == []


# --- napari --------------------------------------------------------------------------------------

# In a process of its own: importing napari warns, and sets up what the other tests do not want.
READ = """
import json, sys
import numpy as np
from napari_ome_zarr import napari_get_reader

layers = napari_get_reader(sys.argv[1])(sys.argv[1])
told = []
for data, about, kind in layers:
    if kind == "image":
        levels = [np.asarray(level) for level in (data if isinstance(data, list) else [data])]
        plain = {name: np.asarray(about[name]).tolist() for name in ("scale", "contrast_limits")}
        told.append({"name": about.get("name"), "channel_axis": about.get("channel_axis"), **plain,
                     "shapes": [level.shape for level in levels], "sums": [float(l.sum()) for l in levels]})
print(json.dumps(told))
"""


def napari_python() -> str | None:
    """Find a Python with napari's reader: the environment that `make napari` made, or this one."""
    own = ROOT / ".napari" / "bin" / "python"
    if own.exists():
        return str(own)
    return sys.executable if importlib.util.find_spec("napari_ome_zarr") else None


@pytest.mark.slow
@pytest.mark.skipif(napari_python() is None, reason="needs napari-ome-zarr: make napari")
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_napari_reads_levels_scale_and_contrast(tmp_path, version):
    path = write_spots(tmp_path / "a.ome.zarr", version=version)
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    done = subprocess.run(
        [str(napari_python()), "-c", READ, str(path)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (layer,) = json.loads(done.stdout.splitlines()[-1])
    stored = open_volume(path)
    assert layer["channel_axis"] == 0
    assert layer["scale"] == list(SIZE)
    assert [name.rsplit(": ")[-1] for name in layer["name"]] == ["nuclei", "actin"]
    assert layer["shapes"] == [[2, 24, 280, 320], [2, 24, 140, 160]]
    sums = [float(np.asarray(open_volume(path, level=level)).sum()) for level in (0, 1)]
    assert layer["sums"] == pytest.approx(sums, rel=1e-6)
    for channel, (low, high) in enumerate(layer["contrast_limits"]):
        values = np.asarray(stored)[channel]
        assert low == pytest.approx(values.min(), abs=5)
        assert 0.7 * values.max() < high < values.max()
