"""What errors of a computing device mean: too little memory, or a device that is lost to this process.

Told by names and words, for the libraries raise mere `RuntimeError`s in many places, and so that nobody has
to load torch to ask.
"""

from __future__ import annotations

import gc
import os
import re
import sys
from typing import Any

__all__ = ["device_in_words", "is_device_lost", "is_out_of_memory", "release_memory"]

OUT_OF_MEMORY = re.compile(
    r"out of memory"  # CUDA, HIP, MPS
    r"|can't allocate memory|not enough memory: you tried to allocate"  # torch on a CPU
    r"|(CUFFT|CUBLAS_STATUS|CUDNN_STATUS|HIPFFT|MIOPEN_STATUS)_ALLOC_FAILED",
    re.IGNORECASE,
)
# Errors after which, as the CUDA documentation says, the process must be ended and started again; and what
# CUDA's libraries report where such an error is behind it.
DEVICE_LOST = re.compile(
    r"illegal (memory access|instruction|address)|misaligned address|invalid program counter"
    r"|hardware stack error|address space|device-side assert|unspecified launch failure"
    r"|launch timed out|launch timeout|uncorrectable (ECC|NVLink)|contained|fallen off the bus"
    r"|unknown error|(CUBLAS_STATUS|CUDNN_STATUS)_(EXECUTION_FAILED|MAPPING_ERROR)|CUFFT_EXEC_FAILED",
    re.IGNORECASE,
)
FROM_A_DEVICE = re.compile(r"(CUDA|HIP)( driver)? error|cuFFT error|cuDNN error|CU(BLAS|DNN)_STATUS")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory did not suffice, of a GPU or of the machine."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and bool(OUT_OF_MEMORY.search(str(error)))


def is_device_lost(error: BaseException) -> bool:
    """Tell whether after an error this process can do nothing more on its GPU; another process can.

    Where a GPU is in use and the words of the error leave it open, the GPU is asked to do something.
    """
    text = str(error)
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    if type(error).__name__ != "AcceleratorError" and not FROM_A_DEVICE.search(text):
        return False
    return bool(DEVICE_LOST.search(text)) or not _gpu_answers()


def release_memory() -> None:
    """Give memory that torch keeps for later back to the device. Not within `except`: errors hold tensors."""
    gc.collect()
    torch = _torch()
    if torch is None:
        return
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def device_in_words(device: str) -> str:
    """Name a torch device as its owner does: a GPU by its number on the machine, where that is known."""
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return {"cpu": "this process", "mps": "the GPU"}.get(kind, device)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    index = int(number or 0)
    name = visible[index].strip() if index < len(visible) else ""
    return name if name.startswith(("GPU", "MIG")) else f"GPU {name or index}"


def _gpu_answers() -> bool:
    torch = _torch()
    if torch is None or not (torch.cuda.is_available() and torch.cuda.is_initialized()):
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def _torch() -> Any:
    """Give torch if this process has loaded it: what never was there holds no memory."""
    return sys.modules.get("torch")
