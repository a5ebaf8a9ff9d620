"""Any method, block by block, as one lazy volume.

Nothing here knows a method: a `Deconvolver` is whatever has a halo and turns a block into a block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import dask.array as da

from bigdecon.config import Engine
from bigdecon.deconvolution.block import BlockNeeds, Deconvolver
from bigdecon.deconvolution.engines import DaskSource, choose_engine, deconvolve_stack
from bigdecon.deconvolution.recovery import WithinMemory
from bigdecon.deconvolution.tiling import BlockGrid
from bigdecon.errors import OptionError
from bigdecon.volume import Volume

__all__ = ["deconvolve", "plan_grid"]


def plan_grid(
    shape: Sequence[int],
    deconvolvers: Sequence[BlockNeeds],
    *,
    block: int | Sequence[int] = 128,
    halo: int | Sequence[int] | None = None,
) -> BlockGrid:
    """Cut a volume into blocks that suit every one of some methods.

    Parameters
    ----------
    shape : extent of the spatial axes, in voxels
    deconvolvers : one, or one for every channel
    block : extent of a core; one number for all axes or one for each
    halo : context on each side, rounded up to the methods' alignment; None takes what they need

    Raises
    ------
    OptionError
        if the halo is smaller than a method needs, or the block is no multiple of the alignment
        or smaller than the halo
    """
    alignment = math.lcm(*(d.alignment for d in deconvolvers))
    needed = tuple(max(sides) for sides in zip(*(d.halo for d in deconvolvers), strict=True))
    blocks = (block,) * len(shape) if isinstance(block, int) else tuple(block)
    halos = (halo,) * len(shape) if isinstance(halo, int) else tuple(needed if halo is None else halo)
    if not len(shape) == len(needed) == len(blocks) == len(halos):
        names = ", ".join(dict.fromkeys(d.name for d in deconvolvers))
        raise OptionError(f"{names} works on {len(needed)} spatial axes, but the image has {len(shape)}.")
    for given, least in zip(halos, needed, strict=True):
        if given < least:
            raise OptionError(
                f"the halo of {given} voxels is smaller than the {least} that the method needs; "
                "give as much, or leave it out."
            )
    for given in blocks:
        if given < 1 or given % alignment:
            raise OptionError(f"the block of {given} voxels must be a multiple of {alignment}.")
    return BlockGrid.plan(shape, blocks, [-(-h // alignment) * alignment for h in halos])


def deconvolve(
    volume: Volume,
    deconvolver: Deconvolver | Sequence[Deconvolver],
    *,
    block: int | Sequence[int] = 128,
    halo: int | Sequence[int] | None = None,
    engine: Engine = "auto",
) -> Volume:
    """Deconvolve a volume lazily: all its channels at all its time points.

    Nothing is computed before voxels are asked for; a crop of the result computes only the blocks it touches.

    Parameters
    ----------
    volume : what to restore
    deconvolver : one for all channels, or a sequence with one for every channel
    block : extent of a block's core, in voxels
    halo : context computed around a block and cut off, in voxels; None takes what the method needs
    engine : how blocks get their halo, see `choose_engine`

    Returns
    -------
    Volume like the input, float32, in the input's data units; its `source` is a `DaskSource`

    Raises
    ------
    OptionError
        if halo, block or the number of deconvolvers do not fit
    """
    methods = list(deconvolver) if isinstance(deconvolver, Sequence) else [deconvolver] * volume.n_channels
    if len(methods) != volume.n_channels:
        raise OptionError(
            f"{len(methods)} deconvolvers were given for {volume.n_channels} channels; "
            "give one for all, or one for every channel."
        )
    grid = plan_grid(volume.spatial_shape, methods, block=block, halo=halo)
    methods = [WithinMemory(method) for method in methods]

    def restore(timepoint: int, channel: int) -> da.Array:
        stack = volume.stack(timepoint=timepoint, channel=channel)
        chosen = choose_engine(stack, engine)
        return deconvolve_stack(stack, methods[channel], grid=grid, engine=chosen)

    times = [
        _join([restore(t, c) for c in range(volume.n_channels)], "c" in volume.axes)
        for t in range(volume.n_timepoints)
    ]
    return replace(volume, source=DaskSource(_join(times, "t" in volume.axes)))


def _join(arrays: Sequence[da.Array], has_axis: bool) -> da.Array:
    """Stack along a new first axis if the volume has it; else there is but one."""
    return da.stack(arrays) if has_axis else arrays[0]
