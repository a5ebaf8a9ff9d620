"""Both engines, any box, and the whole volume in one piece: the same values."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bigdecon.deconvolution.block import BlockRules, Deconvolver
from bigdecon.deconvolution.blockwise import deconvolve, plan_grid
from bigdecon.deconvolution.engines import DaskSource, attempt_blocks, choose_engine, deconvolve_stack
from bigdecon.deconvolution.packed_blocks import MethodOnWorkers
from bigdecon.deconvolution.tiling import BlockGrid, region_boxes
from bigdecon.errors import NonFiniteError, OptionError
from bigdecon.volume import ArraySource, Channel, Stack, Volume


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


@dataclass(frozen=True)
class LocalMax:
    """Maximum over a lopsided window that ends where the block ends: exact wherever the halo reaches."""

    halo: tuple[int, ...]
    alignment: int = 1
    name: str = "local-max"

    def __call__(self, block: NDArray[Any]) -> NDArray[np.float32]:
        result = block.astype(np.float32)
        for axis, reach in enumerate(self.halo):
            source = result.copy()
            for shift in range(1, reach + 1):
                head, tail = [slice(None)] * block.ndim, [slice(None)] * block.ndim
                head[axis], tail[axis] = slice(None, -shift), slice(shift, None)
                if shift < block.shape[axis]:
                    result[tuple(head)] = np.maximum(result[tuple(head)], source[tuple(tail)] + shift)
                    if shift == reach:
                        result[tuple(tail)] += 0.25 * source[tuple(head)]
        return result


class Counting(LocalMax):
    calls = 0

    def __call__(self, block: NDArray[Any]) -> NDArray[np.float32]:
        type(self).calls += 1
        return super().__call__(block)


@dataclass(frozen=True)
class FileSource:
    """A store: pickles to a path."""

    path: Path

    @property
    def _array(self) -> NDArray[Any]:
        return np.load(self.path, mmap_mode="r")

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._array.dtype.newbyteorder("=")

    @property
    def chunks(self) -> tuple[int, ...]:
        return self.shape

    def __getitem__(self, selection: Any) -> NDArray[Any]:
        return np.array(self._array[selection], dtype=self.dtype)


def noise(shape: tuple[int, ...], dtype: Any = np.uint16) -> NDArray[Any]:
    return np.random.default_rng(7).integers(0, 1000, shape).astype(dtype)


def names(array: da.Array) -> Counter[str]:
    (optimised,) = dask.optimize(array)
    keys = (key[0] if isinstance(key, tuple) else key for key in dict(optimised.dask))
    return Counter(key.rsplit("-", 1)[0] for key in keys)


@st.composite
def problems(draw: st.DrawFn) -> tuple[tuple[int, ...], BlockGrid]:
    ndim = draw(st.sampled_from([2, 3]))
    shape = tuple(draw(st.integers(1, 17)) for _ in range(ndim))
    halo = tuple(draw(st.integers(0, 3)) for _ in range(ndim))
    block = tuple(draw(st.integers(max(h, 2), 8)) for h in halo)
    return shape, BlockGrid.plan(shape, block, halo)


@settings(deadline=None, max_examples=25)
@given(problems(), st.data())
def test_engines_and_boxes_give_the_bytes_of_the_whole_volume(
    problem: tuple[tuple[int, ...], BlockGrid], data: st.DataObject
) -> None:
    shape, grid = problem
    stack = Stack(ArraySource(noise(shape)), "zyx"[-len(shape) :])
    method = LocalMax(grid.halo)
    whole = method(stack[grid.whole])
    box = tuple(slice(*sorted(data.draw(st.permutations(cuts))[:2])) for cuts in grid.cuts)
    for engine in ("direct", "map-overlap"):
        lazy = deconvolve_stack(stack, method, grid=grid, engine=engine, box=box)
        assert lazy.dtype == np.float32
        for part, sizes, cuts in zip(box, lazy.chunks, grid.cuts_within(box), strict=True):
            assert np.cumsum((part.start, *sizes)).tolist() == list(cuts)
        np.testing.assert_array_equal(lazy.compute(), whole[box])


@pytest.mark.parametrize("engine", ["direct", "map-overlap"])
@pytest.mark.parametrize("stored", [True, False])
def test_by_regions_equals_whole(engine: Any, stored: bool, tmp_path: Path) -> None:
    image = noise((21, 30, 19))
    np.save(tmp_path / "image.npy", image)
    stack = Stack(FileSource(tmp_path / "image.npy") if stored else ArraySource(image), "zyx")
    method = LocalMax((2, 3, 1))
    grid = BlockGrid.plan(stack.shape, 8, method.halo)
    result = np.zeros(stack.shape, np.float32)
    regions = region_boxes(grid, (8, 16, 4), target_voxels=3000)
    assert len(regions) > 3
    for region in regions:
        lazy = deconvolve_stack(stack, method, grid=grid, engine=engine, box=region)
        result[region] = lazy.compute()
    np.testing.assert_array_equal(result, method(image))


@pytest.mark.parametrize("engine", ["direct", "map-overlap"])
@pytest.mark.parametrize("region", [None, (slice(0, 8), slice(8, 24))])
def test_tasks_have_names_and_the_method_is_one_of_them(engine: Any, region: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", noise((24, 40)))
    stack = Stack(FileSource(tmp_path / "image.npy"), "yx")
    method = LocalMax((2, 2))
    grid = BlockGrid.plan(stack.shape, 8, 2)
    found = names(deconvolve_stack(stack, method, grid=grid, engine=engine, box=region))
    blocks = 15 if region is None else 2
    assert sum(n for name, n in found.items() if name.startswith("deconvolve-block")) == blocks
    assert found["local-max"] == 1
    assert found["image"] == 1
    if engine == "direct":
        assert sum(found.values()) == blocks + 2
    else:
        assert any(name.startswith("read-block") for name in found)


def test_a_result_keeps_no_halo_in_memory() -> None:
    stack = Stack(ArraySource(noise((32, 32))), "yx")
    grid = BlockGrid.plan(stack.shape, 8, 4)
    for engine in ("direct", "map-overlap"):
        lazy = deconvolve_stack(stack, LocalMax((4, 4)), grid=grid, engine=engine)
        block = lazy.blocks[1, 1].compute()
        assert block.base is None or block.base.nbytes == block.nbytes


@pytest.mark.parametrize("engine", ["direct", "map-overlap"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_named_with_its_place(engine: Any, value: float) -> None:
    image = noise((16, 24), np.float32)
    image[9, 17] = value
    stack = Stack(ArraySource(image), "yx")
    grid = BlockGrid.plan(stack.shape, 8, 1)
    region = (slice(8, 16), slice(8, 24))
    lazy = deconvolve_stack(stack, LocalMax((1, 1)), grid=grid, engine=engine, box=region)
    with pytest.raises(NonFiniteError, match=r"block \[.*\], first at voxel \(9, 17\)"):
        lazy.compute()


def test_a_method_that_changes_the_shape_is_a_bug() -> None:
    @dataclass(frozen=True)
    class Shrinking(LocalMax):
        def __call__(self, block: NDArray[Any]) -> NDArray[np.float32]:
            return block[1:].astype(np.float32)

    stack = Stack(ArraySource(noise((16, 16))), "yx")
    grid = BlockGrid.plan(stack.shape, 8, 0)
    with pytest.raises(ValueError, match="turned a block"):
        deconvolve_stack(stack, Shrinking((0, 0)), grid=grid, engine="direct").compute()


def test_deconvolve_keeps_everything_but_the_values() -> None:
    image = noise((2, 3, 9, 12, 11)).astype(">u2")
    volume = Volume(
        ArraySource(image),
        "tczyx",
        (0.5, 0.2, 0.2),
        (1.0, 2.0, 3.0),
        tuple(Channel(name, "00FF00") for name in "abc"),
        name="embryo",
    )
    methods = [LocalMax((reach, 1, 0)) for reach in (1, 2, 3)]
    result = deconvolve(volume, methods, block=4)
    assert isinstance(result.source, DaskSource)
    assert (result.shape, result.dtype) == (volume.shape, np.dtype(np.float32))
    assert (result.axes, result.channels, result.name) == (volume.axes, volume.channels, "embryo")
    assert (result.voxel_size_um, result.translation_um) == (volume.voxel_size_um, volume.translation_um)
    values = np.asarray(result)
    for t in range(2):
        for c, method in enumerate(methods):
            np.testing.assert_array_equal(values[t, c], method(image[t, c].astype(np.uint16)))


def test_a_crop_or_selection_of_the_input_is_followed() -> None:
    image = noise((3, 2, 20, 22))
    volume = Volume.from_array(image, "tcyx").select(channels=[1, 0], timepoint=2)
    volume = volume.crop((slice(3, 19), slice(5, 22)))
    method = LocalMax((2, 2))
    for source in (volume, deconvolve(volume, LocalMax((0, 0)), block=5)):
        values = np.asarray(deconvolve(source, method, block=6))
        for c, channel in enumerate([1, 0]):
            np.testing.assert_array_equal(values[0, c], method(image[2, channel, 3:19, 5:22]))


@pytest.mark.parametrize("engine", ["direct", "map-overlap"])
def test_a_crop_computes_only_the_blocks_it_touches(engine: Any) -> None:
    volume = Volume.from_array(noise((32, 32, 32)))
    Counting.calls = 0
    result = deconvolve(volume, Counting((2, 2, 2)), block=8, engine=engine)
    assert Counting.calls == 0
    crop = np.asarray(result.crop((slice(7, 9), slice(8, 16), slice(30, 32))))
    assert Counting.calls == 2
    np.testing.assert_array_equal(crop, LocalMax((2, 2, 2))(np.asarray(volume))[7:9, 8:16, 30:32])


def test_choose_engine(tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", noise((8, 8)))
    stored = Volume(FileSource(tmp_path / "image.npy"), "yx")
    cropped = stored.crop((slice(0, 4), slice(0, 4))).stack()
    assert choose_engine(cropped) == "direct"
    assert choose_engine(cropped, "map-overlap") == "map-overlap"
    assert choose_engine(Volume.from_array(noise((8, 8))).stack()) == "map-overlap"
    lazy = Volume(DaskSource(da.zeros((8, 8))), "yx").stack()
    assert choose_engine(lazy) == "map-overlap"
    with pytest.raises(OptionError, match="map-overlap"):
        choose_engine(lazy, "direct")


def test_plan_grid_rounds_the_halo_and_refuses_what_cannot_be_exact() -> None:
    method = LocalMax((5, 6), alignment=4)
    assert plan_grid((100, 100), [method], block=32).halo == (8, 8)
    assert plan_grid((100, 100), [method, LocalMax((9, 0))], block=32).halo == (12, 8)
    with pytest.raises(OptionError, match=r"halo of 4 voxels is smaller than the 5"):
        plan_grid((100, 100), [method], halo=4)
    with pytest.raises(OptionError, match=r"block of 30 .* multiple of 4"):
        plan_grid((100, 100), [method], block=30)
    with pytest.raises(OptionError, match="2 spatial axes"):
        plan_grid((100, 100, 100), [method])
    with pytest.raises(OptionError, match=r"2 deconvolvers .* 1 channels"):
        deconvolve(Volume.from_array(noise((8, 8))), [method, method])


def test_the_protocol_is_met_and_a_lazy_graph_of_a_store_is_small(tmp_path: Path) -> None:
    assert isinstance(LocalMax((1, 1)), Deconvolver)
    np.save(tmp_path / "image.npy", noise((512, 512)))
    stack = Stack(FileSource(tmp_path / "image.npy"), "yx")
    grid = BlockGrid.plan(stack.shape, 64, 2)
    lazy = deconvolve_stack(stack, LocalMax((2, 2)), grid=grid, engine="direct")
    assert len(pickle.dumps(dict(lazy.dask))) < 40_000


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("engine", ["direct", "map-overlap"])
def test_blocks_of_a_run_are_those_of_the_lazy_volume(tmp_path: Path, stored: bool, engine: Any) -> None:
    """Also where the method lies on the workers; and a stored image's block waits for nothing else."""
    image = noise((40, 48))
    np.save(tmp_path / "image.npy", image)
    stack = Stack(FileSource(tmp_path / "image.npy") if stored else ArraySource(image), "yx")
    grid = BlockGrid.plan(stack.shape, 16, 2)
    cores = grid.blocks_within(grid.whole)
    wanted = deconvolve_stack(stack, LocalMax((2, 2)), grid=grid, engine="direct").compute()
    kept = dask.delayed(LocalMax((2, 2)), name="kept", traverse=False)
    for method in (MethodOnWorkers(partial(LocalMax, (2, 2))), MethodOnWorkers(_itself, (kept,))):
        blocks = attempt_blocks(stack, method, cores, grid=grid, engine=engine, rules=BlockRules())
        for core, block in zip(cores, dask.compute(*blocks), strict=True):
            assert block.core == core
            np.testing.assert_array_equal(block.voxels, wanted[core])
    alone = attempt_blocks(
        stack,
        MethodOnWorkers(partial(LocalMax, (2, 2))),
        cores,
        grid=grid,
        engine="direct",
        rules=BlockRules(),
    )
    assert len(dict(alone[0].dask)) == len(cores) + (not stored)


def _itself(method: Deconvolver) -> Deconvolver:
    return method
