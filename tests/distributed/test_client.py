"""A client that reaches no scheduler is closed."""

from __future__ import annotations

import socket

import pytest
from distributed import Security

from bigdecon.distributed.client import ConnectedClient
from bigdecon.distributed.cluster import connect
from bigdecon.errors import ClusterError


@pytest.fixture
def silent():
    """Address of somebody who listens and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def nobody():
    """Address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    return f"127.0.0.1:{port}"


@pytest.mark.parametrize("who", ["nobody", "silent"])
@pytest.mark.parametrize("scheme", ["tcp", "tls"])
def test_who_reaches_no_scheduler_is_closed(request, who, scheme):
    made = []

    class Remembered(ConnectedClient):
        def start(self, **kwargs):
            made.append(self)
            super().start(**kwargs)

    security = Security.temporary() if scheme == "tls" else None
    with pytest.raises(OSError):
        Remembered(f"{scheme}://{request.getfixturevalue(who)}", timeout=0.2, security=security)
    assert [client.status for client in made] == ["closed"]


def test_somebody_silent_at_the_address_is_a_sentence(silent, monkeypatch):
    monkeypatch.setattr("bigdecon.distributed.cluster.SCHEDULER_SECONDS", 0.2)
    with pytest.raises(ClusterError, match=f"no Dask scheduler answers at tcp://{silent} "):
        connect(f"tcp://{silent}").__enter__()


def test_who_reaches_its_scheduler_works(connection):
    with ConnectedClient(connection.client.scheduler.address, timeout=10) as client:
        assert client.submit(sum, [1, 2]).result() == 3
    assert client.status == "closed"
