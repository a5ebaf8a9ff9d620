"""Cluster: find a Dask cluster, or start one on this machine, and give it back in order.

`connect("local")` starts one worker process per GPU, or a single one with all threads; scheduler and
nannies live in this process, so that nothing survives it:

    this process ── scheduler (loopback only) ── dashboard (loopback only)
        ├── nanny 0 ── worker process 0, sees GPU 0 only
        └── nanny 1 ── worker process 1, sees GPU 1 only

Ctrl-C is for this process alone: workers are started with SIGINT blocked, and are told to end by their
nanny. They also end by themselves when this process dies, whatever kills it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dask
from dask.utils import parse_bytes
from distributed import Client, Nanny, Scheduler, SpecCluster
from distributed.system import MEMORY_LIMIT

from bigdecon.distributed.devices import choose_gpus
from bigdecon.distributed.surroundings import environment_kept, quiet_logging, sigint_blocked
from bigdecon.errors import ClusterError, OptionError

__all__ = ["Connection", "WorkerLayout", "connect", "plan_workers"]

LOOPBACK = "127.0.0.1"
SCHEMES = ("tcp://", "tls://", "ws://", "wss://", "ucx://")
SCHEDULER_SECONDS = 10.0
WORKERS_SECONDS = 30.0
START_SECONDS = 120.0
GPU_THREADS = 4
"""Threads beside one GPU: one computes while the others read and write."""

SETTINGS = {
    # Results stay on the workers for moments only. To spill them to disk would fill somebody's /tmp.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": 0.85,
    "distributed.worker.memory.terminate": 0.95,
    # One heap for all threads: large pieces of memory that one task frees serve the next (learning/heap.py).
    "distributed.nanny.pre-spawn-environ.MALLOC_ARENA_MAX": "1",
}


@dataclass(frozen=True)
class Connection:
    """A cluster in use.

    Attributes
    ----------
    client : to submit work with
    dashboard_link : where a browser finds Dask's dashboard; "" if there is none
    n_workers : worker processes when the connection was made
    threads_per_worker : tasks that the smallest worker runs at once
    owns_cluster : whether the cluster ends with the connection
    """

    client: Client
    dashboard_link: str
    n_workers: int
    threads_per_worker: int
    owns_cluster: bool


@contextmanager
def connect(
    cluster: str | Client = "local",
    *,
    workers: int | None = None,
    threads: int | None = None,
    memory_limit: str | None = None,
    dashboard_address: str = "127.0.0.1:8787",
    device: str = "auto",
    gpus: Sequence[str] | None = None,
) -> Iterator[Connection]:
    """Use a cluster for the length of a `with` block.

    Parameters
    ----------
    cluster : "local"; the address of a scheduler, as "tcp://host:8786"; the path of a scheduler file;
        or a `distributed.Client` that is open already. All but "local" leave the cluster running
        afterwards and take no notice of the other parameters.
    workers : worker processes; one per GPU, or one, by default
    threads : tasks a worker runs at once; the cores of this process are shared out by default,
        at most 4 to a worker with a GPU
    memory_limit : of one worker, as "4GiB"; None or "auto" shares out the machine's (or job's) memory
    dashboard_address : host and port; another port is taken if this one is in use; "none" for no dashboard
    device : "auto", "cpu", "cuda" or "cuda:1" (the second of the visible GPUs); "mps" is like "cpu" here
    gpus : what to use as `visible_gpus`; found out by default

    Raises
    ------
    ClusterError
        if no scheduler answers, or it has no workers
    OptionError
        if a number, the memory limit, the device or the dashboard's address cannot be
    """
    with ExitStack() as stack:
        stack.enter_context(quiet_logging())
        if isinstance(cluster, Client):
            client, owned = cluster, False
        elif cluster == "local":
            layout = plan_workers(workers, threads, memory_limit, device, gpus)
            client, owned = stack.enter_context(_local(layout, dashboard_address)), True
        else:
            client, owned = stack.enter_context(_existing(_find_scheduler(cluster))), False
        # Dask gives the link of its health pages where there is no dashboard
        link = "" if owned and _dashboard_place(dashboard_address) is None else client.dashboard_link
        yield _describe(client, link or "", owned)


@dataclass(frozen=True)
class WorkerLayout:
    """The workers to start on this machine.

    Attributes
    ----------
    gpus : for each worker the GPUs that it sees, "" for none
    threads : tasks that each runs at once
    memory_bytes : of each; 0 for no limit
    """

    gpus: tuple[str, ...]
    threads: int
    memory_bytes: int


def plan_workers(
    workers: int | None,
    threads: int | None,
    memory_limit: str | None,
    device: str,
    gpus: Sequence[str] | None,
) -> WorkerLayout:
    """Work out which workers `connect("local")` would start; see there for the parameters."""
    for name, number in (("workers", workers), ("threads", threads)):
        if number is not None and number < 1:
            raise OptionError(f"--{name} is {number}; it must be at least 1.")
    devices = choose_gpus(device, gpus)
    count = workers or max(1, len(devices))
    share = max(1, _cores() // count)
    each = threads or (min(share, GPU_THREADS) if devices else share)
    # More workers than GPUs take turns: the user asked for it.
    seen = tuple(devices[index % len(devices)] if devices else "" for index in range(count))
    return WorkerLayout(seen, each, _parse_memory(memory_limit, count))


def _cores() -> int:
    """Count the cores that this process may use, which a batch system may have limited."""
    from dask.system import CPU_COUNT  # knows the affinity, and the quota of a container

    return max(1, int(CPU_COUNT))


def _parse_memory(text: str | None, workers: int) -> int:
    """Give the bytes for one worker; 0 means no limit."""
    if text is None or text.strip().lower() == "auto":
        return int(MEMORY_LIMIT) // workers
    try:
        limit = int(parse_bytes(text))
    except (ValueError, KeyError):
        limit = -1
    if limit < 0:
        raise OptionError(f"the memory limit {text!r} is not understood; give a size such as 4GiB, or auto.")
    return limit


@contextmanager
def _local(layout: WorkerLayout, dashboard_address: str) -> Iterator[Client]:
    """Start a cluster on this machine, and end all of it afterwards."""
    dashboard = _dashboard_place(dashboard_address)
    with ExitStack() as stack:
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="bigdecon-", ignore_cleanup_errors=True)
        )
        stack.enter_context(dask.config.set(SETTINGS | _proxied_link() | {"temporary-directory": folder}))
        stack.enter_context(environment_kept())  # after the settings, which add names to keep
        with sigint_blocked(), environment_kept():
            cluster = _start(layout, dashboard, folder)
        stack.callback(_end, cluster)
        client = stack.enter_context(Client(cluster, timeout=SCHEDULER_SECONDS, set_as_default=False))
        try:
            yield client
        except BaseException:
            _abandon(cluster)
            raise


def _start(layout: WorkerLayout, dashboard: str | None, folder: str) -> SpecCluster:
    scheduler = {
        "cls": Scheduler,
        "options": {
            "host": LOOPBACK,
            "port": 0,
            "dashboard": dashboard is not None,
            # Dask serves its health pages even without a dashboard; unless told otherwise, to everybody
            "dashboard_address": dashboard or f"{LOOPBACK}:0",
        },
    }
    workers = {
        index: {"cls": Nanny, "options": _worker_options(gpu, layout, folder)}
        for index, gpu in enumerate(layout.gpus)
    }
    try:
        return SpecCluster(
            workers=workers, scheduler=scheduler, name="bigdecon", silence_logs=logging.CRITICAL + 1
        )
    except (OSError, RuntimeError, TimeoutError) as error:
        raise ClusterError(f"the workers on this machine could not be started ({error}).") from error


def _worker_options(gpu: str, layout: WorkerLayout, folder: str) -> dict[str, Any]:
    return {
        "host": LOOPBACK,
        "nthreads": layout.threads,
        "memory_limit": layout.memory_bytes,
        "local_directory": folder,
        "dashboard_address": f"{LOOPBACK}:0",
        "env": {"CUDA_VISIBLE_DEVICES": gpu},
        "death_timeout": START_SECONDS,
        "silence_logs": logging.CRITICAL + 1,
        "preload": ["bigdecon.distributed.worker_setup"],
    }


def _abandon(cluster: SpecCluster) -> None:
    """End the workers in the middle of what they do: after an error or Ctrl-C nobody waits for it."""
    for nanny in cluster.workers.values():
        nanny.close_gracefully("abandoned")  # only says that the worker is not to be started again
        if nanny.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(nanny.pid, getattr(signal, "SIGKILL", signal.SIGTERM))


def _end(cluster: SpecCluster) -> None:
    """Stop workers and scheduler; a second Ctrl-C has to wait for it."""
    with sigint_blocked(), suppress(TimeoutError, OSError):
        cluster.close(timeout=20)


def _dashboard_place(address: str) -> str | None:
    """Give an address whose port is free, or None for no dashboard."""
    if address.strip().lower() in ("", "none"):
        return None
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise OptionError(
            f"the dashboard's address {address!r} is not understood; "
            "give host:port as in 127.0.0.1:8787, or none."
        )
    host = host or LOOPBACK
    return f"{host}:{port if _is_free(host, int(port)) else 0}"


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError:
            return False
        return True


def _proxied_link() -> dict[str, str]:
    """On a notebook server, the dashboard is reached through the server's proxy."""
    prefix = os.environ.get("JUPYTERHUB_SERVICE_PREFIX")
    return {"distributed.dashboard.link": f"{prefix}proxy/{{port}}/status"} if prefix else {}


