"""A volume larger than the memory it may have: 8 GiB through `bigdecon run` in 4 GiB, enforced by the kernel.

    sudo python benchmarks/large_volume.py FOLDER [--shape 1024 2048 2048] [--limit-gib 4]

Simulates the volume block by block in FOLDER (once; it may take an hour), then gives the command within a
control group whose memory is limited: page cache counts, there is no swap, and a process that needs more is
killed. Writes results/large_volume.json. Needs root for the control group, and free disk of twice the volume.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import machine

RESULT = Path(__file__).parent / "results" / "large_volume.json"
CHEAPEST = ("--method", "richardson-lucy", "--iterations", "1", "--sieve", "0", "--background", "100")
GROUPS = Path("/sys/fs/cgroup")


class Group:
    """A control group with limited memory, of either version of the kernel's interface."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        folder.mkdir()
        old = (folder / "memory.limit_in_bytes").exists()
        (folder / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(limit_bytes))
        self._peak = "memory.max_usage_in_bytes" if old else "memory.peak"

    def join(self) -> None:
        """Put this process, and those that it will start, into the group."""
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    @property
    def peak_bytes(self) -> int:
        """Most memory that was in use, page cache included."""
        return int((self.folder / self._peak).read_text())

    def statistics(self) -> dict[str, int]:
        """Give what the kernel counts."""
        lines = (self.folder / "memory.stat").read_text().splitlines()
        return {name: int(value) for name, value in (line.split() for line in lines)}


@contextmanager
def limited_memory(limit_bytes: int) -> Iterator[Group]:
    """Make a control group and remove it."""
    parent = GROUPS / "memory" if (GROUPS / "memory").is_dir() else GROUPS
    group = Group(parent / f"bigdecon-{os.getpid()}", limit_bytes)
    try:
        yield group
    finally:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                group.folder.rmdir()
                break
            except OSError:  # a process is still ending
                time.sleep(0.5)


def simulate(folder: Path, shape: list[int]) -> None:
    """Make the volume, unless it is there."""
    if (folder / "psf.tif").exists():
        return
    words = ["simulate", "bars", "-o", str(folder), "--dtype", "uint16", "--offset", "100"]
    subprocess.run([sys.executable, "-m", "bigdecon_cli", *words, "--shape", *map(str, shape)], check=True)


def run_limited(folder: Path, limit_bytes: int) -> dict[str, object]:
    """Give the command within the group and watch it."""
    words = ["run", "noisy.ome.zarr", "--psf", "psf.tif", *CHEAPEST, "--dtype", "uint16", "--device", "cpu"]
    words += [
        "--memory-limit",
        "3GiB",
        "--dashboard-address",
        "none",
        "--json",
        "--no-report",
        "-o",
        "restored.ome.zarr",
    ]
    with limited_memory(limit_bytes) as group:
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "bigdecon_cli", *words],
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=group.join,
        )
        anonymous = 0
        while process.poll() is None:
            counted = group.statistics()
            anonymous = max(anonymous, counted.get("rss", counted.get("anon", 0)))
            time.sleep(0.5)
        output = process.stdout.read() if process.stdout else ""
        seconds = time.monotonic() - began
        peak = group.peak_bytes
    last = json.loads(output.splitlines()[-1])
    return {
        "exit_code": process.returncode,
        "state": last.get("state", last),
        "seconds": round(seconds),
        "limit_GiB": round(limit_bytes / 2**30, 2),
        "peak_with_page_cache_GiB": round(peak / 2**30, 2),
        "peak_of_processes_GiB": round(anonymous / 2**30, 2),
    }


def main() -> None:
    """Simulate, run, verify, and write what was seen."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", type=int, nargs=3, default=[1024, 2048, 2048])
    parser.add_argument("--limit-gib", type=float, default=4.0)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    simulate(options.folder, options.shape)
    seen = run_limited(options.folder, int(options.limit_gib * 2**30))
    words = ["verify", "restored.ome.zarr", "--json"]
    check = subprocess.run(
        [sys.executable, "-m", "bigdecon_cli", *words], cwd=options.folder, capture_output=True, text=True
    )
    result = {
        "shape": options.shape,
        "volume_GiB": round(2 * math.prod(options.shape) / 2**30, 2),
        "command": " ".join(["bigdecon run", *CHEAPEST]),
        **seen,
        "verified": json.loads(check.stdout)["sound"],
    }
    print(json.dumps(result))
    options.output.write_text(json.dumps({**machine.describe(), **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
