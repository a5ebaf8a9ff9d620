"""Places: small objects are whole or absent, on a disk and in an object store, whatever the network does."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from botocore.exceptions import ClientError

from bigdecon.storage import places, servers
from bigdecon.storage.object_path import ObjectPath
from bigdecon.storage.places import as_place
from tests.servers import FAULTS, FaultyProxy


@pytest.fixture
def proxy(s3, s3_server, monkeypatch):
    """Stand before the object store; everybody asks the proxy."""
    with FaultyProxy(s3_server) as standing:
        monkeypatch.setenv("AWS_ENDPOINT_URL", standing.url)
        yield standing


def test_what_was_written_is_read(place):
    item = place / "deep" / "item"
    places.make_folder(item.parent)
    assert not places.exists(item)
    with pytest.raises(FileNotFoundError):
        places.read(item)
    for content in (b"first", b"", bytes(range(256)) * 5000):
        places.write(item, content)
        assert places.read(item) == content
    assert places.exists(item)
    places.delete(item)
    places.delete(item)
    assert not places.exists(item)


def test_creation_is_exclusive(place):
    places.make_folder(place)
    assert places.create(place / "item", b"one")
    assert not places.create(place / "item", b"two")
    assert places.read(place / "item") == b"one"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: places.create(place / "other", b"%d" % i), range(8)))
    assert made.count(True) == 1
    assert places.read(place / "other") == b"%d" % made.index(True)


def test_listing(place):
    assert places.names(place / "none") == []
    assert list(places.files_below(place / "none")) == []
    for name in ("b", "a/x", "a/y/z", "ab/c"):
        places.make_folder((place / name).parent)
        places.write(place / name, name.encode())
    assert places.names(place) == ["a", "ab", "b"]
    assert places.names(place / "a") == ["x", "y"]
    found = places.files_below(place)
    assert list(found) == [place / "a/x", place / "a/y/z", place / "ab/c", place / "b"]
    assert places.read_many([*found, place / "c"])[:4] == [b"a/x", b"a/y/z", b"ab/c", b"b"]
    assert isinstance(places.read_many([place / "c"])[0], FileNotFoundError)
    places.remove_all(place / "a")
    places.remove_all(place / "none")
    assert places.names(place) == ["ab", "b"]


@pytest.fixture
def memory():
    """Give an empty place in fsspec's memory: an object store other than S3."""
    place = as_place(f"memory://{os.urandom(6).hex()}")
    yield place
    places.remove_all(place)


@pytest.mark.parametrize("kind", ["local", "s3", "memory"])
@pytest.mark.parametrize(
    "name", ["vol[1].zarr", "v*.zarr", "vol?.zarr", "v**", "{vol1,vol2}.zarr", "a #%20&+"]
)
def test_names_are_never_patterns(request, tmp_path, kind, name):
    where = {"local": lambda: tmp_path, "s3": lambda: as_place(f"{request.getfixturevalue('s3')}/deep")}
    top = where.get(kind, lambda: request.getfixturevalue("memory"))()
    others = [top / other / "0" / "x" for other in ("vol1.zarr", "vol2.zarr", "v", "deep")]
    own = [top / name / "0" / "x", top / name / "0" / "*", top / name / "kept"]
    for item in (*others, *own):
        places.make_folder(item.parent)
        places.write(item, str(item).encode())
    assert places.names(top / name) == ["0", "kept"]
    assert set(places.files_below(top / name)) == set(own)
    places.remove_all(top / name / "0")
    assert list(places.files_below(top / name)) == own[2:]
    places.delete(own[2])
    assert not places.exists(own[2])
    assert [places.read(item) for item in others] == [str(item).encode() for item in others]


