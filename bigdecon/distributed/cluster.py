"""Cluster: find a Dask cluster, or start one, and give it back in order.

connect("local")            workers on this machine            local_cluster
connect("slurm")            workers in jobs, replaced by us    slurm, job_replacement
connect("tcp://..." | FILE) somebody else's scheduler          here
"""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import dask
from distributed import Client

from bigdecon.addresses import shown_url
from bigdecon.cluster_settings import SlurmSettings
from bigdecon.distributed.allocation import allocated_cores, allocated_memory
from bigdecon.distributed.client import ConnectedClient
from bigdecon.distributed.devices import choose_gpus
from bigdecon.distributed.local_cluster import local_cluster
from bigdecon.distributed.notebook_proxy import proxied_link
from bigdecon.distributed.page_feed import PageFeed, open_page
from bigdecon.distributed.surroundings import quiet_logging
from bigdecon.distributed.transport_security import client_security
from bigdecon.distributed.workers import Layout, plan_workers
from bigdecon.errors import ClusterError, OptionError

if TYPE_CHECKING:
    from bigdecon.distributed.slurm_job import JobShape

__all__ = ["Connection", "connect", "plan_local_workers", "slurm_device", "slurm_job_script"]

LOOPBACK = "127.0.0.1"
SCHEMES = ("tcp://", "tls://", "ws://", "wss://", "ucx://")
SCHEDULER_SECONDS = 10.0
WORKERS_SECONDS = 30.0
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Connection:
    """A cluster in use.

    Attributes
    ----------
    client : to submit work with
    dashboard_link : where a browser finds Dask's dashboard; "" if there is none
    n_workers : worker processes when the connection was made; on SLURM, those of the most jobs at a time
    threads_per_worker : tasks that the smallest worker runs at once
    owns_cluster : whether the cluster ends with the connection
    patience_seconds : how long the cluster may be without workers; on SLURM, jobs may wait for ever
    page : takes what the page of a run shows
    """

    client: Client
    dashboard_link: str
    n_workers: int
    threads_per_worker: int
    owns_cluster: bool
    patience_seconds: float = PATIENCE_SECONDS
    page: PageFeed = field(default_factory=PageFeed, compare=False)

    @property
    def page_link(self) -> str:
        """Where a browser finds the page of a run, "/bigdecon" on the dashboard; "" if there is none."""
        found = self.page.is_open and self.dashboard_link.endswith("/status")
        return self.dashboard_link.removesuffix("status") + "bigdecon" if found else ""


@contextmanager
def connect(
    cluster: str | Client = "local",
    *,
    workers: int | None = None,
    threads: int | None = None,
    memory_limit: str | None = None,
    dashboard_address: str = "127.0.0.1:8787",
    device: str = "auto",
    gpus: int | Sequence[str] | None = None,
    interface: str | None = None,
    tls: bool = True,
    slurm: SlurmSettings | None = None,
    say: Callable[[str], None] | None = None,
) -> Iterator[Connection]:
    """Use a cluster for the length of a `with` block.

    Parameters
    ----------
    cluster : "local"; "slurm"; the address of a scheduler, as "tcp://host:8786"; the path of a scheduler
        file; or a `distributed.Client` that is open already. The last three leave the cluster running
        afterwards and take no notice of the other parameters.
    workers : worker processes, on SLURM of a job; one per GPU, or one, by default
    threads : tasks a worker runs at once; the cores of this process are shared out by default,
        at most 4 to a worker with a GPU; on SLURM 4
    memory_limit : of one worker, as "4GiB"; None or "auto" shares out the machine's (or job's) memory
    dashboard_address : host and port; another port is taken if this one is in use; "none" for no dashboard
    device : "auto", "cpu", "cuda" or "cuda:1" (the second of the visible GPUs); "mps" is like "cpu" here
    gpus : how many to use, on SLURM in a job; or what to use as `visible_gpus`; found out by default
    interface : network interface for SLURM, as "ib0"; the one that leads outwards by default
    tls : whether the processes of a cluster on SLURM encrypt what they send, and accept nobody without
        this run's certificate
    slurm : what is asked of SLURM
    say : gets sentences on SLURM's jobs, from another thread

    Raises
    ------
    ClusterError
        if no scheduler answers, it has no workers, or SLURM runs no jobs for us
    SchedulerLostError
        if SLURM's jobs later end again and again, or the job around this process is about to end
    OptionError
        if a number, the memory limit, the device, the interface or the dashboard's address cannot be
    """
    with ExitStack() as stack:
        stack.enter_context(quiet_logging())
        dashboard = _dashboard_place(dashboard_address)
        owned, most, patience = False, None, PATIENCE_SECONDS
        if isinstance(cluster, Client):
            client = cluster
        elif cluster == "local":
            layout = plan_local_workers(workers, threads, memory_limit, device, gpus)
            stack.enter_context(dask.config.set(_proxied_link()))
            client, owned = stack.enter_context(local_cluster(layout, dashboard)), True
        elif cluster == "slurm":
            from bigdecon.distributed.slurm import slurm_cluster  # loads dask-jobqueue

            shape = _shape(workers, threads, gpus, memory_limit, device, interface, tls, slurm)
            stack.enter_context(dask.config.set(_proxied_link()))
            client = stack.enter_context(slurm_cluster(shape, dashboard=dashboard, say=say or _keep_quiet))
            owned, most, patience = True, shape.settings.jobs[1] * shape.n_workers, math.inf
        else:
            client = stack.enter_context(_existing(_find_scheduler(cluster)))
        # Dask gives the link of its health pages where there is no dashboard
        link = ("" if owned and dashboard is None else client.dashboard_link) or ""
        page = open_page(client) if link else PageFeed()
        threads_of = client.nthreads()
        count, least = most or len(threads_of), min(threads_of.values(), default=1)
        yield Connection(client, link, count, least, owned, patience, page)


