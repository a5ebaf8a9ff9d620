"""How far a training is, by the head of its saved state; the weights behind it are not read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from bigdecon.storage.places import Place
from bigdecon.storage.servers import ask
from bigdecon.untrusted import is_number, is_whole, parse_json

__all__ = ["Progress", "read_progress"]

HEAD_BYTES = 2**20
"""At first so much is read: it holds the names of all tensors, and the curve."""
LARGEST_BYTES = 2**24


class Progress(NamedTuple):
    """How far a training is.

    Attributes
    ----------
    step : steps done
    seconds : time they took
    held_out_error : newest measurement, in squared units of the scaled image; None before the first
    """

    step: int
    seconds: float
    held_out_error: float | None


def read_progress(path: Place) -> Progress | None:
    """Read how far a training is; None where there is no state, or none of this version.

    Parameters
    ----------
    path : of the safetensors file that `learning.training_state` writes
    """
    try:
        head = _first(path, HEAD_BYTES)
        size = int.from_bytes(head[:8], "little") + 8
        if size > LARGEST_BYTES:
            return None
        head = head if size <= len(head) else _first(path, size)
        content: dict[str, Any] = parse_json(head[8:size])
        state: dict[str, Any] = json.loads(content["__metadata__"]["state"])
        step, seconds, curve = state["step"], state["seconds"], state["curve"]
        errors = [point["held_out_error"] for point in curve if point["held_out_error"] is not None]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if not (is_whole(step) and is_number(seconds) and all(map(is_number, errors))):
        return None
    return Progress(step, float(seconds), float(errors[-1]) if errors else None)


def _first(path: Place, count: int) -> bytes:
    """Read the first bytes of a file."""
    if not isinstance(path, Path):
        return bytes(ask(path.url, lambda fs: fs.cat_file(path.url, start=0, end=count)))
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError(str(path))
    with open(path, "rb") as file:
        return file.read(count)
