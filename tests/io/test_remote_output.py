"""Outputs in an object store: the same voxels as on a disk, whole objects only, and no harm by failures."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from bigdecon.errors import OutputError, WriteError
from bigdecon.io.ome_writing import DisplayWindow
from bigdecon.io.output_folder import (
    BOOKKEEPING,
    check_output_path,
    is_incomplete,
    is_own_output,
    is_taken,
    remove_output,
)
from bigdecon.io.provenance import RunRecord, is_unfinished, read_run, write_run
from bigdecon.io.reading import open_volume
from bigdecon.io.writing import (
    create_ome_zarr,
    digest,
    plan_output,
    read_box,
    set_display_windows,
    write_box,
    write_boxes,
    write_ome_zarr,
)
from bigdecon.storage import places
from bigdecon.storage.places import as_place
from bigdecon.volume import Volume
from tests.servers import FaultyProxy

PROVENANCE = {"configuration": {}, "psfs": [], "input": {"digest": "", "shape": []}}
RECORD = RunRecord("f" * 64, PROVENANCE)
CHUNK = re.compile(r"/0/(c/)?\d+/\d+")


def image(shape=(40, 150, 140), dtype="uint16"):
    return np.random.default_rng(7).integers(0, 120, shape).astype(dtype)


def small_volume(data=None):
    return Volume.from_array(image() if data is None else data, voxel_size_um=(1, 1, 1))


def small_layout(volume, version="0.5"):
    return plan_output(volume, dtype="uint16", ome_version=version, unit=64, chunk=64, shard=128)


@pytest.fixture
def proxy(s3, s3_server, monkeypatch):
    """Stand before the object store; everybody asks the proxy."""
    with FaultyProxy(s3_server) as standing:
        monkeypatch.setenv("AWS_ENDPOINT_URL", standing.url)
        yield standing


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_objects_are_those_of_a_folder(tmp_path, s3, version):
    volume = small_volume(image((3, 300, 310)))
    local = write_ome_zarr(volume, tmp_path / "a.ome.zarr", dtype="uint16", ome_version=version).path
    remote = write_ome_zarr(volume, f"{s3}/a.ome.zarr", dtype="uint16", ome_version=version).path
    assert str(remote) == f"{s3}/a.ome.zarr"
    files, objects = places.files_below(local), places.files_below(remote)
    assert [str(f.relative_to(local)) for f in files] == [str(o).removeprefix(f"{remote}/") for o in objects]
    assert places.read_many(files) == places.read_many(objects)
    again = open_volume(remote)
    assert np.array_equal(np.asarray(again), np.asarray(volume))
    assert is_own_output(remote)
    assert not is_unfinished(remote)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_write_unit_is_one_put_and_nothing_else(proxy, s3, version):
    volume = small_volume()
    data, layout = np.asarray(volume), small_layout(volume, version)
    create_ome_zarr(f"{s3}/a", volume, layout, name="a")
    proxy.requests.clear()
    boxes = write_boxes(layout.levels[0])
    for box in boxes:
        assert write_box(f"{s3}/a", layout, 0, 0, 0, box, data[box]) == digest(data[box])
    asked = [method for method, path in proxy.requests if CHUNK.search(path)]
    assert len(boxes) == (4 if version == "0.5" else 9)
    assert asked == ["PUT"] * len(boxes)
    for box in boxes:
        assert np.array_equal(read_box(f"{s3}/a", layout, 0, 0, 0, box), data[box])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_failures_of_the_server_pass_unnoticed(proxy, s3, version):
    proxy.every(3)
    volume = small_volume(image((5, 300, 310)))
    path = write_ome_zarr(volume, f"{s3}/a", dtype="uint16", ome_version=version).path
    assert np.array_equal(np.asarray(open_volume(path)), np.asarray(volume))
    assert sum(fault != "none" for fault in proxy.done) > 10
    proxy.every(1, "none")
    assert np.array_equal(np.asarray(open_volume(path)), np.asarray(volume))
    assert not any(place.name.startswith(places.TEMPORARY) for place in places.files_below(path))


def test_a_lasting_failure_loses_nothing(proxy, s3):
    volume = small_volume()
    data, layout = np.asarray(volume), small_layout(volume)
    create_ome_zarr(f"{s3}/a", volume, layout, name="a")
    first, second = write_boxes(layout.levels[0])[:2]
    write_box(f"{s3}/a", layout, 0, 0, 0, first, data[first])
    proxy.every(1, "500", "drop", "lose")
    with pytest.raises(WriteError, match=r"s3://.*what is finished is kept") as caught:
        write_box(f"{s3}/a", layout, 0, 0, 0, first, data[first])
    assert "\n" not in str(caught.value)
    with pytest.raises(WriteError, match="cannot be read back"):
        read_box(f"{s3}/a", layout, 0, 0, 0, first)
    proxy.every(1, "none")
    assert np.array_equal(read_box(f"{s3}/a", layout, 0, 0, 0, first), data[first])
    write_box(f"{s3}/a", layout, 0, 0, 0, second, data[second])
    assert np.array_equal(read_box(f"{s3}/a", layout, 0, 0, 0, second), data[second])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_damaged_objects_are_replaced(s3, version):
    volume = small_volume()
    data, layout = np.asarray(volume), small_layout(volume, version)
    path = as_place(f"{s3}/a")
    create_ome_zarr(path, volume, layout, name="a")
    box = write_boxes(layout.levels[0])[-1]  # overhangs the edge
    write_box(path, layout, 0, 0, 0, box, data[box])
    chunks = [place for place in places.files_below(path / "0") if CHUNK.search(str(place))]
    assert chunks
    for chunk in chunks:
        places.write(chunk, places.read(chunk)[:50])
    with pytest.raises(WriteError, match="cannot be read back"):
        read_box(path, layout, 0, 0, 0, box)
    write_box(path, layout, 0, 0, 0, box, data[box])
    assert np.array_equal(read_box(path, layout, 0, 0, 0, box), data[box])
    write_box(path, layout, 0, 0, 0, box, np.zeros_like(data[box]))
    assert not any(places.exists(chunk) for chunk in chunks)


def test_another_output_in_the_same_place_is_opened_anew(s3):
    for version, dtype in (("0.5", "uint16"), ("0.4", "float32")):
        volume = small_volume(image((4, 30, 40), dtype))
        path = write_ome_zarr(volume, f"{s3}/a", dtype=dtype, ome_version=version, overwrite=True).path
        assert open_volume(path).dtype == dtype
        assert np.array_equal(np.asarray(open_volume(path)), np.asarray(volume))


def impatient(monkeypatch):
    """Make two attempts a request, as a dead client makes none."""
    for name in ("servers.ask", "places.write", "places.delete"):
        monkeypatch.setattr(f"bigdecon.storage.{name}.__kwdefaults__", {"attempts": 2})


def failing_from(n):
    """Let the n-th request that changes something fail, and all that follow: the client has died."""
    count = itertools.count(1)

    def rule(method, path):
        changes = method in ("PUT", "POST", "DELETE")
        rule.died = getattr(rule, "died", False) or (changes and next(count) >= n)
        return "drop" if rule.died else "none"

    return rule


def test_a_creation_that_is_cut_off_anywhere_can_be_repeated(proxy, s3, monkeypatch):
    impatient(monkeypatch)
    volume = small_volume()
    layout = small_layout(volume)
    path = as_place(f"{s3}/a")
    for n in itertools.count(1):
        proxy.rule = rule = failing_from(n)
        try:
            create_ome_zarr(path, volume, layout, name="a", record=RECORD)
        except WriteError:
            assert rule.died
        proxy.rule = lambda method, path: "none"
        if not rule.died:
            break
        assert is_incomplete(path) == (n > 1)
        check_output_path(path)
        create_ome_zarr(path, volume, layout, name="a", record=RECORD)
        assert not is_incomplete(path)
        with pytest.raises(OutputError, match="overwrite replaces it"):
            check_output_path(path)
        with pytest.raises(OutputError, match="exists already"):
            create_ome_zarr(path, volume, layout, name="a")
        assert read_run(path / BOOKKEEPING / "run.json") == RECORD
        places.remove_all(path)
    assert n > 4


def test_a_removal_that_is_cut_off_anywhere_can_be_repeated(proxy, s3, monkeypatch):
    impatient(monkeypatch)
    volume = small_volume(image((3, 40, 50)))
    path = as_place(f"{s3}/a")
    for n in itertools.count(1):
        write_ome_zarr(volume, path, dtype="uint16")
        write_run(path / BOOKKEEPING / "run.json", RunRecord("f" * 64, PROVENANCE, finished=True))
        proxy.rule = rule = failing_from(n)
        try:
            remove_output(path)
        except OutputError as error:
            assert "cannot be removed" in str(error)  # noqa: PT017
        proxy.rule = lambda method, path: "none"
        if not rule.died:
            break
        record = read_run(path / BOOKKEEPING / "run.json")
        if record is not None and record.finished:
            assert np.array_equal(np.asarray(open_volume(path)), np.asarray(volume))
        check_output_path(path, overwrite=True)
        remove_output(path)
        assert list(places.files_below(path)) == []
    assert n > 2
    assert list(places.files_below(path)) == []


def test_where_an_output_may_go(s3, monkeypatch):
    volume = small_volume(image((3, 40, 50)))
    path = write_ome_zarr(volume, f"{s3}/in/a.ome.zarr", dtype="uint16").path
    places.write(as_place(f"{s3}/other/data"), b"")
    for bad, message in (
        (path, "overwrite replaces it"),
        (path / "sub", "inside the input"),
        (path.parent, "inside the output"),
        (f"{s3}/other", "not written by bigdecon"),
        ("s3://no-such-bucket/a.zarr", r"s3://no-such-bucket/a\.zarr cannot be written \(there is no bucket"),
        ("http://127.0.0.1/a.zarr", "is on a server that takes no files"),
        ("ftp://host/a.zarr", "is on a server that takes no files"),
        ("s3://", "s3:// names no bucket; give s3://bucket"),
        ("s3:", "s3: names no bucket; give s3://bucket"),
        ("s3:/bucket/a.zarr", "lacks a slash; give s3://bucket/a.zarr"),
    ):
        location = "" if bad == path else str(path)
        with pytest.raises(OutputError, match=message):
            check_output_path(bad, overwrite=bad != path, input_location=location)
    check_output_path(path, overwrite=True)
    check_output_path(f"{s3}/in/b.ome.zarr", input_location=str(path))
    check_output_path(f"{s3}/in/a.ome.zarr2", input_location=str(path))
    assert places.names(as_place(s3)) == ["in", "other"]
    assert places.names(as_place(f"{s3}/in")) == ["a.ome.zarr"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(OutputError, match=r"cannot be looked at .no server answers"):
        check_output_path(f"{s3}/in/b.ome.zarr")


def test_an_output_that_may_not_be_read_is_no_stranger(proxy, s3):
    path = write_ome_zarr(small_volume(), f"{s3}/a", dtype="uint16").path
    proxy.rule = lambda method, path: "403" if path.endswith("/a/zarr.json") else "none"
    for act in (check_output_path, is_own_output):
        with pytest.raises(OutputError, match=r"cannot be looked at \(access is denied"):
            act(path)
    assert not is_unfinished(path)


def test_a_denied_write_is_found_before_any_work(proxy, s3):
    proxy.rule = lambda method, path: "403" if method == "PUT" else "none"
    with pytest.raises(OutputError, match=r"cannot be written .access is denied: the server answered 403"):
        check_output_path(f"{s3}/a.ome.zarr")


def test_only_what_bigdecon_wrote_is_removed(s3):
    path = write_ome_zarr(small_volume(image((3, 40, 50))), f"{s3}/a", dtype="uint16").path
    neighbour = as_place(f"{s3}/ab")
    places.write(neighbour, b"mine too")
    places.write(path / "notes.txt", b"mine")
    for act in (remove_output, lambda p: check_output_path(p, overwrite=True)):
        with pytest.raises(OutputError, match=r"notes\.txt"):
            act(path)
    assert open_volume(path).shape == (3, 40, 50)
    places.delete(path / "notes.txt")
    remove_output(path)
    assert not is_taken(path)
    assert places.read(neighbour) == b"mine too"
    remove_output(path)


def test_a_lease_alone_takes_no_place(s3):
    path = as_place(f"{s3}/a")
    places.write(path / BOOKKEEPING / "lease.json", b"{}")
    assert not is_taken(path)
    volume = small_volume()
    create_ome_zarr(path, volume, small_layout(volume), name="a", record=RECORD)
    assert is_unfinished(path)
    remove_output(path)
    assert list(places.files_below(path)) == [path / BOOKKEEPING / "lease.json"]


def test_windows_are_set_where_the_server_fails_now_and_then(proxy, s3):
    path = write_ome_zarr(small_volume(image((3, 40, 50))), f"{s3}/a", dtype="uint16").path
    proxy.every(2)
    set_display_windows(path, [DisplayWindow(1, 9, 2, 8)])
    with pytest.raises(OutputError, match="1 channels, not 2"):
        set_display_windows(path, [DisplayWindow(0, 1, 0, 1)] * 2)
    assert b'"end": 8' in places.read(path / "zarr.json")
