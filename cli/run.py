"""`bigdecon run`: flags in, a RunConfig out; everything else is the library's."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import click
from bigdecon_cli.config_file import RecordedCommand, check_place, command_line, save_settings
from bigdecon_cli.options import run_config, run_options
from bigdecon_cli.terminal import say_error, say_warning

from bigdecon.errors import RunError

if TYPE_CHECKING:
    from types import FrameType

    from bigdecon.config import RunConfig
    from bigdecon.pipeline import RunResult
    from bigdecon.running.planning import RunPlan


@click.command(cls=RecordedCommand)
@click.argument("input_path", metavar="INPUT", type=click.Path())
@run_options
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option("--quiet", is_flag=True, help="Print warnings and errors only.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_context
def command(
    context: click.Context,
    input_path: str,
    *,
    save_config: str | None,
    log_file: str | None,
    quiet: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Restore a volume: blur and noise are removed together.

    INPUT is an OME-Zarr (path or URL) or a TIFF. The default method trains a small network on the volume
    itself. richardson-lucy needs no training and finds its own settings: without a GPU, a result in a few
    minutes. The same command continues where an interrupted one stopped.

    \b
    Examples:
      bigdecon run volume.ome.zarr --psf psf.tif
      bigdecon run stack.tif --psf psf.tif --method richardson-lucy --voxel-size 0.3 0.13 0.13
      bigdecon run volume.ome.zarr --psf psf.tif --method richardson-lucy --iterations 10 --sieve 0
      bigdecon run --config run.toml
    """  # noqa: D301
    _end_in_order()
    config = run_config(input_path, settings)
    if save_config:
        check_place(save_config)
    _run(context, config, save_config, log_file, quiet=quiet, as_json=as_json)


def _end_in_order() -> None:
    """Have a terminated job, or one whose connection drops, end as with Ctrl-C: its jobs are cancelled.

    Only the first of these signals counts: a shell that loses its terminal repeats them, and the second one
    would cut the ending short. What is ignored, as under nohup, stays so.
    """
    endings = [signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) is signal.SIG_DFL:
        endings.append(hangup)

    def end(number: int, frame: FrameType | None) -> None:
        for ending in endings:
            signal.signal(ending, signal.SIG_IGN)  # holds for scancel, too, and while Python itself ends
        signal.default_int_handler(number, frame)

    for ending in endings:
        signal.signal(ending, end)


def _run(
    context: click.Context,
    config: RunConfig,
    save_config: str | None,
    log_file: str | None,
    *,
    quiet: bool,
    as_json: bool,
) -> None:
    from bigdecon_cli.display import choose_display, endings_told

    from bigdecon.running.early_checks import check_early

    command_typed = command_line(context)

    def show_plan(plan: RunPlan) -> None:
        from bigdecon.running.plan_text import chosen_settings, describe_plan

        if as_json:
            job = {"job_script": script} if script else {}
            findings = [finding.as_json() for finding in plan.findings]
            click.echo(
                json.dumps({"event": "Plan", "plan": describe_plan(plan), "findings": findings, **job})
            )
        elif not quiet:
            for heading, text in describe_plan(plan):
                click.echo(f"{heading:>12}  {text}")
        display.log(
            "plan: " + "; ".join(f"{heading} {text}".strip() for heading, text in describe_plan(plan))
        )
        if save_config:  # now that they are known to work
            save_settings(context, save_config, quiet=quiet or as_json, chosen=chosen_settings(plan))

    stopped = "Stopped. What is finished is kept; the same command continues."
    with (
        choose_display(quiet=quiet, as_json=as_json, log_file=log_file, title=command_typed) as display,
        endings_told(stopped, as_json=as_json),
    ):
        check_early(config)
        from bigdecon.pipeline import run
        from bigdecon.running.workforce import job_script

        script = job_script(config) if config.dry_run else ""
        result = run(config, on_plan=show_plan, on_event=display, command=command_typed)
        display.log(f"{result.state}: {result.output}")
    if script and not (quiet or as_json):  # last, so that it can be taken as it stands
        click.echo(f"\nThe script of each job, for sbatch:\n\n{script}")
    _conclude(result, quiet=quiet, as_json=as_json)


def _conclude(result: RunResult, *, quiet: bool, as_json: bool) -> None:
    """Say what came out; a result that lacks blocks ends with exit code 3."""
    if as_json:
        models = [str(path) for path in result.models]
        click.echo(json.dumps({"event": "Result", "state": result.state, "output": str(result.output),
                               "clipped_voxels": result.clipped, "skipped_blocks": result.skipped,
                               "missing_blocks": len(result.missing), "models": models,
                               "seconds": result.seconds, **_report_in_json(result)}))  # fmt: skip
    else:
        _tell(result, quiet=quiet)
    if result.missing:
        raise SystemExit(RunError.exit_code)


def _report_in_json(result: RunResult) -> dict[str, Any]:
    """Name the report, and what it says first."""
    if result.report is None:
        return {"report": None}
    verdict = [statement._asdict() for statement in result.report.statements]
    return {"report": str(result.report.page), "verdict": verdict}


def _tell(result: RunResult, *, quiet: bool) -> None:
    if result.clipped:
        kind = result.plan.config.dtype
        say_warning(f"{result.clipped} voxels were beyond the range of {kind}: clipped.")
    if not quiet and result.state != "planned":
        _tell_where(result)
    if result.missing:
        many = "1 block" if len(result.missing) == 1 else f"{len(result.missing)} blocks"
        say_error(
            f"{many} could not be restored and are empty in the result; mend the input and give the "
            f"same command again, it does only those. bigdecon status {result.output} lists them."
        )


def _tell_where(result: RunResult) -> None:
    if result.state == "found finished":
        click.echo(f"{result.output} was finished by an earlier run of this command; nothing was done.")
        _tell_report(result)
        return
    if result.skipped:
        plan = result.plan
        blocks = len(plan.grid) * plan.volume.n_timepoints * plan.volume.n_channels
        click.echo(f"{result.skipped} of {blocks} blocks were constant or dim, and skipped.")
    click.echo(f"Result: {result.output}")
    for path in result.models:
        click.echo(f"Model:  {path}")
    _tell_report(result)


def _tell_report(result: RunResult) -> None:
    if result.report is not None:
        first = result.report.statements[0]
        click.echo(f"Report: {result.report.page}")
        click.echo(f"        {first.question} {first.answer}. {first.because}")
