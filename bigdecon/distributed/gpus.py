"""Which NVIDIA GPUs this process may use, told without loading torch."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

__all__ = ["visible_gpus"]

DRIVER = Path("/proc/driver/nvidia/gpus")


def visible_gpus() -> tuple[str, ...]:
    """Give the GPUs in the notation of CUDA_VISIBLE_DEVICES, one entry per device.

    A GPU that is split by MIG counts as its parts. Where CUDA_VISIBLE_DEVICES is set, as by SLURM, only
    what it names counts. Empty without an NVIDIA driver.
    """
    present = _listed_by_driver()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not present or chosen is None:
        return present
    return _parse_choice(chosen)


def _parse_choice(text: str) -> tuple[str, ...]:
    """Read CUDA_VISIBLE_DEVICES as CUDA does: whatever follows an invalid entry does not count."""
    names: list[str] = []
    for name in (part.strip() for part in text.split(",")):
        if not re.fullmatch(r"\d+|(GPU|MIG)-\S+", name):
            break
        names.append(name)
    return tuple(names)


def _listed_by_driver() -> tuple[str, ...]:
    try:
        listing = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return tuple(str(index) for index, _ in enumerate(sorted(DRIVER.glob("*"))))
    return _parse_listing(listing)


def _parse_listing(listing: str) -> tuple[str, ...]:
    """Read `nvidia-smi -L`: a line a GPU, followed by an indented line for each MIG part."""
    names: list[str] = []
    for part in re.split(r"^(?=GPU \d)", listing, flags=re.MULTILINE):
        gpu = re.match(r"GPU (\d+):", part)
        if gpu:
            names += re.findall(r"^\s+MIG .*UUID: (MIG-[^)]+)\)", part, flags=re.MULTILINE) or [gpu[1]]
    return tuple(names)
