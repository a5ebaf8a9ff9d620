"""Errors of devices, told apart by their words."""

from __future__ import annotations

import pytest
import torch

from bigdecon.device_errors import device_in_words, is_device_lost, is_out_of_memory, release_memory

STICKY = [
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: device-side assert triggered",
    "CUDA error: unspecified launch failure",
    "CUDA error: misaligned address",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: the launch timed out and was terminated",
    "CUDA error: unknown error",
    "CUDA driver error: an illegal instruction was encountered",
    "HIP error: an illegal memory access was encountered",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`",
    "cuFFT error: CUFFT_EXEC_FAILED",
]
PASSING = [
    "CUDA error: invalid argument",
    "CUDA error: no kernel image is available for execution on the device",
    "CUDA error: out of memory",
    "CUDA out of memory. Tried to allocate 20.00 GiB",
    "The size of tensor a (3) must match the size of tensor b (4)",
    "an illegal instruction in a shape function",
]


@pytest.mark.parametrize("text", STICKY)
def test_a_lost_device_is_recognised(text: str) -> None:
    assert is_device_lost(RuntimeError(text))
    assert is_device_lost(torch.AcceleratorError(text))
    assert not is_out_of_memory(RuntimeError(text))
    assert not is_device_lost(ValueError(text))


@pytest.mark.parametrize("text", PASSING)
def test_other_errors_leave_the_process_alone(text: str) -> None:
    assert not is_device_lost(RuntimeError(text))


def test_a_gpu_that_does_not_answer_is_lost_whatever_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent() -> None:
        raise RuntimeError("CUDA error: something new")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert not is_device_lost(RuntimeError("CUDA error: something new"))
    monkeypatch.setattr(torch.cuda, "synchronize", silent)
    assert is_device_lost(RuntimeError("CUDA error: something new"))
    assert not is_device_lost(RuntimeError("shapes do not match"))


@pytest.mark.parametrize(
    ("device", "visible", "words"),
    [
        ("cuda", "3,7", "GPU 3"),
        ("cuda:1", "3, 7", "GPU 7"),
        ("cuda:1", "", "GPU 1"),
        ("cuda", "GPU-8932f937", "GPU-8932f937"),
        ("cpu", "3", "this process"),
        ("mps", "", "the GPU"),
    ],
)
def test_a_gpu_has_its_number_on_the_machine(
    device: str, visible: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert device_in_words(device) == words


def test_memory_may_be_released_where_there_is_no_gpu() -> None:
    release_memory()
