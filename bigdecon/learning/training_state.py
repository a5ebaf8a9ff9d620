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

from bigdecon.described import from_json
from bigdecon.learning.checkpoint import CurvePoint, write_atomically
from bigdecon.storage import places
from bigdecon.storage.places import Place
from bigdecon.untrusted import is_number, is_whole, parse_json

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
    losses : of the steps since the last point of the curve
    watch : what the method remembers of its validation, as plain numbers
    best : the weights that it keeps apart from those it trains, by name
    """

    step: int
    half: bool
    seconds: float
    curve: tuple[CurvePoint, ...]
    losses: tuple[float, ...] = ()
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
        described = parse_json(_metadata(data)["state"].encode())
        tensors = load(data)
        if described["format_version"] != VERSION:
            return None
        state = _read_progress(described, _named(tensors, "best."))
        moments = _moments(tensors)
    except (OSError, SafetensorError, AttributeError, ValueError, KeyError, TypeError):
        return None
    weights = _named(tensors, "network.")
    if {n: t.shape for n, t in weights.items()} != {n: t.shape for n, t in network.state_dict().items()}:
        return None
    network.load_state_dict(weights)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    _match_layouts(optimizer)
    return state


def _read_progress(described: Mapping[str, Any], best: Mapping[str, Tensor]) -> TrainingState:
    step, half, seconds = described["step"], described["half"], described["seconds"]
    if not (is_whole(step) and isinstance(half, bool) and is_number(seconds)):
        raise ValueError("the progress of a training consists of other values")
    losses, watch = (_numbers(described.get(name, [])) for name in ("losses", "watch"))
    curve = tuple(from_json(CurvePoint, point) for point in described["curve"])
    return TrainingState(step, half, float(seconds), curve, losses, watch, best)


def _numbers(values: Any) -> tuple[float, ...]:
    if not (isinstance(values, list) and all(isinstance(value, int | float) for value in values)):
        raise ValueError("losses, and the course of a validation, are numbers")
    return tuple(values)


def _moments(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Sort what an optimiser remembers by the index of the weight."""
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, item = name.split(".", 2)
            moments.setdefault(int(index), {})[item] = tensor
    return moments


def _metadata(data: bytes) -> dict[str, str]:
    """Read the texts in the head of a safetensors file, which its library reads from local files only."""
    head: dict[str, Any] = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
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
