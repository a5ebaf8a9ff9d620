"""Certificates: private while they are there, gone afterwards, and asked for in a sentence."""

from __future__ import annotations

import stat
import time

import dask
import pytest
from distributed import Scheduler, Security, SpecCluster

from bigdecon.distributed.client import ConnectedClient
from bigdecon.distributed.cluster import connect
from bigdecon.distributed.surroundings import quiet_logging
from bigdecon.distributed.transport_security import client_security, temporary_certificates
from bigdecon.distributed.workers import Layout, worker_options
from bigdecon.errors import ClusterError, OutputError


def test_files_are_private_and_gone_at_the_end(tmp_path):
    with temporary_certificates(tmp_path / "logs") as certificates:
        folder = certificates.folder
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        files = {path: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
        assert set(files.values()) == {0o600}
        assert {str(path) for path in files} == {path for _, path in certificates.worker_arguments}
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="no certificates can be written into"):
        temporary_certificates(tmp_path / "file" / "logs").__enter__()


@pytest.fixture
def guarded(tmp_path):
    """Somebody's scheduler with TLS and a worker, and the configuration that a client needs."""
    from distributed import Nanny

    security = Security.temporary()
    options = {
        "host": "127.0.0.1",
        "protocol": "tls://",
        "port": 0,
        "security": security,
        "dashboard": False,
        "dashboard_address": "127.0.0.1:0",
    }
    ours = worker_options(Layout(("",), 1, 2**30), 0, tmp_path)
    worker = {
        "cls": Nanny,
        "options": ours | {"host": "127.0.0.1", "security": security, "protocol": "tls://"},
    }
    with (
        temporary_certificates(tmp_path) as certificates,
        quiet_logging(),
        SpecCluster(
            workers={0: worker}, scheduler={"cls": Scheduler, "options": options}, security=security
        ) as cluster,
    ):
        files = {}
        for name, key in (("ca_file", "ca-file"), ("cert", "client.cert"), ("key", "client.key")):
            path = certificates.folder / name
            path.write_text(security.get_tls_config_for_role("client")[name])
            files[f"distributed.comm.tls.{key}"] = str(path)
        yield cluster.scheduler_address, files


def test_somebody_elses_scheduler_is_reached_with_the_configured_certificates(guarded):
    address, files = guarded
    with dask.config.set(files), connect(address) as opened:
        assert opened.client.submit(sum, [1, 2]).result() == 3


def test_what_is_missing_in_the_configuration_is_named(guarded, tmp_path):
    address, files = guarded
    with pytest.raises(ClusterError, match=r"wants TLS, but Dask's configuration has no .*tls.ca-file"):
        connect(address).__enter__()
    only = {"distributed.comm.tls.ca-file": files["distributed.comm.tls.ca-file"]}
    with dask.config.set(only), pytest.raises(ClusterError, match=r"has no .*tls.client\.cert"):
        connect(address).__enter__()
    wrong = files | {"distributed.comm.tls.client.key": str(tmp_path / "nowhere.pem")}
    with dask.config.set(wrong), pytest.raises(ClusterError, match=r"nowhere\.pem.* cannot be read"):
        connect(address).__enter__()


def test_without_tls_nothing_is_asked_for():
    assert client_security("tcp://127.0.0.1:8786") is None


def test_in_a_job_the_local_cluster_accepts_its_own_only(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 3600))
    with connect(workers=2, threads=1, device="cpu", dashboard_address="none") as connection:
        client = connection.client
        assert all(address.startswith("tls://127.0.0.1:") for address in client.nthreads())
        parts = [client.submit(pow, 2, n, workers=[name]) for n, name in enumerate(client.nthreads())]
        assert client.submit(sum, parts).result() == 3
        for security in (None, Security.temporary()):
            with pytest.raises((OSError, TypeError)):
                ConnectedClient(client.scheduler.address, security=security, timeout=1)
        last = client.cluster.scheduler.plugins["bigdecon-last-one-out"]
    assert not last.noticed, "closing the cluster then waits for a scheduler that has ended itself"


def test_preloads_of_the_site_stay(tmp_path):
    with dask.config.set({"distributed.worker.preload": ["site.py"]}):
        options = worker_options(Layout(("",), 1, 2**30), 0, tmp_path)
    assert options["preload"] == ["site.py", "bigdecon.distributed.worker_setup"]
