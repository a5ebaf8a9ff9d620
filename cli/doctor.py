"""`bigdecon doctor`: whether bigdecon works on this machine."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from bigdecon_cli.terminal import wants_colour

from bigdecon.errors import RunError

if TYPE_CHECKING:
    from bigdecon.checkup.checks import Check
    from bigdecon.diagnosis.findings import Finding

COLOURS = {"good": "green", "note": "cyan", "problem": "red"}


@click.command("doctor", short_help="Check that bigdecon works on this machine.")
@click.option(
    "-o",
    "--output",
    default=".",
    show_default=True,
    type=click.Path(),
    metavar="DIR",
    help="Where results will go: its disk is measured.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")  # fmt: skip
def command(output: str, as_json: bool) -> None:
    """Check that bigdecon works on this machine: versions, GPUs, memory, disk, workers, dashboard, SLURM.

    At the end a small volume is restored and a small network trained, and the results are compared with what
    must come out. It takes about half a minute, leaves no files behind, and ends with exit code 3 if there
    is a problem.

    \b
    Example:
      bigdecon doctor --output /data/results
    """  # noqa: D301
    started = time.monotonic()
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    try:
        findings = _examine(Path(output), quiet=as_json)
    except KeyboardInterrupt:
        click.echo("\nStopped.", err=True)
        _leave(130)
        raise
    problems = sum(finding.needs_attention for finding in findings)
    if as_json:
        found = [{**finding.as_json(), "verdict": _verdict(finding)} for finding in findings]
        verdict = "problem" if problems else "good"
        seconds = round(time.monotonic() - started, 1)
        click.echo(json.dumps({"verdict": verdict, "seconds": seconds, "checks": found}))
    elif problems:
        click.echo(f"\n{'1 problem' if problems == 1 else f'{problems} problems'}: see above.")
    else:
        click.echo("\nbigdecon works here.")
    _leave(RunError.exit_code if problems else 0)


def _examine(folder: Path, *, quiet: bool) -> list[Finding]:
    from bigdecon.checkup.examination import examine

    waits = not quiet and sys.stdout.isatty()

    def begin(check: Check) -> None:
        if waits:
            click.echo(f"\r{'...':<9}{check.title:<60}", nl=False)

    findings = []
    for finding in examine(folder, begin):
        findings.append(finding)
        if not quiet:
            click.echo(("\r\033[K" if waits else "") + _describe(finding))
    if waits:
        click.echo("\r\033[K", nl=False)
    return findings


def _verdict(finding: Finding) -> str:
    return "problem" if finding.needs_attention else finding.severity


def _describe(finding: Finding) -> str:
    verdict = _verdict(finding)
    label = f"{verdict:<9}"
    if wants_colour(sys.stdout):
        label = click.style(label, fg=COLOURS[verdict], bold=True)
    remedy = f"\n{'':<9}{finding.remedy}" if finding.remedy else ""
    return f"{label}{finding.sentence}{remedy}"


def _leave(code: int) -> None:
    """End the process, also where a check hangs in a driver or on a disk: its thread would be waited for."""
    if any(thread.name.startswith("check-") for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    if code:
        raise SystemExit(code)
