"""On what to compute: the torch device of a run, and which GPUs and workers that means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bigdecon.distributed.gpus import visible_gpus
from bigdecon.errors import OptionError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["choose_device", "choose_gpus", "gpu_workers"]


def choose_device(device: str, client: Client | None = None) -> str:
    """Choose the torch device of the workers, each of which sees its own GPU as the first.

    Parameters
    ----------
    device : as asked for: "auto", "cpu", "cuda", "cuda:1" or "mps"
    client : of a cluster that is running; None for workers that `connect` will start on this machine

    Returns
    -------
    str
        "cpu", "cuda" or "mps"; on a running cluster also "cuda:1", as asked for

    Raises
    ------
    OptionError
        if the device is unknown, or not there
    """
    kind = device.partition(":")[0]
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
    if device in ("cpu", "mps"):
        return device
    found = any(client.run(_torch_uses_gpus).values())
    if kind == "cuda" and not found:
        raise OptionError(
            f"the device {device!r} was asked for, but no worker of the cluster has a GPU that PyTorch "
            "can use; give --device cpu, or start workers where the GPUs are."
        )
    return ("cuda" if found else "cpu") if kind == "auto" else device


def choose_gpus(device: str, gpus: Sequence[str] | None = None) -> tuple[str, ...]:
    """Choose which of this machine's GPUs to use, in the notation of CUDA_VISIBLE_DEVICES; none for a CPU.

    Parameters
    ----------
    device : "auto", "cpu", "cuda", "cuda:1" (the second of the visible GPUs) or "mps"
    gpus : the visible GPUs; found out by default

    Raises
    ------
    OptionError
        if the device is unknown, or not there
    """
    kind, _, number = device.partition(":")
    if kind in ("cpu", "mps"):
        return ()
    if kind not in ("auto", "cuda") or (number and not number.isdigit()):
        raise OptionError(
            f"the device {device!r} is not known; give auto, cpu, cuda, cuda:0, cuda:1, ... or mps."
        )
    found = visible_gpus() if gpus is None else tuple(gpus)
    if kind == "cuda" and not found:
        raise OptionError(
            f"the device {device!r} was asked for, but no NVIDIA GPU is visible; give --device cpu."
        )
    if number and int(number) >= len(found):
        raise OptionError(
            f"the device {device!r} was asked for, but the {len(found)} visible GPUs count from cuda:0."
        )
    return (found[int(number)],) if number else found


def gpu_workers(client: Client) -> list[str]:
    """Give the addresses of the workers that have a GPU; those of all workers if none has."""
    holds = client.run(_torch_uses_gpus)
    return sorted(worker for worker, gpu in holds.items() if gpu) or sorted(holds)


def _torch_uses_gpus() -> bool:
    """Tell whether PyTorch can compute on a GPU here; a build for the CPU cannot, whatever is there."""
    import torch

    return torch.cuda.is_available()
