"""Series of TIFF files as one volume: names, gaps, order, and reading."""

from __future__ import annotations

import itertools
import os
import pickle

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from bigdecon.errors import InputError, OptionError, ReadError, VolumeError
from bigdecon.io.identity import input_identity
from bigdecon.io.output_folder import default_output
from bigdecon.io.reading import inspect_volume, open_volume
from bigdecon.io.stack_names import arrange_names, natural_key
from bigdecon.volume import Channel


def write_series(folder, data, form, first=0):
    """Write the last two axes of `data` as files; `form` names them by the indices of the others."""
    folder.mkdir(exist_ok=True)
    for index in np.ndindex(*data.shape[:-2]):
        name = form.format(*(i + first for i in index))
        tifffile.imwrite(folder / name, data[index], photometric="minisblack")


def image(*shape):
    return np.random.default_rng(3).integers(0, 999, shape).astype("uint16")


@given(st.permutations(["plane_2", "plane_10", "plane_001x", "Plane_3"]))
def test_natural_order_is_that_of_the_numbers(names):
    assert sorted(names, key=natural_key) == ["plane_001x", "plane_2", "Plane_3", "plane_10"]


@given(
    extents=st.dictionaries(st.sampled_from("tcz"), st.integers(2, 4), min_size=1),
    order=st.permutations("tcz"),
    start=st.integers(0, 98),
    padded=st.booleans(),
)
def test_names_of_any_order_make_the_same_axes(extents, order, start, padded):
    width = 4 if padded else 1
    letters = [axis for axis in order if axis in extents]
    places = list(itertools.product(*(range(start, start + extents[a]) for a in letters)))
    names = [
        "s3_" + "".join(f"_{a}{n:0{width}}" for a, n in zip(letters, p, strict=True)) + ".tif" for p in places
    ]
    found = arrange_names(names[::-1], "folder", "yx")
    assert found.axes == "".join(a for a in "tcz" if a in extents)
    assert found.shape == tuple(extents[a] for a in found.axes)
    for number, place in enumerate(np.ndindex(*found.shape)):
        at = dict(zip(found.axes, place, strict=True))
        assert all(f"_{a}{start + at[a]:0{width}}" in found.names[number] for a in letters)


@given(st.sets(st.integers(0, 40), min_size=3), st.sampled_from("tz"))
def test_a_series_without_regular_steps_has_a_gap(numbers, letter):
    names = [f"{letter}{n}.tif" for n in numbers]
    if len(set(np.diff(sorted(numbers)))) == 1:
        assert arrange_names(names, "folder", "yx").shape == (len(numbers),)
    else:
        with pytest.raises(VolumeError, match="gap"):
            arrange_names(names, "folder", "yx")


@pytest.mark.parametrize("pattern", [False, True])
def test_planes_of_time_points_and_channels(tmp_path, pattern):
    data = image(2, 3, 12, 20, 30)
    write_series(tmp_path / "cells", data, "cell_t{0}_ch{1}_z{2}.tif", first=1)
    (tmp_path / "cells" / "notes.txt").write_text("not an image")
    path = tmp_path / "cells" / "*.tif" if pattern else tmp_path / "cells"
    volume = pickle.loads(pickle.dumps(open_volume(path)))
    assert (volume.axes, volume.shape) == ("tczyx", data.shape)
    assert volume.channels == (Channel("ch1"), Channel("ch2"), Channel("ch3"))
    assert np.array_equal(np.asarray(volume), data)
    box = (slice(3, 11), slice(5, 17), slice(7, 8))
    assert np.array_equal(volume.stack(timepoint=1, channel=2)[box], data[1, 2][box])
    assert len(pickle.dumps(volume)) < 2000  # no list of files travels
    assert default_output(volume.location) == tmp_path / "cells.deconvolved.ome.zarr"
    assert "2 time points x 3 channels x 12 planes" in inspect_volume(path).notes[0]


