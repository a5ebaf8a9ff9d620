"""Time Richardson-Lucy on a CPU against deconwolf and RedLionfish, ten iterations, by turns.

    python benchmarks/richardson_lucy_peers.py             two threads; five minutes
    python benchmarks/richardson_lucy_peers.py --quick     the smaller image with the smaller PSF

deconwolf (the command `dw`, GPL, a program of its own) and RedLionfish (a Python package) are peers, not
parts of bigdecon: where one is absent it is left out. All read the same image and PSF.

deconwolf   method rl, flat start, exact edges as here (Bertero and Boccacci). It plans its transforms in a
            run before, which is not timed. Timed is the whole command, of which reading and writing take
            about a twentieth
RedLionfish takes the image to be periodic. `edges`: the image grown by the PSF's radius on all sides, as its
            users do against that, which gives both the same voxels to work on. `periodic`: as it is,
            fewer voxels

bigdecon is timed from array to array. Its result must agree with deconwolf to 1 % of the range, away from
the faces, before a ratio is kept.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import numpy as np
import tifffile
import torch
from conv_peak import Interleaved
from scipy.ndimage import gaussian_filter

from bigdecon.deconvolution.richardson_lucy import RichardsonLucy

RESULT = Path(__file__).parent / "results" / "richardson_lucy_peers.json"
SHAPES = ((64, 256, 256), (128, 512, 512))
PSFS = (17, 65)
ITERATIONS = 10
BACKGROUND = 20.0
TOLERANCE = 0.01

Array = np.ndarray[Any, np.dtype[np.float32]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shape", type=int, nargs=3, help="another image")
    parser.add_argument("--psf", type=int, help="another PSF's side")
    parser.add_argument("--add", action="store_true", help="to the cases that the result holds already")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shapes = [tuple(options.shape)] if options.shape else SHAPES[: 1 if options.quick else None]
    psfs = [options.psf] if options.psf else PSFS[: 1 if options.quick else None]
    cases = read_cases(options.output) if options.add else []
    for shape, side in itertools.product(shapes, psfs):
        cases.append(measure(shape, side, options.rounds, options.threads))
        print(json.dumps(cases[-1]), flush=True)
        write(options, cases)


def read_cases(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text())["cases"]) if path.exists() else []


def write(options: argparse.Namespace, cases: list[dict[str, Any]]) -> None:
    """Keep what there is after every case: the largest take minutes."""
    result = {
        **machine.describe(),
        "threads": options.threads,
        "iterations": ITERATIONS,
        "peers": {"deconwolf": deconwolf_version(), "RedLionfish": redlionfish_version()},
        "cases": sorted(cases, key=lambda case: (case["image"], case["psf"])),
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")


def measure(shape: tuple[int, ...], side: int, rounds: int, threads: int) -> dict[str, Any]:
    """Time one image with one PSF; the peers' times are given as multiples of ours."""
    load = os.getloadavg()[0]
    image, psf = photograph(shape, side)
    method = RichardsonLucy(psf, iterations=ITERATIONS, threads=threads)
    found: dict[str, Array] = {}

    def ours() -> None:
        found["bigdecon"] = method(image)

    works: dict[str, Callable[[], object]] = {"bigdecon": ours}
    with tempfile.TemporaryDirectory() as folder:
        wolf = Deconwolf(Path(folder), image, psf, threads) if shutil.which("dw") else None
        if wolf:
            works["deconwolf"] = wolf.run
        if redlionfish_version():
            works |= redlionfish(image, psf)
        timings = Interleaved("wall")
        for work in works.values():
            work()
        timings.run(works, rounds)
        agreement = compare(found["bigdecon"], wolf.result(), side) if wolf else None
        if agreement is not None and agreement > TOLERANCE:
            raise SystemExit(f"the results differ by {agreement:.3f} of the range; no ratio is kept")
        seconds = {name: timings.best(name) for name in works}
    return {
        "image": list(shape),
        "load_at_start": round(load, 1),
        "psf": [side] * 3,
        "difference_from_deconwolf": None if agreement is None else round(agreement, 5),
        "seconds": {name: round(s, 3) for name, s in seconds.items()},
        "times_as_fast": {
            name: round(s / seconds["bigdecon"], 2) for name, s in seconds.items() if name != "bigdecon"
        },
        "Mvoxel_per_second_and_iteration": round(np.prod(shape) * ITERATIONS / seconds["bigdecon"] / 1e6, 1),
    }


def photograph(shape: tuple[int, ...], side: int) -> tuple[Array, Array]:
    """Give points seen through a PSF that is nowhere zero, with background and photon noise."""
    rng = np.random.default_rng(0)
    grid = np.mgrid[tuple(slice(-(side // 2), side // 2 + 1) for _ in range(3))]
    psf = np.exp(-np.sqrt((grid**2).sum(0)) / 1.5).astype(np.float32)
    points = (rng.random(shape) > 0.999) * 5000.0
    image = rng.poisson(gaussian_filter(points, 1.5) + BACKGROUND)
    return image.astype(np.float32), psf / psf.sum()


class Deconwolf:
    """The command `dw` on files in a folder of its own; its plans of transforms stay there too."""

    def __init__(self, folder: Path, image: Array, psf: Array, threads: int) -> None:
        self._folder = folder
        tifffile.imwrite(folder / "image.tif", image)
        tifffile.imwrite(folder / "psf.tif", psf)
        self._command = ["dw", "--method", "rl", "--start_flat", "--bg", "0.01", "--offset", "0"]
        self._command += [
            "--iter",
            str(ITERATIONS),
            "--threads",
            str(threads),
            "--bq",
            "2",
            "--xyfactor",
            "0",
        ]
        self._command += [
            "--float",
            "--overwrite",
            "--verbose",
            "1",
            "--out",
            "out.tif",
            "image.tif",
            "psf.tif",
        ]
        self._environment = {**os.environ, "HOME": str(folder), "OMP_NUM_THREADS": str(threads)}

    def run(self) -> None:
        """Run the command on its files."""
        subprocess.run(
            self._command, cwd=self._folder, env=self._environment, check=True, capture_output=True
        )

    def result(self) -> Array:
        """Give what the last run wrote."""
        return tifffile.imread(self._folder / "out.tif")


def redlionfish(image: Array, psf: Array) -> dict[str, Callable[[], object]]:
    from RedLionfishDeconv.RLDeconv3DScipy import doRLDeconvolution_DL2_4

    grown = np.pad(image, [(n // 2, n // 2) for n in psf.shape], mode="edge")
    return {
        "RedLionfish, edges": lambda: doRLDeconvolution_DL2_4(grown, psf, niter=ITERATIONS),
        "RedLionfish, periodic": lambda: doRLDeconvolution_DL2_4(image, psf, niter=ITERATIONS),
    }


def compare(ours: Array, theirs: Array, side: int) -> float:
    """Give the largest difference away from the faces, as part of the range."""
    inner = tuple(slice(min(side, n // 4), n - min(side, n // 4)) for n in ours.shape)
    return float(np.abs(ours[inner] - theirs[inner]).max() / np.ptp(theirs[inner]))


def deconwolf_version() -> str | None:
    if shutil.which("dw") is None:
        return None
    told = subprocess.run(["dw", "--version"], capture_output=True, text=True, check=False).stdout
    return next((line.split()[-1].strip("'") for line in told.splitlines() if "deconwolf" in line), "unknown")


def redlionfish_version() -> str | None:
    if importlib.util.find_spec("RedLionfishDeconv") is None:
        return None
    return machine.version("RedLionfish")


if __name__ == "__main__":
    main()
