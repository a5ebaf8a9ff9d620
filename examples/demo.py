"""The demo: simulate a blurred, noisy volume, restore it, and score the results against the truth.

Run by `make demo`. The quick methods come first, then the network, which trains for several minutes on
two quiet CPU cores. It writes the folder demo/.
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
    sys.stdout.reconfigure(line_buffering=True)  # what is done shows at once, in a pipe as well

    simulate(folder, chosen.shape)
    config = RunConfig(
        input=str(folder / "noisy.ome.zarr"),
        psf=(str(folder / "psf.tif"),),
        output=str(folder / "restored.ome.zarr"),
        steps=chosen.steps,
        preset="fast",
        overwrite=True,
    )
    noisy, truth = read(config.input), read(str(folder / "truth.ome.zarr"))
    images = {"input": noisy}
    print(f"The simulated image against its truth: {score(noisy, truth)}")
    print("\nRichardson-Lucy, as it is found everywhere, with the number of iterations that scores best:")
    psf = load_psf(config.psf[0], voxel_size_um=(0.406,) * 3).array
    name, plain = best_richardson_lucy(noisy, truth, psf)
    images[name] = plain
    print(f"  {name}: {score(plain, truth)}")
    print("\nbigdecon's Richardson-Lucy, which chooses its settings from the image, without the truth:")
    tuned = images["Richardson-Lucy, tuned"] = tuned_richardson_lucy(config.input, config.psf[0])
    print(f"  {score(tuned, truth)}")

    print(
        "\nNow a network learns from the same image, and then restores it. Without a GPU that takes some ten "
        "times\nas long as all of the above; the scores of all follow."
    )
    print(f"$ bigdecon run {config.input} --psf {config.psf[0]} -o {config.output}")
    with choose_display() as display:
        result = run(config, on_event=display)
    images |= {"bigdecon siamese": read(str(result.output)), "truth": truth}

    print_table(images, truth)
    picture = folder / "before_after.png"
    comparison_picture(list(images.items()), picture, voxel_size_um=(0.406,) * 3)
    print(f"\nResult:  {result.output}\nPicture: {picture}\nTime:    {time.monotonic() - started:.0f} s")


def read(path: str) -> np.ndarray:
    """Read an image whole."""
    return np.asarray(open_volume(path), np.float32)


def score(image: np.ndarray, truth: np.ndarray) -> str:
    """Give the scores of an image after the best scale and offset (affine), as the paper's 3D scores are."""
    scores = evaluate(image, truth, data_range=1.0).affine
    return f"PSNR {scores.psnr:.2f} dB, SSIM {scores.ssim:.3f}"


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
