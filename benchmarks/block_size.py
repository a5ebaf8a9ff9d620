"""Measure `--block auto` beside blocks of 128 voxels, from Zarr to Zarr: time, memory, and the same result.

    python benchmarks/block_size.py            256 x 384 x 384 voxels, a quarter of an hour on two cores
    python benchmarks/block_size.py --quick    32 x 192 x 192 voxels, through a small network alone

Whole runs of `bigdecon run` with one worker on the CPU, by turns. The network is the one of the preset `fast`
after a few training steps, given as --model: its speed does not depend on how good it is. Seconds are those
of the stage that deconvolves and writes; the processor's time is that of all processes of the run in that
stage, and is what counts on a machine that others use. The worker's peak is compared with what the plan says.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import machine
import numpy as np
import psutil
import zarr

from bigdecon import Volume, make_psf, save_checkpoint, save_psf, train, write_ome_zarr
from bigdecon.config import NetworkConfig, TrainingConfig, training_preset
from bigdecon.optics.simulation import SimulatedSource, paper_noise
from bigdecon.optics.specimens import points

RESULT = Path(__file__).parent / "results" / "block_size.json"
CLI = "from bigdecon_cli.main import main; main()"
INTERVAL_SECONDS = 0.05
VOXEL_SIZE_UM = (0.3, 0.2, 0.2)
PROMISED = {"richardson-lucy": 1e-3, "siamese": 1e-4}
"""Largest difference between two ways of cutting, in ranges of the result."""


@dataclass(frozen=True)
class Measured:
    """One run.

    Attributes
    ----------
    block : extent of a block's core, in voxels
    blocks : how many
    tile : extent of a network pass, in voxels; None for whole blocks
    computed : voxels computed for one written, halos included
    seconds, processor_seconds : of deconvolving and writing, medians over the rounds
    worker_peak_MiB : most that one process of the run held
    planned_peak_MiB : what the plan says of it
    """

    block: int
    blocks: int
    tile: int | None
    computed: float
    seconds: float
    processor_seconds: float
    worker_peak_MiB: int
    planned_peak_MiB: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small volume and network")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--work", type=Path, help="folder for the volumes; default a temporary one")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        result = measure(Path(folder), quick=options.quick, rounds=options.rounds)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({**machine.describe(), **result}, indent=1) + "\n")
    for case in result["cases"]:
        if case["largest_difference"] > PROMISED[case["method"]]:
            raise SystemExit(f"{case['method']}: blocks of another size give another result")


def measure(folder: Path, *, quick: bool, rounds: int) -> dict[str, Any]:
    load = os.getloadavg()[0]
    shape = (32, 192, 192) if quick else (256, 384, 384)
    volume, psf, model = make_inputs(folder, shape, quick=quick)
    iterations = ["--iterations", "10", "--sieve", "0", "--no-accelerate"]
    lucy = {} if quick else {"richardson-lucy": [*iterations, "--background", "100"]}
    cases = []
    for method, options in {**lucy, "siamese": ["--model", str(model)]}.items():
        common = [str(volume), "--psf", str(psf), "--method", method, *options]
        cases.append({"method": method, **compare(folder, common, rounds)})
        print(json.dumps(cases[-1]), flush=True)
    return {
        "quick": quick,
        "load_at_start": round(load, 1),
        "threads": os.cpu_count(),
        "shape": list(shape),
        "iterations": int(iterations[1]),
        "cases": cases,
    }


def make_inputs(folder: Path, shape: tuple[int, ...], *, quick: bool) -> tuple[Path, Path, Path]:
    """Write a simulated volume, its PSF, and a model trained for a few steps."""
    psf = make_psf(
        "gaussian",
        numerical_aperture=0.8,
        wavelength_um=0.5,
        refractive_index=1.33,
        voxel_size_um=VOXEL_SIZE_UM,
        shape=(11, 9, 9),
    )
    save_psf(psf, folder / "psf.tif")
    source = SimulatedSource(points, "noisy", shape, 0, psf.array, paper_noise(3), 1000.0, 100.0)
    volume = Volume(source, "zyx", voxel_size_um=psf.voxel_size_um)
    write_ome_zarr(volume, folder / "a.ome.zarr", dtype="uint16")
    network = training_preset("fast", ndim=3, accelerator=False).network
    if quick:
        network = NetworkConfig(channels=4, depth=2)
    training = TrainingConfig(network=network, patch_shape=(32,) * 3, batch=1, steps=5, evaluate_every=5)
    crop = volume.crop(tuple(slice(0, min(n, 96)) for n in shape))
    return (
        folder / "a.ome.zarr",
        folder / "psf.tif",
        save_checkpoint(train(crop, psf, training), folder / "model.safetensors"),
    )


def compare(folder: Path, common: list[str], rounds: int) -> dict[str, Any]:
    """Run with both blocks by turns, and compare times and results."""
    outputs = {block: folder / f"{block}.ome.zarr" for block in ("128", "auto")}
    measured: dict[str, list[Measured]] = {block: [] for block in outputs}
    for _ in range(rounds):
        for block, output in outputs.items():
            if output.exists():
                rmtree(output)
            measured[block].append(measure_run([*common, "--block", block, "-o", str(output)]))
    difference = largest_difference(*outputs.values())
    for output in outputs.values():
        rmtree(output)
    default, auto = (middle(runs) for runs in measured.values())
    return {
        "default": asdict(default),
        "auto": asdict(auto),
        "times_as_fast": round(default.seconds / auto.seconds, 2),
        "times_as_fast_by_processor": round(default.processor_seconds / auto.processor_seconds, 2),
        "times_computed": round(default.computed / auto.computed, 2),
        "largest_difference": difference,
    }


def middle(runs: list[Measured]) -> Measured:
    """Give the run of the median processor time, with the highest peak of all."""
    ordered = sorted(runs, key=lambda run: run.processor_seconds)
    found = asdict(ordered[len(runs) // 2])
    return Measured(**{**found, "worker_peak_MiB": max(run.worker_peak_MiB for run in runs)})


def measure_run(arguments: list[str]) -> Measured:
    """Plan, then run in processes of their own, and watch them."""
    common = [*arguments, "--device", "cpu", "--workers", "1", "--no-report"]
    command = [sys.executable, "-c", CLI]
    planned = subprocess.run(
        [*command, "plan", *common, "--no-calibrate", "--json"], check=True, capture_output=True, text=True
    )
    plan = json.loads(planned.stdout.splitlines()[-1])
    seconds, processor, peak = watch([*command, "run", *common, "--dashboard-address", "none", "--json"])
    return Measured(
        block=plan["plan"]["block"],
        blocks=plan["estimate"]["blocks"],
        tile=plan["plan"]["tile"],
        computed=round(plan["estimate"]["halo_overhead"], 2),
        seconds=round(seconds, 1),
        processor_seconds=round(processor, 1),
        worker_peak_MiB=round(peak / 2**20),
        planned_peak_MiB=round(plan["estimate"]["memory"]["peak_bytes"] / 2**20),
    )


def watch(command: list[str]) -> tuple[float, float, int]:
    """Follow a run: seconds and processor time of deconvolving, and the peak bytes of its largest process."""
    with tempfile.TemporaryFile("w+") as printed:
        process = psutil.Popen(command, stdout=printed)
        marks: list[tuple[float, float]] = []
        spent: dict[int, float] = {}
        peak = 0
        while process.poll() is None:
            for one in processes(process):
                held, used = looked_at(one)
                peak, spent[one.pid] = max(peak, held), max(used, spent.get(one.pid, 0.0))
            marks.append((time.time(), sum(spent.values())))
            time.sleep(INTERVAL_SECONDS)
        if process.wait():
            raise SystemExit(f"{' '.join(command)} failed")
        printed.seek(0)
        events = [json.loads(line) for line in printed]
    seconds = next(
        e["seconds"] for e in events if (e["event"], e.get("name")) == ("StageFinished", "deconvolve")
    )
    # What comes before and after takes little of a processor: starting and ending.
    return seconds, spent_within(marks, seconds), peak


def spent_within(marks: list[tuple[float, float]], seconds: float) -> float:
    """Give the most processor time that was spent in so many seconds on end."""
    best, first = 0.0, 0
    for when, used in marks:
        while when - marks[first][0] > seconds:
            first += 1
        best = max(best, used - marks[first][1])
    return best


def processes(process: psutil.Popen) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def looked_at(process: psutil.Process) -> tuple[int, float]:
    """Give the bytes in RAM and the processor time of a process; nothing once it has ended."""
    try:
        times = process.cpu_times()
        return int(process.memory_info().rss), times.user + times.system
    except psutil.Error:
        return 0, 0.0


def largest_difference(one: Path, other: Path) -> float:
    """Compare two results plane by plane, in ranges of the first."""
    a, b = (zarr.open_array(path / "0", mode="r") for path in (one, other))
    low, high, most = np.inf, -np.inf, 0.0
    for z in range(0, a.shape[0], 32):
        x, y = np.asarray(a[z : z + 32]), np.asarray(b[z : z + 32])
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise SystemExit("a result holds NaN or infinity")
        low, high = min(low, x.min()), max(high, x.max())
        most = max(most, float(np.abs(x - y).max()))
    if not high > low:
        raise SystemExit("a result is constant")
    return float(f"{most / (high - low):.1e}")


if __name__ == "__main__":
    main()
