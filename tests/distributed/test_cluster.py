"""The cluster: private, quiet, and gone when it should be."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from pathlib import Path

import dask
import psutil
import pytest

from bigdecon.distributed import cluster as cluster_module
from bigdecon.distributed.cluster import connect
from bigdecon.errors import ClusterError, OptionError


def environment(name: str) -> str | None:
    return os.environ.get(name)


def test_one_worker_with_the_threads_asked_for(connection):
    assert (connection.n_workers, connection.threads_per_worker) == (1, 2)
    assert connection.owns_cluster
    assert connection.dashboard_link == ""


def test_everything_listens_on_loopback_only(connection):
    # Only the cluster's sockets count: other tests may have servers in this process, or a SLURM beside it.
    client = connection.client
    nannies = [worker["nanny"] for worker in client.scheduler_info()["workers"].values()]
    ours = {int(address.rpartition(":")[2]) for address in (client.scheduler.address, *nannies)}
    workers = [psutil.Process(pid) for pid in client.run(os.getpid).values()]
    listening = [
        link.laddr.ip
        for process in (psutil.Process(), *workers)
        for link in process.net_connections("tcp")
        if link.status == psutil.CONN_LISTEN and (process in workers or link.laddr.port in ours)
    ]
    assert len(listening) >= 3
    assert set(listening) == {"127.0.0.1"}


def test_memory_settings_reach_the_worker(connection):
    workers = connection.client.scheduler_info()["workers"].values()
    assert [worker["memory_limit"] for worker in workers] == [2**30]
    spill = connection.client.run(dask.config.get, "distributed.worker.memory.spill")
    assert list(spill.values()) == [False]


def test_nothing_is_left_of_a_cluster():
    config, variables = dask.config.config, dict(os.environ)
    children = {child.pid for child in psutil.Process().children()}
    level = logging.getLogger("distributed").level
    with connect(workers=1, threads=1, device="cpu") as connection:
        folder = Path(dask.config.get("temporary-directory"))
        assert folder.is_dir()
        assert connection.dashboard_link.endswith("/status")
        worker = next(iter(connection.client.run(os.getpid).values()))
        for name, value in (
            ("OPENBLAS_NUM_THREADS", "1"),
            ("MALLOC_ARENA_MAX", "1"),
            ("THP_MEM_ALLOC_ENABLE", "1"),
        ):
            assert os.environ.get(name) == variables.get(name)
            assert list(connection.client.run(environment, name).values()) == [value]
    assert not folder.exists()
    assert not psutil.pid_exists(worker)
    assert {child.pid for child in psutil.Process().children()} <= children | {resource_tracker_pid()}
    assert dask.config.config == config
    assert dict(os.environ) == variables
    assert logging.getLogger("distributed").level == level


def resource_tracker_pid() -> int:
    from multiprocessing import resource_tracker

    return resource_tracker._resource_tracker._pid


def abandon_in_the_middle() -> None:
    """Start a long task and leave by an exception that tells the worker's process number."""
    with connect(workers=1, threads=1, device="cpu", dashboard_address="none") as opened:
        opened.client.submit(time.sleep, 100)
        raise KeyError(next(iter(opened.client.run(os.getpid).values())), time.monotonic())


def test_an_error_ends_the_cluster_without_waiting():
    with pytest.raises(KeyError) as caught:
        abandon_in_the_middle()
    worker, began = caught.value.args
    assert time.monotonic() - began < 3
    assert not psutil.pid_exists(worker)


def test_a_taken_dashboard_port_is_replaced_silently(capfd):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        with connect(workers=1, threads=1, device="cpu", dashboard_address=place) as opened:
            assert opened.dashboard_link.startswith("http://127.0.0.1:")
            assert place not in opened.dashboard_link
    assert capfd.readouterr() == ("", "")


def test_the_dashboard_is_linked_through_a_notebook_server(monkeypatch):
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ada/")
    with connect(workers=1, threads=1, device="cpu", dashboard_address="127.0.0.1:0") as opened:
        assert opened.dashboard_link.startswith("/user/ada/proxy/")
        assert opened.dashboard_link.endswith("/status")


