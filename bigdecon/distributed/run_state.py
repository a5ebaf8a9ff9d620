"""What the page of a run shows, in bounded memory: curves, a map of blocks, speeds, messages.

It is fed from two sides, both in the scheduler's thread:

    client     events, and the regions that are finished      tell, show_map, finish_regions
    scheduler  blocks that begin and end, known by their keys  block_began, block_ended

The map looks along z: one cell for every column of blocks, or for several where there are very many.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bigdecon.block_names import BlockPlace
from bigdecon.distributed.progress import (
    BlockProgress,
    ChoosingProgress,
    Event,
    Message,
    RegionDone,
    StageFinished,
    StageStarted,
    TrainingProgress,
)

__all__ = ["BlockMap", "Curve", "MapOutline", "RunState", "Speeds"]

MAP_CELLS = 64
CURVE_POINTS = 400
MESSAGES = 40
RECENT = 16
"""Blocks of a worker that its speed is taken from."""


class MapOutline(NamedTuple):
    """What a map is drawn of.

    Attributes
    ----------
    run : tells this run's blocks from others'
    cuts : where blocks begin and end along the spatial axes, in voxels
    stacks : channels times time points
    voxel_size_um : along y and x; None where unknown
    """

    run: str
    cuts: tuple[tuple[int, ...], ...]
    stacks: int
    voxel_size_um: tuple[float, float] | None


@dataclass
class Curve:
    """A training curve of at most some hundred points: where there are more, every second one is dropped.

    Attributes
    ----------
    name : of the stage
    steps : planned
    points : step, loss, held-out error (None where it was not measured)
    """

    name: str
    steps: int = 0
    points: list[tuple[int, float, float | None]] = field(default_factory=list)
    _every: int = 1
    _seen: int = 0

    def add(self, event: TrainingProgress) -> None:
        """Note a point."""
        self._seen, self.steps = self._seen + 1, event.steps
        if self._seen % self._every == 0 or event.step >= event.steps:
            self.points.append((event.step, event.loss, event.held_out_error))
        if len(self.points) > CURVE_POINTS:
            self.points = self.points[1::2]
            self._every *= 2


class BlockMap:
    """How many blocks are done, in flight and missing, seen along z.

    Parameters
    ----------
    outline : the blocks

    Attributes
    ----------
    edges : bounds of the cells along y and x, in voxels
    total, entered, missing : blocks of each cell (y, x): all, those of regions that are finished, and of
        those the ones that could not be restored
    """

    def __init__(self, outline: MapOutline) -> None:
        self.outline = outline
        *depth, self._y, self._x = outline.cuts
        self._is_deep = bool(depth)
        self._cell_y, self._cell_x = _cells(self._y), _cells(self._x)
        self.edges = _edges(self._y, self._cell_y), _edges(self._x, self._cell_x)
        layers = (len(depth[0]) - 1 if depth else 1) * outline.stacks
        shape = int(self._cell_y[-1]) + 1, int(self._cell_x[-1]) + 1
        self.total: NDArray[np.int64] = np.zeros(shape, np.int64)
        np.add.at(self.total, np.ix_(self._cell_y, self._cell_x), layers)
        self.entered: NDArray[np.int64] = np.zeros(shape, np.int64)
        self.missing: NDArray[np.int64] = np.zeros(shape, np.int64)
        self._flying: set[BlockPlace] = set()
        self._computed: set[BlockPlace] = set()

    def began(self, place: BlockPlace) -> None:
        """Note that a worker has a block, or all blocks of a box."""
        self._flying.update(self._blocks(place))

    def ended(self, place: BlockPlace, *, done: bool) -> None:
        """Note that it has them no longer."""
        blocks = self._blocks(place)
        self._flying.difference_update(blocks)
        if done:
            self._computed.update(blocks)

    def enter(
        self, start: Sequence[int], stop: Sequence[int], timepoint: int, channel: int, missing: Sequence[Any]
    ) -> None:
        """Note that a region is finished.

        Parameters
        ----------
        start, stop : of the region, in voxels
        timepoint, channel : of the region
        missing : first voxels of its blocks that could not be restored
        """
        within = [_range(cuts, a, b) for cuts, a, b in zip(self.outline.cuts, start, stop, strict=True)]
        layers = len(within[0]) if self._is_deep else 1
        np.add.at(self.entered, np.ix_(self._cell_y[within[-2]], self._cell_x[within[-1]]), layers)
        for place in missing:
            self.missing[self._cell(tuple(place))] += 1
        for known in (self._flying, self._computed):
            known.difference_update([p for p in known if _is_within(p, timepoint, channel, start, stop)])

    def done(self) -> NDArray[np.int64]:
        """Count the finished blocks of every cell."""
        done: NDArray[np.int64] = np.minimum(self.total, self.entered + self._count(self._computed))
        return done

    def flying(self) -> NDArray[np.int64]:
        """Count the blocks of every cell that workers have."""
        return self._count(self._flying)

    def voxels(self, place: BlockPlace) -> int:
        """Count the voxels of a block, or a box; 0 for one that is not on this map."""
        number = 1
        for cuts, start, stop in zip(self.outline.cuts, place.start, place.stop or place.start, strict=True):
            index = bisect_right(cuts, start) - 1
            if not 0 <= index < len(cuts) - 1:
                return 0
            number *= max(stop, cuts[index + 1]) - cuts[index]
        return number

    def _blocks(self, place: BlockPlace) -> list[BlockPlace]:
        """Give the blocks of a box one by one; those of one that is not on this map are none."""
        if not place.stop:
            return [place]
        axes = zip(self.outline.cuts, place.start, place.stop, strict=True)
        starts = ([cuts[i] for i in _range(cuts, start, stop)] for cuts, start, stop in axes)
        return [BlockPlace(place.timepoint, place.channel, start) for start in product(*starts)]

    def _count(self, places: set[BlockPlace]) -> NDArray[np.int64]:
        counts = np.zeros_like(self.total)
        for place in places:
            counts[self._cell(place.start)] += 1
        return counts

    def _cell(self, start: tuple[int, ...]) -> tuple[int, int]:
        y, x = (bisect_right(cuts, at) - 1 for cuts, at in zip((self._y, self._x), start[-2:], strict=True))
        return int(self._cell_y[min(y, len(self._cell_y) - 1)]), int(
            self._cell_x[min(x, len(self._cell_x) - 1)]
        )


class Speeds:
    """Voxels per second of each worker, from its last blocks."""

    def __init__(self) -> None:
        self._ends: dict[str, deque[tuple[float, int]]] = {}
        self._first: dict[str, float] = {}

    def add(self, worker: str, voxels: int, began: float, ended: float) -> None:
        """Note a block; times in seconds since 1970, as the worker's clock has them."""
        self._first.setdefault(worker, began)
        self._ends.setdefault(worker, deque(maxlen=RECENT + 1)).append((ended, voxels))

    def forget(self, worker: str) -> None:
        """Drop a worker that has left."""
        self._ends.pop(worker, None)
        self._first.pop(worker, None)

    def now(self) -> dict[str, float]:
        """Give the voxels per second of each worker that has finished a block."""
        return {worker: self._speed(worker, list(ends)) for worker, ends in self._ends.items()}

    def _speed(self, worker: str, ends: list[tuple[float, int]]) -> float:
        if len(ends) <= RECENT:
            ends = [(self._first[worker], 0), *ends]
        seconds = max(1e-3, max(end for end, _ in ends) - ends[0][0])
        return sum(voxels for _, voxels in ends[1:]) / seconds


