"""`bigdecon plan`: what a run would take, and what of it would not fit."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click
from bigdecon_cli.config_file import RecordedCommand, check_place, command_line, save_settings
from bigdecon_cli.options import run_config, run_options

if TYPE_CHECKING:
    from bigdecon.forecasting.forecast import Forecast


@click.command(cls=RecordedCommand)
@click.argument("input_path", metavar="INPUT", type=click.Path())
@run_options
@click.option(
    "--calibrate/--no-calibrate",
    default=True,
    show_default=True,
    help="Time the method on a few blocks, some seconds long; without, the plan has no times.",
)
@click.option("--dry-run", is_flag=True, help="Of bigdecon run; a plan is dry in any case.")
@click.option("--quiet", is_flag=True, help="Print only what may not fit.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with numbers.")
@click.pass_context
def command(
    context: click.Context,
    input_path: str,
    *,
    save_config: str | None,
    log_file: str | None,
    calibrate: bool,
    quiet: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Tell what a run would take: time, memory, disk and files.

    Takes the options of bigdecon run, so put plan in the place of run. Nothing is written; what may not fit
    is told with the remedy. An image that holds no voxels yet can be planned for as well.

    \b
    Examples:
      bigdecon plan volume.ome.zarr --psf psf.tif
      bigdecon plan volume.ome.zarr --psf psf.tif --method richardson-lucy --workers 4 --json
    """  # noqa: D301
    from bigdecon_cli.display import choose_display

    from bigdecon.running.early_checks import check_early

    config = run_config(input_path, settings)
    if save_config:
        check_place(save_config)
    silent = quiet or as_json
    with choose_display(quiet=silent, log_file=log_file, title=command_line(context)) as display:
        check_early(config)
        # Before torch is loaded: threads that wait for one another shall not pass for threads that compute.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        from bigdecon.forecasting.forecast import forecast

        found = forecast(config, calibrate_seconds=8.0 if calibrate else None, on_event=display)
    if save_config:
        save_settings(context, save_config, quiet=silent)
    _show(found, quiet=quiet, as_json=as_json)


def _show(found: Forecast, *, quiet: bool, as_json: bool) -> None:
    from bigdecon.forecasting.plan_report import describe_forecast, forecast_numbers

    if as_json:
        click.echo(json.dumps({"event": "Forecast", **forecast_numbers(found)}))
        return
    if not quiet:
        for heading, text in describe_forecast(found):
            click.echo(f"{heading:>12}  {text}")
    for obstacle in found.obstacles:
        label = "Does not fit" if obstacle.certain else "May not fit"
        click.echo(f"{label}: {obstacle.sentence}")
