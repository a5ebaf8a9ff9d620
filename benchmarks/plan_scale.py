"""Plan a volume of 10^12 voxels that holds no data yet: seconds and megabytes.

    python benchmarks/plan_scale.py                  10 000³ voxels, every method of the list
    python benchmarks/plan_scale.py --quick          3000³ voxels, half of the list

The store is metadata alone: every chunk is missing. `bigdecon plan` runs in a process of its own, as a user
would call it.
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
from typing import Any

import machine
import numpy as np

RESULT = Path(__file__).parent / "results" / "plan_scale.json"
CLI = "from bigdecon_cli.main import main; main()"
METHODS: dict[str, tuple[str, ...]] = {
    "richardson-lucy": ("--method", "richardson-lucy"),
    "richardson-lucy, not calibrated": ("--method", "richardson-lucy", "--no-calibrate"),
    "siamese": (),
    "siamese, not calibrated": ("--no-calibrate",),
}
QUICK = ("richardson-lucy", "siamese, not calibrated")
ALLOWED_SECONDS, ALLOWED_MIB = 60, 1000


@dataclass(frozen=True)
class Planned:
    """One call of `bigdecon plan`: what it took, and some of what it said."""

    what: str
    seconds: float
    cpu_seconds: float
    peak_MiB: float
    blocks: int
    regions: int
    files: int
    output_TB: float
    assumptions: list[str]
    obstacles: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=10_000, help="of the cube, in voxels")
    parser.add_argument("--quick", action="store_true", help="a side of 3000 voxels, and two methods")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    side = 3000 if options.quick else options.side
    with tempfile.TemporaryDirectory() as folder:
        volume, psf = make_inputs(Path(folder), side)
        planned = []
        for what in QUICK if options.quick else METHODS:
            planned.append(plan(what, volume, psf, METHODS[what]))
            print(planned[-1], flush=True)
    result = {**machine.describe(), "voxels": side**3, "plans": [asdict(one) for one in planned]}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(any(one.cpu_seconds > ALLOWED_SECONDS or one.peak_MiB > ALLOWED_MIB for one in planned))


def make_inputs(folder: Path, side: int) -> tuple[Path, Path]:
    """Write the metadata of a cube of 16-bit voxels, and a PSF."""
    from bigdecon import Volume, make_psf, save_psf
    from bigdecon.io.layout import plan_output
    from bigdecon.io.writing import create_ome_zarr
    from bigdecon.volume import ArraySource

    size = (0.3, 0.2, 0.2)
    nothing = np.broadcast_to(np.uint16(0), (side,) * 3)
    volume = Volume(ArraySource(nothing), "zyx", voxel_size_um=size)
    layout = plan_output(volume, dtype="uint16", shard=512)
    create_ome_zarr(folder / "empty.ome.zarr", volume, layout, name="empty")
    psf = make_psf(
        "gaussian",
        numerical_aperture=0.8,
        wavelength_um=0.5,
        refractive_index=1.33,
        voxel_size_um=size,
        shape=(17, 13, 13),
    )
    save_psf(psf, folder / "psf.tif")
    return folder / "empty.ome.zarr", folder / "psf.tif"


def plan(what: str, volume: Path, psf: Path, flags: tuple[str, ...]) -> Planned:
    """Call the command, and see what the system counted."""
    command = [
        sys.executable,
        "-c",
        CLI,
        "plan",
        str(volume),
        "--psf",
        str(psf),
        "--device",
        "cpu",
        "--json",
        *flags,
    ]
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    told: dict[str, Any] = json.loads(printed)
    estimate = told["estimate"]
    return Planned(
        what,
        round(seconds, 1),
        round(usage.ru_utime + usage.ru_stime, 1),
        round(usage.ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)),
        estimate["blocks"],
        estimate["regions"],
        estimate["traffic"]["files"],
        round(estimate["traffic"]["written_bytes"] / 1e12, 2),
        told["assumptions"],
        [obstacle["sentence"] for obstacle in told["obstacles"]],
    )


if __name__ == "__main__":
    main()
