"""Half precision: only where the device has it, and only where it was seen to agree."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bigdecon.learning.precision import choose_precision, has_fast_bfloat16, has_sound_bfloat16


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


@pytest.mark.parametrize(
    ("shape", "depth", "sound"),
    [
        ((8, 48, 48), 3, False),
        ((4, 48, 48), 3, False),
        ((4, 48, 48), 1, True),
        ((16, 48, 48), 3, True),
        ((12, 8, 8), 3, True),
        ((8, 48), 3, True),
    ],
)
def test_a_level_two_planes_deep_is_not_trusted_on_a_cpu(
    shape: tuple[int, ...], depth: int, sound: bool
) -> None:
    assert has_sound_bfloat16(torch.device("cpu"), shape, depth) is sound
    assert has_sound_bfloat16(torch.device("cuda"), shape, depth)


def test_a_cpu_infers_in_float32() -> None:
    assert choose_precision(nn.Identity(), [torch.ones(1, 1, 4, 4)]) == "float32"
