"""Lease: keeps two processes from writing one output at the same time.

A lock of the file system would be forgotten or ignored on NFS, Lustre and object stores. The lease is
a small file that its holder renews; nobody waits for it, a second writer is refused. A lease counts as
abandoned, and the next writer takes it over, when

- its holder ran on this machine and is dead: at once, so that a killed command can be repeated;
- it has not been renewed for a minute: the other machine, or its network, is gone.

In an object store the lease is an object. Where the store can create one on the condition that there is
none, it decides between two that try at once; else both write, wait, and look whose lease remained.
Everyone looks before creating: a store without that condition would overwrite the lease of a holder.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from uuid import uuid4

from bigdecon.errors import OutputError
from bigdecon.storage import places
from bigdecon.storage.places import Place, PlaceLike, as_place
from bigdecon.storage.servers import QUICK
from bigdecon.untrusted import MAX_DOCUMENT_BYTES, parse_json

__all__ = ["Holder", "Lease", "find_holder", "holds"]

NAME = "lease.json"
VERSION = 1
SETTLE_SECONDS = 0.25
"""How long a taker-over waits before it looks whether another one came after it, on a local disk."""
SETTLE_SECONDS_REMOTE = 2.0
"""The same for a server: its answers may be late."""


@dataclass(frozen=True)
class Holder:
    """Who writes.

    Attributes
    ----------
    id : random, one a lease
    host : name of the machine
    machine : identifies boot and process namespace: where it is equal, `pid` means the same process
    pid : process number
    started : when that process began, in the kernel's ticks; "" where unknown
    renewed : seconds since 1970 by the holder's clock
    version : of the format
    """

    id: str
    host: str
    machine: str
    pid: int
    started: str
    renewed: float
    version: int = VERSION

    @classmethod
    def here(cls) -> Holder:
        """Describe this process."""
        pid = os.getpid()
        return cls(uuid4().hex, socket.gethostname(), _machine(), pid, _process_start(pid) or "", time.time())

    @property
    def is_dead(self) -> bool:
        """Whether the process is known to have ended; False for processes of other machines."""
        if self.machine != _machine():
            return False
        started = _process_start(self.pid)
        return started is None or (bool(started) and bool(self.started) and started != self.started)


class Lease:
    """The right to write one output, held between `with` and its end.

    Parameters
    ----------
    folder : folder of the output's bookkeeping; made where missing
    renew_seconds : time between two signs of life
    expire_seconds : silence after which another process may take over
    """

    def __init__(
        self, folder: PlaceLike, *, renew_seconds: float = 10.0, expire_seconds: float = 60.0
    ) -> None:
        self._path = as_place(folder) / NAME
        self._renew_seconds = renew_seconds
        self._expire_seconds = expire_seconds
        self._holder = Holder.here()
        self._lost: Holder | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def id(self) -> str:
        """Tells this lease from any other; see `holds`."""
        return self._holder.id

    def __enter__(self) -> Lease:
        """Take the lease.

        Raises
        ------
        OutputError
            if another process holds it, or the folder is not writable
        """
        try:
            places.make_folder(self._path.parent)
            self._acquire()
        except OSError as error:
            raise OutputError(
                f"the folder {self._path.parent} cannot be written ({error.strerror or error}); "
                "choose another output with --output."
            ) from error
        self._stop.clear()
        self._thread = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the lease back, unless another process took it over."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        try:
            holder = _read(self._path)
            if holder is not None and holder.id == self._holder.id:
                places.delete(self._path, attempts=QUICK)
        except OSError:
            pass  # the folder went away, and the lease with it

    def check(self) -> None:
        """Make sure that the lease is still ours; cheap, to be called before each region is entered.

        Raises
        ------
        OutputError
            if another process took over after we had been silent for too long
        """
        if self._lost is not None:
            raise OutputError(
                f"process {self._lost.pid} on {self._lost.host} took over {self._path.parent} while this one "
                "was asleep; let that one finish."
            )

    def _acquire(self) -> None:
        """Refuse where another process lives; else create the lease, or replace an abandoned one."""
        self.refuse_living()  # first of all: a store may create without looking
        if self._create():
            # A second creation is refused, unless this store creates without looking: then see who stays.
            if self._create():
                self._settle()
            return
        self.refuse_living()
        self._renew()
        self._settle()

    def refuse_living(self) -> None:
        """Refuse while another process holds the lease; the lease itself is left alone.

        Raises
        ------
        OutputError
            naming that process
        """
        holder = self._present()
        if holder is None or holder.is_dead or holder.id == self._holder.id:
            return
        silent = places.seconds_since(self._path)
        if silent is not None and silent < self._expire_seconds:
            raise self._refusal(holder, silent)

    def _create(self) -> bool:
        return places.create(self._path, _encode(self._holder), attempts=QUICK)

    def _settle(self) -> None:
        """Wait for others that took the lease at the same moment; the last one has it."""
        time.sleep(SETTLE_SECONDS if isinstance(self._path, Path) else SETTLE_SECONDS_REMOTE)
        winner = _read(self._path)
        if winner is None or winner.id != self._holder.id:
            raise self._refusal(winner or self._holder, 0.0)

    def _present(self) -> Holder | None:
        """Read the other's lease; it may be empty for the moment between its creation and its writing."""
        for _ in range(10):
            holder = _read(self._path)
            if holder is not None or not places.exists(self._path):
                return holder
            time.sleep(0.1)
        return None

    def _renew(self) -> None:
        places.write(self._path, _encode(self._holder), attempts=QUICK)

    def _keep_renewing(self) -> None:
        while not self._stop.wait(self._renew_seconds):
            try:
                holder = _read(self._path)
                if holder is not None and holder.id != self._holder.id:
                    self._lost = holder
                    return
                self._renew()
            except OSError:
                pass  # a file system that hangs for a while: the next sign of life may get through

    def _refusal(self, holder: Holder, silent: float) -> OutputError:
        return OutputError(
            f"another bigdecon (process {holder.pid} on {holder.host}, last seen {silent:.0f} s ago) "
            f"is writing to {self._path.parent}; wait until it has finished, or stop it first."
        )


