"""Progress in a notebook's cell, and the links that lead through the notebook's proxy."""

from __future__ import annotations

import json
import sys

import pytest

from bigdecon.distributed.notebook_progress import NotebookProgress, in_notebook
from bigdecon.distributed.notebook_proxy import proxied_link
from bigdecon.distributed.progress import (
    ChoosingProgress,
    Message,
    RegionDone,
    StageFinished,
    StageStarted,
    TrainingProgress,
)
from tests.test_notebook_html import NASTY, Balanced

EVENTS = (
    Message("Progress page: http://127.0.0.1:8787/bigdecon"),
    StageStarted("train", 10),
    TrainingProgress(5, 10, 0.25, 0.5, 120.0),
    StageFinished("train", 75.0),
    StageStarted("deconvolve", 4),
    RegionDone(1, 4, 1000, 30.0),
    Message(NASTY, "warning"),
)


@pytest.fixture
def shown(capsys):
    listener = NotebookProgress()
    for event in EVENTS:
        listener(event)
    capsys.readouterr()  # without a kernel IPython prints
    return listener


def test_stages_messages_and_links_are_shown(shown):
    html = shown._repr_html_()
    Balanced(html)
    assert '<a href="http://127.0.0.1:8787/bigdecon" target="_blank"' in html
    assert "step 5 of 10" in html
    assert "width:50.0%" in html  # training that ended early is not drawn as done
    assert "width:25.0%" in html
    assert "30 s left" in html


def test_a_front_end_without_html_gets_text(shown):
    text = repr(shown)
    assert "train: step 5 of 10, loss 0.25, held-out error 0.5" in text
    assert "done in 75 s" in text
    assert f"Warning: {NASTY}" in text


@pytest.mark.parametrize("address", ["javascript:alert(1)", "see below"])
def test_only_addresses_become_links(address, capsys):
    listener = NotebookProgress()
    listener(Message(f"Progress page: {address}"))
    assert "<a " not in listener._repr_html_()


def test_the_messages_kept_are_the_last(capsys):
    listener = NotebookProgress()
    for number in range(100):
        listener(Message(f"number {number}."))
    html = listener._repr_html_()
    assert "number 99." in html
    assert "number 50." not in html


def test_this_is_no_notebook():
    assert not in_notebook()


def test_a_hub_tells_where_its_proxy_is(monkeypatch):
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ada/")
    assert proxied_link() == "/user/ada/proxy/{port}/status"


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A plain Jupyter server that started this process, with jupyter-server-proxy."""
    monkeypatch.delenv("JUPYTERHUB_SERVICE_PREFIX", raising=False)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("JPY_PARENT_PID", "123")
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "jupyter_server_proxy.py").write_text("")
    return tmp_path / "jpserver-123.json"


def test_a_plain_server_is_found_by_its_file(server):
    server.write_text(json.dumps({"base_url": "/lab/", "port": 8888}))
    assert proxied_link() == "/lab/proxy/{port}/status"


@pytest.mark.parametrize("text", [None, "", "[]", "{}"])
def test_a_server_that_tells_nothing_has_no_proxy(server, text):
    if text is not None:
        server.write_text(text)
    assert proxied_link() is None


def test_a_choice_of_settings_is_a_bar() -> None:
    show = NotebookProgress()
    show._draw = lambda: None
    show(StageStarted("choose settings", 14))
    show(ChoosingProgress(3, 14, "background 97, sieve 1", 4, 1, 50.0))
    assert repr(show) == "choose settings: 3 of 14 settings, 50 s left, background 97, sieve 1"
    show(ChoosingProgress(12, 12, "", 4, 1))
    show(StageFinished("choose settings", 30.0))
    assert repr(show) == "choose settings: 12 of 12 settings, done in 30 s"
