"""Finding GPUs without torch: what the driver lists, cut down by CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import pytest

from bigdecon.distributed import gpus

TWO = """GPU 0: NVIDIA H200 (UUID: GPU-aaaa-1)
GPU 1: NVIDIA H200 (UUID: GPU-bbbb-2)
"""
SPLIT = """GPU 0: NVIDIA A100 (UUID: GPU-aaaa-1)
  MIG 1g.5gb      Device  0: (UUID: MIG-cccc-1)
  MIG 1g.5gb      Device  1: (UUID: MIG-cccc-2)
GPU 1: NVIDIA A100 (UUID: GPU-bbbb-2)
"""


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A machine whose nvidia-smi answers with a given text."""

    def install(listing: str) -> None:
        (tmp_path / "listing").write_text(listing)
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\nexec /bin/cat {tmp_path}/listing\n")
        program.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpus, "DRIVER", tmp_path / "none")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return install


@pytest.mark.parametrize(
    ("listing", "expected"),
    [(TWO, ("0", "1")), (SPLIT, ("MIG-cccc-1", "MIG-cccc-2", "1")), ("No devices found.\n", ())],
)
def test_what_the_driver_lists(driver, listing, expected):
    driver(listing)
    assert gpus.visible_gpus() == expected


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ("1", ("1",)),
        ("1, 0", ("1", "0")),
        ("", ()),
        ("-1", ()),
        ("0,-1,1", ("0",)),
        ("NoDevFiles", ()),
        ("GPU-bbbb-2,MIG-cccc-1", ("GPU-bbbb-2", "MIG-cccc-1")),
    ],
)
def test_the_choice_is_read_as_cuda_reads_it(driver, monkeypatch, chosen, expected):
    driver(TWO)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert gpus.visible_gpus() == expected


def test_a_choice_without_a_driver_is_nothing(driver, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert gpus.visible_gpus() == ()


def test_without_nvidia_smi_the_kernel_is_asked(driver, tmp_path):
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "none" / name).mkdir(parents=True)
    assert gpus.visible_gpus() == ("0", "1")
