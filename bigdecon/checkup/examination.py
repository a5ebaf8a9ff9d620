"""`examine`: all checks in their order, on a cluster as a run would start it, leaving nothing behind."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bigdecon.checkup.checks import Check, run_checks
from bigdecon.checkup.cluster import check_dashboard, check_slurm, check_workers
from bigdecon.checkup.hardware import check_disk, check_gpus, check_memory
from bigdecon.checkup.self_test import check_richardson_lucy, check_training
from bigdecon.checkup.software import check_versions
from bigdecon.config import RunConfig
from bigdecon.diagnosis.findings import Finding
from bigdecon.distributed.cluster import Connection
from bigdecon.errors import ClusterError
from bigdecon.running.workforce import Workforce

__all__ = ["examine"]

CLOSING_SECONDS = 30.0
WORKERS_REMEDY = "Try --workers 1 --memory-limit 0, and look for limits on processes (ulimit -u)."


def examine(folder: Path, on_start: Callable[[Check], None] = lambda check: None) -> Iterator[Finding]:
    """Look at everything that a run needs, and do two small ones.

    Every check has a time limit. Temporary files are removed, also where a check hangs.

    Parameters
    ----------
    folder : where results are to go; its disk is measured
    on_start : is told which check begins
    """
    with _temporary_folder() as scratch:
        yield from run_checks(_surroundings(folder), on_start)
        stage = _Stage(scratch)
        try:
            yield from run_checks(stage.checks(), on_start)
        finally:
            stage.close()


def _surroundings(folder: Path) -> list[Check]:
    return [
        Check("packages", "the installed packages", check_versions, 20),
        Check("gpus", "the GPUs", check_gpus, 60, "Restart the machine: its NVIDIA driver hangs."),
        Check("memory", "memory and cores", check_memory, 10),
        Check(
            "disk", "the disk", lambda: check_disk(folder), 40, "Look at the network disk, or use another."
        ),
        Check("slurm", "SLURM", check_slurm, 20, "Ask those who run the cluster."),
    ]


class _Stage:
    """A cluster, and the checks that need one."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._stack = ExitStack()
        self._connection: Connection | None = None
        self._device = "cpu"

    def checks(self) -> list[Check]:
        return [
            Check("workers", "the workers", self._workers, 120, WORKERS_REMEDY),
            Check("dashboard", "the dashboard", self._dashboard, 40),
            Check("self-test-richardson-lucy", "a run of richardson-lucy", self._restore, 120),
            Check("self-test-training", "a training", self._train, 180),
        ]

    def close(self) -> None:
        """End the workers; one that does not end is left to end with this process."""
        closing = threading.Thread(target=self._stack.close, name="check-closing", daemon=True)
        closing.start()
        closing.join(CLOSING_SECONDS)

    def _workers(self) -> Iterator[Finding]:
        place = str(self._scratch / "none.ome.zarr")
        workforce = Workforce(RunConfig(input=place, psf=(), output=place), self._stack, lambda event: None)
        self._connection, self._device = workforce.call(), workforce.device
        yield from check_workers(self._connection, self._device)

    def _dashboard(self) -> Iterator[Finding]:
        connection = self._connected()
        services = connection.client.scheduler_info()["services"]
        yield from check_dashboard(connection.dashboard_link, int(services.get("dashboard", 0)))

    def _restore(self) -> Iterator[Finding]:
        yield from check_richardson_lucy(self._folder("classical"), self._cluster(), self._device)

    def _train(self) -> Iterator[Finding]:
        yield from check_training(self._folder("training"), self._cluster(), self._device)

    def _connected(self) -> Connection:
        if self._connection is None:
            raise ClusterError("there are no workers.")
        return self._connection

    def _cluster(self) -> str:
        """Name the cluster for a run; one that encrypts, in a job of SLURM, cannot be joined by address."""
        scheduler = self._connected().client.scheduler
        address = str(getattr(scheduler, "address", ""))
        return address if address.startswith("tcp://") else "local"

    def _folder(self, name: str) -> Path:
        folder = self._scratch / name
        folder.mkdir()
        return folder


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Have all temporary files of this process and of its workers in one folder, and remove it."""
    before, named = tempfile.tempdir, os.environ.get("TMPDIR")
    folder = tempfile.mkdtemp(prefix="bigdecon-doctor-")
    # The cluster's files and PyTorch's, too: what hangs cannot remove them.
    tempfile.tempdir = os.environ["TMPDIR"] = folder
    try:
        yield Path(folder)
    finally:
        tempfile.tempdir = before
        if named is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = named
        shutil.rmtree(folder, ignore_errors=True)
