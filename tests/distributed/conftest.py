"""One small cluster a module."""

from __future__ import annotations

import pytest

from bigdecon.distributed.cluster import connect
from tests.conftest import workers_forked


@pytest.fixture(scope="module")
def connection():
    with (
        workers_forked(),
        connect(workers=1, threads=2, memory_limit="1GiB", dashboard_address="none", device="cpu") as opened,
    ):
        yield opened
