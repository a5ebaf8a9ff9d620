"""What giving up early saves when settings are chosen, and what it costs, against the truth.

    python benchmarks/choosing.py            some minutes on one core
    python benchmarks/choosing.py --quick

Each simulated volume is tuned twice, by turns: *patient*, every setting to its end and memory given back
after every step, and as bigdecon does it. Compared are CPU time, iterations, what is chosen, its error
at hidden voxels, and its PSNR against the truth. `likely` is the part of the work at most that was done
(`bigdecon.forecasting.choosing_time.LIKELY`). `extents` is the time of an iteration for several PSFs.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch

from bigdecon import Volume
from bigdecon.config import RunConfig
from bigdecon.deconvolution import search_rules, tuning
from bigdecon.deconvolution.methods import classical_method
from bigdecon.deconvolution.richardson_lucy import RichardsonLucy
from bigdecon.deconvolution.search import work_at_most
from bigdecon.deconvolution.trials import ChoosingStep
from bigdecon.intensity import measure_intensity
from bigdecon.optics.blur import Blur
from bigdecon.optics.models import make_psf
from bigdecon.optics.specimens import SPECIMENS
from bigdecon.running.classical_settings import tuning_of

RESULT = Path(__file__).parent / "results" / "choosing.json"
OFFSET = 100.0
EXTENTS = ((21, 51, 51), (41, 101, 101), (79, 201, 201))
IMAGE = (40, 201, 101)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    side, lights = (48, (100.0,)) if options.quick else (96, (20.0, 1000.0))
    names = ("nuclei",) if options.quick else ("nuclei", "filaments")
    cases = [compare(name, light, side) for name in names for light in lights]
    result = {**machine.describe(), "threads": 1, "cases": cases, "extents": time_extents(options.quick)}
    options.output.write_text(json.dumps(result, indent=1) + "\n")


def compare(name: str, light: float, side: int) -> dict[str, Any]:
    """Tune one volume both ways."""
    psf = widefield((21, 31, 31))
    shape = (side // 2, side, side)
    box = tuple(slice(0, n + p - 1) for n, p in zip(shape, psf.shape, strict=True))
    sharp = SPECIMENS[name](box, 3)
    sharp *= light / sharp.max()
    blurred = Blur(psf).valid(torch.from_numpy(sharp)[None, None])[0, 0].numpy().clip(0)
    noisy = np.random.default_rng(0).poisson(blurred + OFFSET).astype(np.float32)
    inner = tuple(slice(p // 2, p // 2 + n) for n, p in zip(shape, psf.shape, strict=True))
    stacks = [Volume.from_array(noisy).stack()]
    question = tuning_of(
        RunConfig(input="", psf=(), method="richardson-lucy"), measure_intensity(stacks), "cpu"
    )
    found = {}
    for way in ("patient", "early"):
        steps: list[ChoosingStep] = []
        clearly, keeping = search_rules.CLEARLY, tuning.freed_memory_kept
        if way == "patient":
            search_rules.CLEARLY, tuning.freed_memory_kept = np.inf, nullcontext
        started = time.process_time()
        tuned = tuning.tune_channel(stacks, psf, question, steps.append)
        seconds = time.process_time() - started
        search_rules.CLEARLY, tuning.freed_memory_kept = clearly, keeping
        restored = classical_method("richardson-lucy", psf, tuned.settings)(noisy)
        found[way] = {
            "settings": asdict(tuned.settings),
            "hidden_error": min(trial.error for trial in tuned.trials),
            "psnr_db": round(psnr(restored - OFFSET, sharp[inner]), 3),
            "iterations": steps[-1].work,
            "cpu_seconds": round(seconds, 2),
        }
    likely = found["early"]["iterations"] / work_at_most(question)
    same = found["early"]["settings"] == found["patient"]["settings"]
    ratio = found["patient"]["cpu_seconds"] / found["early"]["cpu_seconds"]
    print(f"{name} {light:g}: {ratio:.2f} times faster, same choice: {same}, likely {likely:.2f}", flush=True)
    return {"specimen": name, "light": light, "same": same, "likely": round(likely, 2), **found}


def time_extents(quick: bool) -> list[dict[str, Any]]:
    """Time iterations on one image with PSFs of several extents, by turns."""
    image = np.random.default_rng(1).poisson(200, IMAGE).astype(np.float32)
    wide = widefield(EXTENTS[-1])
    seconds: dict[tuple[int, ...], list[float]] = {extent: [] for extent in EXTENTS}
    for _ in range(1 if quick else 3):
        for extent in EXTENTS:
            cut = tuple(slice((n - e) // 2, (n + e) // 2) for n, e in zip(wide.shape, extent, strict=True))
            psf = wide[cut] / wide[cut].sum()
            steps = RichardsonLucy(psf, background=100.0, accelerate=True).iterates(image, (1, 4))
            next(steps)
            started = time.process_time()
            next(steps)
            seconds[extent].append((time.process_time() - started) / 3)
    return [{"image": IMAGE, "psf": e, "seconds_an_iteration": round(min(s), 3)} for e, s in seconds.items()]


def widefield(shape: tuple[int, ...]) -> np.ndarray:
    return make_psf(
        "richards-wolf",
        numerical_aperture=1.2,
        wavelength_um=0.52,
        refractive_index=1.33,
        voxel_size_um=(0.3, 0.13, 0.13),
        shape=shape,
    ).array


def psnr(found: np.ndarray, truth: np.ndarray) -> float:
    """Against the best affine fit to the truth."""
    x, y = found.ravel() - found.mean(), truth.ravel() - truth.mean()
    error = ((x * (x @ y) / (x @ x) - y) ** 2).mean()
    return float(10 * np.log10(np.ptp(truth) ** 2 / error))


if __name__ == "__main__":
    main()
