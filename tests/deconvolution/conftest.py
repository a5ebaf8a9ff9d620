"""What the tests of several methods share."""

from __future__ import annotations

from collections.abc import Iterator

import dask
import pytest
import torch


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small transforms lose more to threads than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with dask.config.set(scheduler="synchronous"):
        yield
    torch.set_num_threads(threads)
