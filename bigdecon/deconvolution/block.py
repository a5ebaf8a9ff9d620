"""One block: read with its halo, restored, trimmed; and what happens where that cannot, or need not, be done.

    core + halo ──read──> finite? ──> constant? dim? ──no──> method ──trim──> core
                  │ no                  │ yes
                  ▼                     ▼
        a block with a fault      a shortcut to the core

A block that stays unreadable is not the end of a run: `attempt_block` gives it back with a fault, and
whoever writes it leaves its place empty.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bigdecon.deconvolution.tiling import trim
from bigdecon.errors import NonFiniteError, ReadError
from bigdecon.volume import Box

__all__ = [
    "MEMORY_OF_CONSTANTS",
    "BlockNeeds",
    "BlockRules",
    "Deconvolver",
    "Readable",
    "RestoredBlock",
    "Shortcut",
    "WrappedMethod",
    "attempt_block",
    "check_finite",
    "read_block",
    "restore_block",
    "restore_grown",
]

PAUSES_SECONDS = (0.5, 3.0)
"""Waiting times before a failed block is tried again: a file server may be back by then."""
MEMORY_OF_CONSTANTS = 2**26
"""Bytes a worker process spends on results of constant blocks; results that are constant take none."""

Shortcut = Literal["", "constant", "dim"]


class BlockNeeds(Protocol):
    """What a method needs of the blocks; for a network this is known before it is trained."""

    @property
    def name(self) -> str:
        """What to call the method."""

    @property
    def halo(self) -> tuple[int, ...]:
        """Voxels needed on each side of a block, for every spatial axis."""

    @property
    def alignment(self) -> int:
        """Blocks start at multiples of this, in voxels."""


@runtime_checkable
class Deconvolver(BlockNeeds, Protocol):
    """A method: pickles to a worker, turns one block with its halo into a block of the same shape."""

    def __call__(self, block: NDArray[Any], /) -> NDArray[np.float32]:
        """Restore a block ([z,] y, x) as read, halo included; the result has its shape and its units."""


@dataclass(frozen=True, eq=False)
class WrappedMethod:
    """A method that is called in another way, and otherwise is what it was.

    Attributes
    ----------
    method : what is wrapped
    """

    method: Deconvolver

    @property
    def name(self) -> str:
        """The method's name."""
        return self.method.name

    @property
    def halo(self) -> tuple[int, ...]:
        """What the method needs on each side of a block."""
        return self.method.halo

    @property
    def alignment(self) -> int:
        """What blocks have to start at multiples of."""
        return self.method.alignment


@dataclass(frozen=True)
class BlockRules:
    """What is done to a block besides the method.

    Attributes
    ----------
    method_id : names method, settings and channel. Where it is given, blocks that hold one value are
        computed once in a process: what a method makes of such a block depends on value and shape alone,
        so the bytes stay the same
    dim_below : blocks whose brightest voxel, halo included, is below this many data units are left as
        they are; None restores all
    """

    method_id: str = ""
    dim_below: float | None = None


class Readable(Protocol):
    """What blocks are read from: a `Stack`, or a part of one that is in memory already."""

    def __getitem__(self, box: Box, /) -> NDArray[Any]:
        """Read a box of voxels of the stack."""


class RestoredBlock(NamedTuple):
    """One block's result.

    Attributes
    ----------
    core : where it lies, in voxels of the stack
    voxels : float32, of the core's shape, in data units; zeros where there is a fault
    shortcut : why the method was not asked; "" if it was
    fault : why the block could not be restored; "" if it was
    """

    core: Box
    voxels: NDArray[np.float32]
    shortcut: Shortcut = ""
    fault: str = ""


def read_block(stack: Readable, box: Box) -> NDArray[Any]:
    """Read a box of voxels and refuse what cannot be computed with.

    Raises
    ------
    NonFiniteError
        if there is NaN or infinity, naming the box and the first such voxel
    """
    return check_finite(stack[box], box)


def check_finite(data: NDArray[Any], box: Box) -> NDArray[Any]:
    """Give the data back, native-endian, if every value is finite.

    Raises
    ------
    NonFiniteError
        if there is NaN or infinity
    """
    if data.dtype.kind == "f" and not (finite := np.isfinite(data)).all():
        where = np.unravel_index(np.argmin(finite), data.shape)
        first = ", ".join(str(part.start + int(i)) for part, i in zip(box, where, strict=True))
        bounds = ", ".join(f"{part.start}:{part.stop}" for part in box)
        raise NonFiniteError(
            f"the image holds {data[where]} in the block [{bounds}], first at voxel ({first}); "
            "replace such values by finite ones."
        )
    return data.astype(data.dtype.newbyteorder("="), copy=False)


