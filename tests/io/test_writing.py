import itertools
import json
import os
import resource
import warnings
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
import yaozarrs
import zarr
from hypothesis import given, settings
from zarr.storage._local import _atomic_write

from bigdecon.errors import OutputError, WriteError
from bigdecon.io.reading import open_volume
from bigdecon.io.writing import (
    DisplayWindow,
    build_pyramid,
    check_output_path,
    convert,
    create_ome_zarr,
    digest,
    has_digest,
    local_mean,
    measure_windows,
    plan_output,
    pyramid_boxes,
    read_box,
    remove_output,
    set_display_windows,
    set_provenance,
    write_box,
    write_boxes,
    write_ome_zarr,
    write_pyramid_box,
)
from bigdecon.volume import Channel, Volume

EXTENT = {"t": 2, "c": 3, "z": 4, "y": 21, "x": 30}
AXES = [t + c + z + "yx" for t, c, z in itertools.product(("", "t"), ("", "c"), ("", "z"))]
UNITS = {"micrometer", "second", "minute"}


def image(shape, dtype="uint16"):
    return np.random.default_rng(7).integers(0, 120, shape).astype(dtype)


def channels(names="abc"):
    return tuple(Channel(name, "00FF7F") for name in names)


def volume_with(axes, dtype="float32"):
    data = image([EXTENT[a] for a in axes], dtype)
    return Volume(
        Volume.from_array(data, axes).source,
        axes,
        (2.0, 0.5, 0.25)[-(3 if "z" in axes else 2) :],
        translation_um=(7.0, 8.0, 9.0)[-(3 if "z" in axes else 2) :],
        channels=channels() if "c" in axes else (Channel("one"),),
        time_step=3.0 if "t" in axes else None,
        time_unit="minute" if "t" in axes else "second",
    )


def metadata_of(path, version):
    if version == "0.4":
        return json.loads((path / ".zattrs").read_text())
    return json.loads((path / "zarr.json").read_text())["attributes"]["ome"]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("dtype", ["float32", "uint8", "uint16", "int16", "int32"])
