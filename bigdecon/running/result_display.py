"""How the result of a run looks in a notebook: a thumbnail of the output, and a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigdecon.errors import BigdeconError
from bigdecon.io.reading import open_volume
from bigdecon.notebook_html import card
from bigdecon.volume_display import thumbnail

if TYPE_CHECKING:
    from bigdecon.pipeline import RunResult

__all__ = ["result_html"]

STATES = {
    "planned": "planned only (dry run): nothing was written",
    "finished": "finished",
    "incomplete": "incomplete: blocks are missing; the same command does them again",
    "found finished": "finished by an earlier run",
}


def result_html(result: RunResult) -> str:
    """Describe the result of a run for a notebook."""
    plan = result.plan
    blocks = len(plan.grid) * plan.volume.n_timepoints * plan.volume.n_channels
    rows = [("output", str(result.output)), ("state", STATES.get(result.state, result.state))]
    rows.append(("method", plan.config.method))
    if result.seconds:
        rows.append(("time", f"{result.seconds:.0f} s on {plan.device}"))
    if result.skipped:
        rows.append(("skipped", f"{result.skipped} of {blocks} blocks, constant or dim"))
    if result.clipped:
        rows.append(("clipped", f"{result.clipped} voxels, beyond the range of {plan.config.dtype}"))
    if result.missing:
        rows.append(("missing", f"{len(result.missing)} of {blocks} blocks: {result.missing[0].reason}"))
    rows += [("model" if i == 0 else "", str(path)) for i, path in enumerate(result.models)]
    return card("Result of a run", rows, "" if result.state == "planned" else _picture(str(result.output)))


def _picture(output: str) -> str:
    try:
        return thumbnail(open_volume(output))
    except (BigdeconError, OSError):  # moved or removed since
        return ""