def slurm_job_script(
    *,
    workers: int | None = None,
    threads: int | None = None,
    memory_limit: str | None = None,
    device: str = "auto",
    gpus: int | None = None,
    interface: str | None = None,
    tls: bool = True,
    slurm: SlurmSettings | None = None,
) -> str:
    """Write the script of the jobs that `connect("slurm", ...)` would submit, and submit nothing.

    Parameters are those of `connect`. The scheduler's address and the certificates, which are not there
    yet, are named in capitals.

    Raises
    ------
    OptionError
        if one of them cannot be
    """
    from bigdecon.distributed.slurm_job import job_script

    return job_script(_shape(workers, threads, gpus, memory_limit, device, interface, tls, slurm))


def slurm_device(device: str = "auto", gpus: int | None = None, slurm: SlurmSettings | None = None) -> str:
    """Say on what the workers of jobs will compute, before there are any: "cuda" if the jobs ask for GPUs.

    Parameters are those of `connect`.

    Raises
    ------
    OptionError
        if the device is unknown
    """
    from bigdecon.distributed.slurm_job import JobShape

    choose_gpus(device, tuple("0123456789"))  # refuses what is no device; which GPUs, SLURM says
    if device != "auto":
        return "cuda" if device.startswith("cuda") else device
    return "cuda" if JobShape(slurm or SlurmSettings(), gpus=gpus).n_gpus else "cpu"


def _shape(
    workers: int | None,
    threads: int | None,
    gpus: int | Sequence[str] | None,
    memory_limit: str | None,
    device: str,
    interface: str | None,
    tls: bool,
    settings: SlurmSettings | None,
) -> JobShape:
    from bigdecon.distributed.slurm_job import JobShape

    if gpus is not None and not isinstance(gpus, int):
        raise OptionError("on SLURM, GPUs are asked for by their number; SLURM says which.")
    return JobShape(settings or SlurmSettings(), workers, threads, gpus, memory_limit, device, interface, tls)


def _keep_quiet(sentence: str) -> None:
    """Say nothing."""


def plan_local_workers(
    workers: int | None,
    threads: int | None,
    memory_limit: str | None,
    device: str,
    gpus: int | Sequence[str] | None,
) -> Layout:
    """Share out this machine, or what a batch system or container gave this process of it."""
    names, count = (None, gpus) if gpus is None or isinstance(gpus, int) else (gpus, None)
    return plan_workers(
        workers,
        threads,
        memory_limit,
        device=device,
        gpus=names,
        gpu_count=count,
        cores=allocated_cores(),
        memory=allocated_memory(),
    )


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
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as caller:  # who listens on all addresses does not hinder the bind below
        caller.settimeout(1)
        if caller.connect_ex((host.strip("[]"), port)) == 0:
            return False
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError:
            return False
        return True


def _proxied_link() -> dict[str, str]:
    """On a notebook server, the dashboard is reached through the server's proxy."""
    link = proxied_link()
    return {"distributed.dashboard.link": link} if link else {}


@contextmanager
def _existing(address: str) -> Iterator[Client]:
    """Connect to a scheduler that somebody else runs."""
    security = client_security(address)
    try:
        client = ConnectedClient(address, timeout=SCHEDULER_SECONDS, security=security)
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
        _check_address(cluster)
        return cluster
    path = Path(cluster).expanduser()
    if path.exists() or path.suffix == ".json" or len(path.parts) > 1:
        return _read_scheduler_file(path)
    raise ClusterError(
        f"the cluster {cluster!r} is not understood; give local, slurm, the address of a scheduler "
        "such as tcp://host:8786, or the path of a scheduler file."
    )


def _check_address(address: str) -> None:
    """Refuse an address at which nothing can answer."""
    parts = urlsplit(address)
    try:
        found = parts.hostname and parts.port
    except ValueError:  # what stands after the colon is no port
        found = None
    if not found:
        raise ClusterError(
            f"the cluster's address {shown_url(address)} lacks a host or a port; give both, as in "
            f"{parts.scheme}://host:8786, or leave out --cluster to use this machine."
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
        "dask scheduler --scheduler-file FILE."
    )
