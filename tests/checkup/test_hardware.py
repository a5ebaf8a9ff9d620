"""GPUs and drivers that suit one another or not, and the disk."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from bigdecon.checkup.hardware import GpuFacts, _has_code, check_disk, check_gpus, check_memory, judge_gpus

BUILD = GpuFacts(1, driver="535.104", driver_cuda="12.2", torch="2.13.0", torch_cuda="12.6", names=("A100",))


@pytest.mark.parametrize(
    ("facts", "severity", "words"),
    [
        (BUILD, "good", ["1 GPU: A100", "CUDA 12.6, driver 535.104"]),
        (replace(BUILD, unsupported=("K80",)), "warning", ["no code for the GPU K80"]),
        (GpuFacts(0, torch="2.13.0+cpu"), "note", ["no NVIDIA GPU", "on the CPU"]),
        (replace(BUILD, names=(), hidden=True, visible=0), "note", ["CUDA_VISIBLE_DEVICES"]),
        (
            replace(BUILD, names=(), torch_cuda=""),
            "warning",
            ["build for the CPU only", "CUDA 12.2 or older"],
        ),
        (
            replace(BUILD, names=(), driver_cuda="11.4"),
            "warning",
            ["needs a driver for CUDA 12.6", "knows CUDA up to 11.4", "Update the NVIDIA driver"],
        ),
        (replace(BUILD, names=(), complaint="error 804"), "warning", ["cannot use it: error 804", "Restart"]),
        (replace(BUILD, names=(), visible=2, driver_cuda=""), "warning", ["2 NVIDIA GPUs"]),
    ],
)
def test_what_is_seen_is_explained(facts, severity, words):
    finding = judge_gpus(facts)
    assert finding.severity == severity
    assert all(word in f"{finding.sentence} {finding.remedy}" for word in words)
    assert bool(finding.remedy) == (severity == "warning" or facts.hidden)


@pytest.mark.parametrize(
    ("architectures", "capability", "able"),
    [
        (["sm_80", "sm_90"], (8, 0), True),
        (["sm_80", "sm_90"], (8, 9), True),
        (["sm_80", "sm_90"], (3, 7), False),
        (["sm_80", "sm_90"], (12, 0), False),
        (["sm_80", "compute_90"], (12, 0), True),
        (["sm_90a"], (9, 0), True),
        ([], (9, 0), True),
    ],
)
def test_a_build_runs_on_its_generation_and_on_what_the_driver_translates(architectures, capability, able):
    assert _has_code(architectures, *capability) is able


def test_this_machine_can_be_looked_at():
    (gpus,) = check_gpus()
    (memory,) = check_memory()
    assert gpus.sentence
    assert "of memory" in memory.sentence


def test_the_disk_is_measured_and_nothing_is_left(tmp_path):
    (finding,) = check_disk(tmp_path)
    assert "MB/s written" in finding.sentence
    assert os.listdir(tmp_path) == []


def test_folders_that_cannot_be_used(tmp_path, monkeypatch):
    (missing,) = check_disk(tmp_path / "absent")
    assert (missing.severity, missing.sentence) == ("warning", f"There is no folder {tmp_path / 'absent'}.")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    (refused,) = check_disk(tmp_path)
    assert "Permission denied" in refused.sentence
