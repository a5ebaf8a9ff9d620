"""`bigdecon verify`: whether a result on disk is what was written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from bigdecon.errors import OptionError, RunError

if TYPE_CHECKING:
    from bigdecon.running.verification import Damage, Verification

MOST_LINES = 20


@click.command("verify", short_help="Check a result on disk against the hashes of what was written.")
@click.argument("output", type=click.Path())
@click.option(
    "--repair", is_flag=True, help="Mark damaged shards, for the same run command to do them again."
)
@click.option("--threads", default=2, show_default=True, help="Shards that are read at a time.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts; lists every damaged shard.")
def command(output: str, repair: bool, threads: int, as_json: bool) -> None:
    """Check OUTPUT, the folder of a result: read every shard of every level and compare its hash.

    Ends with code 0 if the result is complete and as it was written, else with code 3. Nothing is changed
    without --repair; with it the code is 0 when all that is damaged has been marked.

    \b
    Example:
      bigdecon verify volume.deconvolved.ome.zarr
      bigdecon verify --repair volume.deconvolved.ome.zarr && bigdecon run ...
    """  # noqa: D301
    from bigdecon.io.output_folder import result_place

    if threads < 1:
        raise OptionError(f"--threads is {threads}; it must be at least 1.")
    result_place(output)
    from bigdecon.running.verification import repair_output, verify_output

    found = verify_output(output, threads=threads)
    if repair and found.damaged:
        repair_output(output, found.damaged)
    click.echo(as_json_text(found, repair) if as_json else "\n".join(describe(found, repair)))
    if not (found.sound or repair):
        raise SystemExit(RunError.exit_code)


def as_json_text(found: Verification, repaired: bool) -> str:
    """Give one JSON object."""
    damaged = [
        {**damage.key._asdict(), "unit": [damage.unit.start, damage.unit.stop], "reason": damage.reason}
        for damage in found.damaged
    ]
    return json.dumps(
        {
            "output": str(found.output),
            "sound": found.sound,
            "checked": found.checked,
            "damaged": damaged,
            "unwritten_regions": found.unwritten,
            "missing_blocks": found.missing,
            "marked": repaired and bool(damaged),
        }
    )


def describe(found: Verification, repaired: bool) -> list[str]:
    """Give the lines of the text."""
    lines = [_damage(damage) for damage in found.damaged[:MOST_LINES]]
    if len(found.damaged) > MOST_LINES:
        lines.append(f"... and {len(found.damaged) - MOST_LINES} more; --json lists all")
    files = "1 file (shard)" if found.checked == 1 else f"{found.checked} files (shards)"
    lines.append(f"{files} of voxels compared with what was written, {len(found.damaged)} damaged.")
    if found.unwritten:
        lines.append(
            f"{found.unwritten} regions are not written yet: give the same bigdecon run command again."
        )
    if found.missing:
        lines.append(
            f"{found.missing} blocks could not be restored: bigdecon status {found.output} lists them."
        )
    if found.damaged and repaired:
        lines.append("The damaged shards are marked: give the same bigdecon run command again.")
    elif found.damaged:
        lines.append(
            "bigdecon verify --repair marks them, and the same bigdecon run command does them again."
        )
    if found.sound:
        lines.append(f"{found.output} is complete and as it was written.")
    return lines


def _damage(damage: Damage) -> str:
    where = ",".join(f"{a}:{b}" for a, b in zip(damage.unit.start, damage.unit.stop, strict=True))
    key = damage.key
    place = f"level {key.level}, channel {key.channel}, time point {key.timepoint}"
    return f"damaged: [{where}] of {place} {damage.reason}"
