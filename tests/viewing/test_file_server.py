"""The file server, by real requests: what it gives, and all that it must not."""

from __future__ import annotations

import http.client
import json
import os
import socket
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigdecon.errors import OptionError
from bigdecon.viewing.file_server import FileServer, byte_range, find_file

DATA = bytes(range(256)) * 40


@pytest.fixture
def store(tmp_path):
    """Give a folder with files, and others around it that are nobody's business."""
    root = tmp_path / "a.ome.zarr"
    (root / "0" / "c").mkdir(parents=True)
    (root / "zarr.json").write_text("{}")
    (root / ".zattrs").write_text('{"a": 1}')
    (root / "0" / "c" / "0").write_bytes(DATA)
    (root / "name with%20signs#?").write_bytes(b"odd")
    (tmp_path / "secret").write_text("secret")
    (root / "way out").symlink_to(tmp_path / "secret")
    (root / "folder out").symlink_to(tmp_path)
    (root / "way in").symlink_to(root / "zarr.json")
    os.mkfifo(root / "pipe")
    return root


@pytest.fixture
def server(store):
    with FileServer({"result": store}) as running:
        yield running


def ask(server, path, method="GET", **headers):
    """Ask for a path below the token, or for an absolute one."""
    where = urlsplit(server.url)
    connection = http.client.HTTPConnection(where.netloc, timeout=20)
    try:
        connection.request(method, path if path.startswith("/") else f"{where.path}/{path}", headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def test_whole_files(server):
    status, headers, body = ask(server, "result/0/c/0")
    assert (status, body, headers["Content-Length"]) == (200, DATA, str(len(DATA)))
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert headers["X-Content-Type-Options"] == "nosniff"
    status, headers, body = ask(server, "result/0/c/0", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", str(len(DATA)))
    status, headers, body = ask(server, "result/zarr.json")
    assert (status, headers["Content-Type"], body) == (200, "application/json", b"{}")
    assert ask(server, "result/.zattrs")[2] == b'{"a": 1}'
    assert ask(server, "result/way%20in")[2] == b"{}"
    assert ask(server, "result/name%20with%2520signs%23%3F")[2] == b"odd"
    assert ask(server, "result/zarr.json?source=x")[2] == b"{}"


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [("0-0", 0, 1), ("5-99", 5, 100), ("10000-", 10000, 10240), ("-100", 10140, 10240),
     ("9-999999", 9, 10240), ("-999999", 0, 10240)],
)  # fmt: skip
def test_ranges(server, asked, start, stop):
    status, headers, body = ask(server, "result/0/c/0", Range=f"bytes={asked}")
    assert (status, body) == (206, DATA[start:stop])
    assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(DATA)}"
    assert ask(server, "result/0/c/0", "HEAD", Range=f"bytes={asked}")[1]["Content-Length"] == str(
        stop - start
    )


@pytest.mark.parametrize(
    ("asked", "status"), [("10240-", 416), ("-0", 416), ("5-3", 200), ("0-1,4-5", 200), ("x", 200)]
)
def test_ranges_that_are_none(server, asked, status):
    got, headers, body = ask(server, "result/0/c/0", Range=f"bytes={asked}")
    assert got == status
    assert body == (b"" if status == 416 else DATA)
    assert status == 200 or headers["Content-Range"] == "bytes */10240"


@given(
    st.one_of(st.none(), st.integers(0, 300)), st.one_of(st.none(), st.integers(0, 300)), st.integers(0, 200)
)
def test_a_range_lies_within_the_file(first, last, size):
    header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    try:
        found = byte_range(header, size)
    except ValueError:
        assert size == 0 or (first is None and last == 0) or (first is not None and first >= size)
        return
    assert found is None or 0 <= found[0] < found[1] <= size
    if found is not None and first is not None:
        assert list(range(*found)) == [i for i in range(size) if i >= first and (last is None or i <= last)]


RECORD = '{"attributes": {"bigdecon": {"command": "/home/me"}}'


@pytest.mark.parametrize("name", ["zarr.json", ".zattrs", ".zmetadata"])
@pytest.mark.parametrize(
    "text",
    [
        RECORD + ', "attributes": {}}',
        RECORD,
        "x" + RECORD + "}",
        RECORD + "}" + " " * 32 * 2**20,
        "[" * 100_000,
    ],
    ids=["twice", "cut", "no JSON", "too large", "too deep"],
)
def test_metadata_that_cannot_be_read_strictly_are_not_served(store, name, text):
    """A record of the run in them could not be taken out."""
    with FileServer({"result": store}, stores=True) as server:
        (store / name).write_text(text)
        for method in ("GET", "HEAD"):
            status, _, body = ask(server, f"result/{name}", method)
            assert (status, body) == (404, b"")
        (store / name).write_text(RECORD + "}")
        status, _, body = ask(server, f"result/{name}")
    assert (status, json.loads(body)) == (200, {"attributes": {}})


@pytest.mark.parametrize(
    "path",
    ["", "result", "result/", "result/0", "result/0/c/", "result/none", "result/../secret",
     "result/..%2fsecret", "result/%2e%2e/secret", "result/0/../../secret", "result/way%20out",
     "result/folder%20out/secret", "result//zarr.json", "result/./zarr.json", "result/zarr.json%00",
     "result/..%5csecret", "secret", "result/pipe", "/etc/passwd", "/result/zarr.json", "/",
     "result/" + "a" * 5000, "result//etc/passwd"],
)  # fmt: skip
def test_nothing_else(server, path):
    for method in ("GET", "HEAD"):
        status, _, body = ask(server, path, method)
        assert (status, body) == (404, b"")