@pytest.mark.parametrize("axes", AXES)
def test_round_trip(tmp_path, axes, dtype, version):
    volume = volume_with(axes, dtype)
    path = tmp_path / "a.ome.zarr"
    report = write_ome_zarr(volume, path, dtype=dtype, ome_version=version)
    assert report.n_clipped == 0
    again = open_volume(path)
    assert np.array_equal(np.asarray(again), np.asarray(volume))
    for name in ("axes", "dtype", "voxel_size_um", "translation_um", "channels", "time_step", "time_unit"):
        assert getattr(again, name) == getattr(volume, name), name
    yaozarrs.validate_zarr_store(str(path))
    ome = metadata_of(path, version)
    assert {axis.get("unit", "second") for axis in ome["multiscales"][0]["axes"]} <= UNITS
    for entry in ome["omero"]["channels"]:
        assert entry["window"]["min"] <= entry["window"]["start"] < entry["window"]["end"]
        assert len(entry["color"]) == 6
        assert entry["active"] is True


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_zarr_readers_do_not_complain(tmp_path, version):
    path = write_ome_zarr(volume_with("czyx"), tmp_path / "a", ome_version=version).path
    (path / "bigdecon/run.json").write_text("{}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open_group(path, mode="r")
        assert set(dict(group.members())) == {"0", "bigdecon"}
        assert [name for name, _ in group.groups()] == ["bigdecon"]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_other_reader_finds_the_same(tmp_path, version):
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    data = image((2, 5, 300, 310), "float32")
    volume = Volume.from_array(data, "czyx", voxel_size_um=(1, 0.5, 0.5))
    path = write_ome_zarr(volume, tmp_path / "a.ome.zarr", ome_version=version).path
    node = next(iter(Reader(parse_url(path))()))
    assert np.array_equal(np.asarray(node.data[0]), data)
    assert [level.shape for level in node.data] == [(2, 5, 300, 310), (2, 5, 150, 155)]
    assert [axis["name"] for axis in node.metadata["axes"]] == list("czyx")


def test_unknown_voxel_size_stays_unknown(tmp_path):
    volume = Volume.from_array(image((300, 20), "float32"))
    path = write_ome_zarr(volume, tmp_path / "a").path
    for level in (0, 1):
        assert open_volume(path, level=level).voxel_size_um is None


def test_region_keeps_its_place(tmp_path):
    volume = volume_with("czyx")
    crop = volume.crop((slice(1, 3), slice(5, 20), slice(10, 30)))
    again = open_volume(write_ome_zarr(crop, tmp_path / "a").path)
    assert again.translation_um == (7 + 1 * 2, 8 + 5 * 0.5, 9 + 10 * 0.25)
    assert np.array_equal(np.asarray(again), np.asarray(volume)[:, 1:3, 5:20, 10:30])


def prepared(tmp_path, spatial=(40, 300, 270), dtype="float32", version="0.5", unit=64, **options):
    """Create an output with small write units, with its values."""
    data = image(spatial, dtype)
    volume = Volume.from_array(data, voxel_size_um=(1,) * len(spatial))
    layout = plan_output(volume, dtype=dtype, ome_version=version, unit=unit, **options)
    path = tmp_path / f"a{version}.zarr"
    create_ome_zarr(path, volume, layout, name="a")
    return path, layout, data


SMALL = {"chunk": 64, "shard": 128}


@pytest.mark.parametrize("dtype", ["float32", "uint16", "int32"])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_pyramid_is_the_local_mean_in_any_order(tmp_path, dtype, version):
    path, layout, data = prepared(tmp_path, (41, 301, 270), dtype, version, **SMALL)
    for box in write_boxes(layout.levels[0]):
        assert write_box(path, layout, 0, 0, 0, box, data[box]) == digest(data[box])
    boxes = pyramid_boxes(layout, 1)
    assert len(boxes) > 1
    forward = [write_pyramid_box(path, layout, 1, 0, 0, box) for box in boxes]
    backward = [write_pyramid_box(path, layout, 1, 0, 0, box) for box in reversed(boxes)]
    assert forward == backward[::-1]
    found = np.asarray(open_volume(path, level=1))
    sums = np.zeros(found.shape)
    counts = np.zeros(found.shape)
    for dz, dy, dx in itertools.product((0, 1), repeat=3):
        part = data[dz::2, dy::2, dx::2].astype(float)
        place = tuple(slice(0, n) for n in part.shape)
        sums[place] += part
        counts[place] += 1
    mean = sums / counts
    if dtype == "float32":
        assert np.allclose(found, mean, rtol=1e-6, atol=0)
    else:
        assert np.abs(found - mean).max() <= 0.5 + 1e-6


def test_intensity_is_kept_through_the_pyramid(tmp_path):
    data = np.random.default_rng(1).gamma(2, 50, (40, 512, 512)).astype("float32")
    path = write_ome_zarr(Volume.from_array(data), tmp_path / "a").path
    assert np.asarray(open_volume(path, level=1)).mean() == pytest.approx(data.mean(), rel=1e-5)


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(
        st.sampled_from(["uint8", "uint16", "int16", "int32", "float32", "float64"]),
        hnp.array_shapes(min_dims=2, max_dims=3, max_side=5),
        elements={"min_value": 0, "max_value": 100},
    ),
    st.data(),
)
def test_local_mean(data, draw):
    factors = tuple(draw.draw(st.sampled_from([1, 2])) for _ in data.shape)
    found = local_mean(data, factors)
    assert found.dtype == data.dtype
    assert found.shape == tuple(-(-n // f) for n, f in zip(data.shape, factors, strict=True))
    for index in np.ndindex(found.shape):
        block = data[tuple(slice(i * f, i * f + f) for i, f in zip(index, factors, strict=True))]
        assert found[index] == pytest.approx(block.mean(), abs=0.501 if data.dtype.kind in "ui" else 1e-4)


def test_extreme_integers_do_not_overflow():
    for dtype in ("uint8", "uint16", "int16", "int32", "uint32"):
        for value in (np.iinfo(dtype).min, np.iinfo(dtype).max):
            data = np.full((3, 3, 3), value, dtype)
            assert (local_mean(data, (2, 2, 2)) == value).all()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_torn_files_of_an_interrupted_attempt_are_replaced(tmp_path, version):
    path, layout, data = prepared(tmp_path, version=version, **SMALL)
    box = write_boxes(layout.levels[0])[-1]  # overhangs the edge
    write_box(path, layout, 0, 0, 0, box, data[box])
    files = [
        f
        for f in (path / "0").rglob("*")
        if f.is_file() and f.name not in ("zarr.json", ".zarray", ".zattrs")
    ]
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:100])
    left = [files[0].with_name(name.format(files[0].name)) for name in (".tmp-{}-0a1b", "{}.0a1b.partial")]
    for file in left:
        file.write_bytes(b"rubbish")
    with pytest.raises(WriteError, match="cannot be read back"):
        read_box(path, layout, 0, 0, 0, box)
    write_box(path, layout, 0, 0, 0, box, data[box])
    assert np.array_equal(read_box(path, layout, 0, 0, 0, box), data[box])
    assert not any(file.exists() for file in left)


