"""The demo: simulate a blurred, noisy volume, restore it, and score the result against the truth.

Run by `make demo`. It trains for several minutes on two quiet CPU cores, and writes the folder demo/.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from bigdecon_cli.display import choose_display

from bigdecon import RichardsonLucy, RunConfig, evaluate, load_psf, open_volume, run, tuned_method
from bigdecon.evaluation.pictures import comparison_picture

ITERATIONS = (1, 2, 3, 5, 10, 20)


def main() -> None:
    """Simulate, restore, score, draw."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--folder", type=Path, default=Path("demo"))
    options.add_argument("--shape", type=int, nargs=3, default=(64, 128, 128))
    options.add_argument("--steps", type=int, default=None)
    chosen = options.parse_args()
    folder = chosen.folder
    started = time.monotonic()

    simulate(folder, chosen.shape)
    config = RunConfig(
        input=str(folder / "noisy.ome.zarr"),
        psf=(str(folder / "psf.tif"),),
        output=str(folder / "restored.ome.zarr"),
        steps=chosen.steps,
        preset="fast",
        overwrite=True,
    )
    print(f"$ bigdecon run {config.input} --psf {config.psf[0]} -o {config.output}")
    with choose_display() as display:
        result = run(config, on_event=display)

    noisy, truth, restored = (
        np.asarray(open_volume(path), np.float32)
        for path in (config.input, str(folder / "truth.ome.zarr"), str(result.output))
    )
    name, classical = best_richardson_lucy(
        noisy, truth, load_psf(config.psf[0], voxel_size_um=(0.406,) * 3).array
    )
    images = {"input": noisy, name: classical}
    images["Richardson-Lucy, tuned"] = tuned_richardson_lucy(config.input, config.psf[0])
    images |= {"bigdecon siamese": restored, "truth": truth}
    print_table(images, truth)
    picture = folder / "before_after.png"
    comparison_picture(list(images.items()), picture, voxel_size_um=(0.406,) * 3)
    print(f"\nResult:  {result.output}\nPicture: {picture}\nTime:    {time.monotonic() - started:.0f} s")


def simulate(folder: Path, shape: tuple[int, int, int]) -> None:
    """Call `bigdecon simulate`, unless an earlier demo did."""
    if (folder / "psf.tif").exists():
        return
    command = [sys.executable, "-m", "bigdecon_cli", "simulate", "filaments", "-o", str(folder)]
    subprocess.run([*command, "--shape", *map(str, shape)], check=True)


def best_richardson_lucy(noisy: np.ndarray, truth: np.ndarray, psf: np.ndarray) -> tuple[str, np.ndarray]:
    """Give plain Richardson-Lucy the best chance: the iteration count that scores highest."""
    results = {n: RichardsonLucy(psf, iterations=n)(noisy) for n in ITERATIONS}
    best = max(results, key=lambda n: evaluate(results[n], truth, data_range=1.0).affine.psnr)
    return f"Richardson-Lucy, {best} iterations", results[best]


def tuned_richardson_lucy(image: str, psf: str) -> np.ndarray:
    """Let it choose background, sieve and iterations by itself, without the truth."""
    volume = open_volume(image)
    method = tuned_method("richardson-lucy", volume, load_psf(psf, voxel_size_um=volume.voxel_size_um))
    return method(np.asarray(volume))


def print_table(images: dict[str, np.ndarray], truth: np.ndarray) -> None:
    """Print scores after the best scale and offset (affine), as the paper's 3D scores are."""
    first = evaluate(images["input"], truth, data_range=1.0).affine.psnr
    print(f"\n{'':32}{'PSNR (affine)':>15}{'gain':>8}{'SSIM (affine)':>15}")
    for name, image in images.items():
        if image is not truth:
            scores = evaluate(image, truth, data_range=1.0).affine
            print(f"{name:32}{scores.psnr:12.2f} dB{scores.psnr - first:+8.2f}{scores.ssim:15.3f}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("Stopped. The same command begins the demo anew.") from None
