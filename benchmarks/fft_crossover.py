"""Time direct against FFT convolution, to find the PSF size above which the FFT is faster.

    python benchmarks/fft_crossover.py              CPU with two threads, and the GPU where there is one
    python benchmarks/fft_crossover.py --quick      small images only
    python benchmarks/fft_crossover.py --threads 1 --clock cpu      on a machine that others use too
    python benchmarks/fft_crossover.py --redraw     the plot again, from the recorded result

Both compute the valid region of one image with one channel, as `Blur.valid` does in every step of
training and of Richardson-Lucy: an image of N voxels is made from an object of N + kernel - 1. The PSF's
transform is kept from call to call, as there. `DIRECT_BELOW` in bigdecon/optics/blur.py is set from the
CPU's part of the result, and a test compares the two.

On a busy machine two threads wait for each other and wall time measures the neighbours' load. One thread's
CPU time leaves out the time that others ran; the shared caches still tell.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch

from bigdecon.optics.blur import Blur

HERE = Path(__file__).parent
IMAGES = ((64, 64, 64), (128, 128, 128), (128, 128), (512, 512))
KERNELS = (1, 3, 5, 7, 9, 11, 13, 17, 21, 25, 31, 41, 51, 63)
ENOUGH_SECONDS = 0.25
TOO_SLOW = 20
"""A direct convolution this many times slower than the FFT is not timed at larger sizes."""

RECOMMENDED = {2: 25, 3: 9}
"""Sides above which the authors of fft-conv-pytorch recommend the FFT, as Papkov et al. 2023 quote them."""

# Okabe and Ito's blue and vermilion can be told apart by all readers; the markers differ too.
TICKS = (1, 3, 5, 9, 17, 25, 41, 63)
LINES = {"FFT": ("o", "#0072B2"), "direct": ("s", "#D55E00")}


@dataclass(frozen=True)
class Timing:
    """Seconds for one convolution, the best of several; direct is None where it was not worth timing."""

    device: str
    image: tuple[int, ...]
    kernel: int
    fft_seconds: float
    direct_seconds: float | None


def main() -> None:
    options = parse_arguments()
    if not options.redraw:
        torch.set_num_threads(options.threads)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(measure(options), indent=2) + "\n")
    result = json.loads(options.output.read_text())
    timings = [Timing(**timing | {"image": tuple(timing["image"])}) for timing in result["timings"]]
    plot(timings, options.plot)
    print(
        json.dumps(
            {key: result[key] for key in ("largest_kernel_where_direct_wins", "direct_up_to")}, indent=2
        )
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the smaller images only")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: with --threads 1 only")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "fft_crossover.json")
    parser.add_argument("--plot", type=Path, default=HERE.parent / "docs" / "fft_crossover.png")
    parser.add_argument(
        "--redraw", action="store_true", help="measure nothing, draw the result that is there"
    )
    options = parser.parse_args()
    if options.clock == "cpu" and options.threads != 1:
        parser.error("--clock cpu needs --threads 1: waiting threads spend CPU time too")
    return options


def measure(options: argparse.Namespace) -> dict[str, Any]:
    load = os.getloadavg()[0]
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    timings = [
        timing
        for device in devices
        for image in (IMAGES[::2] if options.quick else IMAGES)
        for timing in time_sizes(device, image, options.clock)
    ]
    return {
        **machine.describe(),
        "threads": options.threads,
        "clock_on_cpu": options.clock,
        "load_at_start": round(load, 1),
        "largest_kernel_where_direct_wins": crossovers(timings),
        "direct_up_to": direct_up_to(timings),
        "timings": [asdict(timing) for timing in timings],
    }


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


def direct_up_to(timings: Sequence[Timing]) -> dict[str, int]:
    """Give, for 2D and 3D, the side up to which direct wins on the CPU's images taken together.

    Together: by the geometric mean of direct over FFT time, so that every image counts the same.
    """
    found: dict[str, int] = {}
    for ndim in sorted({len(t.image) for t in timings}):
        own = [t for t in timings if t.device == "cpu" and len(t.image) == ndim]
        wins = itertools.takewhile(lambda k: _mean_ratio([t for t in own if t.kernel == k]) < 1, KERNELS)  # noqa: B023
        found[f"{ndim}D"] = max(wins, default=0)
    return found


def _mean_ratio(timings: Sequence[Timing]) -> float:
    direct = [t.direct_seconds or float("inf") for t in timings]
    return statistics.geometric_mean([d / t.fft_seconds for d, t in zip(direct, timings, strict=True)])


def plot(timings: Sequence[Timing], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    groups = sorted({(t.device, len(t.image), t.image) for t in timings})
    figure, axes = plt.subplots(
        -(-len(groups) // 2), 2, figsize=(9, 3.2 * -(-len(groups) // 2)), squeeze=False, sharex=True
    )
    for axis, (device, ndim, image) in zip(axes.flat, groups, strict=False):
        draw_group(axis, [t for t in timings if (t.device, t.image) == (device, image)])
        axis.set_title(
            f"{'CPU' if device == 'cpu' else 'GPU'}, {ndim}D, {' × '.join(map(str, image))} voxels"
        )
    for axis in axes[-1]:
        axis.set_xlabel("side of the PSF (voxels)")
    for axis in axes[:, 0]:
        axis.set_ylabel("time of one convolution (ms)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.96))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_group(axis: Any, timings: Sequence[Timing]) -> None:
    """Draw one device and image: two curves, and the published recommendation as a dashed line."""
    for label, values in (
        ("FFT", {t.kernel: t.fft_seconds for t in timings}),
        ("direct", {t.kernel: t.direct_seconds for t in timings if t.direct_seconds is not None}),
    ):
        marker, colour = LINES[label]
        axis.plot(
            list(values),
            [1e3 * v for v in values.values()],
            marker=marker,
            color=colour,
            markersize=5,
            label=label,
        )
    side = RECOMMENDED[len(timings[0].image)]
    axis.axvline(
        side, color="0.4", linestyle="--", linewidth=1, label="fft-conv-pytorch: FFT above this side"
    )
    axis.set(xscale="log", yscale="log")
    axis.set_xticks(TICKS, [str(n) for n in TICKS])
    axis.minorticks_off()
    axis.grid(color="0.9")
    axis.set_axisbelow(True)


if __name__ == "__main__":
    main()
