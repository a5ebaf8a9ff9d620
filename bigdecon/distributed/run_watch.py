"""The scheduler's part of the page of a run: a plugin that listens, remembers little, and serves the page.

    client ── bigdecon_page(messages) ──▶ RunWatch ──▶ RunState ◀── looks every second ── page (bokeh)
    scheduler ── a block's task changes ──▶ RunWatch

Whoever opens the page costs a little; while nobody does, a block costs some microseconds.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from distributed import Scheduler
from distributed.diagnostics.plugin import SchedulerPlugin

from bigdecon.block_names import BUNDLE, COLLECT, DECONVOLVE, read_block_key
from bigdecon.distributed.progress import from_dict
from bigdecon.distributed.run_state import MapOutline, RunState

__all__ = ["OPERATION", "RunWatch"]

OPERATION = "bigdecon_page"
"""What the scheduler's new handler is called."""

_BLOCKS = (DECONVOLVE, COLLECT, BUNDLE)

logger = logging.getLogger(__name__)


class RunWatch(SchedulerPlugin):
    """Follows the latest run on a scheduler and serves its page at /bigdecon.

    Where there is no dashboard, or no bokeh, there is no page, and nothing is followed.
    """

    name = "bigdecon-page"
    idempotent = True  # several runs may come to one scheduler

    def __init__(self) -> None:
        self.state = RunState()
        self.served = False
        self._run = ""
        self._application: Any = None

    async def start(self, scheduler: Scheduler) -> None:
        """Add the page to the scheduler's web server, and take messages."""
        try:
            from bigdecon.distributed.run_page import add_page

            self._application = add_page(scheduler, lambda: self.state)
        except Exception as error:  # no bokeh, or a Dask that is built another way: the run goes on without
            logger.debug("no page at /bigdecon: %s", error)
        self.served = self._application is not None
        scheduler.handlers[OPERATION] = self.hear

    async def close(self) -> None:
        """Stop what the page does from time to time."""
        if self._application is not None:
            with suppress(Exception):
                self._application.stop()

    def hear(self, messages: Sequence[Any] = ()) -> bool:
        """Take messages of a client, in order; tells whether there is a page."""
        for kind, content in messages if self.served else ():
            try:
                self._take(kind, content)
            except (ValueError, TypeError, KeyError, IndexError):  # of another version
                logger.debug("a message for the page was not understood: %s", kind)
        return self.served

    def _take(self, kind: str, content: Any) -> None:
        if kind == "run":
            self.state, self._run = RunState(str(content)), ""
        elif kind == "event":
            self.state.tell(from_dict(content))
        elif kind == "map":
            outline = MapOutline(*content)
            self.state.show_map(outline)
            self._run = outline.run
        elif kind == "regions":
            earlier, regions = content
            self.state.finish_regions(regions, earlier=earlier)

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """Note that a worker gets a block, or several in one task, or is done with them."""
        if type(key) is not str or not key.startswith(_BLOCKS) or "processing" not in (start, finish):
            return
        place = read_block_key(key, self._run) if self._run else None
        if place is None:
            return
        if finish == "processing":
            self.state.block_began(place)
            return
        spans = [span for span in kwargs.get("startstops") or () if span.get("action") == "compute"]
        began, ended = (spans[0]["start"], spans[-1]["stop"]) if spans else (0.0, 0.0)
        self.state.block_ended(
            place,
            done=finish == "memory",
            worker=str(kwargs.get("worker", "")),
            began=began,
            ended=ended,
        )

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        """Forget the speed of a worker that has left."""
        self.state.speeds.forget(worker)
