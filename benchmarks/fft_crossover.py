"""Time direct against FFT convolution, to find the PSF size above which the FFT is faster.

    python benchmarks/fft_crossover.py              CPU with two threads, and the GPU where there is one
    python benchmarks/fft_crossover.py --quick      small images only
    python benchmarks/fft_crossover.py --threads 1 --clock cpu      on a machine that others use too

Both compute the valid region of one image with one channel, as `Blur.valid` does in every step of
training and of Richardson-Lucy. `DIRECT_BELOW` in bigdecon/optics/blur.py is set from the result.

On a busy machine two threads wait for each other and wall time measures the neighbours' load. One thread's
CPU time leaves out the time that others ran; the shared caches still tell.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import machine
import numpy as np
import torch

from bigdecon.optics.blur import Blur

HERE = Path(__file__).parent
IMAGES = ((64, 64, 64), (128, 128, 128), (128, 128), (512, 512))
KERNELS = (1, 3, 5, 7, 9, 11, 13, 17, 21, 25, 33)
ENOUGH_SECONDS = 0.25
TOO_SLOW = 20
"""A direct convolution this many times slower than the FFT is not timed at larger sizes."""


@dataclass(frozen=True)
class Timing:
    """Seconds for one convolution, the best of several; direct is None where it was not worth timing."""

    device: str
    image: tuple[int, ...]
    kernel: int
    fft_seconds: float
    direct_seconds: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the smaller images only")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: with --threads 1 only")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "fft_crossover.json")
    parser.add_argument("--plot", type=Path, default=HERE.parent / "docs" / "fft_crossover.png")
    options = parser.parse_args()
    if options.clock == "cpu" and options.threads != 1:
        parser.error("--clock cpu needs --threads 1: waiting threads spend CPU time too")
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    images = IMAGES[::2] if options.quick else IMAGES
    timings = [
        timing
        for device in devices
        for image in images
        for timing in time_sizes(device, image, options.clock)
    ]
    result = {
        **machine.describe(),
        "threads": options.threads,
        "clock_on_cpu": options.clock,
        "load_at_start": round(load, 1),
        "largest_kernel_where_direct_wins": crossovers(timings),
        "timings": [asdict(timing) for timing in timings],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    plot(timings, options.plot)
    print(json.dumps(result["largest_kernel_where_direct_wins"], indent=2))


def time_sizes(device: str, image: tuple[int, ...], clock: str) -> list[Timing]:
    timings: list[Timing] = []
    for kernel in KERNELS:
        slow = bool(timings) and _is_hopeless(timings[-1])
        timings.append(time_one(device, image, kernel, clock, skip_direct=slow))
        print(timings[-1], flush=True)
    return timings


def _is_hopeless(timing: Timing) -> bool:
    return timing.direct_seconds is None or timing.direct_seconds > TOO_SLOW * timing.fft_seconds


def time_one(device: str, image: tuple[int, ...], kernel: int, clock: str, *, skip_direct: bool) -> Timing:
    psf = np.random.default_rng(0).random((kernel,) * len(image), np.float32)
    x = torch.rand(1, 1, *(n + kernel - 1 for n in image), device=device)
    now = time.process_time if clock == "cpu" and device == "cpu" else time.perf_counter
    fft = best_seconds(_blur(psf, direct=False), x, now)
    direct = None if skip_direct else best_seconds(_blur(psf, direct=True), x, now)
    return Timing(device, image, kernel, fft, direct)


def _blur(psf: np.ndarray, *, direct: bool) -> Blur:
    blur = Blur(psf)
    blur._direct = direct  # the choice that is to be measured
    return blur


def best_seconds(blur: Blur, x: torch.Tensor, now: Callable[[], float]) -> float:
    """Repeat for a quarter of a second, at least three times, after one call that fills the caches."""
    best, spent, count = float("inf"), 0.0, 0
    with torch.inference_mode():
        blur.valid(x)
        while spent < ENOUGH_SECONDS or count < 3:
            _wait(x)
            started = now()
            blur.valid(x)
            _wait(x)
            seconds = now() - started
            best, spent, count = min(best, seconds), spent + seconds, count + 1
    return best


def _wait(x: torch.Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize()


def crossovers(timings: Sequence[Timing]) -> dict[str, int]:
    """Give, for every device and image, the largest side of a PSF up to which direct always won."""
    found: dict[str, int] = {}
    for timing in timings:
        name = f"{timing.device} {'x'.join(map(str, timing.image))}"
        wins = timing.direct_seconds is not None and timing.direct_seconds < timing.fft_seconds
        side = KERNELS.index(timing.kernel)
        if wins and found.get(name, 0) == (KERNELS[side - 1] if side else 0):
            found[name] = timing.kernel
        found.setdefault(name, 0)
    return found


def plot(timings: Sequence[Timing], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    groups = list(dict.fromkeys((t.device, t.image) for t in timings))
    figure, axes = plt.subplots(1, len(groups), figsize=(3.4 * len(groups), 3.2), squeeze=False)
    for axis, group in zip(axes[0], groups, strict=True):
        own = [t for t in timings if (t.device, t.image) == group]
        direct = [t for t in own if t.direct_seconds is not None]
        axis.plot([t.kernel for t in own], [1e3 * t.fft_seconds for t in own], "o-", label="FFT")
        milliseconds = [1e3 * t.direct_seconds for t in direct if t.direct_seconds is not None]
        axis.plot([t.kernel for t in direct], milliseconds, "s-", label="direct")
        axis.set(title=f"{group[0]}, {' x '.join(map(str, group[1]))}", xlabel="side of the PSF, voxels")
        axis.set_yscale("log")
    axes[0][0].set_ylabel("one convolution, ms")
    axes[0][0].legend(frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
