import gc
import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
import zarr

from bigdecon.errors import ReadError, VolumeError
from bigdecon.io.reading import inspect_volume, open_volume
from bigdecon.io.writing import write_ome_zarr
from bigdecon.volume import Channel, Volume

DTYPES = ("uint8", "uint16", "int16", "int32", "float32", "float64", "uint32", "float16")


def image(shape, dtype="uint16"):
    values = np.random.default_rng(7).integers(0, 120, shape)
    return values.astype(dtype)


def zarr_group(path, arrays, axes, *, version="0.4", transforms=None, omero=None, extra=None, chunks=None):
    """Write a multiscale image the way other programs do."""
    zarr_format = 2 if version == "0.4" else 3
    group = zarr.create_group(str(path), zarr_format=zarr_format)
    datasets = []
    for i, array in enumerate(arrays):
        made = group.create_array(str(i), shape=array.shape, dtype=array.dtype, chunks=chunks or array.shape)
        made[...] = array
        transform = transforms[i] if transforms else [{"type": "scale", "scale": [2.0**i] * array.ndim}]
        datasets.append({"path": str(i), "coordinateTransformations": transform})
    image_metadata = {"multiscales": [{"axes": axes, "datasets": datasets, **(extra or {})}]}
    if omero:
        image_metadata["omero"] = omero
    if version == "0.4":
        image_metadata["multiscales"][0]["version"] = "0.4"
    group.attrs.update({"ome": {"version": "0.5", **image_metadata}} if version == "0.5" else image_metadata)


def space(names, unit="micrometer"):
    return [{"name": n, "type": "space", **({"unit": unit} if unit else {})} for n in names]


@pytest.mark.parametrize("dtype", [*DTYPES, ">u2", ">i4", ">f4"])
def test_zarr_v2_and_v3_give_native_values(tmp_path, dtype):
    data = image((3, 20, 17), dtype)
    for version in ("0.4", "0.5"):
        zarr_group(tmp_path / version, [data], space("zyx"), version=version, chunks=(2, 8, 8))
        volume = open_volume(tmp_path / version)
        assert volume.dtype == np.dtype(dtype).newbyteorder("=")
        assert volume.dtype.isnative
        assert np.array_equal(np.asarray(volume), data)
        part = volume.stack()[slice(1, 3), slice(5, 19), slice(3, 9)]
        assert part.dtype.isnative
        assert np.array_equal(part, data[1:3, 5:19, 3:9])


def test_zarr_big_endian_is_stored_as_such(tmp_path):
    zarr_group(tmp_path / "a", [image((4, 4), ">u2")], space("yx"))
    assert json.loads((tmp_path / "a/0/.zarray").read_text())["dtype"] == ">u2"


def test_scales_units_and_translations_combine(tmp_path):
    transforms = [
        [
            {"type": "scale", "scale": [1, 1, 500, 200, 200]},
            {"type": "translation", "translation": [0, 0, 0, 100, 300]},
        ]
    ]
    axes = [
        {"name": "t", "type": "time", "unit": "millisecond"},
        {"name": "c", "type": "channel"},
        *space("zyx", "nanometer"),
    ]
    shared = [{"type": "scale", "scale": [40, 1, 2, 1, 1]}]
    omero = {"channels": [{"label": "GFP", "color": "00ff00"}, {"label": "DAPI", "color": "0000FF"}]}
    zarr_group(
        tmp_path / "a",
        [image((3, 2, 2, 4, 5))],
        axes,
        transforms=transforms,
        omero=omero,
        extra={"coordinateTransformations": shared},
    )
    volume = open_volume(tmp_path / "a")
    assert volume.voxel_size_um == pytest.approx((1.0, 0.2, 0.2))
    assert volume.translation_um == pytest.approx((0, 0.1, 0.3))
    assert (volume.time_step, volume.time_unit) == (40, "millisecond")
    assert volume.channels == (Channel("GFP", "00FF00"), Channel("DAPI", "0000FF"))
    for chosen in ("DAPI", 1, "1", ["DAPI"]):
        picked = open_volume(tmp_path / "a", channel=chosen, timepoint=2)
        assert picked.shape == (1, 1, 2, 4, 5)
        assert picked.channels == (Channel("DAPI", "0000FF"),)
        assert np.array_equal(np.asarray(picked), np.asarray(volume)[2:, 1:])
    for bad, listed in (({"channel": "RFP"}, "0 'GFP', 1 'DAPI'"), ({"channel": 2}, "1 'DAPI'")):
        with pytest.raises(VolumeError, match=listed):
            open_volume(tmp_path / "a", **bad)
    with pytest.raises(VolumeError, match="no time point 3; it has 3 time points"):
        open_volume(tmp_path / "a", timepoint=3)
    with pytest.raises(VolumeError, match="no level 1; it has 1 level "):
        open_volume(tmp_path / "a", level=1)


