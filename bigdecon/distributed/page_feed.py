"""The client's part of the page of a run: what happens is sent to the scheduler, in order, a batch at a time.

Nothing here waits or fails: where there is no page, or the scheduler is gone, nothing is sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from bigdecon.distributed.progress import Event, Listener, to_dict
from bigdecon.distributed.run_state import MapOutline

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["FinishedRegion", "PageFeed", "open_page"]

MOST_WAITING = 10_000
REGIONS_A_MESSAGE = 1000
ANSWER_SECONDS = 10.0
PAUSE_S = 0.3

FinishedRegion = tuple[Sequence[int], Sequence[int], int, int, Sequence[Sequence[int]]]
"""A region: start, stop, time point, channel, and the first voxels of its blocks that are missing."""


class PageFeed:
    """Tells the page of a run what happens; may be called from any thread.

    Parameters
    ----------
    client : of the scheduler that serves the page; None where there is none
    """

    def __init__(self, client: Client | None = None) -> None:
        self._client = client
        self._waiting: deque[tuple[str, Any]] = deque(maxlen=MOST_WAITING)
        self._is_sending = False

    @property
    def is_open(self) -> bool:
        """Whether there is a page."""
        return self._client is not None

    def begin(self, name: str) -> None:
        """Show a new run, by the name of its result."""
        self._send("run", name)

    def beside(self, listener: Listener) -> Listener:
        """Give a listener that tells the page what it tells another one."""
        if self._client is None:
            return listener

        def both(event: Event) -> None:
            self._send("event", to_dict(event))
            listener(event)

        return both

    def show_map(self, outline: MapOutline) -> None:
        """Draw the map of a deconvolution."""
        self._send("map", tuple(outline))

    def finish_regions(self, regions: Sequence[FinishedRegion], *, earlier: bool = False) -> None:
        """Note finished regions; `earlier` by another run."""
        for first in range(0, len(regions), REGIONS_A_MESSAGE):
            self._send("regions", (earlier, list(regions[first : first + REGIONS_A_MESSAGE])))

    def _send(self, kind: str, content: Any) -> None:
        if self._client is None or self._client.status != "running":
            return
        self._waiting.append((kind, content))
        with suppress(RuntimeError):  # the loop has ended
            loop: Any = self._client.loop
            loop.add_callback(self._empty)

    async def _empty(self) -> None:
        if self._is_sending:
            return
        self._is_sending = True
        try:
            while self._waiting and self._client is not None and self._client.scheduler is not None:
                batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
                await self._client.scheduler.bigdecon_page(messages=batch)
                await asyncio.sleep(PAUSE_S)  # what happens meanwhile is sent together
        except Exception:  # the scheduler is gone, which others will tell
            self._waiting.clear()
        finally:
            self._is_sending = False


def open_page(client: Client) -> PageFeed:
    """Have the scheduler of a client serve the page, if it can; else give a feed that leads nowhere."""
    from bigdecon.distributed.run_watch import RunWatch

    try:
        client.register_plugin(RunWatch())
        served = client.sync(_ask, client, callback_timeout=ANSWER_SECONDS)
    except Exception:  # somebody else's scheduler without bigdecon, or one that takes no plugins
        return PageFeed()
    return PageFeed(client if served else None)


async def _ask(client: Client) -> bool:
    return bool(await client.scheduler.bigdecon_page(messages=[])) if client.scheduler else False
