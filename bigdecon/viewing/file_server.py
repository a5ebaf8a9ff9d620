"""A file server for viewers in a browser: reads only, and only files below the folders that it was given.

    http://127.0.0.1:PORT/TOKEN/result/...      files of a store, whole or in ranges
                               /viewer/...      the viewer's own pages, where there are any

The token is drawn at random: other users of this machine, and pages from elsewhere in the same browser,
cannot guess where the images are, though the answers allow every page to read them (CORS). Of a store only
what a viewer needs is given (`store_files`).
"""

from __future__ import annotations

import io
import mimetypes
import os
import re
import secrets
import socket
import stat
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple
from urllib.parse import unquote, urlsplit

from bigdecon.errors import OptionError
from bigdecon.viewing.store_files import is_for_viewers, without_record

__all__ = ["FileServer", "byte_range", "find_file"]

PIECE = 2**20
TOKEN_BYTES = 12
IDLE_SECONDS = 60
HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS",
    "Access-Control-Allow-Headers": "Range",
    "Access-Control-Expose-Headers": "Content-Length, Content-Range, Accept-Ranges",
    "Access-Control-Allow-Private-Network": "true",
    "Accept-Ranges": "bytes",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Found(NamedTuple):
    """A file to be served, and its path below its root as it was asked for."""

    file: Path
    parts: tuple[str, ...]


def find_file(roots: Mapping[str, Path], path: str, *, stores: bool = False) -> Found | None:
    """Find the file that a request means; None where there is none, or it may not be read.

    Parameters
    ----------
    roots : folders by the first part of the path
    path : what follows the token in a URL, not yet decoded
    stores : whether the folders are OME-Zarrs, of which only what a viewer needs is given
    """
    name, _, rest = unquote(path).partition("/")
    parts = rest.split("/")
    forbidden = any(part in ("", ".", "..") or any(c in part for c in "\\\0") for part in parts)
    if name not in roots or forbidden:
        return None
    try:
        root = roots[name].resolve(strict=True)
        found = root.joinpath(*parts).resolve(strict=True)
        regular = stat.S_ISREG(found.stat().st_mode)
    except (OSError, RuntimeError, ValueError):
        return None
    if not regular or not found.is_relative_to(root):
        return None
    # A link within the store must not lead to what its name may not.
    if stores and not (is_for_viewers(parts) and is_for_viewers(found.relative_to(root).parts)):
        return None
    return Found(found, tuple(parts))


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """Read a Range header: the first byte, and the one after the last; None if it asks for several ranges.

    Raises
    ------
    ValueError
        if no byte of the file is in the range
    """
    match = re.fullmatch(r"bytes=(\d{0,20})-(\d{0,20})", header.strip())
    if match is None or match.group() == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    elif last and int(last) < int(first):
        return None
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
    if start >= stop:
        raise ValueError("no such range")
    return start, stop


def _opened(found: Found, stores: bool) -> BinaryIO:
    changed = without_record(*found) if stores else None
    return open(found.file, "rb") if changed is None else io.BytesIO(changed)


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection after another's request; what it serves is its server's."""

    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "bigdecon"
    sys_version = ""
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        self._send(body=True)

    def do_HEAD(self) -> None:
        self._send(body=False)

    def do_OPTIONS(self) -> None:
        self._answer(HTTPStatus.NO_CONTENT, {})

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a viewer asks for thousands of chunks."""

    def _send(self, *, body: bool) -> None:
        prefix = f"/{self.server.token}/"
        path = urlsplit(self.path).path
        stores = self.server.stores
        within = path.removeprefix(prefix) if path.startswith(prefix) else ""
        found = find_file(self.server.roots, within, stores=stores)
        if found is None:
            self._answer(HTTPStatus.NOT_FOUND, {"Content-Length": "0"})
            return
        try:
            with _opened(found, stores) as file:
                self._send_file(file, found.file, body=body)
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except (OSError, ValueError):
            self._answer(HTTPStatus.NOT_FOUND, {"Content-Length": "0"})

    def _send_file(self, file: BinaryIO, path: Path, *, body: bool) -> None:
        size = file.seek(0, os.SEEK_END)
        kind = (
            mimetypes.guess_type(path.name)[0]
            if path.suffix in (".html", ".js", ".css", ".wasm", ".json")
            else None
        )
        headers = {"Content-Type": kind or "application/octet-stream"}
        try:
            part = byte_range(self.headers.get("Range", ""), size)
        except ValueError:
            headers |= {"Content-Range": f"bytes */{size}", "Content-Length": "0"}
            self._answer(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers)
            return
        start, stop = part or (0, size)
        headers["Content-Length"] = str(stop - start)
        if part:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self._answer(HTTPStatus.PARTIAL_CONTENT if part else HTTPStatus.OK, headers)
        if body:
            self._copy(file, start, stop)

    def _copy(self, file: BinaryIO, start: int, stop: int) -> None:
        file.seek(start)
        while start < stop:
            piece = file.read(min(PIECE, stop - start))
            if not piece:  # the file has been cut short meanwhile
                self.close_connection = True
                return
            self.wfile.write(piece)
            start += len(piece)

    def _answer(self, status: HTTPStatus, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in (HEADERS | dict(headers)).items():
            self.send_header(name, value)
        self.end_headers()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], token: str, roots: Mapping[str, Path], stores: bool) -> None:
        self.token, self.roots, self.stores = token, roots, stores
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without asking a name server for our name, which may take long."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of browsers that hung up."""


class FileServer:
    """Serves files while a `with` block lasts.

    Parameters
    ----------
    roots : folders by the name under which they appear in URLs
    host : address to listen on; others than this machine's own let other machines read
    port : 0 takes any that is free
    stores : whether the folders are OME-Zarrs, of which only what a viewer needs is given: metadata and
        chunks, without the record of how the image was made

    Raises
    ------
    OptionError
        if the address cannot be listened on
    """

    def __init__(
        self,
        roots: Mapping[str, Path],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        stores: bool = False,
    ) -> None:
        if not 0 <= port <= 65535:
            raise OptionError(
                f"the port {port} does not exist; give 1024 to 65535, or 0 for any that is free."
            )
        try:
            token = secrets.token_urlsafe(TOKEN_BYTES)
            self._server = _Server((host, port), token, dict(roots), stores)
        except OSError as error:
            raise OptionError(
                f"the address {host} port {port} cannot be listened on ({error.strerror or error}); "
                "choose another port, or 0 for any that is free."
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1})

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.server_port

    @property
    def url(self) -> str:
        """Address of the folders, without a slash at its end."""
        host = self._server.server_name
        host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/{self._server.token}"

    def __enter__(self) -> FileServer:
        """Begin to serve."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End; requests that are being answered are cut short."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
