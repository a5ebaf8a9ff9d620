"""A method as worker processes run it: within their memory, and with an eye on their GPU."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigdecon.deconvolution.block import WrappedMethod
from bigdecon.deconvolution.recovery import restore_within_memory
from bigdecon.distributed.device_failure import device_watched
from bigdecon.distributed.progress import count_block
from bigdecon.distributed.worker_messages import messages_sent

__all__ = ["GuardedMethod"]


@dataclass(frozen=True, eq=False)
class GuardedMethod(WrappedMethod):
    """A deconvolver for worker processes.

    Blocks that are too large for a worker's memory are computed in parts there; a worker whose GPU fails
    ends, for its nanny to start it again.

    Attributes
    ----------
    method : what restores a block
    run_id : whose listeners are told
    region : that the blocks are part of
    """

    run_id: str = ""
    region: str = ""

    def __call__(self, block: NDArray[Any], /) -> NDArray[np.float32]:
        """Restore a block ([z,] y, x) in data units; the result has its shape and units.

        Raises
        ------
        DeviceMemoryError
            if the memory does not suffice for the smallest part of the block
        """
        began = time.monotonic()
        with messages_sent(self.run_id), device_watched():
            restored = restore_within_memory(self.method, block)
        count_block(self.run_id, self.region, time.monotonic() - began)
        return restored
