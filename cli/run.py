"""`bigdecon run`: flags in, a RunConfig out; everything else is the library's."""

from __future__ import annotations

import json
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from bigdecon.config import ENGINES, LOSS_PRESETS, METHODS, PRESETS, RunConfig, TilingConfig
from bigdecon.errors import BigdeconError, OptionError

if TYPE_CHECKING:
    from bigdecon.pipeline import RunResult
    from bigdecon.planning import RunPlan


class VoxelSize(click.Option):
    """An option with one value for every spatial axis: three, or two for an image (Y X)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.update(nargs=3, type=float, metavar="Z Y X")
        super().__init__(*args, **kwargs)


class NumberOrAuto(click.ParamType):
    """A number, or the word auto."""

    name = "number|auto"

    def __init__(self, kind: type[int] | type[float] = float) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read what was typed."""
        if value == "auto" or isinstance(value, int | float):
            return value
        try:
            return self.kind(value)
        except ValueError:
            what = "a whole number" if self.kind is int else "a number"
            self.fail(f"{value!r} is neither {what} nor auto.", param, ctx)


def _input_options(command: Any) -> Any:
    options = [
        click.option("--psf", multiple=True, metavar="FILE", help="PSF; one for all channels, or one each."),
        click.option("--psf-voxel-size", cls=VoxelSize, help="Voxel size of the PSF, um (2D: 1 Y X)."),
        click.option("--voxel-size", cls=VoxelSize, help="Voxel size of the volume, um (2D: 1 Y X)."),
        click.option("--level", default=0, show_default=True, help="Resolution level, 0 is the finest."),
        click.option("--channel", multiple=True, metavar="C", help="Index or name; repeatable; default all."),
        click.option("--timepoint", type=int, help="Index of one time point; default all."),
        click.option(
            "--roi",
            metavar="z0:z1,y0:y1,x0:x1",
            help="Region of interest, in voxels; nothing beyond it is read.",
        ),
    ]
    return _apply(options, command)


def _method_options(command: Any) -> Any:
    losses = ", ".join(LOSS_PRESETS)
    options = [
        click.option("--method", type=click.Choice(METHODS), default="siamese", show_default=True,
                     help="siamese and ssi train on the volume itself; the others need no training."),
        click.option("--preset", type=click.Choice(PRESETS), default="auto", show_default=True,
                     help="Size of network and training; paper: as published."),
        click.option("--loss", metavar="NAME|WEIGHTS", help=f"{losses}, or weights as rec=1,inv=2."),
        click.option("--steps", type=int, help="Training steps at most."),
        click.option("--train-minutes", type=float, help="Time budget for training."),
        click.option("--model", metavar="FILE", help="Trained model, or an earlier result with one."),
        click.option("--refine", type=int, metavar="N",
                     help="N accelerated iterations of Richardson-Lucy after the network; 20 is a good"
                     " number, fewer than 10 blur."),
        click.option("--seed", default=0, show_default=True, help="Seed of everything random."),
        click.option("--background", type=NumberOrAuto(), default="auto", show_default=True,
                     help="Camera offset in data units; auto: from the image."),
    ]  # fmt: skip
    return _apply(options, command)


def _classical_options(command: Any) -> Any:
    options = [
        click.option("--iterations", type=NumberOrAuto(int), metavar="N|auto",
                     help="Of classical methods [default: auto for richardson-lucy, else enough]."),
        click.option("--sieve", type=NumberOrAuto(), metavar="SIGMA|auto",
                     help="richardson-lucy: Gaussian against noise, voxels; 0 for none [default: auto]."),
        click.option("--total-variation", type=float, default=0.0, metavar="LAMBDA",
                     help="richardson-lucy: weight of total variation, 0.002 to 0.02 [default: 0]."),
        click.option("--accelerate/--no-accelerate", default=None,
                     help="richardson-lucy: a third of the iterations [default: with --iterations auto]."),
        click.option("--regularization", type=NumberOrAuto(), default="auto", metavar="WEIGHT|auto",
                     help="wiener, conjugate-gradient, chambolle-pock: against noise [default: auto]."),
    ]  # fmt: skip
    return _apply(options, command)


def _tiling_options(command: Any) -> Any:
    options = [
        click.option("--block", type=int, help="Extent of a block's core, voxels [default: 128; in 2D 512]."),
        click.option("--halo", type=int, help="Context around a block, voxels; default 32 or as needed."),
        click.option("--tile", type=int, help="Extent of one network pass, voxels; default: what fits."),
        click.option("--engine", type=click.Choice(ENGINES), default="auto", show_default=True,
                     help="How blocks get their halo; the result is the same."),
    ]  # fmt: skip
    return _apply(options, command)


