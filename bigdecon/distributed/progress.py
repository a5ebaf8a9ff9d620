"""Progress: what happens, as small values that travel from workers to whoever watches.

    worker: publish(event) ── Dask's event log ──▶ client: subscribe(client, listener)
    client: listener(event)

An event says what happened; how it looks (a bar, a line, JSON) is the listener's matter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "TOPIC",
    "Event",
    "Level",
    "Listener",
    "Message",
    "RegionCounter",
    "RegionDone",
    "StageFinished",
    "StageStarted",
    "TrainingProgress",
    "from_dict",
    "publish",
    "stage",
    "subscribe",
    "to_dict",
]

TOPIC = "bigdecon"
"""Topic of the event log, one for all runs: the scheduler never forgets a topic."""

Level = Literal["info", "warning"]


@dataclass(frozen=True)
class StageStarted:
    """A stage of the run begins.

    Attributes
    ----------
    name : as shown, "train channel 0" or "deconvolve"
    total : steps or regions to come
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
class RegionDone:
    """A region of the output is written.

    Attributes
    ----------
    done, total : regions finished, of all
    voxels : output voxels finished so far
    seconds_left : estimate; None before there is one
    """

    done: int
    total: int
    voxels: int
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


Event = StageStarted | TrainingProgress | RegionDone | Message | StageFinished
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
    """Tell a listener that a stage of so many steps or regions begins, and, if all went well, its end."""
    started = time.monotonic()
    listener(StageStarted(name, total))
    yield
    listener(StageFinished(name, time.monotonic() - started))


class RegionCounter:
    """Counts regions and estimates the time left.

    Parameters
    ----------
    listener : gets a `RegionDone` for every region
    total : regions in all
    done, voxels : regions, and their voxels, that an earlier run finished
    """

    def __init__(self, listener: Listener, total: int, done: int = 0, voxels: int = 0) -> None:
        self._listener = listener
        self._event = RegionDone(done, total, voxels)
        self._first = done
        self._started = time.monotonic()
        if done:
            listener(self._event)

    def advance(self, voxels: int) -> None:
        """Count one more region."""
        done = self._event.done + 1
        rate = (time.monotonic() - self._started) / (done - self._first)
        left = rate * (self._event.total - done)
        self._event = replace(self._event, done=done, voxels=self._event.voxels + voxels, seconds_left=left)
        self._listener(self._event)