def test_files_that_are_stacks_themselves(tmp_path):
    data = image(3, 4, 20, 30)
    for t in range(3):
        metadata = {"axes": "ZYX", "spacing": 0.5, "unit": "um", "finterval": 2.0}
        name = tmp_path / f"time{t}.tif"
        tifffile.imwrite(name, data[t], imagej=True, metadata=metadata, resolution=(10.0, 10.0))
    volume = open_volume(tmp_path)
    assert (volume.axes, volume.shape) == ("tzyx", data.shape)
    assert volume.voxel_size_um == pytest.approx((0.5, 0.1, 0.1))
    assert np.array_equal(np.asarray(volume), data)
    with pytest.raises(OptionError, match="an axis z of its own"):
        open_volume(tmp_path, stack="z")


def test_told_what_numbers_mean(tmp_path):
    data = image(2, 3, 8, 9)
    write_series(tmp_path / "a", data, "a_{0}_{1}.tif")
    with pytest.raises(OptionError, match="--stack tz"):
        open_volume(tmp_path / "a")
    volume = open_volume(tmp_path / "a", stack="zt")
    assert (volume.axes, volume.shape) == ("tzyx", (3, 2, 8, 9))
    assert np.array_equal(np.asarray(volume), data.swapaxes(0, 1))
    for wrong in ("z", "zz", "zq", "ztc"):
        with pytest.raises(OptionError, match=f"--stack {wrong} does not fit"):
            open_volume(tmp_path / "a", stack=wrong)


def test_numbers_that_say_nothing_are_passed_over(tmp_path):
    data = image(3, 8, 9)
    (tmp_path / "a").mkdir()
    for z in range(3):
        tifffile.imwrite(tmp_path / "a" / f"z{z}_at_{17 * z * z + 4}.tif", data[z], photometric="minisblack")
    assert np.array_equal(np.asarray(open_volume(tmp_path / "a")), data)


def test_steps_are_told_and_gaps_refused(tmp_path):
    folder = tmp_path / "a"
    write_series(folder, image(6, 8, 9), "plane_{0}.tif")
    for odd in (1, 3, 5):
        os.remove(folder / f"plane_{odd}.tif")
    assert "steps of 2" in inspect_volume(folder).notes[1]
    tifffile.imwrite(folder / "plane_5.tif", image(8, 9), photometric="minisblack")
    with pytest.raises(VolumeError, match=r"gap: 2 of 6 files are missing, such as those of z 1; z 3"):
        open_volume(folder)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a1.tif", "b2.tif"], "differ in more than numbers"),
        (["z1.tif", "z01.tif", "z2.tif"], "the same numbers"),
        (["notes.txt"], "no TIFF file matches"),
    ],
)
def test_what_makes_no_series(tmp_path, names, words):
    for name in names:
        tifffile.imwrite(tmp_path / name, image(8, 9), photometric="minisblack")
    with pytest.raises(InputError, match=words):
        open_volume(tmp_path / "*")


def test_files_that_are_not_alike(tmp_path):
    write_series(tmp_path, image(4, 8, 9), "plane_{0}.tif")
    volume = open_volume(tmp_path)
    tifffile.imwrite(tmp_path / "plane_2.tif", image(8, 10), photometric="minisblack")
    with pytest.raises(ReadError, match=r"plane_2.tif holds uint16 of shape \(8, 10\)"):
        pickle.loads(pickle.dumps(volume)).stack()[:, :, :]
    with pytest.raises(VolumeError, match="all files of a series are alike"):
        open_volume(tmp_path)


def test_an_empty_folder_is_still_no_image(tmp_path):
    with pytest.raises(VolumeError):
        open_volume(tmp_path)


def test_recognised_again(tmp_path):
    write_series(tmp_path / "a", image(5, 8, 9), "z{0}.tif")
    write_series(tmp_path / "b", image(5, 8, 9), "z{0}.tif")
    one, other = (input_identity(open_volume(tmp_path / name)) for name in "ab")
    assert (one.digest, one.files) == (other.digest, other.files)
    assert {file.name for file in one.files} == {"z0.tif", "z2.tif", "z4.tif"}
    tifffile.imwrite(tmp_path / "b" / "z2.tif", image(8, 9) + 1, photometric="minisblack")
    changed = input_identity(open_volume(tmp_path / "b")).changed_files(one.files)
    assert [(file.name, file.start, file.stop) for file in changed] == [("z2.tif", (2, 0, 0), (3, 8, 9))]