def _output_options(command: Any) -> Any:
    options = [
        click.option(
            "-o", "--output", metavar="DIR", help="Default: NAME.deconvolved.ome.zarr beside the input."
        ),
        click.option(
            "--dtype", default="float32", show_default=True, help="Of the result; integers are rounded."
        ),
        click.option(
            "--ome-version",
            type=click.Choice(["0.5", "0.4"]),
            default="0.5",
            show_default=True,
            help="Of the result; 0.4 for older viewers.",
        ),
        click.option("--subtract-background", is_flag=True, help="Take the camera offset off the result."),
        click.option("--overwrite", is_flag=True, help="Replace an earlier result of bigdecon."),
        click.option("--dry-run", is_flag=True, help="Print the plan and stop."),
        click.option("--quiet", is_flag=True, help="Print warnings and errors only."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line."),
    ]
    return _apply(options, command)


def _cluster_options(command: Any) -> Any:
    options = [
        click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda."),
        click.option("--cluster", default="local", show_default=True, metavar="local|tcp://HOST:PORT|FILE",
                     help="A Dask cluster of its own, or a running scheduler's address or file."),
        click.option("--workers", type=int, help="Worker processes; default one a GPU, else one."),
        click.option("--threads", type=int, help="CPU threads of a worker; default all."),
        click.option("--memory-limit", metavar="SIZE", help="Of a worker, as 4GiB; default the machine's."),
        click.option("--dashboard-address", default="127.0.0.1:8787", show_default=True,
                     help="Of the Dask dashboard; none switches it off."),
    ]  # fmt: skip
    return _apply(options, command)


TRAINING_OPTIONS = ("loss", "steps", "train_minutes")
NETWORKS, LUCY = ("siamese", "ssi"), ("richardson-lucy",)
OWNERS = {
    **dict.fromkeys(("preset", "tile", "model", "steps", "train_minutes", "refine"), NETWORKS),
    "loss": ("siamese",),
    **dict.fromkeys(("sieve", "total_variation", "accelerate"), LUCY),
    "iterations": (*LUCY, "conjugate-gradient", "chambolle-pock"),
    "regularization": ("wiener", "conjugate-gradient", "chambolle-pock"),
}


def _apply(options: list[Any], command: Any) -> Any:
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("input_path", metavar="INPUT")
@_input_options
@_method_options
@_classical_options
@_tiling_options
@_output_options
@_cluster_options
def command(
    input_path: str,
    *,
    block: int | None,
    halo: int | None,
    tile: int | None,
    engine: Any,
    quiet: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Restore a volume: blur and noise are removed together.

    INPUT is an OME-Zarr (path or URL) or a TIFF. The default method trains a small network on the volume
    itself. richardson-lucy needs no training and finds its own settings: without a GPU, a result in a minute
    or two. The same command continues where an interrupted one stopped.

    \b
    Examples:
      bigdecon run volume.ome.zarr --psf psf.tif
      bigdecon run stack.tif --psf psf.tif --method richardson-lucy --voxel-size 0.3 0.13 0.13
      bigdecon run volume.ome.zarr --psf psf.tif --method richardson-lucy --iterations 10 --sieve 0
    """  # noqa: D301
    # A terminated job ends in order, as with Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for name in ("psf", "channel"):
        settings[name] = tuple(settings[name])
    _refuse_idle_options(settings["method"], settings["model"])
    tiling = TilingConfig(block=block, halo=halo, tile=tile, engine=engine)
    config = RunConfig(input=input_path, tiling=tiling, **settings)
    _run(config, quiet=quiet, as_json=as_json)


def _refuse_idle_options(method: str, model: str | None) -> None:
    """Refuse options that the method would take no notice of: who gives one expects it to matter."""
    context = click.get_current_context()
    for name, owners in OWNERS.items():
        if context.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE:
            continue
        flag = "--" + name.replace("_", "-")
        if method not in owners:
            several = f"methods {', '.join(owners[:-1])} and {owners[-1]}"
            whose = several if len(owners) > 1 else f"method {owners[0]}"
            raise OptionError(f"{flag} belongs to the {whose}, not to {method}.")
        if model and name in TRAINING_OPTIONS:
            raise OptionError(f"{flag} is about training, but --model names a network that is trained.")


def _run(config: RunConfig, *, quiet: bool, as_json: bool) -> None:
    from bigdecon_cli.display import choose_display

    from bigdecon.pipeline import run
    from bigdecon.plan_text import describe_plan

    def show_plan(plan: RunPlan) -> None:
        if as_json:
            click.echo(json.dumps({"event": "Plan", "plan": describe_plan(plan)}))
        elif not quiet:
            for heading, text in describe_plan(plan):
                click.echo(f"{heading:>12}  {text}")

    with choose_display(quiet=quiet, as_json=as_json) as display:
        try:
            result = run(config, on_plan=show_plan, on_event=display)
        except KeyboardInterrupt:
            if sys.stderr.isatty():
                click.echo(err=True)  # below the bar
            click.echo("Stopped. What is finished is kept; the same command continues.", err=True)
            raise SystemExit(130) from None
        except BigdeconError as error:
            if as_json:
                click.echo(json.dumps({"event": "Error", "text": str(error), "exit_code": error.exit_code}))
            raise
    _conclude(result, quiet=quiet, as_json=as_json)


def _conclude(result: RunResult, *, quiet: bool, as_json: bool) -> None:
    if as_json:
        models = [str(path) for path in result.models]
        click.echo(json.dumps({"event": "Result", "state": result.state, "output": str(result.output),
                               "clipped_voxels": result.clipped, "models": models,
                               "seconds": result.seconds}))  # fmt: skip
        return
    if result.clipped:
        kind = result.plan.config.dtype
        click.echo(f"Warning: {result.clipped} voxels were beyond the range of {kind}: clipped.", err=True)
    if quiet or result.state == "planned":
        return
    if result.state == "found finished":
        click.echo(f"{result.output} was finished by an earlier run of this command; nothing was done.")
        return
    click.echo(f"Result: {result.output}")
    for path in result.models:
        click.echo(f"Model:  {path}")
