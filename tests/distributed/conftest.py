"""One small cluster a module."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from bigdecon.distributed.cluster import connect
from tests.conftest import workers_forked


@pytest.fixture(scope="module")
def connection():
    asked = {"workers": 1, "threads": 2, "memory_limit": "1GiB", "dashboard_address": "none", "device": "cpu"}
    with ExitStack() as stack:
        with workers_forked():
            opened = stack.enter_context(connect(**asked))
        yield opened
