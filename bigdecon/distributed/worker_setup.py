"""What our local workers do first; a Dask preload module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigdecon.distributed.surroundings import silence_dask

if TYPE_CHECKING:
    from distributed import Worker

__all__ = ["dask_setup"]


def dask_setup(worker: Worker) -> None:
    """Keep the worker's messages off the terminal that it shares with the user."""
    silence_dask()