def test_objects_that_may_not_be_deleted_are_told(s3, monkeypatch):
    place = as_place(f"{s3}/a")
    places.write(place / "b", b"")
    fs = servers.connection(s3)
    real = fs.call_s3

    def refuse(verb, **arguments):
        refused = {"Errors": [{"Key": "a/b", "Code": "AccessDenied", "Message": "Access Denied"}]}
        return refused if verb == "delete_objects" else real(verb, **arguments)

    monkeypatch.setattr(fs, "call_s3", refuse)
    with pytest.raises(PermissionError, match="a/b: Access Denied"):
        places.remove_all(place)


@pytest.mark.slow
def test_a_listing_of_several_pages(s3):
    folder = as_place(f"{s3}/many")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: places.write(folder / f"{i:04}/a", b""), range(1100)))
    assert len(places.files_below(folder)) == len(places.names(folder)) == 1100
    places.remove_all(folder, but=("0000/a",))
    assert list(places.files_below(folder)) == [folder / "0000/a"]


def test_an_address_is_taken_apart_like_a_path():
    path = as_place("s3://bucket/a/b.ome.zarr/")
    assert path == ObjectPath("s3://bucket/a/b.ome.zarr")
    assert (path.name, path.stem, path.suffix, path.bucket) == ("b.ome.zarr", "b.ome", ".zarr", "bucket")
    assert path.parent / "c" == ObjectPath("s3://bucket/a/c")
    assert path.with_suffix(".json").name == "b.ome.json"
    assert path.absolute() is path
    assert (path / "0").is_relative_to(path)
    assert not ObjectPath("s3://bucket/a/b.ome.zarr2").is_relative_to(path)
    assert pickle.loads(pickle.dumps(path)) == path
    with pytest.raises(TypeError):
        os.fspath(path)
    with pytest.raises(TypeError):
        Path(path)


def test_a_local_place_is_an_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert as_place("a") == as_place((tmp_path / "a").as_uri()) == tmp_path / "a"
    assert as_place(tmp_path) == tmp_path


@pytest.mark.parametrize("kind", FAULTS)
def test_one_failure_of_a_server_passes_unnoticed(proxy, s3, kind):
    place = as_place(f"{s3}/a")
    proxy.every(2, kind)
    data = os.urandom(100_000)
    for i in range(6):
        places.write(place / f"{i}", data)
        assert places.create(place / f"new{i}", data)
        assert not places.create(place / f"new{i}", data + b"!")
    assert places.names(place) == sorted([str(i) for i in range(6)] + [f"new{i}" for i in range(6)])
    assert places.read_many(places.files_below(place)) == [data] * 12
    places.remove_all(place)
    assert proxy.done.count(kind) > 10
    proxy.rule = lambda method, path: "none"
    assert places.names(place) == []


@pytest.mark.parametrize(("kind", "told"), [("500", "500"), ("503", "503"), ("drop", "onnection")])
def test_a_lasting_failure_is_one_sentence(proxy, s3, kind, told):
    place = as_place(f"{s3}/a")
    places.write(place / "item", b"old")
    proxy.every(1, kind)
    before = len(proxy.requests)
    for act in (lambda: places.write(place / "item", b"new"), lambda: places.read(place / "item")):
        with pytest.raises(servers.ServerFailure, match=f"{told}.*at the last of 9 attempts") as caught:
            act()
        assert "\n" not in str(caught.value)
    assert len(proxy.requests) - before >= 2 * servers.PATIENT  # aiohttp tries a kept connection once more
    proxy.rule = lambda method, path: "none"
    assert places.read(place / "item") == b"old"


def test_what_cannot_succeed_is_asked_once(proxy, s3, monkeypatch):
    proxy.rule = lambda method, path: "403"
    with pytest.raises(PermissionError, match="access is denied: the server answered 403"):
        places.write(as_place(f"{s3}/a"), b"")
    assert len(proxy.requests) == 1
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(PermissionError, match="no credentials were found"):
        places.write(as_place(f"{s3}/a"), b"")


def test_a_missing_bucket_is_named(proxy, s3):
    nowhere = as_place("s3://no-such-bucket/a")
    with pytest.raises(FileNotFoundError, match="there is no bucket 'no-such-bucket'"):
        places.write(nowhere / "item", b"")
    assert places.names(nowhere) == []
    assert len(proxy.requests) == 2


