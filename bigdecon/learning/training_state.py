"""The state of a training on disk: what is needed to continue as if it had never been interrupted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from bigdecon import places
from bigdecon.learning.checkpoint import CurvePoint, write_atomically
from bigdecon.places import Place

__all__ = ["TrainingState", "load_state", "save_state"]

VERSION = 2


class TrainingState(NamedTuple):
    """How far a training got.

    Attributes
    ----------
    step : steps done
    half : whether the network computes in bfloat16, decided at the first step
    seconds : time spent
    curve : loss and held-out error so far
    watch : what the method remembers of its validation, as plain numbers
    best : the weights that it keeps apart from those it trains, by name
    """

    step: int
    half: bool
    seconds: float
    curve: tuple[CurvePoint, ...]
    watch: tuple[float, ...] = ()
    best: Mapping[str, Tensor] = MappingProxyType({})


def save_state(
    path: Place, network: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState
) -> None:
    """Write weights, optimiser and progress as one safetensors file, in one step."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best.items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
    described = {**state._asdict(), "format_version": VERSION, "curve": [asdict(p) for p in state.curve]}
    del described["best"]
    places.make_folder(path.parent)
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(on_cpu, {"state": json.dumps(described)}))


def load_state(path: Place, network: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState | None:
    """Bring network and optimiser to a saved state; None, and nothing changed, where none fits."""
    try:
        data = places.read(path)
        described = json.loads(_metadata(data)["state"])
        tensors = load(data)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
    if described.get("format_version") != VERSION:
        return None
    weights, best = _named(tensors, "network."), _named(tensors, "best.")
    if {n: t.shape for n, t in weights.items()} != {n: t.shape for n, t in network.state_dict().items()}:
        return None
    network.load_state_dict(weights)
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, item = name.split(".", 2)
            moments.setdefault(int(index), {})[item] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    _match_layouts(optimizer)
    curve = tuple(CurvePoint(**point) for point in described["curve"])
    watch = tuple(described.get("watch", ()))
    return TrainingState(described["step"], described["half"], described["seconds"], curve, watch, best)


def _metadata(data: bytes) -> dict[str, str]:
    """Read the texts in the head of a safetensors file, which its library reads from local files only."""
    head: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata: dict[str, str] = head["__metadata__"]
    return metadata


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Pick the tensors whose names begin so, and take that off."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _match_layouts(optimizer: torch.optim.Optimizer) -> None:
    """Give the moments the memory layout of their weights, as a fused optimiser needs it on a GPU."""
    for parameter, moments in optimizer.state.items():
        for name, tensor in moments.items():
            if torch.is_tensor(tensor) and tensor.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter).copy_(tensor)
