"""Volumes, stacks and the lazy sources between: the same voxels as numpy's own slicing."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bigdecon.errors import VolumeError
from bigdecon.volume import ArraySource, Box, Channel, Crop, Source, Stack, Take, Volume


def numbered(*shape: int) -> NDArray[np.int64]:
    return np.arange(np.prod(shape)).reshape(shape)


@dataclass
class Watched:
    """Remembers every selection that was read."""

    array: NDArray[Any]
    reads: list[Box]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    @property
    def chunks(self) -> tuple[int, ...]:
        return (4,) * self.array.ndim

    def __getitem__(self, selection: Box, /) -> NDArray[Any]:
        self.reads.append(selection)
        return self.array[selection]


@st.composite
def boxes(draw: st.DrawFn, shape: tuple[int, ...]) -> Box:
    parts = []
    for n in shape:
        start = draw(st.integers(0, n - 1))
        parts.append(slice(start, draw(st.integers(start + 1, n))))
    return tuple(parts)


@settings(deadline=None)
@given(data=st.data())
def test_crops_of_crops_read_what_slicing_reads(data: st.DataObject) -> None:
    array = numbered(2, 7, 6, 9)
    volume, expected = Volume.from_array(array), array
    for _ in range(3):
        box = data.draw(boxes(volume.spatial_shape))
        volume, expected = volume.crop(box), expected[(slice(None), *box)]
        assert volume.shape == expected.shape
        np.testing.assert_array_equal(np.asarray(volume), expected)
    box = data.draw(boxes(volume.spatial_shape))
    np.testing.assert_array_equal(volume.stack(channel=1)[box], expected[1][box])


def test_a_crop_keeps_its_place_in_space() -> None:
    volume = Volume.from_array(numbered(8, 9, 10), voxel_size_um=(2, 0.5, 0.25))
    cropped = volume.crop((slice(1, 4), slice(2, 9), slice(4, 6))).crop(
        (slice(1, 2), slice(0, 1), slice(1, 2))
    )
    assert cropped.translation_um == pytest.approx((4.0, 1.0, 1.25))
    assert cropped.voxel_size_um == (2, 0.5, 0.25)


def test_open_ends_of_a_crop_mean_the_whole_axis() -> None:
    assert Volume.from_array(numbered(5, 6)).crop((slice(None), slice(2, None))).shape == (5, 4)


@pytest.mark.parametrize("part", [slice(3, 3), slice(-1, 4), slice(0, 6), slice(4, 2)])
def test_a_crop_outside_is_refused_with_axis_and_extent(part: slice) -> None:
    with pytest.raises(VolumeError, match=r"along y .*from 0 to 5"):
        Volume.from_array(numbered(5, 6)).crop((part, slice(0, 6)))


@pytest.mark.parametrize("timepoint", [0, 1, 2])
@pytest.mark.parametrize("channel", [0, 1])
def test_a_stack_is_one_channel_at_one_time(timepoint: int, channel: int) -> None:
    array = numbered(3, 2, 4, 5, 6)
    stack = Volume.from_array(array).stack(timepoint=timepoint, channel=channel)
    assert (stack.shape, stack.ndim, stack.chunks) == ((4, 5, 6), 3, (4, 5, 6))
    box = (slice(1, 3), slice(0, 1), slice(2, 6))
    np.testing.assert_array_equal(stack[box], array[timepoint, channel][box])


def test_a_stack_reads_its_box_and_nothing_else() -> None:
    source = Watched(numbered(2, 3, 8, 8), [])
    Stack(source, "tcyx", timepoint=1, channel=2)[(slice(0, 2), slice(5, 8))]
    assert source.reads == [(slice(1, 2), slice(2, 3), slice(0, 2), slice(5, 8))]


def test_opening_cropping_and_selecting_read_nothing() -> None:
    source = Watched(numbered(2, 3, 8, 8), [])
    volume = Volume(source, "tcyx", channels=tuple(map(Channel, "abc")))
    volume.crop((slice(0, 4), slice(2, 4))).select(channels=[2], timepoint=1).stack()
    assert source.reads == []


@pytest.mark.parametrize(("timepoint", "channel"), [(3, 0), (0, 2), (-1, 0)])
def test_a_stack_that_does_not_exist_is_refused(timepoint: int, channel: int) -> None:
    with pytest.raises(VolumeError, match="3 time points and 2 channels"):
        Volume.from_array(numbered(3, 2, 4, 5, 6)).stack(timepoint=timepoint, channel=channel)


def test_select_keeps_the_order_asked_for() -> None:
    array = numbered(3, 4, 5, 6, 7)
    volume = Volume.from_array(array).select(channels=[2, 0], timepoint=1)
    assert volume.axes == "tczyx"
    assert [channel.name for channel in volume.channels] == ["channel 2", "channel 0"]
    np.testing.assert_array_equal(np.asarray(volume), array[1:2, [2, 0]])
    with pytest.raises(VolumeError, match="no time point 0 of channel 4"):
        volume.select(channels=[4])


@settings(deadline=None)
@given(data=st.data(), axis=st.integers(0, 2), positions=st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_take_reads_what_numpy_takes(data: st.DataObject, axis: int, positions: list[int]) -> None:
    array = numbered(4, 5, 6)
    taken = Take(ArraySource(array), axis, tuple(positions))
    expected = np.take(array, positions, axis)
    assert taken.shape == expected.shape
    box = data.draw(boxes(taken.shape))
    np.testing.assert_array_equal(taken[box], expected[box])


@pytest.mark.parametrize("axes", ["zxy", "xy", "yxz", "z", "zyxc", "qyx", "zyyx"])
def test_axes_that_make_no_image_are_refused(axes: str) -> None:
    with pytest.raises(VolumeError, match="subset of 'tczyx'"):
        Volume.from_array(np.zeros((2,) * len(axes)), axes)


def test_axes_and_dimensions_must_agree() -> None:
    with pytest.raises(VolumeError, match=r"3 dimensions .* but 2 axes"):
        Volume(ArraySource(np.zeros((2, 2, 2))), "yx")


@pytest.mark.parametrize("ndim", [0, 1, 6])
def test_an_array_that_is_no_image_is_refused(ndim: int) -> None:
    with pytest.raises(VolumeError, match=f"{ndim} dimension"):
        Volume.from_array(np.zeros((2,) * ndim))


@pytest.mark.parametrize("dtype", [">u2", "<u2", ">f4", "u1"])
def test_values_come_out_native(dtype: str) -> None:
    array = np.arange(12).astype(dtype).reshape(3, 4)
    volume = Volume.from_array(array)
    read = volume.stack()[(slice(1, 3), slice(0, 4))]
    assert volume.dtype == read.dtype == np.dtype(dtype).newbyteorder("=")
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, array[1:3])
    assert np.asarray(volume, np.float32).dtype == np.float32


def test_sources_fit_the_protocol_and_pickle() -> None:
    source = ArraySource(numbered(3, 4))
    for made in (source, Crop(source, (slice(1, 3), slice(0, 2))), Take(source, 0, (2, 1))):
        assert isinstance(made, Source)
        copy = pickle.loads(pickle.dumps(made))
        whole = tuple(slice(0, n) for n in made.shape)
        np.testing.assert_array_equal(copy[whole], made[whole])
        assert all(c <= n for c, n in zip(made.chunks, made.shape, strict=True))


def test_a_crop_remembers_which_faces_it_cut() -> None:
    volume = Volume.from_array(np.zeros((2, 6, 8, 10)), "tzyx")
    assert volume.stack().cut == ((False, False),) * 3
    crop = volume.crop((slice(0, 6), slice(2, 8), slice(0, 9)))
    assert crop.stack().cut == ((False, False), (True, False), (False, True))
    assert crop.crop((slice(1, 6), slice(0, 5), slice(0, 9))).stack(timepoint=1).cut == (
        (True, False),
        (True, True),
        (False, True),
    )
