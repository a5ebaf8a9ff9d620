"""One block: read, restored, trimmed; shortcuts that change no byte; faults that stay in their block."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bigdecon.deconvolution import block
from bigdecon.deconvolution.block import BlockRules, attempt_block, restore_block, restore_grown
from bigdecon.deconvolution.tiling import BlockGrid
from bigdecon.errors import NonFiniteError, ReadError, WriteError
from bigdecon.volume import Volume

SHAPE = (20, 30)


@dataclass
class EdgeAware:
    """Gives another result near the block's faces, as padding with zeros does; counts its calls."""

    halo: tuple[int, ...] = (2, 2)
    alignment: int = 1
    name: str = "edge-aware"
    seen: list[tuple[int, ...]] = field(default_factory=list)

    def __call__(self, data: NDArray[Any]) -> NDArray[np.float32]:
        self.seen.append(data.shape)
        padded = np.pad(data.astype(np.float32), 1)
        return padded[:-2, 1:-1] + 0.5 * padded[2:, 1:-1] + 0.25 * padded[1:-1, :-2]


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(block, "_constants", block._Constants(block.MEMORY_OF_CONSTANTS))
    monkeypatch.setattr(block, "PAUSES_SECONDS", (0.0, 0.0))


def restore_all(image, method, rules, halo=(2, 2)):
    stack = Volume.from_array(image).stack()
    grid = BlockGrid.plan(image.shape, 8, halo)
    return [restore_block(stack, method, core, grid.grow(core), rules) for core in grid]


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("value", [0, 7])
def test_constant_blocks_are_computed_once_for_every_shape_and_give_the_same_bytes(dtype, value):
    image = np.full((40, 48), value, dtype)
    image[:9, :9] = np.arange(81).reshape(9, 9)
    plain, quick = EdgeAware(), EdgeAware()
    expected = restore_all(image, plain, BlockRules())
    found = restore_all(image, quick, BlockRules("method"))
    for one, other in zip(expected, found, strict=True):
        assert one.core == other.core
        np.testing.assert_array_equal(one.voxels, other.voxels)
        assert one.voxels.dtype == other.voxels.dtype == np.float32
    assert len(plain.seen) == 30
    assert not any(one.shortcut for one in expected)
    constant = [one for one in found if one.shortcut == "constant"]
    assert len(constant) == 30 - 4, "all but those that see the corner, whichever was computed"
    # Along each axis a block lies at the low face, in the middle, or at the high face.
    assert len(quick.seen) <= 4 + 9


def test_results_are_told_apart_by_method_value_type_and_shape():
    method = EdgeAware()
    images = [np.full(SHAPE, v, d) for v, d in ((0, "uint8"), (1, "uint8"), (1, "uint16"))]
    for rules in (BlockRules("a"), BlockRules("b")):
        for image in images:
            restore_grown(image, deconvolver=method, rules=rules)
            restore_grown(image, deconvolver=method, rules=rules)
    restore_grown(images[0][:10], deconvolver=method, rules=BlockRules("a"))
    assert len(method.seen) == 2 * 3 + 1


def test_the_memory_of_constants_is_bounded():
    constants = block._Constants(limit_bytes=10_000)
    uneven = np.arange(1000, dtype=np.float32)
    for number in range(100):
        constants.put(number, uneven.copy())
    assert constants.get(99) is not None
    assert constants.get(0) is None
    assert sum(constants.get(n) is not None for n in range(100)) == 2
    large = constants.put("large", np.arange(10_000, dtype=np.float32))
    assert constants.get("large") is None
    np.testing.assert_array_equal(large, np.arange(10_000))


def test_a_constant_result_takes_no_memory():
    constants = block._Constants(limit_bytes=100)
    for number in range(20):
        given = constants.put(number, np.full((100, 100), number, np.float32))
        np.testing.assert_array_equal(given, number)
    assert all(constants.get(number) is not None for number in range(20))


def test_dim_blocks_stay_as_they_are():
    image = np.random.default_rng(0).integers(0, 50, (40, 48)).astype("uint16")
    image[:8, :8] = 200
    found = restore_all(image, EdgeAware(), BlockRules(dim_below=100))
    expected = restore_all(image, EdgeAware(), BlockRules())
    for one, other in zip(found, expected, strict=True):
        bright = one.core[0].start <= 8 and one.core[1].start <= 8  # its halo of 2 voxels reaches the light
        assert one.shortcut == ("" if bright else "dim")
        np.testing.assert_array_equal(one.voxels, other.voxels if bright else image[one.core])


class Failing(EdgeAware):
    """Raises the errors it was given, one a call, then works."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = list(errors)

    def __call__(self, data: NDArray[Any]) -> NDArray[np.float32]:
        if self.errors:
            raise self.errors.pop(0)
        return super().__call__(data)


def attempt(method):
    stack = Volume.from_array(np.ones(SHAPE, "uint16")).stack()
    grid = BlockGrid.plan(SHAPE, 10, (2, 2))
    core = next(iter(grid))
    return attempt_block(stack, method, core, grid.grow(core), BlockRules())


def test_a_passing_failure_leaves_no_trace():
    error = ReadError("torn")
    found = attempt(Failing(error, error))
    assert not found.fault
    np.testing.assert_array_equal(found.voxels, attempt(EdgeAware()).voxels)


def test_a_lasting_failure_is_the_blocks_own():
    error, reason = ReadError("chunk 3\n is torn"), "chunk 3 is torn"
    found = attempt(Failing(*[error] * 3))
    assert found.fault == reason
    assert not found.voxels.any()
    assert found.voxels.shape == (10, 10)
    assert len(pickle.dumps(found.voxels[:1, :1])) < 1000
    assert not attempt(Failing(*[error] * 2)).fault


def test_nan_is_not_tried_again():
    method = Failing(NonFiniteError("NaN at (1, 2)"), NonFiniteError("again"))
    assert attempt(method).fault == "NaN at (1, 2)"
    assert len(method.errors) == 1


class OutOfMemoryError(RuntimeError):
    """By this name torch raises it."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("CUDA out of memory"),
        RuntimeError("x: can't allocate memory"),
        WriteError("full"),
        ValueError("a method that does not work"),
    ],
)
def test_what_is_not_the_images_fault_is_passed_on(error):
    with pytest.raises(type(error)):
        attempt(Failing(error))