def restore_block(
    stack: Readable, deconvolver: Deconvolver, core: Box, grown: Box, rules: BlockRules
) -> RestoredBlock:
    """Read a block with its halo, restore it, and cut the halo off.

    Raises
    ------
    ReadError, NonFiniteError
        if the block cannot be read, or computed with
    """
    voxels, shortcut = _restore(read_block(stack, grown), deconvolver, rules, trim(core, grown))
    return RestoredBlock(core, voxels, shortcut)


def attempt_block(
    stack: Readable, deconvolver: Deconvolver, core: Box, grown: Box, rules: BlockRules
) -> RestoredBlock:
    """Do as `restore_block`, some times where it fails, and in the end give a block with a fault.

    Raises
    ------
    Exception
        for all but the image's own faults: a method that fails would fail for other blocks as well
    """
    for pause in (*PAUSES_SECONDS, None):
        try:
            return restore_block(stack, deconvolver, core, grown, rules)
        except NonFiniteError as error:
            return RestoredBlock(core, _nothing(core), fault=_sentence(error))
        except ReadError as error:
            if pause is None:
                return RestoredBlock(core, _nothing(core), fault=_sentence(error))
        time.sleep(pause)
    raise RuntimeError("unreachable: the last attempt has returned or raised")


def restore_grown(
    block: NDArray[Any], *, deconvolver: Deconvolver, rules: BlockRules | None = None
) -> NDArray[np.float32]:
    """Restore one block with its halo, and keep the halo on."""
    return _restore(block, deconvolver, rules or BlockRules(), (slice(None),) * block.ndim)[0]


def _restore(
    block: NDArray[Any], deconvolver: Deconvolver, rules: BlockRules, part: Box
) -> tuple[NDArray[np.float32], Shortcut]:
    """Give a part of a restored block, and why the method was not asked."""
    if rules.dim_below is not None and block.max() < rules.dim_below:
        return np.ascontiguousarray(block[part], np.float32), "dim"
    if not (rules.method_id and _is_constant(block)):
        return _computed(block, deconvolver, part), ""
    key = (rules.method_id, block.dtype.str, block.flat[0].item(), block.shape, str(part))
    known = _constants.get(key)
    if known is None:
        known = _constants.put(key, _computed(block, deconvolver, part))
    # Said of the first one too, which had to be computed: how many there are must not depend on the workers.
    return known, "constant"


def _computed(block: NDArray[Any], deconvolver: Deconvolver, part: Box) -> NDArray[np.float32]:
    """Ask the method, and hold it to its promise."""
    restored = np.asarray(deconvolver(block), dtype=np.float32)
    if restored.shape != block.shape:
        raise ValueError(f"{deconvolver.name} turned a block of {block.shape} into one of {restored.shape}")
    return np.ascontiguousarray(restored[part])


def _is_constant(block: NDArray[Any]) -> bool:
    """Tell whether all voxels are equal; most blocks are told apart by two of theirs."""
    first = block.flat[0]
    return bool(first == block.flat[-1] and (block == first).all())


def _nothing(core: Box) -> NDArray[np.float32]:
    """Zeros that take no memory, and travel as one number."""
    return np.broadcast_to(np.float32(0), tuple(part.stop - part.start for part in core))


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())


class _Constants:
    """Results of constant blocks, the oldest forgotten first; serves any number of threads."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._known: OrderedDict[Any, NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> NDArray[np.float32] | None:
        """Give a result that is known; None if it is not."""
        with self._lock:
            return self._known.get(key)

    def put(self, key: Any, voxels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Keep a result, as one number where it is one; gives what is to be handed out."""
        if _is_constant(voxels):
            voxels = np.broadcast_to(voxels.flat[0], voxels.shape)
        else:
            voxels.flags.writeable = False  # it is handed out again and again
        with self._lock:
            if key in self._known:
                return self._known[key]
            self._known[key] = voxels
            self._held_bytes += _held_bytes(voxels)
            while self._held_bytes > self._limit_bytes:
                self._held_bytes -= _held_bytes(self._known.popitem(last=False)[1])
        return voxels


def _held_bytes(voxels: NDArray[np.float32]) -> int:
    return voxels.itemsize if 0 in voxels.strides else voxels.nbytes


_constants = _Constants(MEMORY_OF_CONSTANTS)
