"""Progress: what happens, as small values that travel from workers to whoever watches.

    worker: publish(event) ── Dask's event log ──▶ client: subscribe(client, listener)
    client: listener(event)

An event says what happened; how it looks (a bar, a line, JSON) is the listener's matter.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "TOPIC",
    "BlockProgress",
    "BlocksRestored",
    "ChoosingProgress",
    "Event",
    "Level",
    "Listener",
    "Message",
    "RegionCounter",
    "RegionDone",
    "StageFinished",
    "StageStarted",
    "TrainingProgress",
    "count_block",
    "from_dict",
    "publish",
    "stage",
    "subscribe",
    "to_dict",
]

TOPIC = "bigdecon"
"""Topic of the event log, one for all runs: the scheduler never forgets a topic."""

Level = Literal["info", "warning"]

TALLY_SECONDS = 0.5
"""Single blocks are told of no more often than this, by a worker and to the listener."""


@dataclass(frozen=True)
class StageStarted:
    """A stage of the run begins.

    Attributes
    ----------
    name : as shown, "train channel 0" or "deconvolve"
    total : steps, blocks, or regions of a coarser level, to come
    """

    name: str
    total: int


@dataclass(frozen=True)
class TrainingProgress:
    """Training got on.

    Attributes
    ----------
    step, steps : done and planned
    loss : mean since the last event
    held_out_error : newest measurement on voxels that are never trained on; None before the first
    seconds_left : estimate; None before there is one
    """

    step: int
    steps: int
    loss: float
    held_out_error: float | None = None
    seconds_left: float | None = None


@dataclass(frozen=True)
class ChoosingProgress:
    """The choice of settings from the image got on.

    Attributes
    ----------
    done, total : settings that have been tried, and all that may be, at most: the search ends where it gets
        no better
    setting : the one that is being tried, in words; "" at the end
    parts : parts of the image that each is tried on
    kept : of those done, how many an earlier call of the same command left
    seconds_left : estimate, at most; None before there is one
    """

    done: int
    total: int
    setting: str
    parts: int
    kept: int = 0
    seconds_left: float | None = None


@dataclass(frozen=True)
class RegionDone:
    """A region of the output is written.

    Attributes
    ----------
    done, total : regions finished, of all
    voxels : output voxels finished so far
    seconds_left : estimate; None before there is one
    blocks, all_blocks : blocks restored, of all; 0 of 0 where a region has none, as in coarser levels
    """

    done: int
    total: int
    voxels: int
    seconds_left: float | None = None
    blocks: int = 0
    all_blocks: int = 0


@dataclass(frozen=True)
class BlocksRestored:
    """Blocks of a region were restored in a worker; they are not written yet.

    Attributes
    ----------
    region : its name
    blocks : how many since this worker's last event on the region
    seconds : that they took together, from voxels to voxels; of blocks at a time, each counts
    """

    region: str
    blocks: int
    seconds: float = 0.0


@dataclass(frozen=True)
class BlockProgress:
    """Blocks got restored, in regions that are being worked on.

    Attributes
    ----------
    done, total : blocks restored, of all
    seconds_left : estimate; None before there is one
    """

    done: int
    total: int
    seconds_left: float | None = None


@dataclass(frozen=True)
class Message:
    """A sentence for the user.

    Attributes
    ----------
    text : one sentence
    level : "info", or "warning" for what should be looked at
    """

    text: str
    level: Level = "info"


@dataclass(frozen=True)
class StageFinished:
    """A stage of the run is over.

    Attributes
    ----------
    name : as in its StageStarted
    seconds : how long it took
    """

    name: str
    seconds: float


Event = (
    StageStarted
    | TrainingProgress
    | ChoosingProgress
    | RegionDone
    | BlocksRestored
    | BlockProgress
    | Message
    | StageFinished
)
Listener = Callable[[Event], None]

_KINDS: dict[str, type[Event]] = {kind.__name__: kind for kind in get_args(Event)}


def to_dict(event: Event) -> dict[str, Any]:
    """Give an event in plain JSON types; "event" holds its kind."""
    return {"event": type(event).__name__, **asdict(event)}


def from_dict(values: Mapping[str, Any]) -> Event:
    """Turn the output of `to_dict` back into an event.

    Raises
    ------
    ValueError
        if the kind is unknown or fields are missing, as from another version
    """
    fields = {name: value for name, value in values.items() if name != "event"}
    try:
        return _KINDS[values["event"]](**fields)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{dict(values)!r} is not an event of this version of bigdecon") from error


def publish(event: Event, run_id: str = "") -> None:
    """Send an event from within a task to those who listen to the run; elsewhere it does nothing.

    Events of a task arrive in order, and before the task's own result.
    """
    from distributed import get_worker

    with suppress(ValueError):  # not in a worker
        # One level down, because Dask adds the worker's name beside it
        get_worker().log_event(TOPIC, {"run": run_id, "bigdecon": to_dict(event)})


@contextmanager
def subscribe(client: Client, listener: Listener, run_id: str = "") -> Iterator[None]:
    """Hand the events that the workers of one run publish to a listener while the block lasts.

    The listener is called in the client's network thread: it must be quick and ask nothing of the
    client. Events that this version does not know are passed over.
    """

    def hear(stamped: tuple[float, Any]) -> None:
        try:
            mine = stamped[1]["run"] == run_id
            event = from_dict(stamped[1]["bigdecon"])
        except (ValueError, TypeError, KeyError):
            return
        if open_ and mine:
            listener(event)

    open_ = True
    client.subscribe_topic(TOPIC, hear)
    try:
        yield
    finally:
        open_ = False
        with suppress(Exception):  # the scheduler may be gone by now
            client.unsubscribe_topic(TOPIC)


@contextmanager
def stage(name: str, total: int, listener: Listener) -> Iterator[None]:
    """Tell a listener that a stage of so many steps or blocks begins, and, if all went well, its end."""
    started = time.monotonic()
    listener(StageStarted(name, total))
    yield
    listener(StageFinished(name, time.monotonic() - started))


def count_block(run_id: str, region: str, seconds: float = 0.0) -> None:
    """Tell the listeners of a run, from within a task, that one more block of a region is restored.

    It took so many seconds. Blocks may take milliseconds, and every event costs the scheduler some time:
    they are told of together.
    """
    _TALLY.add(run_id, region, seconds)


class _Tally:
    """Blocks that this worker process has restored and not told of yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told = -float("inf")
        self._untold: dict[tuple[str, str], list[float]] = {}

    def add(self, run_id: str, region: str, seconds: float) -> None:
        with self._lock:
            self._untold.setdefault((run_id, region), []).append(seconds)
            if time.monotonic() < self._told + TALLY_SECONDS:
                return
            self._told = time.monotonic()
            due, self._untold = self._untold, {}
        for (run, name), blocks in due.items():
            publish(BlocksRestored(name, len(blocks), sum(blocks)), run)