@pytest.mark.parametrize(
    ("unit", "factor"), [("millimeter", 1e3), ("angstrom", 1e-4), (None, 1.0), ("µm", 1)]
)
def test_units_become_micrometres(tmp_path, unit, factor):
    transforms = [[{"type": "scale", "scale": [3.0, 2.0, 2.0]}]]
    zarr_group(tmp_path / "a", [image((2, 3, 4))], space("zyx", unit), transforms=transforms)
    assert open_volume(tmp_path / "a").voxel_size_um == pytest.approx((3 * factor, 2 * factor, 2 * factor))


def test_scale_one_without_unit_is_unknown_and_can_be_given(tmp_path):
    levels = [image((8, 8)), image((4, 4))]
    zarr_group(tmp_path / "a", levels, space("yx", None))
    assert open_volume(tmp_path / "a").voxel_size_um is None
    assert open_volume(tmp_path / "a", level=1).voxel_size_um is None
    assert open_volume(tmp_path / "a", voxel_size_um=(0.1, 0.2)).voxel_size_um == (0.1, 0.2)
    for bad in ((0.1,), (0.1, 0.0), (0.1, float("nan"))):
        with pytest.raises(VolumeError, match="one for each of y, x"):
            open_volume(tmp_path / "a", voxel_size_um=bad)


def test_levels_of_a_pyramid(tmp_path):
    zarr_group(tmp_path / "a", [image((8, 8)), image((4, 4))], space("yx"), version="0.5")
    coarse = open_volume(tmp_path / "a", level=1)
    assert coarse.shape == (4, 4)
    assert coarse.voxel_size_um == (2, 2)
    summary = inspect_volume(tmp_path / "a")
    assert [level.shape for level in summary.levels] == [(8, 8), (4, 4)]
    assert json.loads(json.dumps(summary.as_dict()))["format"] == "OME-Zarr 0.5"


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_plain_array(tmp_path, zarr_format):
    data = image((5, 6, 7))
    zarr.create_array(str(tmp_path / "a"), data=data, zarr_format=zarr_format)
    volume = open_volume(tmp_path / "a")
    assert (volume.axes, volume.voxel_size_um) == ("zyx", None)
    assert np.array_equal(np.asarray(volume), data)


def test_dimension_names_of_a_plain_array(tmp_path):
    zarr.create_array(str(tmp_path / "a"), data=image((5, 6, 7)), dimension_names=["t", "y", "x"])
    assert open_volume(tmp_path / "a").axes == "tyx"


def test_array_inside_an_image_opens_as_plain_array(tmp_path):
    zarr_group(tmp_path / "a", [image((8, 8))], space("yx"))
    assert open_volume(tmp_path / "a/0").shape == (8, 8)
    assert open_volume(tmp_path / "a/.zattrs").voxel_size_um == (1, 1)


def test_bioformats2raw_collection(tmp_path):
    zarr.create_group(str(tmp_path / "a"), zarr_format=2, attributes={"bioformats2raw.layout": 3})
    zarr_group(tmp_path / "a/0", [image((8, 8))], space("yx"))
    assert open_volume(tmp_path / "a").shape == (8, 8)
    zarr_group(tmp_path / "a/1", [image((8, 8))], space("yx"))
    with pytest.raises(VolumeError, match="several images"):
        open_volume(tmp_path / "a")


