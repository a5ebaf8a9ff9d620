"""A Dask client that is either connected or closed, within a time.

Dask's own waits for good where somebody listens who does not speak its language. And where it gives up it can
stay half open, with a `__del__` that takes a lock: the garbage collector calls that whenever it likes, also
while the lock is held, and then the process stands still.
"""

from __future__ import annotations

from typing import Any

from distributed import Client, Security, SpecCluster

__all__ = ["ConnectedClient"]

ANSWERS = 3  # that a client waits for, each at most `timeout`, until it is connected


class ConnectedClient(Client):
    """A client that closes itself before it raises when its scheduler cannot be reached.

    Parameters
    ----------
    scheduler : its address, or the cluster it belongs to
    timeout : seconds it is given for an answer
    security : certificates, where the scheduler asks for them and `scheduler` is an address

    Raises
    ------
    OSError, TypeError
        if nobody answers (TimeoutError among them), or somebody who wants or has other certificates
    """

    def __init__(
        self, scheduler: str | SpecCluster, *, timeout: float, security: Security | None = None
    ) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            scheduler, timeout=timeout, security=security, set_as_default=False
        )

    def start(self, **kwargs: Any) -> None:
        """Connect, or close and raise what Dask raises; Dask calls this while the client is made."""
        try:
            super().start(  # type: ignore[no-untyped-call]
                callback_timeout=ANSWERS * kwargs["timeout"], **kwargs
            )
        except BaseException:
            self.close()  # type: ignore[no-untyped-call]
            raise
