"""Images on servers that fail now and then, or for good."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import tifffile
import zarr

from bigdecon.errors import BigdeconError, ReadError, VolumeError
from bigdecon.io.identity import input_identity
from bigdecon.io.reading import open_volume
from bigdecon.io.remote_file import RemoteFile
from bigdecon.io.writing import write_ome_zarr
from bigdecon.io.zarr_source import open_zarr_source
from bigdecon.storage.places import as_place, files_below, write
from bigdecon.volume import Volume
from tests.servers import FAULTS, FaultyProxy

BOX = (slice(1, 3), slice(40, 160), slice(100, 290))


def image(shape=(4, 170, 300)):
    return np.random.default_rng(3).integers(0, 4000, shape).astype("uint16")


@pytest.fixture(params=["http", "s3"])
def served(request, tmp_path, monkeypatch):
    """Give (address of an OME-Zarr, its voxels, the proxy before its server)."""
    data = image()
    if request.param == "http":
        folder, url, handler = request.getfixturevalue("http_folder")
        handler.ranges = True
        root = folder / "a.ome.zarr"
    else:
        bucket, url = request.getfixturevalue("s3"), request.getfixturevalue("s3_server")
        root = tmp_path / "a.ome.zarr"
    write_ome_zarr(Volume.from_array(data, voxel_size_um=(1, 1, 1)), root, dtype="uint16")
    with FaultyProxy(url) as proxy:
        if request.param == "http":
            yield f"{proxy.url}/a.ome.zarr", data, proxy
        else:
            for file in files_below(root):
                write(as_place(f"{bucket}/{file.relative_to(tmp_path)}"), file.read_bytes())
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            yield f"{bucket}/a.ome.zarr", data, proxy


@pytest.mark.parametrize("kind", FAULTS)
def test_a_failure_now_and_then_passes_unnoticed(served, kind):
    address, data, proxy = served
    before = input_identity(open_volume(address))
    proxy.every(2, kind)
    volume = open_volume(address)
    assert np.array_equal(volume.stack()[BOX], data[BOX])
    assert input_identity(volume) == before
    assert proxy.done.count(kind) > 3


def test_chunks_of_a_server_are_asked_for_together(http_folder):
    """27 chunks of one block: the server answers none before all are asked for."""
    folder, url, handler = http_folder
    handler.ranges = True
    data = np.arange(48**3, dtype=np.uint16).reshape((48,) * 3)
    zarr.create_array(folder / "a.zarr", data=data, chunks=(16,) * 3)
    together, answer = threading.Barrier(27), handler.do_GET

    def hold(self):
        if "/c/" in self.path:
            together.wait(20)
        answer(self)

    handler.do_GET = hold
    assert np.array_equal(open_zarr_source(f"{url}/a.zarr", "", 3)[(slice(0, 48),) * 3], data)


@pytest.mark.parametrize("kind", ["500", "drop", "truncate"])
def test_a_lasting_failure_is_one_sentence(served, kind, monkeypatch):
    address, data, proxy = served
    monkeypatch.setattr("bigdecon.storage.servers.ask_async.__kwdefaults__", {"attempts": 3})
    volume = open_volume(address)
    proxy.rule = lambda method, path: kind if "/c/" in path else "none"
    with pytest.raises(ReadError, match=r"chunk \(.*at the last of 3 attempts.*the same command") as caught:
        volume.stack()[BOX]
    assert "\n" not in str(caught.value)
    proxy.rule = lambda method, path: "none"
    assert np.array_equal(volume.stack()[BOX], data[BOX])
    proxy.every(1, kind)
    with pytest.raises(VolumeError) as caught:
        open_volume(address)
    assert "\n" not in str(caught.value)


def test_a_missing_image_is_not_asked_for_again(served):
    address, _, proxy = served
    proxy.requests.clear()
    with pytest.raises(BigdeconError, match="no Zarr image"):
        open_volume(f"{address}x")
    assert len(proxy.requests) == 4  # zarr.json, .zarray, .zattrs, .zgroup


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_behind_a_failing_server(http_folder, compression):
    folder, url, handler = http_folder
    handler.ranges = True
    data = image((5, 60, 70))
    tifffile.imwrite(folder / "a.tif", data, photometric="minisblack", compression=compression)
    with FaultyProxy(url) as proxy:
        proxy.every(2, "500", "drop", "truncate")
        stack = open_volume(f"{proxy.url}/a.tif").stack()
        box = (slice(1, 3), slice(5, 39), slice(2, 60))
        assert np.array_equal(stack[box], data[box])
        assert sum(fault != "none" for fault in proxy.done) > 2


def test_a_remote_file_is_read_anywhere(http_folder):
    folder, url, handler = http_folder
    handler.ranges = True
    content = np.random.default_rng(0).bytes(100_000)
    (folder / "a").write_bytes(content)
    with RemoteFile(f"{url}/a") as file:
        assert file.read(10) == content[:10]
        file.seek(-100, 2)
        assert (file.tell(), file.read()) == (99_900, content[-100:])
        file.seek(500)
        file.seek(7, 1)
        assert file.read(1000) == content[507:1507]
    with pytest.raises(FileNotFoundError):
        RemoteFile(f"{url}/b")