def make_bad_inputs(folder):
    (folder / "text.tif").write_text("no image")
    (folder / "empty").mkdir()
    zarr.create_group(str(folder / "group"), zarr_format=2).create_array("inner", data=image((4, 4)))
    zarr.create_group(str(folder / "plate"), attributes={"ome": {"plate": {}}})
    zarr_group(folder / "order", [image((2, 2, 2))], space("xyz"))
    zarr_group(
        folder / "length", [image((2, 2))], space("yx"), transforms=[[{"type": "scale", "scale": [1]}]]
    )
    zarr.create_array(str(folder / "complex"), data=np.zeros((4, 4), "complex64"))
    zarr.create_array(str(folder / "line"), data=np.zeros(4))
    zarr_group(folder / "gone", [image((2, 2))], space("yx"))
    (folder / "gone/0/.zarray").unlink()
    zarr.create_group(str(folder / "odd"), attributes={"ome": {"multiscales": ["x"]}})
    (folder / "json").mkdir()
    (folder / "json/zarr.json").write_text("{")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "there is no file"),
        ("text.tif", "no TIFF file"),
        ("empty", "no Zarr image"),
        ("group", "it holds inner"),
        ("plate", "plate"),
        ("order", "axes x, y, z"),
        ("length", "transformation"),
        ("complex", "complex64"),
        ("line", "1 dimensions"),
        ("gone", "cannot be opened"),
        ("odd", "malformed"),
        ("json", "zarr.json cannot be read"),
    ],
)
def test_what_is_no_image_is_refused_in_one_sentence(tmp_path, name, message):
    make_bad_inputs(tmp_path)
    with pytest.raises(VolumeError, match=message) as error:
        open_volume(tmp_path / name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_source_travels_as_a_few_values_and_reads_in_threads(tmp_path):
    data = image((16, 64, 64))
    zarr_group(tmp_path / "a", [data], space("zyx"), version="0.5", chunks=(4, 16, 16))
    volume = pickle.loads(pickle.dumps(open_volume(tmp_path / "a")))
    assert len(pickle.dumps(volume.source)) < 1000
    boxes = [(slice(z, z + 5), slice(0, 64), slice(z, z + 30)) for z in range(12)]
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(volume.stack().__getitem__, boxes * 3))
    assert all(np.array_equal(part, data[box]) for part, box in zip(parts, boxes * 3, strict=True))


