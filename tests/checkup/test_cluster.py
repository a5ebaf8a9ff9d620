"""The dashboard, straight and through the proxy of a notebook server; and SLURM."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bigdecon.checkup.cluster import check_dashboard, check_slurm
from bigdecon.distributed.cluster import connect
from tests.conftest import workers_forked

PREFIX = "/user/ada/"


@pytest.fixture
def pages():
    """A server on loopback whose paths answer with a status."""
    answers: dict[str, int] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status = answers.get(self.path, 404)
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "http://127.0.0.1:1/login")
            self.end_headers()

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, answers
        server.shutdown()


def test_a_real_dashboard_answers():
    with (
        workers_forked(),
        connect(
            workers=1, threads=1, memory_limit="2GiB", dashboard_address="127.0.0.1:0", device="cpu"
        ) as opened,
    ):
        port = opened.client.scheduler_info()["services"]["dashboard"]
        (finding,) = check_dashboard(opened.dashboard_link, port, {})
    assert finding.severity == "good"
    assert opened.dashboard_link in finding.sentence


def test_no_dashboard(pages):
    (off,) = check_dashboard("", 0, {})
    assert off.severity == "note"
    (lost,) = check_dashboard("link", pages[0], {})
    assert lost.severity == "warning"
    assert "HTTP 404" in lost.sentence


@pytest.mark.parametrize(
    ("status", "severity", "words"),
    [
        (200, "good", "shows the Dask dashboard"),
        (302, "good", "logged in"),
        (403, "good", "logged in"),
        (404, "warning", "does not lead to"),
        (500, "warning", "HTTP 500"),
    ],
)
def test_the_notebook_proxy_is_tried(pages, status, severity, words):
    port, answers = pages
    answers["/status"] = 200
    answers[f"{PREFIX}proxy/{port}/status"] = status
    environment = {
        "JUPYTERHUB_SERVICE_PREFIX": PREFIX,
        "JUPYTERHUB_SERVICE_URL": f"http://0.0.0.0:{port}{PREFIX}",
    }
    (finding,) = check_dashboard(f"{PREFIX}proxy/{port}/status", port, environment)
    assert finding.severity == severity
    assert words in finding.sentence
    assert ("jupyter-server-proxy" in finding.remedy) == (severity == "warning")


def test_a_notebook_server_that_is_nowhere_named(pages):
    port, answers = pages
    answers["/status"] = 200
    (finding,) = check_dashboard("link", port, {"JUPYTERHUB_SERVICE_PREFIX": PREFIX})
    assert finding.severity == "note"


@pytest.mark.parametrize(
    ("script", "severity", "words"),
    [
        (None, "note", "not installed"),
        ("echo 'debug*'; echo gpu", "good", "partitions are debug, gpu"),
        ("echo broken >&2; exit 1", "note", "does not answer (broken)"),
        ("true", "note", "names no partition"),
    ],
)
def test_slurm_is_asked(tmp_path, monkeypatch, script, severity, words):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    if script is not None:
        for name in ("sbatch", "sinfo"):
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/nowhere")
    (finding,) = check_slurm()
    assert finding.severity == severity
    assert words in finding.sentence
