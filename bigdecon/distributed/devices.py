"""On what to compute: the torch device of a run, and which GPUs and workers that means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bigdecon.distributed.gpus import visible_gpus
from bigdecon.errors import OptionError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["choose_device", "choose_gpus", "computes_here", "gpu_workers", "parse_device"]


def choose_device(device: str, client: Client | None = None) -> str:
    """Choose the torch device of the workers, each of which sees its own GPU as the first.

    Parameters
    ----------
    device : as asked for: "auto", "cpu", "cuda", "cuda:1" or "mps"
    client : of a cluster that is running; None for workers that `connect` will start on this machine

    Returns
    -------
    str
        "cpu", "cuda" or "mps"; on a running cluster "cuda" is the first GPU that each worker sees

    Raises
    ------
    OptionError
        if the device is unknown, or not there
    """
    kind = parse_device(device)[0]
    if client is None:
        if not choose_gpus(device):
            return "cpu" if device == "auto" else device
        if _torch_uses_gpus():
            return "cuda"
        if kind == "auto":
            return "cpu"
        raise OptionError(
            f"the device {device!r} was asked for, but this PyTorch is a build for the CPU only; "
            "install one with CUDA, or give --device cpu."
        )
    if kind in ("cpu", "mps"):
        return kind
    if any(client.run(_torch_uses_gpus, on_error="ignore").values()):
        return "cuda"
    if kind == "auto":
        return "cpu"
    raise OptionError(
        f"the device {device!r} was asked for, but no worker of the cluster has a GPU that PyTorch "
        "can use; give --device cpu, or start workers where the GPUs are."
    )


def choose_gpus(device: str, gpus: Sequence[str] | None = None, count: int | None = None) -> tuple[str, ...]:
    """Choose which of this machine's GPUs to use, in the notation of CUDA_VISIBLE_DEVICES; none for a CPU.

    Parameters
    ----------
    device : "auto", "cpu", "cuda", "cuda:1" (the second of the visible GPUs) or "mps"
    gpus : the visible GPUs; found out by default
    count : how many of them to use; all by default

    Raises
    ------
    OptionError
        if the device is unknown, or not there, or there are fewer than `count`
    """
    kind, number = parse_device(device)
    if kind in ("cpu", "mps"):
        if count:
            raise OptionError(f"--gpus is {count}, but the device {device!r} is none; leave out one of them.")
        return ()
    found = visible_gpus() if gpus is None else tuple(gpus)
    if kind == "cuda" and not found:
        raise OptionError(
            f"the device {device!r} was asked for, but no NVIDIA GPU is visible; give --device cpu."
        )
    if number is not None and number >= len(found):
        raise OptionError(
            f"the device {device!r} was asked for, but the {len(found)} visible GPUs count from cuda:0."
        )
    chosen = found if number is None else (found[number],)
    if count is not None and count > len(chosen):
        raise OptionError(f"--gpus is {count}, but {len(chosen)} NVIDIA GPUs can be used here; give fewer.")
    return chosen[:count]


def parse_device(device: str) -> tuple[str, int | None]:
    """Split "cuda:1" into kind and number.

    Raises
    ------
    OptionError
        if it is no device of PyTorch
    """
    match = re.fullmatch(r"(auto|cpu|mps|cuda)|cuda:(\d+)", device)
    if match is None:
        raise OptionError(
            f"the device {device!r} is not known; give auto, cpu, cuda, cuda:0, cuda:1, ... or mps."
        )
    return match[1] or "cuda", None if match[2] is None else int(match[2])


def gpu_workers(client: Client) -> tuple[str, ...]:
    """Give the addresses of the workers that have a GPU where only some have; else none, for any worker."""
    holds = client.run(_torch_uses_gpus, on_error="ignore")
    able = tuple(sorted(worker for worker, gpu in holds.items() if gpu))
    return () if len(able) == len(holds) else able


def computes_here(device: str) -> bool:
    """Tell whether this process can compute on a torch device: a login node has none of its jobs' GPUs."""
    return not device.startswith("cuda") or _torch_uses_gpus()


def _torch_uses_gpus() -> bool:
    """Tell whether PyTorch can compute on a GPU here; a build for the CPU cannot, whatever is there."""
    import torch

    return torch.cuda.is_available()