@given(st.text(max_size=30))
def test_no_text_leads_out(tmp_path_factory, text):
    root = tmp_path_factory.getbasetemp() / "served"
    root.mkdir(exist_ok=True)
    (root / "a").write_text("a")
    found = find_file({"result": root}, f"result/{text}")
    assert found is None or found.file == root / "a"


# --- stores --------------------------------------------------------------------------------------


SECRET = "/home/anna/secret"


@pytest.fixture
def own(store):
    """Give the folder of a result of ours, of both formats, with what it must not tell."""
    (store / "bigdecon" / "ledger").mkdir(parents=True)
    for name in ("run.json", "lease.json", "zarr.json", "ledger/0.0", "ledger/level-0.json", "0", "c"):
        (store / "bigdecon" / name).write_text(SECRET)
    mark = {"bigdecon": {"provenance": {"command": SECRET}}}
    (store / "zarr.json").write_text(json.dumps({"zarr_format": 3, "attributes": {"ome": {"a": 1}, **mark}}))
    (store / ".zattrs").write_text(json.dumps({"multiscales": [2], **mark}))
    (store / ".zmetadata").write_text(json.dumps({"metadata": {".zattrs": mark, "0/.zarray": {"b": 3}}}))
    (store / "0" / "zarr.json").write_text('{"shape": [4]}')
    (store / "0" / "7.0").write_bytes(DATA)
    (store / "OME").mkdir()
    (store / "OME" / "METADATA.ome.xml").write_text("<OME/>")
    (store / "notes.txt").write_text(SECRET)
    (store / ".hidden").mkdir()
    (store / ".hidden" / "0").write_text(SECRET)
    (store / "0" / "c" / "1").symlink_to(store / "bigdecon" / "run.json")
    with FileServer({"result": store}, stores=True) as running:
        yield running


def test_a_store_gives_what_a_viewer_needs(own):
    assert ask(own, "result/0/c/0")[2] == ask(own, "result/0/7.0")[2] == DATA
    assert ask(own, "result/0/c/0", Range="bytes=3-9")[2] == DATA[3:10]
    assert json.loads(ask(own, "result/0/zarr.json")[2]) == {"shape": [4]}
    assert ask(own, "result/OME/METADATA.ome.xml")[2] == b"<OME/>"


def test_a_store_tells_nothing_of_its_run(own):
    status, headers, body = ask(own, "result/zarr.json")
    assert json.loads(body) == {"zarr_format": 3, "attributes": {"ome": {"a": 1}}}
    assert (status, int(headers["Content-Length"])) == (200, len(body))
    assert ask(own, "result/zarr.json", Range="bytes=2-5")[2] == body[2:6]
    assert ask(own, "result/zarr.json", "HEAD")[1]["Content-Length"] == str(len(body))
    assert json.loads(ask(own, "result/.zattrs")[2]) == {"multiscales": [2]}
    assert json.loads(ask(own, "result/.zmetadata")[2]) == {
        "metadata": {".zattrs": {}, "0/.zarray": {"b": 3}}
    }


@pytest.mark.parametrize(
    "path",
    ["result/bigdecon/run.json", "result/bigdecon/zarr.json", "result/bigdecon/0", "result/bigdecon/c",
     "result/bigdecon/ledger/0.0", "result/bigdecon/ledger/level-0.json", "result/bigdecon/lease.json",
     "result/%62igdecon/run.json", "result/%62%69gdecon/zarr.json", "result/bigdecon%2frun.json",
     "result/bigdecon%2f0", "result/0/../bigdecon/run.json", "result/0/%2e%2e/bigdecon/0",
     "result/0/..%2fbigdecon/0", "result/./bigdecon/0", "result/%2e/bigdecon/0", "result//bigdecon/0",
     "result/%2562igdecon/0", "result/BIGDECON/0", "result/bigdecon/./0", "result/bigdecon/0?x=zarr.json",
     "result/bigdecon/run.json%00.json", "result/bigdecon/run.json/zarr.json", "result/notes.txt",
     "result/.hidden/0", "result/%2ehidden/0", "result/0/c/1", "result/way%20out",
     "result/0%5c..%5cbigdecon/0"],
)  # fmt: skip
def test_a_store_keeps_its_bookkeeping(own, path):
    for method in ("GET", "HEAD"):
        status, _, body = ask(own, path, method)
        assert (status, body) == (404, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "PROPFIND"])
def test_it_only_reads(server, store, method):
    assert ask(server, "result/zarr.json", method)[0] == 501
    assert (store / "zarr.json").read_text() == "{}"


def test_a_browser_may_ask_first(server):
    wishes = {"Origin": "https://x.org", "Access-Control-Request-Headers": "range"}
    status, headers, body = ask(server, "result/0/c/0", "OPTIONS", **wishes)
    assert (status, body) == (204, b"")
    assert headers["Access-Control-Allow-Headers"] == "Range"
    assert headers["Access-Control-Allow-Methods"] == "GET, HEAD, OPTIONS"


def test_addresses(store):
    with FileServer({"result": store}) as one, FileServer({"result": store}) as other:
        assert urlsplit(one.url).hostname == "127.0.0.1"
        assert one.url.rsplit("/")[-1] != other.url.rsplit("/")[-1]
        with pytest.raises(OptionError, match="cannot be listened on"):
            FileServer({"result": store}, port=one.port)
    with pytest.raises(OptionError, match="does not exist"):
        FileServer({"result": store}, port=70000)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", one.port), timeout=5)
