"""What happens when a GPU fails under a worker process: the process ends, and says why.

After some errors of a GPU (an illegal memory access, say) its process can do nothing more there, and every
task that it was given would fail.

    task: GPU error ──> reason to the scheduler ──> the process ends ──> its nanny starts a new one
                                              └> the scheduler gives the task to another worker
    after as many deaths as Dask allows: KilledWorker ──> `device_failure_of` finds the reason
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from bigdecon.device_errors import is_device_lost
from bigdecon.errors import DeviceLostError

if TYPE_CHECKING:
    from distributed import Client, KilledWorker, Worker

__all__ = ["FAILURES", "device_failure_of", "device_watched"]

FAILURES = "bigdecon-device-failures"
"""Topic of the scheduler's event log that keeps the reasons."""

EXIT_CODE = 70
TELL_SECONDS = 5.0

logger = logging.getLogger(__name__)


@contextmanager
def device_watched() -> Iterator[None]:
    """End this worker process if its GPU is lost to it while the block lasts.

    Only a process under a nanny, which starts a new one, is ended.

    Raises
    ------
    DeviceLostError
        in any other process: it has to be started again by hand
    """
    try:
        yield
    except Exception as error:
        if not is_device_lost(error):
            raise
        reason = str(error).strip().partition("\n")[0]
        worker = _worker_under_nanny()
        if worker is not None:
            _end(worker, reason)
        raise DeviceLostError(
            f"the GPU does not answer this process any more ({reason}); start the process again."
        ) from error


def device_failure_of(client: Client, error: KilledWorker) -> str:
    """Tell what a GPU said in the task that killed its workers, or where the last of them died; else ""."""
    task, place = str(error.task), getattr(error.last_worker, "address", None)
    found = ""
    with suppress(Exception):  # the scheduler may be gone; then there is another error to tell of
        for _, event in client.get_events(FAILURES):
            if event["task"] == task or event["worker"] == place:
                found = str(event["reason"])
    return found


def _worker_under_nanny() -> Worker | None:
    from distributed import get_worker

    with suppress(ValueError):  # not in a worker
        worker = get_worker()
        return worker if worker.nanny else None
    return None


def _end(worker: Worker, reason: str) -> None:
    """Leave the reason with the scheduler, and end this process at once: nothing here can be saved."""
    from distributed.utils import sync

    logger.warning("the GPU of this worker failed (%s); its process is started again.", reason)
    event = {"task": _task_of(worker), "worker": worker.address, "reason": reason}
    with suppress(Exception):  # untold, the process has to end all the same
        sync(worker.loop, _tell, worker, event, callback_timeout=TELL_SECONDS)
    # By Dask's own logger: where the log of workers goes, and silent where they share the user's terminal.
    logging.getLogger("distributed.worker").critical(
        "the worker %s ends: its GPU failed with %s", worker.address, reason
    )
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(EXIT_CODE)


async def _tell(worker: Worker, event: dict[str, str]) -> None:
    """Let what waits in the worker's stream go first, messages to the user too; then wait for an answer."""
    while worker.batched_stream.buffer:
        await asyncio.sleep(0.005)
    await worker.scheduler.log_event(topic=FAILURES, msg=event)


def _task_of(worker: Worker) -> str:
    with suppress(Exception):  # not in the thread of a task
        return str(worker.get_current_task())
    return ""