def test_source_reads_in_a_forked_process(tmp_path):
    zarr_group(tmp_path / "a", [image((4, 4))], space("yx"))
    script = (
        "import os, sys, warnings; warnings.simplefilter('ignore')\n"
        "from bigdecon.io.reading import open_volume\n"
        f"v = open_volume({str(tmp_path / 'a')!r}); v.stack()[slice(0, 4), slice(0, 4)]\n"
        "pid = os.fork()\n"
        "if pid == 0: v.stack()[slice(0, 4), slice(0, 4)]; os._exit(7)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 7


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_corrupt_chunk_is_named(tmp_path, version):
    zarr_group(tmp_path / "a", [image((8, 8, 8))], space("zyx"), version=version, chunks=(4, 4, 4))
    name = "0/1.0.1" if version == "0.4" else "0/c/1/0/1"
    if version == "0.4":
        name = next(p for p in (name, "0/1/0/1") if (tmp_path / "a" / p).exists())
    (tmp_path / "a" / name).write_bytes(b"\x01\x02 rubbish")
    stack = open_volume(tmp_path / "a").stack()
    assert stack[slice(0, 4), slice(0, 8), slice(0, 8)].any()
    with pytest.raises(ReadError, match=r"chunk \(1, 0, 1\)") as error:
        stack[slice(0, 8), slice(0, 8), slice(0, 8)]
    assert name in str(error.value)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_truncated_shard_is_named(tmp_path):
    volume = Volume.from_array(image((256, 256, 2)).transpose(2, 0, 1).copy(), voxel_size_um=(1, 1, 1))
    path = tmp_path / "a"
    zarr.create_array(str(path), data=np.asarray(volume), chunks=(1, 64, 64), shards=(2, 128, 128))
    shard = path / "c/0/1/0"
    os.truncate(shard, shard.stat().st_size // 2)
    stack = open_volume(path).stack()
    with pytest.raises(ReadError, match=r"chunk \(0, 2, 0\).*c/0/1/0 is damaged"):
        stack[slice(0, 2), slice(0, 256), slice(0, 256)]


def served_volume(folder, version):
    data = image((3, 200, 300), "float32")
    write_ome_zarr(Volume.from_array(data, voxel_size_um=(1, 1, 1)), folder, ome_version=version)
    return data


@pytest.mark.parametrize(("version", "ranges"), [("0.4", False), ("0.5", False), ("0.5", True)])
def test_http(http_folder, version, ranges):
    folder, url, handler = http_folder
    data = served_volume(folder / "a.zarr", version)
    handler.ranges = ranges
    volume = open_volume(f"{url}/a.zarr/")
    assert volume.location == f"{url}/a.zarr"
    box = (slice(1, 3), slice(100, 160), slice(100, 290))
    assert np.array_equal(volume.stack()[box], data[box])
    assert np.array_equal(np.asarray(pickle.loads(pickle.dumps(volume))), data)
    handler.broken = ("/0/0/1/" if version == "0.4" else "/c/0/0/1",)
    with pytest.raises(ReadError, match=r"500"):
        volume.stack()[box]
    with pytest.raises(VolumeError, match="no Zarr image"):
        open_volume(f"{url}/b.zarr")
    handler.broken = ("zarr.json",)
    with pytest.raises(VolumeError, match="500"):
        open_volume(f"{url}/a.zarr")
    gc.collect()


def test_server_that_is_not_there(monkeypatch):
    monkeypatch.setattr("bigdecon.storage.servers.FIRST_PAUSE_S", 0.01)
    with pytest.raises(VolumeError, match="cannot be read"):
        open_volume("http://127.0.0.1:9/a.zarr")
    with pytest.raises(VolumeError, match="nosuch://"):
        open_volume("nosuch://bucket/a.zarr")


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_on_a_server(http_folder, compression):
    folder, url, handler = http_folder
    data = image((5, 20, 20))
    tifffile.imwrite(folder / "a.tif", data, photometric="minisblack", compression=compression)
    if compression is None:
        with pytest.raises(VolumeError, match="range requests"):
            open_volume(f"{url}/a.tif")
    handler.ranges = True
    stack = open_volume(f"{url}/a.tif").stack()
    box = (slice(1, 3), slice(5, 9), slice(2, 20))
    for _ in range(2):
        assert np.array_equal(stack[box], data[box])
    with pytest.raises(VolumeError, match=r"missing\.tif"):
        open_volume(f"{url}/missing.tif")
    gc.collect()


def test_s3(tmp_path, s3, monkeypatch):
    import s3fs

    data = served_volume(tmp_path / "a.zarr", "0.5")
    fs = s3fs.S3FileSystem(skip_instance_cache=True)
    fs.put(str(tmp_path / "a.zarr"), f"{s3}/a.zarr", recursive=True)
    volume = open_volume(f"{s3}/a.zarr")
    box = (slice(1, 3), slice(100, 160), slice(100, 290))
    assert np.array_equal(volume.stack()[box], data[box])
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(volume.stack().__getitem__, [box] * 6))
    assert all(np.array_equal(part, data[box]) for part in parts)
    with pytest.raises(VolumeError, match="no Zarr image"):
        open_volume(f"{s3}/b.zarr")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    from bigdecon.io.stores import filesystem

    assert filesystem(f"{s3}/a.zarr").anon
