"""Servers on the loopback interface: an object store, and a proxy that fails at will before any server."""

from __future__ import annotations

import http.client
import http.server
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

Fault = Literal["none", "403", "500", "503", "drop", "lose", "truncate", "slow"]
"""What the proxy does with a request: nothing bad; answer so; close the connection before the server sees it,
or after; cut the answer's body; wait before the first byte."""
FAULTS: tuple[Fault, ...] = ("500", "503", "drop", "lose", "truncate", "slow")
SLOW_SECONDS = 0.3
HOP = {"connection", "transfer-encoding", "content-length", "expect", "keep-alive", "host"}


@contextmanager
def object_store() -> Iterator[str]:
    """Run moto's S3 server; gives its URL."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


class _QuietServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hung up: they do, when they are failed."""


class FaultyProxy:
    """Forwards requests to a server, and fails as `rule` says.

    Attributes
    ----------
    url : to be asked in the server's stead
    rule : gets the method and the path of each request
    requests : method and path of each request so far
    done : what was done about each
    forgets : names of headers that the server shall not see, in small letters
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream.removeprefix("http://")
        self.rule: Callable[[str, str], Fault] = lambda method, path: "none"
        self.requests: list[tuple[str, str]] = []
        self.done: list[Fault] = []
        self.forgets: set[str] = set()
        self._server = _QuietServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def every(self, n: int, *kinds: Fault) -> None:
        """Let each n-th request fail, in one way after the other; no two in a row for n above 1."""
        turn, kind = itertools.count(1), itertools.cycle(kinds or FAULTS)
        self.rule = lambda method, path: next(kind) if next(turn) % n == 0 else "none"

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(proxy) -> type[http.server.BaseHTTPRequestHandler]:
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = proxy.rule(self.command, self.path)
                proxy.requests.append((self.command, self.path))
                proxy.done.append(fault)
                if fault in ("403", "500", "503"):
                    self.answer(int(fault), {}, b"")
                elif fault == "drop":
                    self.close_connection = True
                else:
                    self.pass_on(body, fault)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

            def pass_on(self, body: bytes, fault: Fault) -> None:
                headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP | proxy.forgets}
                connection = http.client.HTTPConnection(proxy.upstream, timeout=30)
                try:
                    connection.request(self.command, self.path, body, headers)
                    response = connection.getresponse()
                    data = response.read()
                finally:
                    connection.close()
                if fault == "lose":
                    self.close_connection = True
                    return
                if fault == "slow":
                    time.sleep(SLOW_SECONDS)
                told = {k: v for k, v in response.getheaders() if k.lower() not in HOP}
                length = response.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
                cut = len(data) // 2 if fault == "truncate" and data else None
                self.answer(response.status, told | {"Content-Length": length or "0"}, data[:cut])
                self.close_connection |= cut is not None

            def answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
                self.send_response_only(status)
                for name, value in ({"Content-Length": str(len(data))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

        return Handler
