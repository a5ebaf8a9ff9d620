"""Time training steps, inference and Richardson-Lucy on a GPU.

    python benchmarks/gpu.py RESULT.json
    python benchmarks/gpu.py RESULT.json --device cpu --quick      try the script itself without a GPU

It needs torch, numpy and the modules of bigdecon that compute, but no cluster and no store. Each result is
written as soon as it is there, so that a run that is cut off leaves what it has.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch

from bigdecon.config import TrainingConfig, training_preset
from bigdecon.deconvolution.network import NetworkDeconvolver, inference_bytes_per_voxel
from bigdecon.deconvolution.richardson_lucy import RichardsonLucy
from bigdecon.intensity import IntensityStats
from bigdecon.learning.checkpoint import Checkpoint
from bigdecon.learning.training import train
from bigdecon.learning.unet import UNet
from bigdecon.optics.psf import psf_from_array
from bigdecon.volume import ArraySource, Volume

BUDGET_SECONDS = 240
"""No new measurement is begun after this time."""


@dataclass(frozen=True)
class Measurement:
    """One timing; `rate` is in `unit`, memory the most that torch held on the GPU (None on a CPU)."""

    what: str
    setting: str
    seconds: float
    rate: float
    unit: str
    peak_GiB: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", "--small", action="store_true", help="sizes that a CPU manages")
    options = parser.parse_args()
    options.result.parent.mkdir(parents=True, exist_ok=True)
    if options.device == "cuda" and not torch.cuda.is_available():
        write(options.result, [], "no GPU")
        print("There is no CUDA device here, so nothing was tested or timed on a GPU.")
        return
    started, done = time.monotonic(), []
    for measure in measurements(options.device, options.quick):
        if time.monotonic() - started > BUDGET_SECONDS:
            write(options.result, done, "cut short: time was up")
            return
        done.append(measure())
        print(done[-1], flush=True)
        write(options.result, done, "running")
    write(options.result, done, "finished")


def write(path: Path, measurements: Sequence[Measurement], state: str) -> None:
    result = {**machine.describe(), "state": state, "measurements": [asdict(m) for m in measurements]}
    path.write_text(json.dumps(result, indent=2) + "\n")


def measurements(device: str, quick: bool) -> Iterator[Callable[[], Measurement]]:
    """List what to measure, the most telling first."""
    fast, auto, paper = (
        training_preset(name, ndim=3, accelerator=name == "auto") for name in ("fast", "auto", "paper")
    )
    if quick:
        fast = replace(fast, patch_shape=(32,) * 3)
        yield lambda: training_steps("fast", fast, device, 5)
        yield lambda: inference("fast", fast, device, 48, "float32")
        yield lambda: richardson_lucy(device, 64, 2)
        return
    yield lambda: training_steps("auto", auto, device, 60)
    yield lambda: training_steps("auto in float32", replace(auto, mixed_precision=False), device, 30)
    yield lambda: training_steps("paper", paper, device, 30)
    for side in (128, 192, 256):
        for precision in ("float32", "float16", "bfloat16"):
            yield lambda side=side, precision=precision: inference("auto", auto, device, side, precision)
    for side in (128, 256, 384):
        yield lambda side=side: richardson_lucy(device, side, 10)


def training_steps(name: str, config: TrainingConfig, device: str, steps: int) -> Measurement:
    """Time steps of the real training loop; a first short training pays for start-up."""
    volume = Volume(ArraySource(image(192 if device == "cuda" else 64)), "zyx")
    config = replace(config, steps=steps, evaluate_every=10 * steps, patience=0, minutes=None)
    train(volume, psf_from_array(gaussian(17)), replace(config, steps=3), device=device)
    _reset(device)
    seconds = train(volume, psf_from_array(gaussian(17)), config, device=device).seconds
    patches = f"{config.batch} of {'x'.join(map(str, config.patch_shape))}"
    setting = f"{name}: {config.network.channels} channels, {patches}, PSF 17x17x17"
    return Measurement("training", setting, seconds, steps / seconds, "steps/s", _peak_gib(device))


def inference(name: str, config: TrainingConfig, device: str, side: int, precision: str) -> Measurement:
    """Time a block through the deconvolver: from a NumPy array to a NumPy array."""
    weights = {key: tensor.numpy() for key, tensor in UNet(config.network).state_dict().items()}
    stats = IntensityStats(100.0, 20.0, 0.0, 1000.0, 90.0)
    checkpoint = Checkpoint(weights, config, stats, gaussian(17), "", None, precision=precision)
    deconvolver = NetworkDeconvolver(checkpoint, device=device)
    block = image(side)
    seconds, peak = repeat(lambda: deconvolver(block), device)
    estimate = inference_bytes_per_voxel(config.network) * side**3 / 2**30
    setting = (
        f"{name}: {config.network.channels} channels, {side}^3, {precision}, {estimate:.2f} GiB expected"
    )
    return Measurement("inference", setting, seconds, side**3 / seconds / 1e6, "Mvoxel/s", peak)


def richardson_lucy(device: str, side: int, iterations: int) -> Measurement:
    deconvolver, block = RichardsonLucy(gaussian(17), iterations=iterations, device=device), image(side)
    seconds, peak = repeat(lambda: deconvolver(block), device)
    rate = side**3 * iterations / seconds / 1e6
    setting = f"{side}^3, PSF 17x17x17, {iterations} iterations"
    return Measurement("richardson-lucy", setting, seconds, rate, "Mvoxel/s per iteration", peak)


def repeat(work: Callable[[], Any], device: str) -> tuple[float, float | None]:
    """Best of three after one run that fills the caches; with the peak of GPU memory."""
    work()
    _reset(device)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        work()  # ends with a copy to the CPU, which waits for the GPU
        times.append(time.perf_counter() - started)
    return min(times), _peak_gib(device)


def _reset(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak_gib(device: str) -> float | None:
    return torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None


def image(side: int) -> np.ndarray:
    return np.random.default_rng(0).normal(100, 20, (side,) * 3).astype(np.float32)


def gaussian(side: int) -> np.ndarray:
    grid = np.mgrid[tuple(slice(-(side // 2), side // 2 + 1) for _ in range(3))]
    blob = np.exp(-(grid**2).sum(0) / 8).astype(np.float32)
    return blob / blob.sum()


if __name__ == "__main__":
    main()