def test_units_written_twice_leave_nothing_behind(tmp_path):
    path, layout, data = prepared(tmp_path, **SMALL)
    box = write_boxes(layout.levels[0])[0]
    write_box(path, layout, 0, 0, 0, box, data[box] + 1)
    zeros = -np.zeros_like(data[box])
    assert write_box(path, layout, 0, 0, 0, box, zeros) == digest(read_box(path, layout, 0, 0, 0, box))
    assert not (path / "0/c/0/0/0").exists()


@pytest.mark.parametrize("blank", [False, True])
def test_signs_of_zeros_are_those_that_the_digest_tells_of(tmp_path, blank):
    """They stay, but for those of a unit with a chunk of zeros only: that one is not stored."""
    path, layout, data = prepared(tmp_path, **SMALL)
    box = write_boxes(layout.levels[0])[0]
    data = np.where(data[box] < 60, -np.float32(0), data[box])
    data[:, 64:, 64:] = -0.0 if blank else 1.0
    given = data.copy()
    written = write_box(path, layout, 0, 0, 0, box, data)
    found = read_box(path, layout, 0, 0, 0, box)
    assert digest(found) == written
    assert (written == digest(given)) != blank
    np.testing.assert_array_equal(found, given)
    np.testing.assert_array_equal(np.signbit(data), np.signbit(given), "what was given is not changed")


def test_an_output_that_is_gone_is_not_made_anew(tmp_path):
    path, layout, data = prepared(tmp_path, **SMALL)
    box = write_boxes(layout.levels[0])[0]
    remove_output(path)
    with pytest.raises(WriteError):
        write_box(path, layout, 0, 0, 0, box, data[box])
    assert not path.exists()


def test_box_that_would_tear_a_unit_is_refused(tmp_path):
    path, layout, data = prepared(tmp_path, **SMALL)
    whole = write_boxes(layout.levels[0])[0]
    bad = (whole[0], slice(64, 192), whole[2])
    with pytest.raises(WriteError, match="whole write units"):
        write_box(path, layout, 0, 0, 0, bad, data[bad])
    with pytest.raises(WriteError, match="float64"):
        write_box(path, layout, 0, 0, 0, whole, data[whole].astype("float64"))


def test_failing_disk_keeps_what_is_finished(tmp_path):
    path, layout, data = prepared(tmp_path, **SMALL)
    first, second = write_boxes(layout.levels[0])[:2]
    write_box(path, layout, 0, 0, 0, first, data[first])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(WriteError, match="what is finished is kept"):
            write_box(path, layout, 0, 0, 0, second, data[second])
        with pytest.raises(WriteError, match="what is finished is kept"):
            write_box(path, layout, 0, 0, 0, first, data[first] + 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(path.rglob(".tmp-*"))
    assert np.array_equal(read_box(path, layout, 0, 0, 0, first), data[first])
    write_box(path, layout, 0, 0, 0, second, data[second])
    assert np.array_equal(read_box(path, layout, 0, 0, 0, second), data[second])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize(("empties", "shard"), [(0, 32), (3, 32), (3, 16), (3, 48), (0, 96)])
def test_files_are_those_that_zarr_writes_by_itself(tmp_path, version, dtype, empties, shard):
    """Empty chunks have no bytes, others all of theirs, also where shards overhang the edge."""
    data = np.random.default_rng(0).poisson(3, (40, 36, 52)).astype(dtype)
    data[:16, :, :16] = data[: 16 * empties, :16, 32:48] = 0
    data[0, 0, :48:16] = 0  # a chunk that begins with 0 is not empty for that
    volume = Volume.from_array(data, "zyx")
    layout = plan_output(volume, dtype=dtype, ome_version=version, chunk=16, shard=shard, unit=16)
    found = []
    for name in ("ours", "zarr's"):
        create_ome_zarr(tmp_path / name, volume, layout, name="a")
        array = zarr.open_array(tmp_path / name / "0", mode="r+")
        for box in write_boxes(layout.levels[0]):
            if name == "ours":
                write_box(tmp_path / name, layout, 0, 0, 0, box, data[box])
            else:
                array[box] = data[box]
        files = (path for path in (tmp_path / name / "0").rglob("*") if path.is_file())
        found.append({str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files})
    assert found[0] == found[1]
    assert len(found[0]) > 1
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "ours" / "0", mode="r")[...], data)


