"""Servers on the loopback interface, and the files they serve."""

import functools
import http.server
import pathlib
import re
import threading

import pytest


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; answers 500 for paths with a word in `broken`; knows byte ranges if told to."""

    broken: tuple[str, ...] = ()
    ranges = False

    def do_GET(self):
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if any(word in self.path for word in self.broken):
            self.send_error(500)
        elif asked and self.ranges:
            self.send_part(int(asked[1]), int(asked[2]) + 1)
        else:
            super().do_GET()

    def send_part(self, start, stop):
        data = pathlib.Path(self.translate_path(self.path)).read_bytes()
        part = data[start:stop]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *args):
        pass


@pytest.fixture
def http_folder(tmp_path, monkeypatch):
    """Give (folder, URL, handler class) of a web server."""

    monkeypatch.setattr("bigdecon.storage.servers.FIRST_PAUSE_S", 0.01)

    class Handler(QuietHandler):
        pass

    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}", Handler
    server.shutdown()
    thread.join()
    server.server_close()
