"""The file server, by real requests: what it gives, and all that it must not."""

from __future__ import annotations

import http.client
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
    assert found in (None, root / "a")


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
