"""Patches cut on a device are those cut on the host, voxel for voxel; trainings learn the same from both."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bigdecon.intensity import IntensityStats
from bigdecon.learning import device_patches, loop
from bigdecon.learning.device_patches import DevicePatches, patches_for
from bigdecon.learning.patches import PatchPool
from bigdecon.optics.psf import PSFSymmetries
from tests.learning.test_patches import pool_of
from tests.learning.test_training import same_weights, short_run

STATS = IntensityStats(mean=313.7, std=41.3, minimum=100, maximum=900, background=120)
CPU = torch.device("cpu")


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_they_are_the_same_voxel_for_voxel(data: Any) -> None:
    ndim = data.draw(st.integers(2, 3))
    shape = data.draw(st.lists(st.integers(5, 30), min_size=ndim, max_size=ndim))
    patch = data.draw(st.lists(st.sampled_from([8, 12, 16]), min_size=ndim, max_size=ndim))
    kind = data.draw(st.sampled_from(["uint8", "uint16", "int32", "float32", "float64"]))
    flips = data.draw(st.lists(st.booleans(), min_size=ndim, max_size=ndim))
    margin = data.draw(st.none() | st.lists(st.integers(0, 2), min_size=ndim, max_size=ndim))
    symmetries = data.draw(st.sampled_from([None, PSFSymmetries(tuple(flips), data.draw(st.booleans()))]))
    image = np.random.default_rng(0).integers(0, 200, shape).astype(kind)
    held_out = data.draw(st.sampled_from([0.0, 0.05]))
    pool = pool_of(image, tuple(patch), "zyx"[-ndim:], stats=STATS, held_out_fraction=held_out)
    step = data.draw(st.integers(-3, 10))
    host = pool.draw(step, 3, symmetries, margin)
    device = DevicePatches(pool, CPU).draw(step, 3, symmetries, margin)
    for one, other in zip(host, device, strict=True):
        assert one.dtype == other.numpy().dtype
        np.testing.assert_array_equal(one, other.numpy())


def test_a_training_learns_the_same_from_both(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = short_run(3)
    held: list[DevicePatches] = []

    def on_device(pool: PatchPool, device: torch.device) -> DevicePatches:
        held.append(DevicePatches(pool, device))
        return held[-1]

    monkeypatch.setattr(loop, "patches_for", on_device)
    found = short_run(3)
    assert held
    assert same_weights(found, expected)


def test_a_device_without_room_leaves_them_on_the_host(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(pool: PatchPool, device: torch.device) -> DevicePatches:
        raise torch.OutOfMemoryError

    pool = pool_of(np.ones((20, 20), np.float32), (8, 8))
    assert patches_for(pool, CPU) is pool
    monkeypatch.setattr(device_patches, "DevicePatches", full)
    with caplog.at_level(logging.INFO, "bigdecon"):
        assert patches_for(pool, torch.device("meta")) is pool
    assert "cut on the host" in caplog.text


def test_a_device_that_is_full_just_now_has_a_batch_from_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: DevicePatches, choice: Any) -> Any:
        raise torch.OutOfMemoryError

    pool = pool_of(np.random.default_rng(0).random((20, 20)).astype(np.float32), (8, 8))
    patches = DevicePatches(pool, CPU)
    monkeypatch.setattr(DevicePatches, "_cut", full)
    for one, other in zip(pool.draw(3, 2), patches.draw(3, 2), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.gpu
def test_a_gpu_cuts_the_same_patches() -> None:
    pool = pool_of(
        np.random.default_rng(0).random((40, 50, 60)).astype(np.float32), (16, 16, 16), stats=STATS
    )
    symmetries = PSFSymmetries((True, True, True), True)
    patches = patches_for(pool, torch.device("cuda"))
    assert isinstance(patches, DevicePatches)
    for one, other in zip(pool.draw(4, 3, symmetries), patches.draw(4, 3, symmetries), strict=True):
        np.testing.assert_array_equal(one, other.cpu().numpy())
