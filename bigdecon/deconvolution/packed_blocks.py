"""Blocks of the direct engine as they travel: what they have in common packed once, and each one's place.

    attempt_packed    one block     read core + halo ──> restore
    attempt_bundle    neighbours    read all of them with their halos once ──> restore one after the other

The halos of neighbours overlap: read one by one, blocks of 128³ with a halo of 32 would have each chunk of
that size unpacked for up to 27 of them.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import uuid4

import cloudpickle  # which takes by value what a notebook or script defines
import numpy as np
from dask.delayed import Delayed, delayed
from numpy.typing import NDArray

from bigdecon.deconvolution.block import BlockRules, Deconvolver, RestoredBlock, attempt_block
from bigdecon.deconvolution.tiling import hull, trim
from bigdecon.errors import ReadError
from bigdecon.volume import ArraySource, Box, Stack

__all__ = [
    "Block",
    "MethodOnWorkers",
    "PackedBlocks",
    "attempt_bundle",
    "attempt_packed",
    "once",
    "pack_blocks",
]


@dataclass(frozen=True)
class Block:
    """A block's place, in voxels of the stack; a plain value, which Dask does not look into.

    Attributes
    ----------
    core : what the block writes
    grown : what it reads, halo included; None where that is the same
    """

    core: Box
    grown: Box | None = None


class MethodOnWorkers(NamedTuple):
    """How a worker comes by a method, in few bytes: this travels with every block.

    Attributes
    ----------
    make : makes the method in the worker; called for every block, so that it must remember what is dear
    needs : nodes of the graph that `make` is called with; a worker gets each once
    """

    make: Callable[..., Deconvolver]
    needs: tuple[Delayed, ...] = ()


class PackedBlocks(NamedTuple):
    """What blocks of one stack have in common.

    Attributes
    ----------
    common : travels as bytes, which the scheduler passes on unseen; a node of its own would have to be
        fetched by every worker that gets one of the blocks
    needs : nodes whose values a task gets behind its own arguments
    """

    common: bytes
    needs: tuple[Any, ...]


class _Common(NamedTuple):
    """What is packed; the image is None where its voxels lie on the workers."""

    stack: Stack | None
    make: Callable[..., Deconvolver]
    rules: BlockRules


@dataclass(frozen=True)
class _Held:
    """A part of a stack in memory, sliced in voxels of the stack."""

    voxels: NDArray[Any]
    box: Box

    def __getitem__(self, box: Box, /) -> NDArray[Any]:
        return self.voxels[trim(box, self.box)].copy()  # a method may write on what it gets


def pack_blocks(stack: Stack, method: MethodOnWorkers, rules: BlockRules) -> PackedBlocks:
    """Pack what blocks of a stack have in common.

    Parameters
    ----------
    stack : image of axes ([z,] y, x); one whose voxels are in memory, or computed by Dask, goes to the
        workers once
    method : how a worker makes it
    rules : what is done besides the method
    """
    root, _ = stack.locate(tuple(slice(0, n) for n in stack.shape))
    computed = getattr(root, "computes", False)
    images = (once(stack, "image"),) if isinstance(root, ArraySource) or computed else ()
    common = cloudpickle.dumps(_Common(None if images else stack, method.make, rules))
    return PackedBlocks(common, (*images, *method.needs))


def attempt_packed(common: bytes, block: Block, *needs: Any) -> RestoredBlock:
    """Do the whole work on one block in a worker process; see `attempt_block`."""
    stack, method, rules = _made(common, needs)
    return attempt_block(stack, method, block.core, block.grown or block.core, rules)


def attempt_bundle(common: bytes, blocks: Sequence[Block], *needs: Any) -> Iterator[RestoredBlock]:
    """Restore neighbouring blocks one after the other, read together; each as `attempt_packed` does it.

    Where the image cannot be read as a whole, blocks are read one by one, so that only those are missing
    that touch the damage.
    """
    stack, method, rules = _made(common, needs)
    readable = _read_together(stack, blocks)
    for block in blocks:
        yield attempt_block(readable, method, block.core, block.grown or block.core, rules)


def once(value: object, prefix: str) -> Delayed:
    """Put a value into the graph as one node. Its name is random: hashing voxels or weights would cost."""
    node: Delayed = delayed(value, name=f"{prefix}-{uuid4().hex}", traverse=False)
    return node


def _read_together(stack: Stack, blocks: Sequence[Block]) -> Stack | _Held:
    if len(blocks) < 2:
        return stack
    box = hull([block.grown or block.core for block in blocks])
    try:
        return _Held(np.asarray(stack[box]), box)
    except ReadError:
        return stack


def _made(common: bytes, needs: Sequence[Any]) -> tuple[Stack, Deconvolver, BlockRules]:
    stack, make, rules = _unpacked(common)
    if stack is None:
        stack, *needs = needs
    return stack, make(*needs), rules


@lru_cache(maxsize=16)
def _unpacked(common: bytes) -> _Common:
    """Unpack once in a process what the blocks of a region have in common."""
    found: _Common = pickle.loads(common)
    return found
