"""Measure how busy a worker's device is from Zarr to Zarr, while others of its threads read and write.

    python benchmarks/overlap.py            blocks of 128^3 with a halo of 32
    python benchmarks/overlap.py --quick    blocks of 32^3

The device is a stand-in: it holds the lock of `deconvolution/compute.py` for a known time and sleeps, as a
thread does that waits for a GPU, and leaves the processors to those that read, decode, encode and write. The
rest is real: regions, one worker process with as many threads as beside a GPU, stores on disk, the ledger.

A first run, with a device that takes no time, tells what reading and writing take a block. Then the device
takes 0.5, 1, 2 and 4 times that. No arrangement of the work could keep it busier than the first number says
(50 %, and 100 % from 1 on). All runs must write the same bytes, and the worker stay within the plan's memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from shutil import rmtree
from typing import Any

import machine
import numpy as np
import torch
import zarr
from conv_peak import convolution_flops
from engine_overhead import walk

from bigdecon import training_preset
from bigdecon.config import RunConfig, TilingConfig
from bigdecon.deconvolution.compute import computing
from bigdecon.distributed.cluster import Connection, connect
from bigdecon.distributed.workers import GPU_THREADS
from bigdecon.forecasting.estimating import estimate_memory
from bigdecon.io.writing import write_ome_zarr
from bigdecon.learning.unet import UNet
from bigdecon.optics.psf import psf_from_array, save_psf
from bigdecon.running.planning import RunPlan, prepare
from bigdecon.running.workforce import WorkersPlanned
from bigdecon.volume import Volume

RESULT = Path(__file__).parent / "results" / "overlap.json"
TIMES = (0.5, 1.0, 2.0, 4.0)
ROUNDS = 1
H200_FLOPS = 250e12
"""What convolutions of a network may reach on an H200 in bfloat16: assumed, not measured."""


class Device:
    """A method that occupies a device for some seconds a block, and notes when.

    Parameters
    ----------
    seconds : it takes
    halo : in voxels
    log : file that gets a line for each block: when it began and ended, in seconds since 1970
    """

    name, alignment = "device", 4

    def __init__(self, seconds: float, halo: int, log: Path) -> None:
        self.seconds, self.halo, self.log = seconds, (halo,) * 3, str(log)

    def __call__(self, block: np.ndarray, /) -> np.ndarray:
        """Wait as for a GPU, and give the block back."""
        with computing(None, "cuda"):
            began = time.time()
            if self.seconds:
                time.sleep(self.seconds)
            ended = time.time()
        with open(self.log, "a") as file:
            file.write(f"{began} {ended}\n")
        return np.asarray(block, np.float32)


@dataclass(frozen=True)
class Busy:
    """Medians over the rounds.

    Attributes
    ----------
    times_io : of the device for a block, in units of what reading and writing take
    device_seconds : that follow from it
    wall_seconds : from the first read to the last entry in the ledger
    busy : part of that time in which the device worked
    busy_between : the same from the first block's begin to the last one's end
    most_possible : of `busy`, were reading and writing never waited for
    """

    times_io: float
    device_seconds: float
    wall_seconds: float
    busy: float
    busy_between: float
    most_possible: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small blocks, one round")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), quick=options.quick, rounds=1 if options.quick else options.rounds)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({**machine.describe(), **result}, indent=1) + "\n")
    if not result["identical_bytes"]:
        raise SystemExit("the results differ with the time of the device")


def measure(folder: Path, *, quick: bool, rounds: int) -> dict[str, Any]:
    load = os.getloadavg()[0]
    block, halo, shape = (32, 8, (64, 64, 128)) if quick else (128, 32, (512, 512, 1024))
    plan = make_plan(folder, shape, block, halo)
    planned = WorkersPlanned(1, GPU_THREADS, 0)
    with connect(
        "local", workers=1, threads=GPU_THREADS, device="cpu", dashboard_address="none"
    ) as connection:
        bench = _Bench(plan, halo, connection, folder)
        bench.run(0.0)  # starts threads, and the disk's cache
        measured: list[list[tuple[float, float, float, float]]] = []
        for _ in range(rounds):
            io = bench.run(0.0)[0] / len(plan.grid)
            measured.append([(io * k, *bench.run(io * k)) for k in TIMES])
        peak = max(connection.client.run(_peak_bytes).values())
    found = [_summary(k, [one[i] for one in measured]) for i, k in enumerate(TIMES)]
    for one in found:
        print(one, flush=True)
    return {
        "quick": quick,
        "load_at_start": round(load, 1),
        "threads": GPU_THREADS,
        "blocks": len(plan.grid),
        "block": [block] * 3,
        "halo": halo,
        "io_seconds_per_block": round(found[1].device_seconds, 4),
        "cases": [asdict(one) for one in found],
        "h200_tflops_assumed": round(H200_FLOPS / 1e12),
        "h200_seconds_per_block": round(_h200_seconds(block + 2 * halo), 5),
        "identical_bytes": bench.identical,
        "worker_peak_MiB": round(peak / 2**20),
        "planned_peak_MiB": round(estimate_memory(plan, planned).peak / 2**20),
    }


def _summary(k: float, rounds: list[tuple[float, float, float, float]]) -> Busy:
    device, wall, busy, between = (statistics.median(values) for values in zip(*rounds, strict=True))
    return Busy(k, round(device, 4), round(wall, 3), round(busy, 3), round(between, 3), round(min(1.0, k), 3))


class _Bench:
    """Runs one plan again and again; the bytes must stay the same."""

    def __init__(self, plan: RunPlan, halo: int, connection: Connection, folder: Path) -> None:
        self._plan, self._halo, self._connection, self._folder = plan, halo, connection, folder
        self._first: bytes | None = None
        self._runs = 0
        self.identical = True

    def run(self, seconds: float) -> tuple[float, float, float]:
        """Give the seconds of a run, and the parts of it and of its middle in which the device worked."""
        self._runs += 1
        plan = replace(self._plan, output=self._folder / f"out{self._runs}.ome.zarr")
        log = self._folder / f"device{self._runs}.log"
        wall = time.perf_counter()
        walk(plan, Device(seconds, self._halo, log), self._connection)
        wall = time.perf_counter() - wall
        spans = np.array([[float(t) for t in line.split()] for line in log.read_text().splitlines()])
        worked = float((spans[:, 1] - spans[:, 0]).sum())
        content = _digest(plan.output)
        self._first = self._first or content
        self.identical &= content == self._first and len(spans) == len(plan.grid)
        rmtree(plan.output)
        return wall, worked / wall, worked / float(spans[:, 1].max() - spans[:, 0].min())


def _digest(output: Path) -> bytes:
    array = zarr.open_array(output / "0", mode="r")
    state = blake2b()
    for z in range(0, array.shape[0], 64):
        state.update(np.ascontiguousarray(array[z : z + 64]).data)
    return state.digest()


def make_plan(folder: Path, shape: tuple[int, ...], block: int, halo: int) -> RunPlan:
    """Prepare a run on photon noise over a bright gradient, which packs about as a camera's image does."""
    rng = np.random.default_rng(0)
    rate = np.linspace(100, 400, shape[-1], dtype=np.float32)
    data = np.stack([rng.poisson(rate, shape[1:]).astype(np.uint16) for _ in range(shape[0])])
    path = folder / "a.ome.zarr"
    write_ome_zarr(Volume.from_array(data, "zyx", voxel_size_um=(1, 1, 1)), path, dtype="uint16")
    delta = np.zeros((3, 3, 3), np.float32)
    delta[1, 1, 1] = 1
    save_psf(psf_from_array(delta, voxel_size_um=(1,) * 3, psf_voxel_size_um=(1,) * 3), folder / "psf.tif")
    config = RunConfig(
        str(path),
        (str(folder / "psf.tif"),),
        output=str(folder / "out.ome.zarr"),
        method="richardson-lucy",
        iterations=1,
        sieve=0.0,
        background=0.0,
        tiling=TilingConfig(block=block, halo=halo),
    )
    return prepare(config, "cpu")


def _h200_seconds(side: int) -> float:
    """Give what a block takes through the default network, at the speed assumed of an H200."""
    network = UNet(training_preset("auto", ndim=3, accelerator=True).network)
    flops = sum(convolution_flops(network, torch.zeros(1, 1, 64, 64, 64), backward=False).values())
    return flops * (side / 64) ** 3 / H200_FLOPS


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
