"""Conversions: nothing is lost on the way, and nothing half done has the output's name."""

from __future__ import annotations

import tempfile
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from bigdecon.errors import InputError, OptionError, OutputError, ReadError, VolumeError
from bigdecon.io.ome_xml import OME_TYPES
from bigdecon.io.reading import inspect_volume, open_volume
from bigdecon.io.tiff_writing import largest_tiff_bytes, read_boxes, write_ome_tiff
from bigdecon.io.writing import write_ome_zarr
from bigdecon.running import converting
from bigdecon.running.conversion_checks import Conversion
from bigdecon.running.converting import convert_image
from bigdecon.running.verification import verify_output
from bigdecon.volume import Channel, Volume

KEPT = ("axes", "shape", "dtype", "voxel_size_um", "translation_um", "channels", "time_step", "time_unit")


def copy(source, target, **options):
    return convert_image(Conversion(str(source), str(target), **options))


def assert_same(one, other):
    for name in KEPT:
        assert getattr(one, name) == getattr(other, name), name
    assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def image(shape, axes="zyx", dtype="uint16", **about):
    data = np.random.default_rng(5).integers(0, 120, shape).astype(dtype)
    return replace(Volume.from_array(data, axes), **about)


sizes = st.floats(1e-3, 50)
places = st.floats(-1e4, 1e4)
words = st.text("abcXYZ é-_<&\"'", min_size=1, max_size=8).map(str.strip).filter(bool)


@st.composite
def volumes(draw):
    axes = draw(st.sampled_from(["yx", "zyx", "cyx", "czyx", "tyx", "tzyx", "tcyx", "tczyx"]))
    shape = tuple(draw(st.integers(1, 3 if axis in "tc" else 7)) for axis in axes)
    spatial = sum(axis in "zyx" for axis in axes)
    about = {}
    if draw(st.booleans()):
        about["voxel_size_um"] = tuple(draw(sizes) for _ in range(spatial))
    about["translation_um"] = tuple(draw(places) for _ in range(spatial))
    colors = st.integers(0, 2**24 - 1).map("{:06X}".format)
    n = shape[axes.index("c")] if "c" in axes else 1
    about["channels"] = tuple(Channel(draw(words), draw(colors)) for _ in range(n))
    if "t" in axes and draw(st.booleans()):
        about |= {
            "time_step": draw(sizes),
            "time_unit": draw(st.sampled_from(["second", "millisecond", "hour"])),
        }
    return image(shape, axes, draw(st.sampled_from(sorted(OME_TYPES))), **about)