def test_digest_tells_values_shapes_and_types_apart():
    data = image((4, 6), "float32")
    others = [data + 1, data.reshape(6, 4), data.astype("float64")]
    assert len({digest(data), *map(digest, others)}) == 4
    assert digest(np.asfortranarray(data)) == digest(data.astype(">f4")) == digest(data)


def test_digests_are_recognised_be_they_new_or_of_earlier_versions():
    data = np.arange(6, dtype="uint16").reshape(2, 3)
    before = blake2b(b"<u2(2, 3)" + data.tobytes(), digest_size=32).hexdigest()
    assert digest(data) == "xxh3-128:e2013850a1d019434a214353225b36e5", "what is on disk must verify for ever"
    for written in (before, digest(data)):
        for same in (data, np.asfortranarray(data), data.astype(">u2")):
            assert has_digest(same, written)
        for other in (data + 1, data.T, data.astype("int16")):
            assert not has_digest(other, written)
        assert not has_digest(data, written[:-1])


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("uint8", [0, 0, 2, 2, 255, 255, 0]), ("int16", [-5, 0, 2, 2, 255, 300, 0])],
)
def test_conversion_rounds_and_clips(dtype, expected):
    data = np.array([-5, 0.5, 1.5, 2.4, 255.4, 300, np.nan], "float32")
    converted, n_clipped = convert(data, dtype)
    assert converted.dtype == dtype
    assert converted.tolist() == expected
    assert n_clipped == sum(bool(e != np.rint(d)) for e, d in zip(expected, data, strict=True))


def test_conversion_of_wide_integers():
    top = np.iinfo("int32").max
    assert convert(np.array([3e9, -3e9], "float32"), "int32").array.tolist() == [top, -top - 1]
    assert convert(np.array([top], "int32"), "uint32") == (np.array([top], "uint32"), 0)
    assert convert(np.array([70000], "uint32"), "uint16") == (65535, 1)
    assert convert(np.array([9.0], "float16"), "uint16") == (9, 0)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_windows_and_provenance_keep_the_image_valid(tmp_path, version):
    data = np.zeros((3, 300, 300), "float32")
    data[:, :150] = 10
    volume = Volume.from_array(data)
    layout = plan_output(volume, ome_version=version)
    path = tmp_path / "a"
    create_ome_zarr(path, volume, layout, name="a")
    yaozarrs.validate_zarr_store(str(path))
    for box in write_boxes(layout.levels[0]):
        write_box(path, layout, 0, 0, 0, box, data[box])
    build_pyramid(path, layout)
    set_provenance(path, {"seed": 3, "input": {"shape": [3, 300, 300]}})
    set_display_windows(path, measure_windows(path, layout))
    yaozarrs.validate_zarr_store(str(path))
    window = metadata_of(path, version)["omero"]["channels"][0]["window"]
    assert window == {"min": 0, "max": 10, "start": 0, "end": 10}
    attributes = zarr.open_group(path, mode="r").attrs.asdict()
    assert attributes["bigdecon"]["provenance"]["seed"] == 3
    with pytest.raises(OutputError, match="1 channels, not 2"):
        set_display_windows(path, [DisplayWindow(0, 1, 0, 1)] * 2)


class Broken:
    """A source that fails at the second unit, as a lazy computation may."""

    shape = (10, 20, 600)
    dtype = np.dtype("float32")
    chunks = shape

    def __getitem__(self, selection):
        if selection[2].start:
            raise ValueError("no such luck")
        return np.ones([s.stop - s.start for s in selection], "float32")


def test_failing_source_ends_the_writing(tmp_path):
    with pytest.raises(ValueError, match="no such luck"):
        write_ome_zarr(Volume(Broken(), "zyx"), tmp_path / "a")
    write_ome_zarr(volume_with("zyx"), tmp_path / "a", overwrite=True)


