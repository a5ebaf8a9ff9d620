"""Where half precision may be used: bfloat16 in training, either half format at inference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["choose_precision", "has_fast_bfloat16", "has_sound_bfloat16"]

TOLERANCE = 1e-3
"""Largest difference from float32 that half precision may make, as part of the output's range."""
UNSOUND_PLANES = 2


def has_fast_bfloat16(device: torch.device) -> bool:
    """Tell whether the device multiplies bfloat16 in hardware: newer GPUs, CPUs with AVX-512 BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    try:
        abilities = torch.cpu.get_capabilities()
    except (AttributeError, RuntimeError):
        return False
    return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16"))


def has_sound_bfloat16(device: torch.device, patch_shape: Sequence[int], depth: int) -> bool:
    """Tell whether gradients in bfloat16 are right for patches of this shape.

    On a CPU, torch's gradient of the weights of a 3x3x3 convolution reads memory that is not its own where
    the image is exactly two planes deep (seen with torch 2.13 and oneDNN 3.12; float32 is right, and so are
    all other depths). A patch of 8 planes is two deep at the bottom of a network with three levels.

    Parameters
    ----------
    device : that trains
    patch_shape : ([z,] y, x), in voxels
    depth : levels of the network, each of half the extent of the one above
    """
    if device.type != "cpu" or len(patch_shape) < 3:
        return True
    return all(patch_shape[0] // 2**level != UNSOUND_PLANES for level in range(depth))


@torch.inference_mode()
def choose_precision(network: nn.Module, images: Sequence[Tensor]) -> str:
    """Choose the precision for inference: half precision only where it was seen to agree here.

    On a CPU float32. On a GPU the first of float16 and bfloat16 whose output differs from that of float32,
    on every image, by no more than 0.1 % of the output's range.

    Parameters
    ----------
    network : in evaluation mode
    images : standardised (batch, 1, [z,] y, x) on the network's device, typical of what it will see
    """
    kind = images[0].device.type
    if kind != "cuda":
        return "float32"
    exact = [network(x) for x in images]
    for name in ("float16", "bfloat16"):
        with torch.autocast(kind, getattr(torch, name)):
            found = [network(x).float() for x in images]
        if all(
            float((y - wanted).abs().max()) <= TOLERANCE * float(wanted.max() - wanted.min())
            for y, wanted in zip(found, exact, strict=True)
        ):
            return name
    return "float32"
