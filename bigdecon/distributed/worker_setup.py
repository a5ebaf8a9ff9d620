"""What a worker does first; a Dask preload module.

Our own workers are started with it. Any other can be, too, so that it leaves before its job ends:

    dask worker --preload bigdecon.distributed.worker_setup ...
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from bigdecon.distributed.surroundings import silence_dask
from bigdecon.distributed.walltime import LONGEST_TASK, LeaveInTime, job_end

if TYPE_CHECKING:
    from distributed import Worker

__all__ = ["QUIET", "SHIELDED", "dask_setup"]

QUIET = "BIGDECON_WORKER_QUIET"
"""Set in the environment of workers that share their terminal with the user."""

SHIELDED = "BIGDECON_WORKER_SHIELDED"
"""Set where a batch system signals all processes of a job, and the parent of the workers sees to it."""


async def dask_setup(worker: Worker) -> None:
    """Keep a local worker's messages off the terminal, and have it leave before its job ends."""
    if os.environ.get(QUIET):
        silence_dask()
        # What other libraries warn of; ours reach the run as messages.
        logging.captureWarnings(True)
        logging.getLogger().addHandler(logging.NullHandler())
    else:
        _speak(str(worker.name))
    if os.environ.get(SHIELDED) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end = job_end()
    if end is not None:
        memory = os.environ.get(LONGEST_TASK)
        plugin = LeaveInTime(end, memory=Path(memory) if memory else None)
        await worker.plugin_add(plugin, name=LeaveInTime.name)


def _speak(name: str) -> None:
    """Say whose each line is: several workers may share the log of a job."""
    form = logging.Formatter(f"%(asctime)s - {name} - %(name)s - %(levelname)s - %(message)s")
    for handler in logging.getLogger("distributed").handlers:
        handler.setFormatter(form)
    ours = logging.getLogger("bigdecon")
    if not ours.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(form)
        ours.addHandler(handler)
        ours.setLevel(logging.INFO)