class RunState:
    """All that the page of one run shows.

    Attributes
    ----------
    name : of the result; "" before the first run
    stage : what is being done; "" before and after
    part : how much of the stage is done, from 0 to 1
    left_s : estimate of the seconds that the stage still takes; None without one
    curve, map : of the latest training and deconvolution; None before
    speeds : of the workers
    messages : the latest, with the time of day and whether it is a warning
    version : grows with every change
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.stage = ""
        self.part = 0.0
        self.left_s: float | None = None
        self.curve: Curve | None = None
        self.map: BlockMap | None = None
        self.speeds = Speeds()
        self.messages: deque[tuple[str, str, bool]] = deque(maxlen=MESSAGES)
        self.version = 0
        self._left_told = 0.0
        self._began = time.monotonic()
        self._done_before = 0

    def tell(self, event: Event) -> None:
        """Note an event of the run."""
        self.version += 1
        match event:
            case StageStarted():
                self.stage, self.part, self.left_s = event.name, 0.0, None
                if event.name.startswith("train"):
                    self.curve = Curve(event.name)
            case TrainingProgress():
                self._advance(event.step / max(1, event.steps), event.seconds_left)
                if self.curve is not None:
                    self.curve.add(event)
            case RegionDone():
                done, total = (
                    (event.blocks, event.all_blocks) if event.all_blocks else (event.done, event.total)
                )
                self._advance(done / max(1, total), event.seconds_left)
            case BlockProgress() | ChoosingProgress():
                self._advance(event.done / max(1, event.total), event.seconds_left)
            case StageFinished():
                self.messages.append((_clock(), f"{event.name}: done in {event.seconds:.0f} s", False))
                self.stage, self.part, self.left_s = "", 1.0, None
            case Message():
                self.messages.append((_clock(), event.text, event.level == "warning"))

    def show_map(self, outline: MapOutline) -> None:
        """Draw the map of a deconvolution that begins."""
        self.map, self.speeds, self.version = BlockMap(outline), Speeds(), self.version + 1
        self._began, self._done_before = time.monotonic(), 0

    def finish_regions(self, regions: Sequence[Any], *, earlier: bool) -> None:
        """Note finished regions, by this run or an earlier one.

        Each has its start, stop, time point, channel, and the first voxels of the blocks that are missing.
        """
        if self.map is None:
            return
        for start, stop, timepoint, channel, missing in regions:
            self.map.enter(start, stop, timepoint, channel, missing)
        if earlier:
            self._done_before = int(self.map.done().sum())
        self.version += 1

    def block_began(self, place: BlockPlace) -> None:
        """Note that a worker has a block."""
        if self.map is not None:
            self.map.began(place)
            self.version += 1

    def block_ended(
        self, place: BlockPlace, *, done: bool, worker: str = "", began: float = 0.0, ended: float = 0.0
    ) -> None:
        """Note that a worker is done with a block, or has lost it."""
        if self.map is None:
            return
        self.map.ended(place, done=done)
        self.version += 1
        if done and worker and ended > began:
            self.speeds.add(worker, self.map.voxels(place), began, ended)

    def progress(self) -> tuple[float, float | None]:
        """Tell how much of the stage is done, and the seconds left; by blocks while there are blocks."""
        if self.stage != "deconvolve" or self.map is None:
            waited = time.monotonic() - self._left_told
            return self.part, None if self.left_s is None else max(0.0, self.left_s - waited)
        total, done = int(self.map.total.sum()), int(self.map.done().sum())
        fresh = done - self._done_before
        spent = time.monotonic() - self._began
        return done / max(1, total), spent / fresh * (total - done) if fresh > 0 else None

    def _advance(self, part: float, left_s: float | None) -> None:
        self.part, self.left_s, self._left_told = part, left_s, time.monotonic()


def _cells(cuts: Sequence[int]) -> NDArray[np.int64]:
    """Give the cell of every block along an axis."""
    blocks = len(cuts) - 1
    cells: NDArray[np.int64] = np.arange(blocks, dtype=np.int64) * min(blocks, MAP_CELLS) // blocks
    return cells


def _edges(cuts: Sequence[int], cells: NDArray[np.int64]) -> list[int]:
    changes = [i + 1 for i, (a, b) in enumerate(pairwise(cells)) if a != b]
    return [cuts[0], *(cuts[i] for i in changes), cuts[-1]]


def _range(cuts: Sequence[int], start: int, stop: int) -> list[int]:
    """Find the blocks that begin between two voxels."""
    return [i for i, at in enumerate(cuts[:-1]) if start <= at < stop]


def _is_within(
    place: BlockPlace, timepoint: int, channel: int, start: Sequence[int], stop: Sequence[int]
) -> bool:
    inside = all(a <= at < b for at, a, b in zip(place.start, start, stop, strict=True))
    return inside and (place.timepoint, place.channel) == (timepoint, channel)


def _clock() -> str:
    return time.strftime("%H:%M:%S")
