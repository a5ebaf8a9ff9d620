"""The surroundings of every test: few threads, nobody's settings, no cluster and no internet."""

from __future__ import annotations

import gc
import ipaddress
import os
import signal
import socket
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from bigdecon.storage.places import Place, as_place
from tests.browser import browser  # noqa: F401  (a fixture for whoever asks)
from tests.servers import object_store
from tests.slurm import slurm_node  # noqa: F401  (a fixture for whoever asks)

THREADS = "1"
"""Of torch in a process: a few processes test at once, and the images are small."""

LONGEST = ("test_benchmarks.py", "test_pipeline.py", "test_run_object_store.py")
"""Files that take a minute or more, one test after the other."""


def pytest_configure(config: pytest.Config) -> None:
    """Settle the environment, for this process and those it starts, before torch and dask are imported."""
    cache = getattr(config, "cache", None)  # absent under -p no:cacheprovider
    home = cache.mkdir("home") if cache else Path(tempfile.mkdtemp(prefix="bigdecon-tests-"))
    fixed = {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "DASK_CONFIG": str(home),
        "MPLCONFIGDIR": str(home),
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": THREADS,
        "MKL_NUM_THREADS": THREADS,
        "OMP_WAIT_POLICY": "passive",  # threads that wait leave the core to the other processes of the pool
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_COLOR": "1",
        "COLUMNS": "120",
    }
    for name in [name for name in os.environ if name.startswith(("DASK_", "AWS_", "BIGDECON_"))]:
        del os.environ[name]
    os.environ.update(fixed)
    gc.set_threshold(10_000)
    # A shell starts jobs in the background with Ctrl-C ignored, and so would all that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files of long or many slow tests, so that no process ends long after the others.

    Skip what needs a GPU where there is none; torch is imported only if some test asks.
    """
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (item.path.name not in LONGEST, -slow[item.path]))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_collection_finish() -> None:
    """What is there now stays to the end: no collection of garbage need look at it again."""
    gc.collect()
    gc.freeze()


def _leaves_the_machine(address: Any) -> bool:
    """Whether an address as given to `connect` is a public one."""
    try:
        return ipaddress.ip_address(address[0]).is_global
    except (ValueError, TypeError, IndexError):
        return False


@contextmanager
def workers_forked() -> Iterator[None]:
    """Fork workers from one server that has imported what they need: each import takes seconds.

    Commands, and the tests of how clusters start and end, have theirs spawned, as users do.
    """
    import dask
    from distributed.utils import get_mp_context

    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        get_mp_context().set_forkserver_preload(["bigdecon.pipeline", "torch._dynamo"])
        yield


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a cluster that the tests of a module share: one worker with two threads."""
    from bigdecon.distributed.cluster import connect

    asked = {"workers": 1, "threads": 2, "memory_limit": "3GiB", "dashboard_address": "none", "device": "cpu"}
    with ExitStack() as stack:
        with workers_forked():
            opened = stack.enter_context(connect(**asked))
        yield str(opened.client.scheduler.address)


@pytest.fixture(autouse=True)
def no_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse TCP connections to public addresses, as a machine without internet would."""
    connect = socket.socket.connect

    def connect_nearby(self: socket.socket, address: Any) -> None:
        if self.type == socket.SOCK_STREAM and _leaves_the_machine(address):
            raise OSError(f"tests use no internet, and {address[0]} is not on this machine")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_nearby)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Give the URL of an object store."""
    with object_store() as url:
        yield url


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the URL of a new bucket; the environment says where it is and who asks."""
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("bigdecon.storage.servers.FIRST_PAUSE_S", 0.01)
    bucket = f"bucket-{uuid4().hex[:12]}"
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(bucket, acl="public-read")
    return f"s3://{bucket}"


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Give a place that is empty: a folder on the disk, then a prefix in an object store."""
    if request.param == "local":
        return tmp_path
    return as_place(f"{request.getfixturevalue('s3')}/results")
