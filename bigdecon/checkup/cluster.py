"""The cluster that a run would start on this machine: its workers, its dashboard, and SLURM beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from dask.utils import format_bytes

from bigdecon.addresses import shown_url
from bigdecon.diagnosis.findings import Finding
from bigdecon.distributed.cluster import Connection

__all__ = ["check_dashboard", "check_slurm", "check_workers"]

PAGE_SECONDS = 10.0
SLURM_SECONDS = 15.0


def check_workers(connection: Connection, device: str) -> Iterator[Finding]:
    """Ask the workers what they see.

    Parameters
    ----------
    connection : to a cluster, as a run starts it
    device : torch device on which a run would compute
    """
    seen = connection.client.run(_see)
    count = len(seen)
    memory = min(limit for limit, _ in seen.values())
    many = "1 worker" if count == 1 else f"{count} workers"
    each = (
        f"{connection.threads_per_worker} threads, {format_bytes(memory) if memory else 'unlimited'} memory"
    )
    gpus = [name for _, names in seen.values() for name in names[:1]]
    if device.startswith("cuda") and len(gpus) < count:
        yield Finding(
            "workers",
            "warning",
            f"{many} started, but {count - len(gpus)} of them see no GPU that PyTorch can use.",
            "Look at what bigdecon doctor says of the GPUs; --device cpu works without them.",
        )
        return
    on = f"on {', '.join(gpus)}" if device.startswith("cuda") else "on the CPU"
    yield Finding("workers", "good", f"{many} started and answered: {each} each, {on}.")


def _see(dask_worker: Any) -> tuple[int, tuple[str, ...]]:
    """Give a worker's memory limit, and the names of its GPUs."""
    import torch

    limit = int(dask_worker.memory_manager.memory_limit or 0)
    names: tuple[str, ...] = ()
    if torch.cuda.is_available():
        names = tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return limit, names


def check_dashboard(link: str, port: int, environment: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Open the dashboard's page, directly and, on a notebook server, by its proxy.

    Parameters
    ----------
    link : as it is told to the user; "" for none
    port : on this machine
    environment : says where the notebook server is; that of this process by default
    """
    env = os.environ if environment is None else environment
    if not link:
        yield Finding("dashboard", "note", "The Dask dashboard is switched off.")
        return
    page = f"http://127.0.0.1:{port}/status"
    status = _status(page)
    if status != 200:
        yield Finding(
            "dashboard",
            "warning",
            f"The Dask dashboard does not answer at {page} ({_told(status)}).",
            "Install bokeh, as bigdecon needs it: python -m pip install bokeh",
        )
        return
    prefix = env.get("JUPYTERHUB_SERVICE_PREFIX")
    if prefix:
        yield _proxied(env, prefix, port, link)
    else:
        yield Finding("dashboard", "good", f"The Dask dashboard answers, at {link} while a run lasts.")


def _proxied(env: Mapping[str, str], prefix: str, port: int, link: str) -> Finding:
    """Look whether the notebook server leads to the dashboard."""
    server = urlsplit(env.get("JUPYTERHUB_SERVICE_URL", ""))
    if not server.port:
        return Finding(
            "dashboard",
            "note",
            f"The Dask dashboard answers; the notebook server is to show it at {shown_url(link)}, which "
            "could not be tried from here.",
            "Where that page is missing: python -m pip install jupyter-server-proxy",
        )
    host = "127.0.0.1" if server.hostname in (None, "", "0.0.0.0", "::") else server.hostname
    status = _status(f"{server.scheme or 'http'}://{host}:{server.port}{prefix}proxy/{port}/status")
    if status == 200:
        return Finding("dashboard", "good", f"The notebook server shows the Dask dashboard at {link}.")
    if status in (301, 302, 303, 307, 401, 403):
        return Finding(
            "dashboard",
            "good",
            f"The notebook server shows the Dask dashboard at {link}, to those who are logged in.",
        )
    return Finding(
        "dashboard",
        "warning",
        f"The Dask dashboard answers, but the notebook server does not lead to {link} ({_told(status)}).",
        "Install the proxy where the notebook server runs: python -m pip install jupyter-server-proxy",
    )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Leaves a redirection to a log-in page as an answer."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Follow nothing."""


def _status(url: str) -> int | str:
    """Give the HTTP status of a page on this machine, or why there is none."""
    opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=PAGE_SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


def _told(status: int | str) -> str:
    return f"HTTP {status}" if isinstance(status, int) else status


def check_slurm() -> Iterator[Finding]:
    """Tell whether SLURM is here, and whether it answers."""
    if shutil.which("sbatch") is None:
        yield Finding("slurm", "note", "SLURM is not installed here, so --cluster slurm cannot be used.")
        return
    try:
        done = subprocess.run(
            ["sinfo", "--noheader", "--format=%P"],
            capture_output=True,
            text=True,
            timeout=SLURM_SECONDS,
            check=False,
        )
        trouble = done.stderr.strip().partition("\n")[0] if done.returncode else ""
        names = sorted({name.strip().rstrip("*") for name in done.stdout.split()})
    except (OSError, subprocess.SubprocessError) as error:
        trouble, names = str(error), []
    if trouble or not names:
        yield Finding(
            "slurm",
            "note",  # a run on this machine does without
            f"SLURM is installed but does not answer ({trouble or 'it names no partition'}).",
            "Ask those who run the cluster; without SLURM, leave out --cluster.",
        )
        return
    inside = f" This is job {os.environ['SLURM_JOB_ID']}." if "SLURM_JOB_ID" in os.environ else ""
    yield Finding("slurm", "good", f"SLURM answers; its partitions are {', '.join(names)}.{inside}")