@settings(max_examples=15, deadline=None)
@given(volume=volumes(), version=st.sampled_from(["0.4", "0.5"]), tiled=st.booleans())
def test_there_and_back_is_the_identity(volume, version, tiled):
    """OME-TIFF to OME-Zarr to OME-TIFF: the same voxels, to the bit, and the same metadata, to the digit."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dtype = volume.dtype.name
        write_ome_tiff(volume, folder / "a.ome.tif", dtype=dtype, name="a", tiled=tiled)
        first = open_volume(folder / "a.ome.tif")
        assert_same(volume, first)
        copy(folder / "a.ome.tif", folder / "b.ome.zarr", ome_version=version)
        assert_same(first, open_volume(folder / "b.ome.zarr"))
        copy(folder / "b.ome.zarr", folder / "c.ome.tif", tiled=not tiled)
        assert_same(first, open_volume(folder / "c.ome.tif"))
        expected = np.asarray(first)
        assert np.array_equal(np.squeeze(tifffile.imread(folder / "c.ome.tif")), np.squeeze(expected))
        assert sorted(path.name for path in folder.iterdir()) == ["a.ome.tif", "b.ome.zarr", "c.ome.tif"]


@settings(max_examples=50, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    chunk=st.tuples(*[st.integers(1, 4)] * 3),
    budget=st.integers(1, 400),
)
def test_boxes_cover_every_voxel_once_and_cut_no_chunk(shape, chunk, budget):
    volume = image(shape)
    source = namedtuple("Source", "shape dtype chunks")(shape, volume.dtype, chunk)
    seen = np.zeros(shape, int)
    for box in read_boxes(replace(volume, source=source), budget):
        seen[box] += 1
        extents = [part.stop - part.start for part in box]
        assert np.prod(extents) * 2 <= max(budget, 2 * np.prod(chunk))
        assert all(part.start % c == 0 for part, c in zip(box, chunk, strict=True))
    assert (seen == 1).all()


def test_a_pyramid_of_planes(tmp_path):
    volume = image((3, 1100, 700), voxel_size_um=(0.5, 0.1, 0.1), translation_um=(1.0, 2.0, 3.0))
    write_ome_zarr(volume, tmp_path / "a.ome.zarr", dtype="uint16")
    copy(tmp_path / "a.ome.zarr", tmp_path / "a.ome.tif", tiled=True)
    levels = inspect_volume(tmp_path / "a.ome.tif").levels
    assert [level.shape for level in levels] == [(3, 1100, 700), (3, 550, 350), (3, 275, 175)]
    assert levels[2].voxel_size_um == pytest.approx((0.5, 0.4, 0.4))
    assert levels[1].translation_um == pytest.approx((1.0, 2.05, 3.05))
    data = np.asarray(volume)
    means = data.reshape(3, 550, 2, 350, 2).mean(axis=(2, 4))
    assert np.abs(np.asarray(open_volume(tmp_path / "a.ome.tif", level=1)) - means).max() <= 0.5
    assert (tmp_path / "a.ome.tif").stat().st_size <= largest_tiff_bytes(volume, "uint16", tiled=True)


def test_large_files_become_bigtiff(tmp_path, monkeypatch):
    monkeypatch.setattr("bigdecon.io.tiff_writing.CLASSIC_BYTES", 15_000)
    for n, big in ((10, False), (60, True)):
        volume = image((n, 5, 6))
        report = write_ome_tiff(volume, tmp_path / "a.tif", dtype="uint16", name="a")
        with tifffile.TiffFile(tmp_path / "a.tif") as file:
            assert (file.is_bigtiff, report.big) == (big, big)
        assert np.array_equal(np.asarray(open_volume(tmp_path / "a.tif")), np.asarray(volume))


@pytest.mark.parametrize("most", [1, 2**29])
def test_tiles_of_planes_that_no_memory_holds(tmp_path, monkeypatch, most):
    monkeypatch.setattr("bigdecon.io.tiff_writing.PLANE_BYTES", most)
    monkeypatch.setattr("bigdecon.io.tiff_writing.TILE", 16)
    volume = image((2, 5, 70, 53), "czyx")
    write_ome_zarr(volume, tmp_path / "a.ome.zarr", dtype="uint16")
    stored = open_volume(tmp_path / "a.ome.zarr")
    report = write_ome_tiff(stored, tmp_path / "a.tif", dtype="uint8", name="a", tiled=True)
    assert report.n_clipped == 0
    assert len(inspect_volume(tmp_path / "a.tif").levels) == 4
    assert np.array_equal(np.asarray(open_volume(tmp_path / "a.tif")), np.asarray(volume))


def test_a_part_in_another_type(tmp_path):
    volume = image((3, 8, 30, 40), "czyx", "float32", voxel_size_um=(1.0, 0.5, 0.5))
    write_ome_zarr(volume, tmp_path / "a.ome.zarr")
    part = {"roi": "2:7,:,10:30", "channel": ("2", "channel 0"), "dtype": "uint8", "voxel_size": (2, 1, 1)}
    result = copy(tmp_path / "a.ome.zarr", tmp_path / "b.ome.tif", **part)
    found = open_volume(tmp_path / "b.ome.tif")
    assert np.array_equal(np.asarray(found), np.asarray(volume)[[2, 0], 2:7, :, 10:30].astype("uint8"))
    assert (found.voxel_size_um, found.translation_um) == ((2, 1, 1), (4, 0, 10))
    assert (result.clipped, result.state) == (0, "finished")


def test_values_beyond_the_type_are_counted(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.full((3, 4, 5), 300, "uint16"), photometric="minisblack")
    for name in ("b.ome.zarr", "b.tif"):
        assert copy(tmp_path / "a.tif", tmp_path / name, dtype="uint8").clipped == 60
        assert np.asarray(open_volume(tmp_path / name)).max() == 255


def test_a_series_of_files(tmp_path):
    data = np.arange(4 * 6 * 7, dtype="uint16").reshape(4, 6, 7)
    (tmp_path / "planes").mkdir()
    for z in range(4):
        tifffile.imwrite(tmp_path / "planes" / f"p{z + 8}.tif", data[z], photometric="minisblack")
    result = copy(tmp_path / "planes" / "p*.tif", tmp_path / "a.ome.zarr", voxel_size=(0.3, 0.1, 0.1))
    assert result.plan.notes[0].startswith("The files lie along 4 planes")
    found = open_volume(tmp_path / "a.ome.zarr")
    assert found.voxel_size_um == (0.3, 0.1, 0.1)
    assert np.array_equal(np.asarray(found), data)
    copy(tmp_path / "planes", tmp_path / "b.ome.zarr", stack="t")
    assert open_volume(tmp_path / "b.ome.zarr").axes == "tyx"


def test_what_ome_tiff_cannot_hold_is_told(tmp_path):
    write_ome_zarr(
        image((2, 3, 4), "tyx", time_step=2.0, time_unit="femtosecond"),
        tmp_path / "a.ome.zarr",
        dtype="uint16",
    )
    (lost,) = copy(tmp_path / "a.ome.zarr", tmp_path / "a.ome.tif").plan.warnings
    assert "femtosecond" in lost
    assert open_volume(tmp_path / "a.ome.tif").time_step is None


def test_the_same_again_is_found_finished_and_another_refused(tmp_path):
    write_ome_zarr(image((5, 6, 7)), tmp_path / "a.ome.zarr", dtype="uint16")
    write_ome_zarr(image((5, 6, 8)), tmp_path / "other.ome.zarr", dtype="uint16")
    target = tmp_path / "b.ome.zarr"
    assert copy(tmp_path / "a.ome.zarr", target).state == "finished"
    assert copy(tmp_path / "a.ome.zarr", target).state == "found finished"
    assert verify_output(target).sound
    for again in ({"voxel_size": (2, 1, 1)}, {"ome_version": "0.4"}, {"dtype": "int32"}):
        with pytest.raises(OutputError, match="--overwrite"):
            copy(tmp_path / "a.ome.zarr", target, **again)
    with pytest.raises(OutputError, match="--overwrite"):
        copy(tmp_path / "other.ome.zarr", target)
    assert copy(tmp_path / "other.ome.zarr", target, overwrite=True).state == "finished"
    assert open_volume(target).shape == (5, 6, 8)
    copy(target, tmp_path / "c.tif")
    with pytest.raises(OutputError, match="--overwrite"):
        copy(target, tmp_path / "c.tif")
    copy(tmp_path / "a.ome.zarr", tmp_path / "c.tif", overwrite=True)
    assert open_volume(tmp_path / "c.tif").shape == (5, 6, 7)


def test_what_is_not_ours_stays(tmp_path):
    write_ome_zarr(image((5, 6, 7)), tmp_path / "a.ome.zarr", dtype="uint16")
    (tmp_path / "mine.zarr").mkdir()
    (tmp_path / "mine.zarr" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="not written by bigdecon"):
        copy(tmp_path / "a.ome.zarr", tmp_path / "mine.zarr", overwrite=True)
    with pytest.raises(OutputError, match="inside the input"):
        copy(tmp_path / "a.ome.zarr", tmp_path / "a.ome.zarr" / "b.ome.zarr")
    tifffile.imwrite(tmp_path / "a.tif", np.ones((3, 4, 5), "uint16"), photometric="minisblack")
    before = (tmp_path / "a.tif").read_bytes()
    with pytest.raises(OutputError, match="is the input"):
        copy(tmp_path / "a.tif", tmp_path / "a.tif", overwrite=True)
    assert (tmp_path / "a.tif").read_bytes() == before
    assert (tmp_path / "mine.zarr" / "thesis.txt").exists()


def test_a_series_loses_none_of_its_files(tmp_path):
    (tmp_path / "planes").mkdir()
    for z in range(3):
        tifffile.imwrite(
            tmp_path / "planes" / f"p{z}.tif", np.ones((6, 7), "uint16"), photometric="minisblack"
        )
    target = tmp_path / "planes" / "p1.tif"
    before = target.read_bytes()
    for source in (tmp_path / "planes", tmp_path / "planes" / "*.tif"):
        with pytest.raises(OutputError, match="one of the files of the input"):
            copy(source, target, overwrite=True)
    assert target.read_bytes() == before


def test_an_output_that_another_makes_meanwhile_stays(tmp_path, monkeypatch):
    write_ome_zarr(image((5, 6, 7)), tmp_path / "a.ome.zarr", dtype="uint16")
    target = tmp_path / "b.ome.zarr"
    copied = converting.copy_to_zarr

    def copy_while_another_ends(*arguments):
        write_ome_zarr(image((2, 3, 4)), target, dtype="uint16")
        return copied(*arguments)

    monkeypatch.setattr(converting, "copy_to_zarr", copy_while_another_ends)
    with pytest.raises(OutputError, match="exists already"):
        copy(tmp_path / "a.ome.zarr", target)
    assert open_volume(target).shape == (2, 3, 4)


@pytest.mark.parametrize("name", ["b.ome.zarr", "b.ome.tif"])
def test_a_damaged_input_leaves_nothing_under_the_name(tmp_path, name):
    data = np.random.default_rng(0).integers(0, 9, (4, 64, 64)).astype("uint16")
    source = tmp_path / "a.tif"
    tifffile.imwrite(source, data, photometric="minisblack", compression="zlib", rowsperstrip=8)
    whole = source.read_bytes()
    with tifffile.TiffFile(source) as file:
        offset = file.pages[2].dataoffsets[3]
    source.write_bytes(whole[:offset] + bytes(100) + whole[offset + 100 :])
    with pytest.raises(ReadError, match="plane z=2"):
        copy(source, tmp_path / name)
    assert not (tmp_path / name).exists()
    source.write_bytes(whole)
    assert copy(source, tmp_path / name).state == "finished"
    assert np.array_equal(np.asarray(open_volume(tmp_path / name)), data)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a.tif", name])


@pytest.mark.parametrize("name", ["b.ome.zarr", "b.ome.tif"])
def test_too_little_room_is_told_before_anything_is_written(tmp_path, monkeypatch, name):
    noise = np.random.default_rng(0).integers(0, 2**16, (64, 64, 64)).astype("uint16")
    tifffile.imwrite(tmp_path / "a.tif", noise, photometric="minisblack")
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(converting.shutil, "disk_usage", lambda folder: usage(converting.SPARE + 400_000))
    with pytest.raises(OutputError, match="are free"):
        copy(tmp_path / "a.tif", tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
    tifffile.imwrite(tmp_path / "b.tif", np.zeros_like(noise), photometric="minisblack")
    if name.endswith("zarr"):  # zeros take no room
        copy(tmp_path / "b.tif", tmp_path / name)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"output": "b.png"}, OutputError, "does not tell the format"),
        ({"output": "s3://bucket/b.ome.tif"}, OutputError, "TIFF files are written to disks"),
        ({"output": "b.ome.zarr", "tiled": True}, OptionError, "--tiled"),
        ({"dtype": "complex64"}, OptionError, "complex64 cannot be written"),
        ({"roi": "1:2"}, OptionError, "not understood"),
        ({"roi": ":,:,5:5"}, VolumeError, "empty"),
        ({"channel": ("7",)}, VolumeError, "no channel"),
        ({"level": 4}, VolumeError, "no level 4"),
        ({"voxel_size": (1, 0, 1)}, VolumeError, "voxel size"),
        ({"input": "nowhere.tif"}, VolumeError, "there is no file"),
    ],
)
def test_mistakes_are_told_in_a_sentence(tmp_path, monkeypatch, change, error, words):
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("a.tif", np.ones((3, 4, 5), "uint16"), photometric="minisblack")
    with pytest.raises(error, match=words) as caught:
        convert_image(replace(Conversion("a.tif", "b.ome.tif"), **change))
    assert isinstance(caught.value, InputError)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_types_that_cannot_be_kept(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((3, 4, 5), "int64"), photometric="minisblack")
    with pytest.raises(OptionError, match=r"int64 cannot be written; choose another with --dtype: float32"):
        copy(tmp_path / "a.tif", tmp_path / "b.ome.zarr")


def test_object_store(s3, tmp_path):
    volume = image((3, 40, 50), voxel_size_um=(0.5, 0.1, 0.1))
    write_ome_zarr(volume, tmp_path / "a.ome.zarr", dtype="uint16")
    copy(tmp_path / "a.ome.zarr", f"{s3}/b.ome.zarr")
    assert copy(tmp_path / "a.ome.zarr", f"{s3}/b.ome.zarr").state == "found finished"
    assert verify_output(f"{s3}/b.ome.zarr").sound
    copy(f"{s3}/b.ome.zarr", tmp_path / "c.ome.tif")
    assert_same(open_volume(tmp_path / "a.ome.zarr"), open_volume(tmp_path / "c.ome.tif"))