def test_each_gpu_gets_a_worker_that_sees_no_other():
    with connect(gpus=("0", "GPU-b"), dashboard_address="none") as opened:
        seen = opened.client.run(environment, "CUDA_VISIBLE_DEVICES")
        assert sorted(seen.values()) == ["0", "GPU-b"]
        assert opened.n_workers == 2


def test_a_running_scheduler_is_used_and_left_running(connection, tmp_path):
    address = connection.client.scheduler.address
    file = tmp_path / "scheduler.json"
    file.write_text(json.dumps({"address": address}))
    for given in (address, str(file), connection.client):
        with connect(given) as opened:
            assert not opened.owns_cluster
            assert opened.client.submit(sum, [1, 2], pure=False).result() == 3
    assert connection.client.submit(sum, [1, 2], pure=False).result() == 3


def test_a_worker_of_another_version_is_refused(connection, monkeypatch):
    monkeypatch.setattr(cluster_module, "_our_version", lambda: "99")
    with (
        pytest.raises(ClusterError, match=r"has bigdecon .*; install version 99"),
        connect(connection.client.scheduler.address),
    ):
        pass


def test_a_scheduler_without_workers_is_refused(monkeypatch):
    from distributed import Scheduler, SpecCluster

    monkeypatch.setattr(cluster_module, "WORKERS_SECONDS", 0.3)
    options = {"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    with (
        SpecCluster(scheduler={"cls": Scheduler, "options": options}) as empty,
        pytest.raises(ClusterError, match="has no workers"),
        connect(empty.scheduler_address),
    ):
        pass


def test_an_address_where_nobody_answers_is_refused(monkeypatch):
    monkeypatch.setattr(cluster_module, "SCHEDULER_SECONDS", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ClusterError, match=f"no Dask scheduler answers at {address}"), connect(address):
            pass


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("kubernetes", "'kubernetes' is not understood; give local, slurm"),
        ("missing.json", "missing.json cannot be used .No such file"),
        ("tcp://nonsense:port", "tcp://nonsense:port lacks a host or a port"),
    ],
)
def test_what_is_no_cluster_is_refused_in_a_sentence(given, message, monkeypatch):
    monkeypatch.setattr(cluster_module, "SCHEDULER_SECONDS", 0.5)
    with pytest.raises(ClusterError, match=message), connect(given):
        pass


@pytest.mark.parametrize("content", ["", "[]", "{}", "\0\1"])
def test_a_damaged_scheduler_file_is_refused(tmp_path, content):
    (tmp_path / "file").write_text(content)
    with pytest.raises(ClusterError, match="holds no address"), connect(str(tmp_path / "file")):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "--workers is 0"),
        ({"threads": -1}, "--threads is -1"),
        ({"memory_limit": "lots"}, "memory limit 'lots'"),
        ({"memory_limit": "-1GiB"}, "memory limit '-1GiB'"),
        ({"dashboard_address": "8787"}, "dashboard's address '8787'"),
        ({"dashboard_address": "127.0.0.1:99999"}, "dashboard's address"),
        ({"device": "tpu"}, "device 'tpu'"),
        ({"device": "cuda", "gpus": ()}, "no NVIDIA GPU is visible"),
        ({"gpus": 0}, "--gpus is 0"),
        ({"device": "cpu", "gpus": 1}, "device 'cpu' is none"),
        ({"device": "cuda:2", "gpus": ("0", "1")}, "the 2 visible GPUs count from cuda:0"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_starts(options, message):
    with pytest.raises(OptionError, match=message), connect(**options):
        pass


@pytest.mark.parametrize(
    ("workers", "device", "expected"),
    [
        (None, "auto", ("a", "b")),
        (1, "auto", ("a",)),
        (3, "auto", ("a", "b", "a")),
        (None, "cuda:1", ("b",)),
        (2, "cpu", ("", "")),
    ],
)
def test_workers_share_out_the_gpus(workers, device, expected):
    layout = cluster_module.plan_local_workers(workers, None, None, device, ("a", "b"))
    assert layout.gpus == expected
    assert layout.threads >= 1
    assert layout.memory_bytes > 0


def test_dask_goes_on_as_before_during_and_after_a_connection() -> None:
    before = dask.config.get("scheduler", None)
    with connect("local", workers=1, threads=1, dashboard_address="none", device="cpu"):
        assert dask.config.get("scheduler", None) == before
    assert dask.config.get("scheduler", None) == before
