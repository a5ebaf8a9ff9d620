"""Training patches, sampled from anywhere in a volume without holding the volume.

A `PatchPool` reads *excerpts* once: the whole of a small volume, else boxes spread over it, preferring
those that are not empty. What a training step sees is a function of the seed and the step alone, so
that an interrupted training continues exactly where it stopped.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bigdecon.errors import BigdeconError, NonFiniteError, ReadError
from bigdecon.intensity import IntensityStats, Scaling
from bigdecon.learning.masking import held_out_voxels
from bigdecon.optics.psf import PSFSymmetries
from bigdecon.volume import Box, Stack

__all__ = ["Excerpt", "PatchBatch", "PatchPool", "augment", "read_excerpts"]

POOL_VOXELS = 2**26
SMALL_BOXES = 27
COARSE = 8
CANDIDATES = 4


class PatchBatch(NamedTuple):
    """Patches of one step.

    Attributes
    ----------
    x : float32 (batch, 1, [z,] y, x), scaled
    held_out : bool, voxels that no loss may look at
    exact : bool, False where the reconvolution is not to be compared: beyond the volume, where a patch
        repeats its edge, and within the margin of a face at which the patch was cut out of the volume
    """

    x: NDArray[np.float32]
    held_out: NDArray[np.bool_]
    exact: NDArray[np.bool_]


@dataclass(frozen=True)
class Excerpt:
    """A box of one stack, in memory, in the input's own type.

    Attributes
    ----------
    data : voxels, in data units
    origin : place of the first voxel in the stack
    stack_index : which time point it is from
    signal : mean above background of boxes of 8 voxels a side, in data units
    """

    data: NDArray[Any]
    origin: tuple[int, ...]
    stack_index: int
    signal: NDArray[np.float32]

    @property
    def interest(self) -> float:
        """Mean signal above background; a little above 0 everywhere, so that nothing is never chosen."""
        return float(self.signal.mean())


class PatchPool:
    """Draws batches of patches.

    Parameters
    ----------
    stacks : one channel at every time point
    patch_shape : extent of a patch, in voxels; smaller volumes get smaller patches
    alignment : patch extents are rounded up to multiples of this
    stats : brightness of the channel
    seed : chooses excerpts, patches and held-out voxels
    held_out_fraction : part of the voxels kept out of every loss
    scaling : of the patches; they are standardised if not given
    pool_voxels : at most about this many voxels are held in memory
    """

    def __init__(
        self,
        stacks: Sequence[Stack],
        patch_shape: Sequence[int],
        *,
        alignment: int,
        stats: IntensityStats,
        seed: int,
        held_out_fraction: float,
        scaling: Scaling | None = None,
        pool_voxels: int = POOL_VOXELS,
    ) -> None:
        extent = self._extent = stacks[0].shape
        self._cut = stacks[0].cut
        # Two steps of the bottom level along x at least: batch normalisation needs more than one value.
        least = [alignment] * (len(extent) - 1) + [2 * alignment]
        self.patch_shape = tuple(
            max(m, min(_round_up(p, alignment), _round_up(n, alignment)))
            for p, n, m in zip(patch_shape, extent, least, strict=True)
        )
        self._stats = stats
        self._scaling = scaling or stats.standard
        self._seed = seed
        self._held_out_fraction = held_out_fraction
        side = [max(128, 2 * p) for p in self.patch_shape]
        self.excerpts = read_excerpts(stacks, side, stats.background, seed=seed, pool_voxels=pool_voxels)
        sizes = np.array([excerpt.data.size for excerpt in self.excerpts], float)
        self._shares = sizes / sizes.sum()

    def draw(
        self,
        step: int,
        batch: int,
        symmetries: PSFSymmetries | None = None,
        margin: Sequence[int] | None = None,
    ) -> PatchBatch:
        """Draw the patches of one step; the same step always gives the same patches.

        Parameters
        ----------
        step : number of the step; negative numbers give patches that no training step uses
        batch : patches to draw
        symmetries : turn and flip patches as far as the PSF allows; None leaves them as they are
        margin : voxels near a cut face, along every spatial axis, that miss light from beyond it;
            at the volume's own faces nothing is cut
        """
        rng = np.random.default_rng((self._seed, step + 2**32))
        patches = [self._patch(rng, margin or (0,) * len(self.patch_shape)) for _ in range(batch)]
        if symmetries is not None:
            patches = [augment(patch, symmetries, rng) for patch in patches]
        return PatchBatch(
            *(np.ascontiguousarray(np.stack(part)[:, None]) for part in zip(*patches, strict=True))
        )

    def _patch(self, rng: np.random.Generator, margin: Sequence[int]) -> PatchBatch:
        places = [self._place(rng) for _ in range(CANDIDATES)]
        interest = np.array([self._interest(excerpt, corner) for excerpt, corner in places])
        excerpt, corner = places[int(rng.choice(CANDIDATES, p=interest / interest.sum()))]
        window = tuple(slice(c, c + p) for c, p in zip(corner, self.patch_shape, strict=True))
        data = excerpt.data[window]
        missing = [(0, p - n) for p, n in zip(self.patch_shape, data.shape, strict=True)]
        origin = [o + c for o, c in zip(excerpt.origin, corner, strict=True)]
        seed = self._seed + 7919 * excerpt.stack_index
        held = held_out_voxels(origin, self.patch_shape, self._held_out_fraction, seed)
        x = np.pad(self._scaling.apply(data), missing, mode="edge")
        exact = np.zeros(self.patch_shape, bool)
        sides = zip(origin, data.shape, self._extent, self._cut, margin, strict=True)
        exact[
            tuple(
                slice(m * (low or o > 0), n - m * (high or o + n < end))
                for o, n, end, (low, high), m in sides
            )
        ] = True
        return PatchBatch(x, held, exact)

    def _place(self, rng: np.random.Generator) -> tuple[Excerpt, tuple[int, ...]]:
        excerpt = self.excerpts[int(rng.choice(len(self.excerpts), p=self._shares))]
        room = [max(0, n - p) for n, p in zip(excerpt.data.shape, self.patch_shape, strict=True)]
        return excerpt, tuple(int(rng.integers(0, r + 1)) for r in room)

    def _interest(self, excerpt: Excerpt, corner: tuple[int, ...]) -> float:
        window = tuple(
            slice(c // COARSE, -(-(c + p) // COARSE)) for c, p in zip(corner, self.patch_shape, strict=True)
        )
        return float(excerpt.signal[window].mean())


def read_excerpts(
    stacks: Sequence[Stack],
    side: Sequence[int],
    background: float,
    *,
    seed: int,
    pool_voxels: int = POOL_VOXELS,
) -> list[Excerpt]:
    """Read the whole volume if it is small enough, else some boxes of it.

    Of twice as many boxes as fit, drawn at random, those with more signal are kept with a higher
    probability (weighted sampling without replacement, Efraimidis and Spirakis 2006). Boxes that cannot be
    read, or hold NaN, are left out: a network learns as well from the others.

    Raises
    ------
    ReadError, NonFiniteError
        if none is left
    """
    shape = stacks[0].shape
    if len(stacks) * int(np.prod(shape)) <= pool_voxels:
        whole = tuple(slice(0, n) for n in shape)
        with suppress(ReadError, NonFiniteError):
            return [_read_excerpt(stack, whole, index, background) for index, stack in enumerate(stacks)]
        # So small an image that boxes of the usual size would all hold the bad place.
        side = [-(-n // 3) for n in shape]
        pool_voxels = SMALL_BOXES * int(np.prod(side))
    side = [min(s, n) for s, n in zip(side, shape, strict=True)]
    keep = max(1, pool_voxels // int(np.prod(side)))
    rng = np.random.default_rng((seed, 1))
    places = list(_random_boxes(stacks, side, 2 * keep, rng))
    # The logarithm of u^(1/w): the powers themselves would all round to 0 or 1 for most data units.
    luck = np.log(rng.random(len(places)))
    kept: list[tuple[float, int, Excerpt]] = []
    failed: list[BigdeconError] = []

    def look(item: tuple[int, Box]) -> Excerpt | BigdeconError:
        try:
            return _read_excerpt(stacks[item[0]], item[1], item[0], background)
        except (ReadError, NonFiniteError) as error:
            return error

    with ThreadPoolExecutor(4) as pool:
        # Read a few at a time: what is not kept must not pile up in memory.
        for start in range(0, len(places), 8):
            some = places[start : start + 8]
            for number, excerpt in enumerate(pool.map(look, some), start):
                if isinstance(excerpt, BigdeconError):
                    failed.append(excerpt)
                    continue
                heapq.heappush(kept, (luck[number] / excerpt.interest, number, excerpt))
                if len(kept) > keep:
                    heapq.heappop(kept)
    if not kept:
        raise failed[0]
    return [excerpt for _, _, excerpt in sorted(kept, key=lambda item: item[1])]


def augment(patch: PatchBatch, symmetries: PSFSymmetries, rng: np.random.Generator) -> PatchBatch:
    """Flip and turn one patch at random, only in ways that leave the PSF as it is.

    Parameters
    ----------
    patch : arrays without batch and channel axes
    symmetries : of the PSF
    rng : decides
    """
    axes = tuple(a for a, allowed in enumerate(symmetries.flips) if allowed and rng.random() < 0.5)
    square = patch.x.shape[-1] == patch.x.shape[-2]
    turns = int(rng.integers(4)) if symmetries.rot90 and square else 0

    def turned(part: NDArray[Any]) -> NDArray[Any]:
        return np.rot90(np.flip(part, axes), turns, axes=(-2, -1))

    return PatchBatch(turned(patch.x), turned(patch.held_out), turned(patch.exact))


def _random_boxes(
    stacks: Sequence[Stack], side: Sequence[int], count: int, rng: np.random.Generator
) -> Iterator[tuple[int, Box]]:
    """Draw boxes, at most so many and none twice; every part of the volume has its chance.

    Corners lie on the chunk grid, where a box touches the fewest chunks. Along an axis where chunks are
    larger than boxes (the planes of a TIFF) they lie anywhere.
    """
    shape, chunks = stacks[0].shape, stacks[0].chunks
    drawn = set()
    for _ in range(count):
        corner = tuple(
            _near_chunk(int(rng.integers(0, n - s + 1)), c, n - s)
            if c <= s
            else int(rng.integers(0, n - s + 1))
            for n, s, c in zip(shape, side, chunks, strict=True)
        )
        place = int(rng.integers(len(stacks))), corner
        if place not in drawn:
            drawn.add(place)
            yield place[0], tuple(slice(c, c + s) for c, s in zip(corner, side, strict=True))


def _near_chunk(start: int, chunk: int, last: int) -> int:
    """Move a start to the nearest chunk's, or to the last place there is if that is nearer."""
    below = start // chunk * chunk
    above = min(below + chunk, last)
    return below if start - below < above - start else above