def holds(folder: PlaceLike, lease_id: str) -> bool:
    """Whether a lease of this id is held on a folder now; to be asked by those who work for its holder.

    Where it cannot be read, as in an outage, nobody is known to have taken over.
    """
    try:
        holder = _read(as_place(folder) / NAME)
    except OSError:
        return True
    return holder is not None and holder.id == lease_id


def find_holder(folder: PlaceLike) -> Holder | None:
    """Tell who holds the lease of a folder; None if nobody does. Reads only."""
    try:
        return _read(as_place(folder) / NAME)
    except OSError:
        return None


def _encode(holder: Holder) -> bytes:
    values = asdict(holder)
    values["renewed"] = time.time()
    return json.dumps(values).encode()


def _read(path: Place) -> Holder | None:
    """Read a lease; None if it is missing or damaged."""
    try:
        values = parse_json(places.read(path, attempts=QUICK, limit=MAX_DOCUMENT_BYTES))
        return Holder(
            id=str(values["id"]),
            host=str(values["host"]),
            machine=str(values["machine"]),
            pid=int(values["pid"]),
            started=str(values["started"]),
            renewed=float(values["renewed"]),
            version=int(values["version"]),
        )
    except (ArithmeticError, FileNotFoundError, KeyError, TypeError, ValueError):
        return None


def _machine() -> str:
    """Identify boot and process namespace; host names repeat among containers and after a restart."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _process_start(pid: int) -> str | None:
    """Tell when a process of this machine began; "" if it lives but that is unknown, None if it is dead."""
    try:
        # The name in brackets may hold spaces: what follows it is state, parent, ..., start (22nd field).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        pass
    if os.name != "posix":  # where signal 0 would not be a question
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except (OSError, ValueError):
        pass
    return ""
