"""Masks of any resolution lie where they belong, and leave the voxels inside as they are without a mask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigdecon.errors import VolumeError
from bigdecon.io.mask import Mask, open_mask
from bigdecon.io.reading import open_volume
from bigdecon.io.writing import write_ome_zarr
from bigdecon.volume import Volume


def write(path, array, size=(1.0, 1.0), translation=(0.0, 0.0)):
    volume = replace(Volume.from_array(array, voxel_size_um=size), translation_um=translation)
    write_ome_zarr(volume, path, dtype=array.dtype.name)
    return open_volume(path)


def by_hand(mask, scale, offset, box):
    """Look every voxel up by itself."""
    result = np.zeros([p.stop - p.start for p in box], bool)
    for index in np.ndindex(result.shape):
        at = [
            int(np.floor((p.start + i) * s + o + 0.5))
            for p, i, s, o in zip(box, index, scale, offset, strict=True)
        ]
        if all(0 <= a < n for a, n in zip(at, mask.shape, strict=True)):
            result[index] = mask[tuple(at)] != 0
    return result


extents = st.tuples(st.integers(1, 12), st.integers(1, 12))


@settings(deadline=None, max_examples=100)
@given(
    extents,
    st.tuples(*[st.floats(0.1, 3)] * 2),
    st.tuples(*[st.floats(-6, 6)] * 2),
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
    extents,
    st.integers(0, 2**32 - 1),
)
def test_every_voxel_takes_the_nearest_of_the_mask(shape, scale, offset, start, extent, seed):
    array = np.random.default_rng(seed).integers(0, 2, shape).astype("uint8")
    mask = Mask(Volume.from_array(array).stack(), scale, offset)
    box = tuple(slice(s, s + n) for s, n in zip(start, extent, strict=True))
    expected = by_hand(array, scale, offset, box)
    np.testing.assert_array_equal(mask[box], expected)
    # Looked at in the mask's own voxels a box may touch one that no voxel of the image is nearest to.
    assert mask.touches(box) >= expected.any()


def test_metadata_place_a_coarse_mask(tmp_path):
    volume = write(tmp_path / "a", np.ones((40, 60), "uint16"), (0.5, 0.25), (10.0, 3.0))
    coarse = np.zeros((5, 5), "uint8")
    coarse[2, 3] = 1
    # 4 x 3 voxels of the image each; its first voxel's centre is the mean of those it stands for
    write(tmp_path / "m", coarse, (2.0, 0.75), (10 + 1.5 * 0.5, 3 + 0.25))
    mask = open_mask(str(tmp_path / "m"), volume)
    inside = mask[slice(0, 40), slice(0, 60)]
    expected = np.zeros((40, 60), bool)
    expected[8:12, 9:12] = True
    np.testing.assert_array_equal(inside, expected)
    cropped = volume.crop((slice(10, 40), slice(5, 60)))
    inside = open_mask(str(tmp_path / "m"), cropped)[slice(0, 30), slice(0, 55)]
    np.testing.assert_array_equal(inside, expected[10:, 5:])


def test_without_voxel_sizes_a_mask_covers_the_whole_image(tmp_path):
    volume = write(tmp_path / "a", np.ones((40, 60), "uint16"), None)
    coarse = np.zeros((4, 6), "uint8")
    coarse[1, 2] = 3
    write(tmp_path / "m", coarse, (9.0, 9.0), (500.0, 0.0))
    expected = np.zeros((40, 60), bool)
    expected[10:20, 20:30] = True
    whole = (slice(0, 40), slice(0, 60))
    np.testing.assert_array_equal(open_mask(str(tmp_path / "m"), volume)[whole], expected)
    cropped = volume.crop((slice(15, 40), slice(25, 60)))
    found = open_mask(str(tmp_path / "m"), cropped)[slice(0, 25), slice(0, 35)]
    np.testing.assert_array_equal(found, expected[15:, 25:])


def test_a_mask_that_cannot_be_is_refused(tmp_path):
    volume = write(tmp_path / "a", np.ones((40, 60), "uint16"))
    for name, array, translation, reason in (
        ("empty", np.zeros((4, 6), "uint8"), (0.0, 0.0), "selects nothing"),
        ("elsewhere", np.ones((4, 6), "uint8"), (1000.0, 0.0), "selects nothing"),
        ("deep", np.ones((3, 4, 6), "uint8"), (0.0, 0.0, 0.0), "has the axes zyx, but the image yx"),
    ):
        write(tmp_path / name, array, (1.0,) * array.ndim, translation)
        with pytest.raises(VolumeError, match=reason):
            open_mask(str(tmp_path / name), volume)
    many = Volume.from_array(np.ones((2, 4, 6), "uint8"), "cyx")
    write_ome_zarr(many, tmp_path / "many", dtype="uint8")
    with pytest.raises(VolumeError, match="2 channels and 1 time points"):
        open_mask(str(tmp_path / "many"), volume)


def test_a_mask_that_leaves_a_part_out_is_told(tmp_path):
    volume = write(tmp_path / "a", np.ones((40, 60), "uint16"))
    shapes = {"whole": (20, 30), "small": (4, 6)}
    covers = {}
    for name, shape in shapes.items():
        write(tmp_path / name, np.ones(shape, "uint8"), (2.0, 2.0), (0.5, 0.5))
        covers[name] = open_mask(str(tmp_path / name), volume).covers(volume.spatial_shape)
    assert covers == {"whole": True, "small": False}
