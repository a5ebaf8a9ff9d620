"""What the library logs in a worker process, as messages to those who watch the run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from bigdecon.distributed.progress import Message, publish

__all__ = ["messages_sent"]

LIBRARY = "bigdecon"


@contextmanager
def messages_sent(run_id: str) -> Iterator[None]:
    """Send what the library warns of in this thread to the listeners of a run while the block lasts.

    Outside a worker nothing is sent.
    """
    handler = _Sender(run_id)
    logger = logging.getLogger(LIBRARY)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Sender(logging.Handler):
    """Publishes the records of one thread: another thread may work for another run."""

    def __init__(self, run_id: str) -> None:
        super().__init__(logging.WARNING)
        self._run_id = run_id
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            publish(Message(f"worker {_worker_name()}: {record.getMessage()}", "warning"), self._run_id)


def _worker_name() -> str:
    from distributed import get_worker

    with suppress(ValueError):
        return str(get_worker().name)
    return ""