_TALLY = _Tally()


class RegionCounter:
    """Counts regions and the blocks in them, and estimates the time left.

    Parameters
    ----------
    listener : gets a `RegionDone` for every region, and now and then a `BlockProgress` in between
    total : regions in all
    done, voxels : regions, and their voxels, that an earlier run finished
    blocks, all_blocks : blocks that an earlier run restored, of all; 0 of 0 where regions have none
    """

    def __init__(
        self,
        listener: Listener,
        total: int,
        done: int = 0,
        voxels: int = 0,
        blocks: int = 0,
        all_blocks: int = 0,
    ) -> None:
        self._listener = listener
        self._event = RegionDone(done, total, voxels, None, blocks, all_blocks)
        self._first, self._first_block = done, blocks
        self._started = self._told = time.monotonic()
        self._begun: dict[str, int] = {}
        self._restored: Counter[str] = Counter()
        self._lock = threading.Lock()
        if done:
            listener(self._event)

    def begin(self, region: str, blocks: int) -> None:
        """Take note of a region of so many blocks whose turn has come."""
        with self._lock:
            self._begun[region] = blocks

    def restored(self, region: str, blocks: int) -> None:
        """Count blocks of a region that has begun; a region that is done again counts once."""
        with self._lock:
            if region not in self._begun:
                return
            self._restored[region] = min(self._restored[region] + blocks, self._begun[region])
            now = time.monotonic()
            if now < self._told + TALLY_SECONDS:
                return
            self._told = now
            done, total = self._event.blocks + self._restored.total(), self._event.all_blocks
            self._listener(BlockProgress(done, total, self._seconds_left(done, total, self._first_block)))

    def advance(self, voxels: int, region: str = "", blocks: int = 0) -> None:
        """Count one more region, with all of its blocks."""
        with self._lock:
            self._begun.pop(region, None)
            self._restored.pop(region, None)
            event = self._event
            done, written = event.done + 1, event.blocks + blocks
            if event.all_blocks:
                begun = written + self._restored.total()
                left = self._seconds_left(begun, event.all_blocks, self._first_block)
            else:
                left = self._seconds_left(done, event.total, self._first)
            self._event = replace(
                event, done=done, voxels=event.voxels + voxels, seconds_left=left, blocks=written
            )
            # What the listener is told never falls: blocks of other regions count, too.
            self._listener(replace(self._event, blocks=written + self._restored.total()))

    def _seconds_left(self, done: int, total: int, first: int) -> float | None:
        if done <= first:
            return None
        return (time.monotonic() - self._started) / (done - first) * (total - done)
