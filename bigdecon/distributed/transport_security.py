"""Transport security: TLS between the processes of a cluster, with certificates for one run.

    this process: Security.temporary() ── keys in memory ──▶ scheduler, client
                          │
                          └── files in a private folder (0700, each 0600) ──▶ workers in their jobs

Whoever cannot read the folder cannot join the cluster, give it work, or read what passes over the network.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from distributed import Security

from bigdecon.errors import ClusterError, OutputError

__all__ = ["Certificates", "client_security", "temporary_certificates"]


@dataclass(frozen=True)
class Certificates:
    """Keys and certificates of one cluster.

    Attributes
    ----------
    security : what scheduler and client take, with keys in memory
    folder : where the workers find theirs, for as long as the cluster lives
    """

    security: Security
    folder: Path

    @property
    def worker_arguments(self) -> tuple[tuple[str, str], ...]:
        """Give the options that lead a worker to its certificate, each with its file."""
        return (
            ("--tls-ca-file", str(self.folder / "ca.pem")),
            ("--tls-cert", str(self.folder / "cert.pem")),
            ("--tls-key", str(self.folder / "key.pem")),
        )


@contextmanager
def temporary_certificates(shared: Path) -> Iterator[Certificates]:
    """Make certificates, and remove the files that hold them afterwards.

    Parameters
    ----------
    shared : a folder that the workers' machines see; the files go into a private folder within

    Raises
    ------
    ClusterError
        if the package `cryptography` is missing
    OutputError
        if the files cannot be written
    """
    try:
        security = Security.temporary()
    except ImportError as error:
        raise ClusterError(
            "encrypting what goes over the network needs the Python package cryptography; "
            "install it, or give --no-tls where the network is trusted."
        ) from error
    try:
        shared.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".bigdecon-tls-", dir=shared)).absolute()
    except OSError as error:
        raise OutputError(
            f"no certificates can be written into {shared} ({error.strerror}); "
            "give a --log-directory that can be written and that all nodes see."
        ) from error
    try:
        worker = security.get_tls_config_for_role("worker")
        for name in ("ca_file", "cert", "key"):
            _write_private(folder / f"{name.removesuffix('_file')}.pem", worker[name])
        yield Certificates(security, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_private(path: Path, text: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(handle, "w") as file:
        file.write(text)


def client_security(address: str) -> Security | None:
    """Give what a scheduler that somebody else runs asks of a client, from Dask's configuration.

    None for an address without TLS.

    Raises
    ------
    ClusterError
        if the address asks for TLS and the configuration has no certificates, or names files that
        cannot be read
    """
    if not address.startswith(("tls://", "wss://")):
        return None
    security = Security()
    ours = security.get_tls_config_for_role("client")
    missing = [
        option for name, option in (("ca_file", "ca-file"), ("cert", "client.cert")) if not ours.get(name)
    ]
    if missing:
        raise ClusterError(
            f"the scheduler at {address} wants TLS, but Dask's configuration has no "
            f"distributed.comm.tls.{missing[0]}; set it (and distributed.comm.tls.client.key) to the "
            "scheduler's certificates, in ~/.config/dask or as DASK_DISTRIBUTED__COMM__TLS__CA_FILE, "
            "__CLIENT__CERT and __CLIENT__KEY."
        )
    for value in (ours.get(name) for name in ("ca_file", "cert", "key")):
        if value and "\n" not in value and not os.access(value, os.R_OK):
            raise ClusterError(
                f"the certificate file {value}, which Dask's configuration names for {address}, "
                "cannot be read; correct distributed.comm.tls."
            )
    return security
