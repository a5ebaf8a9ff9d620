"""On what to compute: what was asked for if it is there, else a sentence."""

from __future__ import annotations

import pytest
import torch

from bigdecon.distributed import devices
from bigdecon.errors import OptionError


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """A machine with some GPUs, and a PyTorch that can use them or cannot."""

    def build(gpus: tuple[str, ...], torch_uses_them: bool) -> None:
        monkeypatch.setattr(devices, "visible_gpus", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: torch_uses_them)

    return build


@pytest.mark.parametrize(
    ("asked", "gpus", "usable", "expected"),
    [
        ("auto", (), False, "cpu"),
        ("auto", ("0",), True, "cuda"),
        ("auto", ("0",), False, "cpu"),
        ("cpu", ("0",), True, "cpu"),
        ("cuda:1", ("0", "1"), True, "cuda"),
        ("mps", (), False, "mps"),
    ],
)
def test_the_device_of_workers_on_this_machine(machine, asked, gpus, usable, expected):
    machine(gpus, usable)
    assert devices.choose_device(asked) == expected


@pytest.mark.parametrize(
    ("asked", "gpus", "sentence"),
    [
        ("cuda", (), "no NVIDIA GPU is visible"),
        ("cuda", ("0",), "build for the CPU only"),
        ("cuda:1", ("0",), "the 1 visible GPUs count from cuda:0"),
        ("tpu", (), "is not known"),
        ("cpu:0", (), "is not known"),
        ("cuda:x", ("0",), "is not known"),
    ],
)
def test_a_device_that_is_not_there(machine, asked, gpus, sentence):
    machine(gpus, False)
    with pytest.raises(OptionError, match=sentence):
        devices.choose_device(asked)


def test_a_running_cluster_is_asked(connection):
    assert devices.choose_device("auto", connection.client) == "cpu"
    assert devices.choose_device("cpu", connection.client) == "cpu"
    with pytest.raises(OptionError, match="is not known"):
        devices.choose_device("tpu", connection.client)
    if not torch.cuda.is_available():
        assert devices.gpu_workers(connection.client) == ()
        with pytest.raises(OptionError, match="no worker of the cluster has a GPU"):
            devices.choose_device("cuda", connection.client)
