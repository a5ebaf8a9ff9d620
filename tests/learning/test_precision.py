"""Half precision: only where the device has it, and only where it was seen to agree."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bigdecon.learning.precision import choose_precision, has_fast_bfloat16


@pytest.mark.parametrize(
    ("abilities", "expected"),
    [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx2": True}, False), ({}, False)],
)
def test_a_cpu_is_asked_what_it_can(
    abilities: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities)
    assert has_fast_bfloat16(torch.device("cpu")) is expected


def test_other_devices_are_not_trusted() -> None:
    assert not has_fast_bfloat16(torch.device("mps"))


def test_a_cpu_infers_in_float32() -> None:
    assert choose_precision(nn.Identity(), [torch.ones(1, 1, 4, 4)]) == "float32"
