"""What Dask would change or print around us, kept within a `with` block."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker, spawn
from typing import Any

import dask

__all__ = [
    "environment_kept",
    "quiet_logging",
    "script_left_out",
    "sigint_blocked",
    "sigint_kept",
    "silence_dask",
]

NOISY = ("distributed", "tornado", "bokeh")
WORKER_NAME = "Dask Worker process"
_python_prepares = spawn.get_preparation_data
_script_left_out_by = 0
_counting = threading.Lock()


@contextmanager
def script_left_out() -> Iterator[None]:
    """Have worker processes start without importing the script of the user again.

    Python imports the main script in every process that it spawns, and a script that starts a cluster would
    start another one there, unless it says `if __name__ == "__main__":`. Workers have no use for the script:
    Dask sends what is defined in it along with the tasks. Other processes that are spawned meanwhile are
    left as they are.
    """
    global _script_left_out_by
    with _counting:
        _script_left_out_by += 1
        # Python has no option for it; this is where what a child is to import is gathered.
        setattr(spawn, "get_preparation_data", _prepare_without_script)  # noqa: B010
    try:
        yield
    finally:
        with _counting:
            _script_left_out_by -= 1
            if not _script_left_out_by:
                setattr(spawn, "get_preparation_data", _python_prepares)  # noqa: B010


def _prepare_without_script(name: str) -> dict[str, Any]:
    """Gather what Python tells a spawned process, but not to a worker of Dask which script to import."""
    prepared = _python_prepares(name)
    if name.startswith(WORKER_NAME):
        for script in ("init_main_from_path", "init_main_from_name"):
            prepared.pop(script, None)
    return prepared


@contextmanager
def sigint_blocked() -> Iterator[None]:
    """Start threads and processes that never see SIGINT; one that arrives meanwhile is delivered at the end.

    Threads and processes inherit the mask, and so do workers that a nanny starts again later. Does
    nothing outside the main thread, or where the system has no signal masks.
    """
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        yield
        return
    _start_resource_tracker()  # where it starts by itself, it unblocks SIGINT behind our back
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def sigint_kept() -> Iterator[None]:
    """Undo what an import does to the handling of Ctrl-C, as that of dask-jobqueue, which would exit."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        # Only the main thread may set it, and only there can it have been changed.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _start_resource_tracker() -> None:
    """Start Python's tracker of semaphores, which cleans up after workers that are killed, in silence."""
    name, before = "PYTHONWARNINGS", os.environ.get("PYTHONWARNINGS")
    # The tracker is a process: a filter reaches it in its environment alone.
    os.environ[name] = ",".join(filter(None, [before, "ignore:resource_tracker:UserWarning"]))
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def environment_kept() -> Iterator[None]:
    """Undo what a nanny leaves in this process's environment: OMP_NUM_THREADS=1 and the like."""
    names = {"PYTHONHASHSEED", *dask.config.get("distributed.nanny.pre-spawn-environ", {})}
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def quiet_logging() -> Iterator[None]:
    """Keep Dask's own messages off the terminal: what matters in them is reported in our words."""
    before = silence_dask()
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def silence_dask() -> dict[str, int]:
    """Let nothing through of what Dask and its web server log; give the levels as they were, by name."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in NOISY]
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return before
