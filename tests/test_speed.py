"""A slip in speed by several times is noticed: ratios to plain code of the same run, with wide bounds.

No times are compared with a clock elsewhere. Both sides take turns, each counts by its quickest turn, and by
the processor's time of one thread, which other load on the machine stretches little.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from bigdecon import Volume, training_preset
from bigdecon.deconvolution.network import NetworkDeconvolver
from bigdecon.deconvolution.richardson_lucy import RichardsonLucy
from bigdecon.intensity import IntensityStats, measure_intensity
from bigdecon.learning.checkpoint import Checkpoint
from bigdecon.learning.patches import PatchPool
from bigdecon.learning.training import _Trainer
from bigdecon.learning.unet import UNet
from bigdecon.optics.psf import psf_from_array
from tests.test_benchmarks import call

ROOT = Path(__file__).parents[1]

Array = NDArray[np.float32]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def times_as_long(ours: Callable[[], object], plain: Callable[[], object], turns: int = 2) -> float:
    """Give the ratio of the quickest turns, after one each that does not count."""
    best = [float("inf"), float("inf")]
    for turn in range(turns + 1):
        for which, work in enumerate((ours, plain)):
            started = time.thread_time()
            work()
            if turn:
                best[which] = min(best[which], time.thread_time() - started)
    print(best)
    return best[0] / best[1]


def blob(side: int) -> Array:
    grid = np.mgrid[(slice(-(side // 2), side // 2 + 1),) * 3]
    psf = np.exp(-(grid**2).sum(0) / 8).astype(np.float32)
    return psf / psf.sum()


def plain_richardson_lucy(image: Array, psf: Array, iterations: int) -> Array:
    """Do it as in a textbook, with NumPy and scipy: no edges, a start from the image itself."""
    size = [scipy.fft.next_fast_len(n + k - 1, True) for n, k in zip(image.shape, psf.shape, strict=True)]
    middle = tuple(slice(k // 2, k // 2 + n) for n, k in zip(image.shape, psf.shape, strict=True))
    forth, back = (scipy.fft.rfftn(kernel, size) for kernel in (psf, np.flip(psf)))

    def convolve(x: Array, otf: NDArray[np.complex64]) -> Array:
        return scipy.fft.irfftn(scipy.fft.rfftn(x, size) * otf, size)[middle]

    x = image.copy()
    for _ in range(iterations):
        x = x * convolve(image / np.maximum(convolve(x, forth), 1e-3), back)
    return x


def test_richardson_lucy_takes_no_longer_than_a_textbooks() -> None:
    psf, image = blob(17), np.random.default_rng(0).poisson(50, (48, 128, 128)).astype(np.float32)
    method = RichardsonLucy(psf, iterations=4, threads=1)
    assert times_as_long(lambda: method(image), lambda: plain_richardson_lucy(image, psf, 4)) < 3


class Small:
    """A network of 16 channels for patches of 32^3, and the training of it."""

    def __init__(self) -> None:
        self.config = replace(
            training_preset("fast", ndim=3, accelerator=False), patch_shape=(32,) * 3, mixed_precision=False
        )
        stacks = [Volume.from_array(np.random.default_rng(0).random((48, 64, 64), np.float32)).stack()]
        stats = measure_intensity(stacks)
        self.trainer = _Trainer(self.config, psf_from_array(blob(9)), stats, torch.device("cpu"), None)
        self.pool = PatchPool(
            stacks, self.config.patch_shape, alignment=4, stats=stats, seed=0, held_out_fraction=0.005
        )
        self.trainer.prepare(self.pool)
        self.batch = self.draw()

    def draw(self):
        return self.pool.draw(0, 1, self.trainer.symmetries, self.trainer.margin)

    def learn(self) -> None:
        self.trainer.learn(self.batch)


def convolutions(side: int, batch: int, *, gradient: bool) -> Callable[[], None]:
    """Give the four convolutions of the network's finest level in plain torch, most of what it computes."""
    shape = (batch, 16, side, side, side)
    x = torch.rand(shape).contiguous(memory_format=torch.channels_last_3d).requires_grad_(gradient)
    weight = torch.rand(16, 16, 3, 3, 3).requires_grad_(gradient)

    def work() -> None:
        for _ in range(4):
            y = F.conv3d(x, weight, padding=1)
            if gradient:
                y.sum().backward()

    return work


