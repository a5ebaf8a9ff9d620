"""Training patches cut on the device that learns from them: on a GPU no patch crosses the bus.

The excerpts of a `PatchPool` are held there once. What a step draws is still decided on the host, from a few
numbers; the voxels are cut, scaled, flipped and turned on the device, without waiting for it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bigdecon.device_errors import device_in_words, is_out_of_memory, release_memory
from bigdecon.learning.patches import PatchBatch, PatchChoice, PatchPool
from bigdecon.optics.psf import PSFSymmetries

__all__ = ["DevicePatches", "TensorBatch", "patches_for"]

logger = logging.getLogger(__name__)


class TensorBatch(NamedTuple):
    """What `PatchBatch` holds, as tensors on a device."""

    x: Tensor
    held_out: Tensor
    exact: Tensor


def patches_for(pool: PatchPool, device: torch.device) -> PatchPool | DevicePatches:
    """Hold the excerpts on a GPU if it has room for them; a CPU cuts from the memory where they are."""
    if device.type == "cpu":
        return pool
    try:
        return DevicePatches(pool, device)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    release_memory()
    where = device_in_words(str(device))
    logger.info("patches are cut on the host: the memory of %s does not hold what they are cut from.", where)
    return pool


class DevicePatches:
    """Draws the patches of a pool on a device.

    Parameters
    ----------
    pool : decides what is drawn
    device : holds its excerpts, as float32 in data units
    """

    def __init__(self, pool: PatchPool, device: torch.device) -> None:
        self._pool, self._device = pool, device
        # As tensors, since a GPU divides by a number by multiplying with its inverse: not the same float32.
        self._offset, self._unit = (
            torch.tensor(value, dtype=torch.float32, device=device)
            for value in (pool.scaling.offset, pool.scaling.unit)
        )
        self._excerpts = [
            torch.from_numpy(excerpt.data.astype(np.float32)).to(device) for excerpt in pool.excerpts
        ]

    def draw(
        self,
        step: int,
        batch: int,
        symmetries: PSFSymmetries | None = None,
        margin: Sequence[int] | None = None,
    ) -> TensorBatch | PatchBatch:
        """Draw what `PatchPool.draw` draws, voxel for voxel; on the host if the device is full just now."""
        try:
            patches = [self._cut(choice) for choice in self._pool.choose(step, batch, symmetries, margin)]
            return TensorBatch(*(torch.stack(part)[:, None] for part in zip(*patches, strict=True)))
        except Exception as error:
            # The next batch is drawn while a step fills the memory; the step itself can do with less.
            if not is_out_of_memory(error):
                raise
        return self._pool.draw(step, batch, symmetries, margin)

    def _cut(self, choice: PatchChoice) -> TensorBatch:
        shape = self._pool.patch_shape
        x = (self._excerpts[choice.excerpt][choice.window] - self._offset) / self._unit
        for axis, wanted in enumerate(shape):
            if x.shape[axis] < wanted:  # the volume is smaller than a patch: its edge is repeated
                last = x.narrow(axis, x.shape[axis] - 1, 1)
                x = torch.cat([x, *[last] * (wanted - x.shape[axis])], axis)
        held, exact = (torch.zeros(shape, dtype=torch.bool, device=self._device) for _ in range(2))
        places = torch.from_numpy(np.stack(choice.held_out)).to(self._device, non_blocking=True)
        held[tuple(places)] = True
        exact[choice.exact] = True
        flipped, turns = choice.turn
        return TensorBatch(*(torch.rot90(part.flip(flipped), turns, (-2, -1)) for part in (x, held, exact)))
