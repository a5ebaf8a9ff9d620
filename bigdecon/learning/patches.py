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
from bigdecon.learning.masking import held_out_places
from bigdecon.optics.psf import PSFSymmetries
from bigdecon.volume import Box, Stack

__all__ = ["Excerpt", "PatchBatch", "PatchChoice", "PatchPool", "Turn", "choose_turn", "read_excerpts"]

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


class Turn(NamedTuple):
    """How a patch is flipped, along axes counted from its first, and then turned in the plane.

    Attributes
    ----------
    flipped : axes
    turns : quarters, from y to x
    """

    flipped: tuple[int, ...] = ()
    turns: int = 0

    def apply(self, part: NDArray[Any]) -> NDArray[Any]:
        """Flip and turn an array [z,] y, x."""
        return np.rot90(np.flip(part, self.flipped), self.turns, axes=(-2, -1))


class PatchChoice(NamedTuple):
    """One patch, before a voxel of it is touched.

    Attributes
    ----------
    excerpt : index
    window : within the excerpt; smaller than a patch where the volume is
    held_out : places within the patch, one array of indices an axis
    exact : within the patch, see `PatchBatch`
    turn : at last
    """

    excerpt: int
    window: Box
    held_out: tuple[NDArray[np.int64], ...]
    exact: Box
    turn: Turn


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

    Attributes
    ----------
    excerpts : what patches are cut from
    patch_shape : as above, after rounding
    scaling : as above
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
        self._cut_faces = stacks[0].cut
        # Two steps of the bottom level along x at least: batch normalisation needs more than one value.
        least = [alignment] * (len(extent) - 1) + [2 * alignment]
        self.patch_shape = tuple(
            max(m, min(_round_up(p, alignment), _round_up(n, alignment)))
            for p, n, m in zip(patch_shape, extent, least, strict=True)
        )
        self._stats = stats
        self.scaling = scaling or stats.standard
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
        patches = [self._cut(choice) for choice in self.choose(step, batch, symmetries, margin)]
        return PatchBatch(
            *(np.ascontiguousarray(np.stack(part)[:, None]) for part in zip(*patches, strict=True))
        )

    def choose(
        self,
        step: int,
        batch: int,
        symmetries: PSFSymmetries | None = None,
        margin: Sequence[int] | None = None,
    ) -> list[PatchChoice]:
        """Decide on the patches of one step without touching a voxel; parameters as for `draw`."""
        rng = np.random.default_rng((self._seed, step + 2**32))
        margin = margin or (0,) * len(self.patch_shape)
        choices = [self._choose(rng, margin) for _ in range(batch)]
        if symmetries is None:
            return choices
        return [choice._replace(turn=choose_turn(self.patch_shape, symmetries, rng)) for choice in choices]

    def _choose(self, rng: np.random.Generator, margin: Sequence[int]) -> PatchChoice:
        places = [self._place(rng) for _ in range(CANDIDATES)]
        interest = np.array([self._interest(self.excerpts[index], corner) for index, corner in places])
        index, corner = places[int(rng.choice(CANDIDATES, p=interest / interest.sum()))]
        excerpt = self.excerpts[index]
        window = tuple(
            slice(c, min(c + p, n))
            for c, p, n in zip(corner, self.patch_shape, excerpt.data.shape, strict=True)
        )
        origin = [o + c for o, c in zip(excerpt.origin, corner, strict=True)]
        sides = zip(origin, window, self._extent, self._cut_faces, margin, strict=True)
        exact = tuple(
            slice(m * (low or o > 0), (n := part.stop - part.start) - m * (high or o + n < end))
            for o, part, end, (low, high), m in sides
        )
        seed = self._seed + 7919 * excerpt.stack_index
        held = held_out_places(origin, self.patch_shape, self._held_out_fraction, seed)
        return PatchChoice(index, window, held, exact, Turn())

    def _cut(self, choice: PatchChoice) -> PatchBatch:
        data = self.excerpts[choice.excerpt].data[choice.window]
        missing = [(0, p - n) for p, n in zip(self.patch_shape, data.shape, strict=True)]
        x = np.pad(self.scaling.apply(data), missing, mode="edge")
        held, exact = np.zeros(self.patch_shape, bool), np.zeros(self.patch_shape, bool)
        held[choice.held_out] = True
        exact[choice.exact] = True
        return PatchBatch(*(choice.turn.apply(part) for part in (x, held, exact)))

    def _place(self, rng: np.random.Generator) -> tuple[int, tuple[int, ...]]:
        index = int(rng.choice(len(self.excerpts), p=self._shares))
        shape = self.excerpts[index].data.shape
        room = [max(0, n - p) for n, p in zip(shape, self.patch_shape, strict=True)]
        return index, tuple(int(rng.integers(0, r + 1)) for r in room)

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


def choose_turn(shape: Sequence[int], symmetries: PSFSymmetries, rng: np.random.Generator) -> Turn:
    """Choose at random how to flip and turn one patch, only in ways that leave the PSF as it is.

    Parameters
    ----------
    shape : of the patch; one that is not square is not turned
    symmetries : of the PSF
    rng : decides
    """
    flipped = tuple(a for a, allowed in enumerate(symmetries.flips) if allowed and rng.random() < 0.5)
    square = shape[-1] == shape[-2]
    return Turn(flipped, int(rng.integers(4)) if symmetries.rot90 and square else 0)


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