@contextmanager
def _existing(address: str) -> Iterator[Client]:
    """Connect to a scheduler that somebody else runs."""
    try:
        client = Client(address, timeout=SCHEDULER_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError, TypeError, RuntimeError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at {address} (waited {SCHEDULER_SECONDS:.0f} s); check the address, "
            "or leave out --cluster to use this machine."
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=WORKERS_SECONDS)
        except (OSError, TimeoutError) as error:
            raise ClusterError(
                f"the scheduler at {address} has no workers (waited {WORKERS_SECONDS:.0f} s); "
                f"start some with: dask worker {address}"
            ) from error
        _check_versions(client, address)
        yield client


def _check_versions(client: Client, address: str) -> None:
    """Refuse workers that could not read our tasks: Dask would try, and fail, without an end."""
    ours = _our_version()
    for worker, theirs in client.run(version, "bigdecon", on_error="return").items():
        if theirs != ours:
            found = "no bigdecon" if isinstance(theirs, Exception) else f"bigdecon {theirs}"
            raise ClusterError(
                f"the worker {worker} of the scheduler at {address} has {found}; "
                f"install version {ours}, as here, where the workers run."
            )


def _our_version() -> str:
    return version("bigdecon")


def _find_scheduler(cluster: str) -> str:
    """Turn what the user gave into an address."""
    if cluster.startswith(SCHEMES):
        return cluster
    if cluster == "slurm":
        raise ClusterError(
            "--cluster slurm is not available yet; start a scheduler and workers within your jobs "
            "and give the scheduler's address or file."
        )
    path = Path(cluster).expanduser()
    if path.exists() or path.suffix == ".json" or len(path.parts) > 1:
        return _read_scheduler_file(path)
    raise ClusterError(
        f"the cluster {cluster!r} is not understood; give local, the address of a scheduler "
        "such as tcp://host:8786, or the path of a scheduler file."
    )


def _read_scheduler_file(path: Path) -> str:
    try:
        return str(json.loads(path.read_text())["address"])
    except OSError as error:
        reason = error.strerror or str(error)
    except (ValueError, KeyError, TypeError):
        reason = "it holds no address"
    raise ClusterError(
        f"the scheduler file {path} cannot be used ({reason}); give the file that was named in: "
        "dask scheduler --scheduler-file FILE"
    )


def _describe(client: Client, link: str, owned: bool) -> Connection:
    threads = client.nthreads()
    return Connection(client, link, len(threads), min(threads.values(), default=1), owned)
