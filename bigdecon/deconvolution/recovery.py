"""What to do where memory does not suffice for a block: compute it in parts, and join them.

    block          |<------------------ n ------------------->|
    first part     |<----- core ----->|<-halo->|
    second part             |<-halo->|<-------- core -------->|

A part sees its full halo, or ends where the block ends, so that the parts are what the whole block would have
been. A part that is still too large is cut again. What did not fit is remembered, for each method and device
in this process: no later block tries it again.

This module knows no torch and no method.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bigdecon.deconvolution.block import Deconvolver, WrappedMethod
from bigdecon.deconvolution.tiling import trim
from bigdecon.device_errors import device_in_words, is_out_of_memory, release_memory
from bigdecon.errors import DeviceMemoryError
from bigdecon.volume import Box

__all__ = ["Forgetful", "Part", "WithinMemory", "restore_within_memory", "split_block"]

logger = logging.getLogger(__name__)

LARGEST_PART = 0.85
"""A cut must leave parts no longer than this, in block lengths: with three halos they have 5/6."""

_Key = tuple[str, str, tuple[int, ...], int]

_too_large: dict[_Key, int] = {}
"""The fewest voxels that did not fit."""

_told: dict[_Key, int] = {}
"""The most parts that the user was told of."""


@runtime_checkable
class Forgetful(Protocol):
    """What keeps something on its device from one block to the next, and can do without."""

    def forget(self) -> None:
        """Drop it."""


class Part(NamedTuple):
    """One part of a block.

    Attributes
    ----------
    core : what it contributes to the result
    grown : what it has to see for that: the core and its halo
    """

    core: Box
    grown: Box


def split_block(shape: Sequence[int], halo: Sequence[int], alignment: int) -> tuple[Part, Part] | None:
    """Cut a block in two, along the axis that leaves the smallest parts.

    Parts start at multiples of the alignment. An axis of less than some three halos is not cut: nearly all
    of the work would be done for what is cut off, and hardly any memory saved.

    Parameters
    ----------
    shape : extent of the block, in voxels
    halo : what the method needs on each side, for every axis
    alignment : parts start at multiples of this

    Returns
    -------
    the two parts, whose cores cover the block once; None if the block is too small to be cut
    """
    reach = [-(-h // alignment) * alignment for h in halo]
    # The second part is never the smaller one; uncut, where the middle is at 0, it is the whole.
    sizes = [(n - _middle(n, alignment) + h) / n for n, h in zip(shape, reach, strict=True)]
    axis = min(range(len(shape)), key=lambda a: (sizes[a], -shape[a]))
    if sizes[axis] > LARGEST_PART:
        return None
    n, h, middle = shape[axis], reach[axis], _middle(shape[axis], alignment)
    whole = tuple(slice(0, extent) for extent in shape)

    def within(start: int, stop: int) -> Box:
        return (*whole[:axis], slice(start, stop), *whole[axis + 1 :])

    first = Part(within(0, middle), within(0, min(n, middle + h)))
    return first, Part(within(middle, n), within(max(0, middle - h), n))


def _middle(extent: int, alignment: int) -> int:
    return extent // 2 // alignment * alignment


def restore_within_memory(deconvolver: Deconvolver, block: NDArray[Any]) -> NDArray[np.float32]:
    """Restore a block ([z,] y, x), in parts where memory does not suffice for the whole.

    The result is that of `deconvolver(block)` within the method's tolerance for cuts. The user is told
    once, through the log, in how many parts blocks are computed.

    Raises
    ------
    DeviceMemoryError
        if not even the smallest part fits
    """
    key = _key(deconvolver)
    result, parts = _restore(deconvolver, block, key)
    if parts > _told.get(key, 1):
        _told[key] = parts
        logger.warning(
            "%s computes a block of %s voxels in %d parts: the memory of %s does not suffice for whole ones; "
            "the result stays the same.",
            deconvolver.name,
            _in_words(block.shape),
            parts,
            device_in_words(_device(deconvolver)),
        )
    return result


class WithinMemory(WrappedMethod):
    """A deconvolver that computes a block in parts where memory does not suffice for the whole."""

    def __call__(self, block: NDArray[Any], /) -> NDArray[np.float32]:
        """See `restore_within_memory`."""
        return restore_within_memory(self.method, block)


class _Joined(NamedTuple):
    """A restored block, and in how many parts it was computed."""

    result: NDArray[np.float32]
    parts: int


def _restore(deconvolver: Deconvolver, block: NDArray[Any], key: _Key) -> _Joined:
    parts = split_block(block.shape, deconvolver.halo, deconvolver.alignment)
    # The smallest part is always tried: what was short of memory once may have it now.
    if parts is None or block.size < _too_large.get(key, block.size + 1):
        whole = _try(deconvolver, block)
        if whole is not None:
            return _Joined(whole, 1)
        _too_large[key] = min(block.size, _too_large.get(key, block.size))
    if parts is None:
        raise DeviceMemoryError(
            f"the memory of {device_in_words(_device(deconvolver))} does not suffice for "
            f"{_in_words(block.shape)} voxels, the smallest part of a block that {deconvolver.name} can "
            "compute; use a device with more memory, or --device cpu."
        )
    joined = np.empty(block.shape, np.float32)
    count = 0
    for core, grown in parts:
        restored = _restore(deconvolver, block[grown], key)
        joined[core] = restored.result[trim(core, grown)]
        count += restored.parts
    return _Joined(joined, count)


def _try(deconvolver: Deconvolver, block: NDArray[Any]) -> NDArray[np.float32] | None:
    """Restore a block; None if it does not fit even after what was kept for later has been given up."""
    for _ in range(2):
        try:
            return np.asarray(deconvolver(block), np.float32)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Only here: the exception held on to what had been computed.
        if isinstance(deconvolver, Forgetful):
            deconvolver.forget()
        release_memory()
    return None


def _key(deconvolver: Deconvolver) -> _Key:
    """Tell apart what takes different memory; copies of one method share what was learnt."""
    return deconvolver.name, _device(deconvolver), tuple(deconvolver.halo), deconvolver.alignment


def _device(deconvolver: Deconvolver) -> str:
    return str(getattr(deconvolver, "device", "cpu"))


def _in_words(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
