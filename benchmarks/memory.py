"""Show that peak memory does not grow with the volume, and check the estimate of a network pass.

    python benchmarks/memory.py                     the recorded setting, about 15 minutes on two cores
    python benchmarks/memory.py --shape 64 128 128 --block 32     a quick look

A run's memory is the sum over the `bigdecon run` process and all it started (scheduler, nanny, worker) of
what each holds in RAM, sampled 20 times a second. Pages that several processes share (libraries) are
counted in each, as a batch system might; only the ratio of two runs is judged.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import machine
import psutil

RESULT = Path(__file__).parent / "results" / "memory.json"
CLI = "from bigdecon_cli.main import main; main()"
INTERVAL_SECONDS = 0.05
VOXEL_SIZE_UM = (0.4, 0.2, 0.2)
ALLOWED_RATIO = 1.2


@dataclass(frozen=True)
class Peak:
    """Most memory that a run held: of all its processes at one moment, and of the largest one."""

    method: str
    shape_zyx: tuple[int, ...]
    peak_MiB: float
    largest_process_MiB: float
    seconds: float
    blocks_and_regions: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(128, 512, 512), metavar=("Z", "Y", "X"))
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--methods", nargs="+", default=["richardson-lucy", "siamese"])
    parser.add_argument("--tiles", type=int, nargs="*", default=[32, 64, 96, 128])
    parser.add_argument("--work", type=Path, help="folder for the volumes; default a temporary one")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    passes = [measure_pass(tile) for tile in options.tiles]
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        for peaks in compare_runs(Path(folder), tuple(options.shape), options.block, options.methods):
            ratios = ratios_of(peaks)
            write(options.output, options.block, passes, peaks)
    print(f"{options.output}: ratios {ratios}, at most {ALLOWED_RATIO} wanted")
    sys.exit(any(ratio > ALLOWED_RATIO for ratio in ratios.values()))


def write(path: Path, block: int, passes: Sequence[dict[str, Any]], peaks: Sequence[Peak]) -> None:
    """Write what there is so far: a measurement that is cut off leaves what it has."""
    result = {
        **machine.describe(),
        "allowed_ratio": ALLOWED_RATIO,
        "ratios": ratios_of(peaks),
        "block": block,
        "runs": [asdict(peak) for peak in peaks],
        "network_passes": passes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")


# --- whole runs -------------------------------------------------------------------------------------


def compare_runs(
    folder: Path, small: Sequence[int], block: int, methods: Sequence[str]
) -> Iterator[list[Peak]]:
    """Run every method on a volume and on one four times larger; gives what is measured after each run."""
    psf, model = make_inputs(folder)
    peaks: list[Peak] = []
    for shape in (tuple(small), (2 * small[0], 2 * small[1], small[2])):
        volume = make_volume(folder / f"{shape[0]}.ome.zarr", shape, psf)
        for method in methods:
            extra = ["--iterations", "2"] if method == "richardson-lucy" else ["--model", str(model)]
            peaks.append(measure_run(volume, psf, shape, method, block, extra))
            print(peaks[-1], flush=True)
            yield peaks


def ratios_of(peaks: Sequence[Peak]) -> dict[str, float]:
    """Divide the larger volume's peak by the smaller one's, for every method measured on both."""
    own = {method: [p.peak_MiB for p in peaks if p.method == method] for method in {p.method for p in peaks}}
    return {method: round(pair[1] / pair[0], 3) for method, pair in own.items() if len(pair) == 2}


def make_inputs(folder: Path) -> tuple[Path, Path]:
    """Write a small PSF, and a model trained for a few steps: memory does not depend on its quality."""
    from bigdecon import Volume, make_psf, save_checkpoint, save_psf, train
    from bigdecon.config import NetworkConfig, TrainingConfig
    from bigdecon.volume import ArraySource

    psf = make_psf(
        "gaussian",
        numerical_aperture=0.8,
        wavelength_um=0.5,
        refractive_index=1.33,
        voxel_size_um=VOXEL_SIZE_UM,
        shape=(5, 5, 5),
    )
    save_psf(psf, folder / "psf.tif")
    # Two levels of four channels: the receptive field is small, and so is the halo to compute.
    config = TrainingConfig(
        network=NetworkConfig(channels=4, depth=2), patch_shape=(32,) * 3, batch=1, steps=5, evaluate_every=5
    )
    import numpy as np

    noise = np.random.default_rng(0).random((48, 64, 64), np.float32)
    volume = Volume(ArraySource(noise), "zyx", voxel_size_um=psf.voxel_size_um)
    return folder / "psf.tif", save_checkpoint(train(volume, psf, config), folder / "model.safetensors")


def make_volume(path: Path, shape: tuple[int, ...], psf: Path) -> Path:
    """Write a simulated volume in a process of its own, so that this one stays small."""
    subprocess.run(
        [sys.executable, __file__, "--simulate", str(path), *map(str, shape), str(psf)], check=True
    )
    return path


def simulate(path: Path, shape: tuple[int, ...], psf: Path) -> None:
    from bigdecon import Volume, load_psf, write_ome_zarr
    from bigdecon.optics.simulation import SimulatedSource, paper_noise
    from bigdecon.optics.specimens import points

    loaded = load_psf(psf, voxel_size_um=VOXEL_SIZE_UM)
    source = SimulatedSource(points, "noisy", shape, 0, loaded.array, paper_noise(3), 1000.0, 100.0)
    write_ome_zarr(Volume(source, "zyx", voxel_size_um=loaded.voxel_size_um), path, dtype="uint16")


def measure_run(
    volume: Path, psf: Path, shape: tuple[int, ...], method: str, block: int, extra: Sequence[str]
) -> Peak:
    """Run `bigdecon run` in a process of its own and watch it and its children."""
    output = volume.parent / f"{volume.stem}-{method}.ome.zarr"
    command = [
        *(sys.executable, "-c", CLI, "run", str(volume), "--psf", str(psf), "-o", str(output)),
        *("--method", method, "--block", str(block), "--halo", "16", "--workers", "1", "--threads", "1"),
        *("--device", "cpu", "--dashboard-address", "none", "--json", "--no-report", *extra),
    ]
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as printed:
        process = psutil.Popen(command, stdout=printed)
        total, single = watch(process)
        printed.seek(0)
        plan = json.loads(printed.readline())["plan"]
    if process.wait():
        raise SystemExit(f"{' '.join(command)} failed")
    blocks = dict(plan)["blocks"]
    return Peak(
        method, shape, round(total / 2**20), round(single / 2**20), round(time.monotonic() - started), blocks
    )


def watch(process: psutil.Popen) -> tuple[int, int]:
    """Follow a process and its descendants to the end; peak bytes of all together and of one."""
    total = single = 0
    while process.poll() is None:
        held = [_resident(one) for one in (process, *_descendants(process))]
        total, single = max(total, sum(held)), max(single, *held)
        time.sleep(INTERVAL_SECONDS)
    return total, single


def _descendants(process: psutil.Popen) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


# --- one pass of the network --------------------------------------------------------------------------


def measure_pass(tile: int, channels: int = 16, skip: str = "add") -> dict[str, Any]:
    """Measure a network pass over one cube in a fresh process, against the estimate."""
    command = [sys.executable, __file__, "--pass", str(tile), str(channels), skip]
    measured: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    print(measured)
    return measured


def network_pass(tile: int, channels: int, skip: Any) -> dict[str, Any]:
    import resource

    import torch

    from bigdecon.config import NetworkConfig
    from bigdecon.deconvolution.network import inference_bytes_per_voxel
    from bigdecon.learning.unet import UNet, memory_format

    torch.set_num_threads(1)
    config = NetworkConfig(3, channels, 3, skip, smooth=True, up="linear")
    layout = memory_format(3)
    network = UNet(config).eval().to(memory_format=layout)

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def restore(side: int) -> None:
        with torch.inference_mode():
            network(torch.zeros(1, 1, side, side, side).contiguous(memory_format=layout))

    restore(16)  # loads the kernels
    before = peak()
    restore(tile)
    return {
        "tile": tile,
        "channels": channels,
        "skip": skip,
        "measured_bytes_per_voxel": round((peak() - before) / tile**3),
        "estimated_bytes_per_voxel": inference_bytes_per_voxel(config),
    }


if __name__ == "__main__":
    # The two parts that need a process of their own come back here.
    if sys.argv[1:2] == ["--pass"]:
        print(json.dumps(network_pass(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))
    elif sys.argv[1:2] == ["--simulate"]:
        simulate(Path(sys.argv[2]), tuple(map(int, sys.argv[3:6])), Path(sys.argv[6]))
    else:
        main()