def _read_excerpt(stack: Stack, box: Box, index: int, background: float) -> Excerpt:
    data = np.ascontiguousarray(stack[box])
    coarse = _coarse_means(data)
    if not np.isfinite(coarse).all():
        text = ",".join(f"{part.start}:{part.stop}" for part in box)
        raise NonFiniteError(
            f"the input holds NaN or infinity in the box {text} of time point {stack.timepoint}, "
            f"channel {stack.channel}; replace such voxels and give the same command again."
        )
    signal = np.maximum(coarse - background, 0)
    # One part in a hundred of the brightest box, or any constant where all is background.
    floor = max(0.01 * float(signal.max()), 1e-6)
    return Excerpt(data, tuple(part.start for part in box), index, (signal + floor).astype(np.float32))


def _coarse_means(data: NDArray[Any]) -> NDArray[np.float64]:
    """Means of boxes of 8 voxels a side; boxes at the far edges may be smaller."""
    means = data
    for axis in range(data.ndim):
        starts = np.arange(0, data.shape[axis], COARSE)
        counts = np.minimum(COARSE, data.shape[axis] - starts).astype(np.float64)
        shape = [-1 if a == axis else 1 for a in range(data.ndim)]
        means = np.add.reduceat(means, starts, axis=axis, dtype=np.float64) / counts.reshape(shape)
    return means


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
