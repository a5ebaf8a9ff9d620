"""SLURM's queue: which jobs there are, what became of them, and how to cancel them.

Variables such as SQUEUE_STATES or SCANCEL_STATE, by which users shape these programs for themselves, do not
reach them here.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

__all__ = ["QueuedJob", "SlurmQueue", "sbatch_words"]

ENDED = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "COMPLETING",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    }
)
"""States without a return; what a later SLURM may add is taken for alive."""

PERSONAL = ("SQUEUE_", "SCANCEL_")
CALL_SECONDS = 60.0
CANCEL_PAUSES = (0.0, 1.0, 3.0)
"""Seconds before each attempt to cancel; a controller under load refuses at times."""


class QueuedJob(NamedTuple):
    """What the queue says of a job: its state, and the reason for which it waits."""

    state: str
    reason: str

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.state in ENDED


class SlurmQueue:
    """The queue of this user.

    Parameters
    ----------
    clusters : names of other clusters that jobs are sent to, as for `sbatch --clusters`; None for this one
    """

    def __init__(self, clusters: str | None = None) -> None:
        self._clusters = clusters

    async def look(self) -> dict[str, QueuedJob] | None:
        """Give this user's jobs by number, with those that ended lately; None if SLURM does not answer."""
        user = f"--user={os.getuid()}"
        try:
            answer = await self._call("squeue", "--noheader", user, "--states=all", "--format=%A|%T|%r")
        except (OSError, RuntimeError):
            return None
        lines = [line.strip().split("|") for line in answer.splitlines()]
        return {line[0]: QueuedJob(line[1], line[2]) for line in lines if len(line) == 3}

    async def cancel(self, numbers: Sequence[str]) -> list[str]:
        """Cancel jobs, if need be several times; gives the numbers of those that seem to go on."""
        left = list(numbers)
        for pause in CANCEL_PAUSES:
            if not left:
                break
            await asyncio.sleep(pause)
            # It also complains of jobs that are long over: the queue tells what came of it.
            with suppress(OSError, RuntimeError):
                await self._call("scancel", *left)
            queue = await self.look()
            if queue is not None:
                left = [number for number in left if number in queue and not queue[number].ended]
        return left

    async def _call(self, *command: str) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(PERSONAL)}
        if self._clusters:
            environment["SLURM_CLUSTERS"] = self._clusters
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment
        )
        try:
            output, complaint = await asyncio.wait_for(process.communicate(), CALL_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise RuntimeError(f"{command[0]} gave no answer within {CALL_SECONDS:.0f} s") from None
        if process.returncode:
            raise RuntimeError(complaint.decode(errors="replace"))
        return output.decode(errors="replace")


def sbatch_words(text: str) -> str:
    """Find sbatch's own words in what dask-jobqueue says of a failed command."""
    found = re.findall(r"^sbatch: error: (.+)$", text, flags=re.MULTILINE)
    words = found[-1] if found else text.strip().partition("\n")[0]
    return words.removeprefix("Batch job submission failed: ").rstrip(".") + "."
