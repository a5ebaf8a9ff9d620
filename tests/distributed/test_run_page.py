"""The page /bigdecon on the dashboard: served by our clusters and by others, and read in a real browser."""

from __future__ import annotations

import re
import threading
import time
import urllib.request

import pytest
import tifffile
from distributed import LocalCluster

from bigdecon.config import RunConfig, TilingConfig
from bigdecon.distributed.cluster import connect
from bigdecon.distributed.page_feed import PageFeed
from bigdecon.distributed.progress import Message, RegionDone
from bigdecon.distributed.run_state import MapOutline
from bigdecon.pipeline import run
from tests.conftest import workers_forked
from tests.runs import SIZE, kernel, specimen, write_image

READ = """
const found = {done: 0, cells: 0, losses: 0, bars: 0, head: '', text: ''}
for (const model of Bokeh.documents[0]._all_models.values()) {
  const data = model.data
  if (data instanceof Map || (data && typeof data == 'object')) {
    const get = name => data instanceof Map ? data.get(name) : data[name]
    if (get('fill')) { found.cells = get('fill').length; found.colours = Array.from(get('fill')) }
    if (get('loss')) found.losses = get('loss').length
    if (get('speed')) found.bars = get('speed').length
  }
  if (typeof model.text == 'string') found.text += model.text
}
return found
"""


def fetch(link):
    with urllib.request.urlopen(link, timeout=20) as answer:
        return answer.read().decode()


def plugin(client):
    return client.run_on_scheduler(lambda dask_scheduler: "bigdecon-page" in dask_scheduler.plugins)


def message_of(client):
    def look(dask_scheduler):
        state = dask_scheduler.plugins["bigdecon-page"].state
        return state.name, [text for _, text, _ in state.messages]

    return client.run_on_scheduler(look)


def pages(dask_scheduler):
    """How many pages of ours the scheduler serves."""
    applications = dask_scheduler.http_application.applications
    return sum("/bigdecon" in getattr(one, "app_paths", ()) for one in applications)


def wait_for(what, seconds=20.0):
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.05)
    assert what()


def test_the_page_is_served_and_loads_nothing_from_elsewhere():
    with (
        workers_forked(),
        connect(workers=1, threads=1, device="cpu", dashboard_address="127.0.0.1:0") as opened,
    ):
        assert opened.page_link == opened.dashboard_link.removesuffix("status") + "bigdecon"
        page = fetch(opened.page_link)
        addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
        assert any("bokeh" in address for address in addresses)
        # Relative, for the proxies of notebook servers, which serve it under a prefix.
        assert not [a for a in addresses if re.match(r"[a-z]+://|/", a)]
        for address in addresses:
            if address.startswith("static/"):
                assert fetch(opened.page_link.removesuffix("bigdecon") + address)
        assert "Dask" in fetch(opened.dashboard_link)  # whose pages are still there


def test_without_a_dashboard_there_is_no_page():
    with workers_forked(), connect(workers=1, threads=1, device="cpu", dashboard_address="none") as opened:
        assert opened.page_link == ""
        assert not opened.page.is_open
        assert not plugin(opened.client)


def test_runs_follow_one_another_on_a_scheduler_of_somebody_else():
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=False,
            protocol="tcp",
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        cluster.get_client() as client,
    ):
        for name in ("one", "two"):
            with connect(client) as opened:
                assert opened.page_link.endswith("/bigdecon")
                opened.page.begin(name)
                opened.page.beside(lambda event: None)(Message(f"about {name}"))
                wait_for(lambda name=name: message_of(client) == (name, [f"about {name}"]))
        assert client.run_on_scheduler(pages) == 1


def test_a_feed_that_leads_nowhere_passes_events_on():
    heard = []
    feed = PageFeed()
    feed.begin("a")
    feed.show_map(MapOutline("a", ((0, 1), (0, 1)), 1, None))
    feed.finish_regions([((0, 0), (1, 1), 0, 0, [])])
    feed.beside(heard.append)(Message("b"))
    assert heard == [Message("b")]
    assert not feed.is_open


def test_a_scheduler_that_is_gone_costs_a_run_nothing_but_its_page():
    with (
        workers_forked(),
        connect(workers=1, threads=1, device="cpu", dashboard_address="127.0.0.1:0") as opened,
    ):
        feed = opened.page
    feed.begin("too late")
    feed.beside(lambda event: None)(Message("too late"))


@pytest.mark.slow
def test_the_page_follows_a_run(browser, tmp_path):
    write_image(tmp_path / "a.ome.zarr", specimen((16, 64, 96)))
    tifffile.imwrite(tmp_path / "psf.tif", kernel((5, 5, 5)))
    config = RunConfig(
        str(tmp_path / "a.ome.zarr"), (str(tmp_path / "psf.tif"),), output=str(tmp_path / "<img>.ome.zarr"),
        psf_voxel_size=SIZE, preset="fast", steps=6, tiling=TilingConfig(block=32), workers=1, threads=1,
        device="cpu", dashboard_address="127.0.0.1:0",
    )  # fmt: skip
    link, done, looked = [], threading.Event(), threading.Event()

    def note(event):
        if isinstance(event, Message) and event.text.startswith("Progress page: "):
            link.append(event.text.removeprefix("Progress page: "))
            listener_has_page.set()
        if isinstance(event, RegionDone) and event.done == event.total:  # told in the run's own thread
            done.set()
            looked.wait(60)  # keeps the cluster until the browser has looked

    listener_has_page = threading.Event()
    worker = threading.Thread(target=run, args=(config,), kwargs={"on_event": note})
    worker.start()
    try:
        assert listener_has_page.wait(60)
        browser.get(link[0])
        assert done.wait(120)
        found = {}

        def filled():
            found.update(browser.execute_script(READ))
            return found["losses"] and found["bars"] and set(found.get("colours", ())) == {"#0072b2"}

        wait_for(filled, 30)
        assert found["cells"] > 1
        assert found["losses"] >= 2
        assert found["bars"] == 1
        assert "&lt;img" in found["text"]
        assert browser.execute_script("return document.querySelectorAll('img').length") == 0
        levels = [entry["level"] for entry in browser.get_log("browser")]
        assert not {"SEVERE", "WARNING"} & set(levels)
    finally:
        looked.set()
        worker.join(60)
    assert not worker.is_alive()