def test_an_unknown_protocol_is_named():
    with pytest.raises(OSError, match="nothing here reads nosuch:// addresses"):
        places.read(as_place("nosuch://a/b"))


def test_pauses_grow_and_are_drawn_at_random(monkeypatch):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)

    def fail(fs):
        raise ConnectionResetError("gone")

    for _ in range(2):
        with pytest.raises(servers.ServerFailure, match="ConnectionResetError: gone"):
            servers.ask("memory://a", fail)
    first, second = slept[:8], slept[8:]
    assert first != second
    for pauses in (first, second):
        for i, pause in enumerate(pauses):
            longest = min(0.2 * 2**i, servers.LONGEST_PAUSE_S)
            assert longest / 2 <= pause <= longest


@pytest.mark.parametrize("kind", [AttributeError, KeyError, MemoryError, RuntimeError, ZeroDivisionError])
def test_what_no_server_causes_is_neither_repeated_nor_renamed(kind):
    made = []

    def fail(fs):
        made.append(fs)
        raise kind("a mistake")

    async def fail_later(fs):
        fail(fs)

    with pytest.raises(kind, match="a mistake"):
        servers.ask("memory://a", fail)
    with pytest.raises(kind, match="a mistake"):
        asyncio.run(servers.ask_async("memory://a", fail_later))
    assert len(made) == 2


def test_a_name_that_no_bucket_can_have_is_asked_once(proxy, s3):
    with pytest.raises(servers.ServerFailure, match="bucket") as caught:
        places.read(as_place("s3://no bucket/a"))
    assert "attempts" not in str(caught.value)


def test_a_server_that_falls_silent_is_asked_again(proxy, s3, monkeypatch):
    place = as_place(f"{s3}/a")
    places.write(place, b"content")
    monkeypatch.setattr(servers, "SILENCE_TIMEOUT_S", 0.1)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "another connection")
    slow = iter(["slow", "slow"])
    proxy.rule = lambda method, path: next(slow, "none")
    assert places.read(place) == b"content"
    assert proxy.done[-3:] == ["slow", "slow", "none"]


@pytest.mark.parametrize(
    "given", [{"key": "k", "secret": "s"}, {"profile": "lab"}, {"token": "t"}, {"anon": False}, {}]
)
def test_credentials_in_the_settings_of_fsspec_are_used(monkeypatch, given):
    monkeypatch.setitem(fsspec.config.conf, "s3", given)
    fs = servers.filesystem("s3://")
    assert fs.anon == (given == {})
    for name in ("key", "secret", "token"):
        assert getattr(fs, name) == given.get(name)


def test_credentials_that_expire_are_looked_up_again(s3):
    before = servers.connection(s3)

    def request(fs):
        if fs is before:
            answer = ClientError({"Error": {"Code": "ExpiredToken"}}, "PutObject")
            raise PermissionError("The provided token has expired.") from answer
        return "renewed"

    assert servers.ask(s3, request) == "renewed"


FORKED = """
import os, sys
from bigdecon.storage.places import as_place, read, write
from bigdecon.storage.servers import connection
place = as_place(sys.argv[1])
write(place, b"parent")
pid = os.fork()
if pid == 0:
    import signal
    signal.alarm(20)
    assert read(place) == b"parent"
    write(place, b"child")
    os._exit(0)
_, status = os.waitpid(pid, 0)
assert status == 0, status
assert read(place) == b"child"
print("both")
"""


def test_a_forked_process_has_its_own_connection(s3):
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED, f"{s3}/item"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (out.stdout, out.stderr) == ("both\n", "")


def test_connections_are_kept_and_follow_the_environment(s3, monkeypatch):
    one = servers.connection(s3)
    assert servers.connection(f"{s3}/other") is one
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    assert servers.connection(s3) is not one