def test_where_an_output_may_go(tmp_path):
    volume = volume_with("zyx")
    path = write_ome_zarr(volume, tmp_path / "in/a.ome.zarr").path
    check_output_path(tmp_path / "new/deep/b.zarr", overwrite=False, input_location=str(path))
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    check_output_path(tmp_path / "empty")
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/data").write_text("")
    zarr.create_group(str(tmp_path / "foreign"))
    for bad, message in (
        (path, "overwrite replaces it"),
        (path / "sub", "inside the input"),
        (path.parent, "inside the output"),
        (tmp_path / "file", "not a folder"),
        (tmp_path / "file/sub", "cannot be written"),
        (tmp_path / "foreign", "not written by bigdecon"),
        (tmp_path / "other", "not written by bigdecon"),
        ("s3://bucket/a.zarr", "URL"),
        ("/proc/a.zarr", "cannot be written"),
    ):
        location = "" if bad == path else str(path)
        with pytest.raises(OutputError, match=message):
            check_output_path(bad, overwrite=bad != path, input_location=location)
    with pytest.raises(OutputError, match="inside the input"):
        check_output_path(path, overwrite=True, input_location=str(path))
    check_output_path(path, overwrite=True)
    os.symlink(path, tmp_path / "link")
    with pytest.raises(OutputError, match="inside the input"):
        check_output_path(tmp_path / "link/sub", input_location=str(path))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_only_what_bigdecon_wrote_is_removed(tmp_path, version):
    path = write_ome_zarr(volume_with("zyx"), tmp_path / "a", ome_version=version).path
    (path / "notes.txt").write_text("mine")
    for act in (remove_output, lambda p: check_output_path(p, overwrite=True)):
        with pytest.raises(OutputError, match=r"notes\.txt"):
            act(path)
    assert open_volume(path).shape == (4, 21, 30)
    (path / "notes.txt").unlink()
    remove_output(path)
    assert not path.exists()
    remove_output(path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/data").write_text("")
    with pytest.raises(OutputError, match="not written by bigdecon"):
        remove_output(tmp_path / "b")


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_metadata_that_were_being_written_do_not_keep_an_output_from_being_replaced(tmp_path, version):
    path = tmp_path / "a"
    write_ome_zarr(volume_with("zyx"), path, ome_version=version)
    name = "zarr.json" if version == "0.5" else ".zattrs"
    content = (path / name).read_bytes()
    with _atomic_write(path / name, "wb") as file:
        (left,) = (found for found in path.iterdir() if found.suffix == ".partial")
        file.write(content)
    left.touch()
    (path / f".tmp-{name}-{'0a' * 16}").touch()
    check_output_path(path, overwrite=True)
    write_ome_zarr(volume_with("zyx"), path, ome_version=version, overwrite=True)
    assert not left.exists()
    assert not list(path.glob(".tmp-*"))
    for strange in ("zarr.notes.partial", ".tmp-notes", "x.0a.partial"):
        (path / strange).touch()
        with pytest.raises(OutputError, match="did not write"):
            check_output_path(path, overwrite=True)
        (path / strange).unlink()


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_root_metadata_are_whole_or_as_they_were(tmp_path, monkeypatch, version):
    path = tmp_path / "a"
    write_ome_zarr(volume_with("zyx"), path, ome_version=version)
    before = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
    synced = []
    real = os.fsync

    def fail(handle):
        synced.append(handle)
        raise OSError("the disk is gone")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(WriteError, match="the disk is gone"):
        set_provenance(path, {"a": 1})
    assert synced
    monkeypatch.setattr(os, "fsync", real)
    assert {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()} == before
    set_provenance(path, {"a": 1})
    assert zarr.open_group(path, mode="r").attrs["bigdecon"]["provenance"] == {"a": 1}
    assert {file.name for file in path.iterdir() if file.is_file()} == set(before)


def test_an_output_is_not_created_over_something(tmp_path):
    path, layout, data = prepared(tmp_path)
    with pytest.raises(OutputError, match="exists already"):
        create_ome_zarr(path, Volume.from_array(data), layout, name="a")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_two_tasks_of_one_run_may_write_the_same_unit_at_the_same_time(tmp_path):
    """A task that was given up may still be at it; neither takes the other's unfinished file away."""
    path, layout, data = prepared(tmp_path, (64, 128, 128), **SMALL)
    (box,) = write_boxes(layout.levels[0])
    left = path / "0" / "c" / "0" / "0"
    left.mkdir(parents=True)
    (left / ".tmp-0-another-1a2b").write_bytes(b"torn")
    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(write_box, path, layout, 0, 0, 0, box, data[box], "a run") for _ in range(24)]
        assert {task.result() for task in tasks} == {digest(data[box])}
    assert [file.name for file in left.iterdir()] == ["0"]
