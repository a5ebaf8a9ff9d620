"""What the machine offers: GPUs, memory, cores, and the disk where results go."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dask.utils import format_bytes

from bigdecon.diagnosis.findings import Finding
from bigdecon.distributed.allocation import allocated_cores, allocated_memory
from bigdecon.distributed.gpus import visible_gpus

__all__ = ["GpuFacts", "check_disk", "check_gpus", "check_memory", "judge_gpus"]

PYTORCH = "https://pytorch.org/get-started/locally"
SMALL_MEMORY = 4 * 2**30
SMALL_DISK = 10 * 2**30
SLOW_DISK = 50 * 10**6
"""Bytes per second; below it reading and writing takes longer than a CPU computes."""
PROBE_BYTES = 64 * 2**20
PROBE_SECONDS = 5.0


@dataclass(frozen=True)
class GpuFacts:
    """What there is of GPUs, as the driver and PyTorch see it.

    Attributes
    ----------
    visible : GPUs that the driver shows this process
    hidden : whether CUDA_VISIBLE_DEVICES hides all there are
    driver, driver_cuda : version of the driver, and the newest CUDA it knows; "" where unknown
    torch, torch_cuda : version of PyTorch, and the CUDA it was built for; "" for a build without
    names : of the GPUs that PyTorch can use
    unsupported : of those, the ones that this build has no code for
    complaint : what PyTorch says where it can use none
    """

    visible: int
    hidden: bool = False
    driver: str = ""
    driver_cuda: str = ""
    torch: str = ""
    torch_cuda: str = ""
    names: tuple[str, ...] = ()
    unsupported: tuple[str, ...] = ()
    complaint: str = ""


def check_gpus() -> Iterator[Finding]:
    """Tell which GPUs PyTorch can use, and why not where it cannot."""
    yield judge_gpus(_look_at_gpus())


def judge_gpus(facts: GpuFacts) -> Finding:
    """Explain what the driver and PyTorch see."""
    build = f"PyTorch {facts.torch}"
    if facts.unsupported:
        return Finding(
            "gpus",
            "warning",
            f"{build} has no code for the GPU {', '.join(facts.unsupported)}.",
            f"Install a PyTorch that supports it ({PYTORCH}), or give --device cpu.",
        )
    if facts.names:
        many = "1 GPU" if len(facts.names) == 1 else f"{len(facts.names)} GPUs"
        versions = f"CUDA {facts.torch_cuda}" + (f", driver {facts.driver}" if facts.driver else "")
        return Finding("gpus", "good", f"PyTorch can use {many}: {', '.join(facts.names)} ({versions}).")
    if facts.hidden:
        return Finding(
            "gpus",
            "note",
            "CUDA_VISIBLE_DEVICES hides the GPUs of this machine: work is done on the CPU.",
            "Unset CUDA_VISIBLE_DEVICES to use them.",
        )
    if not facts.visible:
        return Finding("gpus", "note", "There is no NVIDIA GPU here: work is done on the CPU.")
    many = "an NVIDIA GPU" if facts.visible == 1 else f"{facts.visible} NVIDIA GPUs"
    if not facts.torch_cuda:
        return Finding(
            "gpus",
            "warning",
            f"There is {many}, but {build} is a build for the CPU only.",
            f"Install a PyTorch with CUDA{_up_to(facts)}: {PYTORCH}",
        )
    if _older(facts.driver_cuda, facts.torch_cuda):
        return Finding(
            "gpus",
            "warning",
            f"{build} needs a driver for CUDA {facts.torch_cuda}, but driver {facts.driver} knows CUDA up to "
            f"{facts.driver_cuda}.",
            f"Update the NVIDIA driver, or install a PyTorch for CUDA{_up_to(facts)}: {PYTORCH}",
        )
    reason = f": {facts.complaint}" if facts.complaint else ""
    return Finding(
        "gpus",
        "warning",
        f"There is {many}, but {build} cannot use it{reason}.",
        "Restart the machine or update its NVIDIA driver; in a container, start it with the GPUs.",
    )


def _up_to(facts: GpuFacts) -> str:
    return f" {facts.driver_cuda} or older" if facts.driver_cuda else ""


def _older(one: str, other: str) -> bool:
    """Compare major versions: within one, drivers run newer CUDA as well."""
    first, second = re.match(r"\d+", one), re.match(r"\d+", other)
    return bool(first and second and int(first[0]) < int(second[0]))


def _look_at_gpus() -> GpuFacts:
    import torch

    visible = visible_gpus()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    driver, driver_cuda = _driver()
    names, unsupported, complaint = [], [], ""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            for index in range(torch.cuda.device_count()):
                properties = torch.cuda.get_device_properties(index)
                name = f"{properties.name} with {format_bytes(properties.total_memory)}"
                names.append(name)
                if not _has_code(torch.cuda.get_arch_list(), properties.major, properties.minor):
                    unsupported.append(name)
        elif said:
            complaint = str(said[0].message).strip().partition("\n")[0].rstrip(".")
    return GpuFacts(
        visible=len(visible),
        hidden=chosen is not None and not visible and bool(driver),
        driver=driver,
        driver_cuda=driver_cuda,
        torch=torch.__version__,
        torch_cuda=torch.version.cuda or "",
        names=tuple(names),
        unsupported=tuple(unsupported),
        complaint=complaint,
    )


def _has_code(architectures: list[str], major: int, minor: int) -> bool:
    """Whether a build can run on a GPU: code of its generation, or code that its driver translates."""
    if not architectures:
        return True
    own = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", name) for name in architectures]
    return any(
        m is not None
        and ((int(m[2]) == major and int(m[3]) <= minor) or (m[1] == "compute" and int(m[2]) <= major))
        for m in own
    )


def _driver() -> tuple[str, str]:
    """Give the versions of the NVIDIA driver and of the newest CUDA that it knows; empty without one."""
    try:
        told = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "", ""
    driver = re.search(r"Driver Version:\s*([\d.]+)", told)
    cuda = re.search(r"CUDA Version:\s*([\d.]+)", told)
    return driver[1] if driver else "", cuda[1] if cuda else ""


def check_memory() -> Iterator[Finding]:
    """Tell the memory and the cores that this process was given."""
    memory, cores = allocated_memory(), allocated_cores()
    many = "1 core" if cores == 1 else f"{cores} cores"
    whose = "This job" if "SLURM_JOB_ID" in os.environ else "This process"
    sentence = f"{whose} may use {many} and {format_bytes(memory)} of memory"
    if memory < SMALL_MEMORY:
        limit = format_bytes(SMALL_MEMORY)
        yield Finding(
            "memory",
            "warning",
            f"{sentence}, less than the {limit} that a run in 3D wants.",
            "Ask for more memory, or give a smaller --block and --threads 1.",
        )
    else:
        yield Finding("memory", "good", f"{sentence}.")


def check_disk(folder: Path) -> Iterator[Finding]:
    """Measure space and speed of the disk that holds a folder, with a file that has no name."""
    folder = folder.absolute()
    if not folder.is_dir():
        remedy = "Make it, or give another folder with --output."
        yield Finding("disk", "warning", f"There is no folder {folder}.", remedy)
        return
    try:
        write, read = _measure_disk(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = "Give a folder of your own with --output, or have its permissions put right."
        yield Finding("disk", "warning", f"Nothing can be written to {folder} ({reason}).", remedy)
        return
    free = shutil.disk_usage(folder).free
    speed = f"{write / 1e6:.0f} MB/s written, {read / 1e6:.0f} MB/s read back"
    sentence = f"{folder}: {format_bytes(free)} free; {speed}"
    if free < SMALL_DISK:
        remedy = "Free some space: a result takes 4 bytes a voxel before compression."
        yield Finding("disk", "warning", f"{sentence}: little space.", remedy)
    elif write < SLOW_DISK:
        remedy = "Put results on a faster disk if a run waits for it."
        yield Finding("disk", "note", f"{sentence}: slow.", remedy)
    else:
        yield Finding("disk", "good", f"{sentence}.")


def _measure_disk(folder: Path) -> tuple[float, float]:
    """Give bytes per second, written to the disk and read again, maybe from memory."""
    piece = os.urandom(2**20)
    written = 0
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        began = time.monotonic()
        while written < PROBE_BYTES and time.monotonic() < began + PROBE_SECONDS:
            written += file.write(piece)
        os.fsync(file.fileno())
        between = time.monotonic()
        file.seek(0)
        while file.read(2**20):
            pass
        end = time.monotonic()
    return written / max(between - began, 1e-6), written / max(end - between, 1e-6)
