"""Two real runs on tiny simulated images, and what must come out of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from bigdecon.config import ClassicalSettings, RunConfig
from bigdecon.deconvolution.methods import classical_method
from bigdecon.diagnosis.findings import Finding
from bigdecon.distributed.progress import Event, TrainingProgress
from bigdecon.io.writing import write_ome_zarr
from bigdecon.pipeline import run
from bigdecon.volume import Volume

__all__ = ["check_richardson_lucy", "check_training"]

BACKGROUND = 100.0
SIGMA = 1.5
ITERATIONS = 10
STEPS = 4
TOLERANCE = 1e-3
"""Part of the range by which a worker's result may differ from this process's."""
REMEDY = "Results cannot be trusted here: install the tested versions (constraints.txt), and report this."
GPU_REMEDY = "Results cannot be trusted here: give --device cpu, update driver and PyTorch, and report this."


def check_richardson_lucy(folder: Path, cluster: str, device: str) -> Iterator[Finding]:
    """Restore a blurred volume, and compare with the truth and with the method in this process.

    Parameters
    ----------
    folder : empty, for all files
    cluster : as for `RunConfig`
    device : torch device of the workers
    """
    truth, image = _specimen((20, 36, 36))
    config = _config(folder, image, cluster, method="richardson-lucy", iterations=ITERATIONS, sieve=0.0)
    result = run(config)
    restored = np.asarray(zarr.open_array(f"{result.output}/0", mode="r")[:])
    settings = ClassicalSettings(background=BACKGROUND, iterations=ITERATIONS)
    psf = result.plan.psfs[0]
    expected = classical_method("richardson-lucy", psf.array, settings, "cpu")(image)
    difference = float(np.abs(restored - expected).max() / np.ptp(expected))
    before, after = _distance(image, truth), _distance(restored, truth)
    name, what = "self-test-richardson-lucy", "A run of richardson-lucy"
    if not difference <= TOLERANCE:
        yield Finding(
            name,
            "distrust",
            f"{what} on {device} differs from the same method in this process by {difference:.2g} of the "
            f"range; up to {TOLERANCE:g} is rounding.",
            GPU_REMEDY if device != "cpu" else REMEDY,
        )
    elif not after < 0.9 * before:
        sentence = (
            f"{what} left a distance to the truth of {after:.3g}, where the blurred image has {before:.3g}."
        )
        yield Finding(name, "distrust", sentence, REMEDY)
    else:
        yield Finding(
            name,
            "good",
            f"{what} on {device} gave the expected result, nearer to the truth by a factor of "
            f"{before / after:.1f}.",
        )


def check_training(folder: Path, cluster: str, device: str) -> Iterator[Finding]:
    """Train a network for a few steps, and look at its losses and its result.

    Parameters are those of `check_richardson_lucy`.
    """
    _, image = _specimen((96, 96))
    losses: list[float] = []

    def hear(event: Event) -> None:
        if isinstance(event, TrainingProgress):
            losses.append(event.loss)

    config = _config(folder, image, cluster, method="siamese", preset="fast", steps=STEPS)
    result = run(config, on_event=hear)
    restored = np.asarray(zarr.open_array(f"{result.output}/0", mode="r")[:])
    name, what = "self-test-training", f"A training of {STEPS} steps on {device}"
    remedy = GPU_REMEDY if device != "cpu" else REMEDY
    if not losses or not all(map(math.isfinite, losses)):
        yield Finding(name, "distrust", f"{what} gave the losses {losses}, which are no numbers.", remedy)
    elif not np.isfinite(restored).all() or not image.min() <= restored.mean() <= image.max():
        means = f"{restored.mean():.4g}, where the image has {image.mean():.4g}"
        sentence = f"{what} gave a result with a mean of {means}."
        yield Finding(name, "distrust", sentence, remedy)
    else:
        yield Finding(name, "good", f"{what} gave finite losses and a result within the image's range.")


def _specimen(shape: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Simulate points, and their image with blur, camera offset and shot noise; always the same."""
    random = np.random.default_rng(7)
    truth = np.zeros(shape)
    inner = [random.integers(6, n - 6, 30) for n in shape]
    truth[tuple(inner)] = 20000.0 if len(shape) == 3 else 5000.0
    truth = gaussian_filter(truth, 0.8)
    image = random.poisson(gaussian_filter(truth, SIGMA) + BACKGROUND).astype(np.float32)
    return (truth + BACKGROUND).astype(np.float32), image


def _config(
    folder: Path,
    image: NDArray[Any],
    cluster: str,
    *,
    method: Any,
    preset: Any = "auto",
    steps: int | None = None,
    iterations: int | None = None,
    sieve: float | None = None,
) -> RunConfig:
    """Write image and PSF, and say what to do with them."""
    sizes = (0.2, 0.2, 0.2) if image.ndim == 3 else (1.0, 0.2, 0.2)
    volume = Volume.from_array(image, voxel_size_um=sizes[-image.ndim :])
    write_ome_zarr(volume, folder / "image.ome.zarr")
    side = np.arange(9) - 4
    squares = sum(a**2 for a in np.meshgrid(*[side] * image.ndim, indexing="ij"))
    tifffile.imwrite(folder / "psf.tif", np.exp(-squares / (2 * SIGMA**2)).astype(np.float32))
    return RunConfig(
        input=str(folder / "image.ome.zarr"),
        psf=(str(folder / "psf.tif"),),
        voxel_size=sizes,
        psf_voxel_size=sizes,
        output=str(folder / "result.ome.zarr"),
        method=method,
        preset=preset,
        steps=steps,
        iterations=iterations,
        sieve=sieve,
        background=BACKGROUND if method == "richardson-lucy" else "auto",
        cluster=cluster,
        dashboard_address="none",
    )


def _distance(image: NDArray[Any], truth: NDArray[Any]) -> float:
    """Root mean square of the difference."""
    return float(np.sqrt(np.mean((image - truth) ** 2)))