def test_a_training_step_takes_little_more_than_its_convolutions_in_plain_torch() -> None:
    small = Small()
    assert times_as_long(small.learn, convolutions(32, 2, gradient=True)) < 8


def test_preparing_data_is_a_small_part_of_a_training_step() -> None:
    small = Small()
    assert times_as_long(small.draw, small.learn) < 0.03


def test_inference_takes_little_more_than_its_convolutions_in_plain_torch() -> None:
    config = training_preset("fast", ndim=3, accelerator=False)
    weights = {name: tensor.numpy() for name, tensor in UNet(config.network).state_dict().items()}
    stats = IntensityStats(100.0, 20.0, 0.0, 1000.0, 90.0)
    method = NetworkDeconvolver(Checkpoint(weights, config, stats, blob(3), "", None), threads=1)
    block = np.random.default_rng(0).normal(100, 20, (48,) * 3).astype(np.float32)
    assert times_as_long(lambda: method(block), convolutions(48, 1, gradient=False)) < 12


def test_the_page_is_the_one_that_the_kept_results_give(tmp_path: Path) -> None:
    """docs/performance.md is generated, never typed."""
    page = tmp_path / "performance.md"
    call("performance.py", "--output", page, folder=tmp_path)
    assert page.read_text() == (ROOT / "docs" / "performance.md").read_text()


def test_the_page_says_what_has_not_been_measured(tmp_path: Path) -> None:
    call("performance.py", "--output", tmp_path / "page.md", "--results", tmp_path, folder=tmp_path)
    text = (tmp_path / "page.md").read_text()
    assert text.count("Not measured yet") == text.count("## ") == 8


@pytest.mark.slow
def test_the_benchmarks_of_speed_run_and_make_a_page(tmp_path: Path, monkeypatch) -> None:
    """In small. Each fails by itself where results differ; peers that are not installed are left out."""
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")  # timeline.py sets it, for itself
    measure = partial(call, folder=tmp_path)
    one = ("--threads", 1, "--rounds", 1)
    result = tmp_path / "training_against_reference.json"
    measure("training_against_reference.py", *one, "--side", 16, "--output", result)
    found = json.loads(result.read_text())
    assert max(found["largest_difference"].values()) < 1e-4
    measure("inference_peak.py", *one, "--side", 32, "--output", tmp_path / "inference_peak.json")
    shape = ("--shape", 16, 64, 64, "--psf", 7)
    measure("richardson_lucy_peers.py", *one, *shape, "--output", tmp_path / "richardson_lucy_peers.json")
    for name in ("timeline", "storage", "overlap", "block_size"):
        plot = ("--plot", tmp_path / "plot.png") if name == "timeline" else ()
        measure(f"{name}.py", "--quick", *plot, "--output", tmp_path / f"{name}.json")
    assert (tmp_path / "plot.png").stat().st_size > 5_000
    busy = json.loads((tmp_path / "overlap.json").read_text())
    assert busy["identical_bytes"]
    assert all(0 < case["busy"] <= case["busy_between"] <= 1 for case in busy["cases"])
    shutil.copy(ROOT / "benchmarks" / "results" / "many_workers.json", tmp_path)
    measure("performance.py", "--results", tmp_path, "--output", tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "Not measured" not in text
    for row in (
        "| float32 |",
        "| convolutions |",
        "| 16×64×64 | 7×7×7 |",
        "million voxels a second",
        "| uint16 | read |",
        "| siamese | `--block auto` |",
    ):
        assert row in text, row
