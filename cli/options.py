"""What `bigdecon run` can be told: its options by group, and the RunConfig that they make.

A command that takes the same flags, such as `bigdecon plan`, applies `run_options` as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from bigdecon_cli.config_file import config_options, given_as, typed, was_given

from bigdecon.cluster_settings import SlurmSettings, parse_jobs
from bigdecon.config import ENGINES, LOSS_PRESETS, METHODS, PRESETS, RunConfig, TilingConfig
from bigdecon.errors import OptionError

__all__ = ["NumberOrAuto", "VoxelSize", "run_config", "run_options"]

TRAINING_OPTIONS = ("loss", "steps", "train_minutes")
NETWORKS, LUCY = ("siamese", "ssi"), ("richardson-lucy",)
OWNERS = {
    **dict.fromkeys(("preset", "tile", "model", "steps", "train_minutes", "refine"), NETWORKS),
    "loss": ("siamese",),
    **dict.fromkeys(("sieve", "total_variation", "accelerate"), LUCY),
    "iterations": (*LUCY, "conjugate-gradient", "chambolle-pock"),
    "regularization": ("wiener", "conjugate-gradient", "chambolle-pock"),
}
"""The methods that know an option."""
TILING = ("block", "halo", "tile", "engine")
"""Options that make up the TilingConfig."""
SLURM = {
    **{name: name for name in ("partition", "account", "walltime", "gres", "mem", "jobs", "prologue")},
    "job_directive": "directives",
    "log_directory": "log_directory",
}
"""Options that make up the SlurmSettings, and their names there."""


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


def run_options(command: Any) -> Any:
    """Give a command the options of `bigdecon run`, by group; the last ones make no part of the settings."""
    groups = (
        _input_options,
        _method_options,
        _classical_options,
        _tiling_options,
        _output_options,
        _cluster_options,
        _slurm_options,
        config_options,
        _log_option,
    )
    for group in reversed(groups):
        command = group(command)
    return command


def run_config(input_path: str, settings: Mapping[str, Any]) -> RunConfig:
    """Turn what was typed into a RunConfig.

    Parameters
    ----------
    input_path : the image
    settings : values of `run_options` by name, and `dry_run` where the command has it

    Raises
    ------
    OptionError
        if an option was given that the method takes no notice of
    """
    chosen = dict(settings)
    tiling = TilingConfig(**{name: chosen.pop(name) for name in TILING})
    for name in ("psf", "channel"):
        chosen[name] = tuple(chosen[name])
    _refuse_idle_options(chosen["method"], chosen["model"])
    slurm = _slurm_settings(chosen)
    return RunConfig(input=input_path, tiling=tiling, slurm=slurm, **chosen)


def _input_options(command: Any) -> Any:
    options = [
        click.option(
            "--psf",
            multiple=True,
            type=click.Path(),
            metavar="FILE",
            help="PSF; one for all channels, or one each.",
        ),
        click.option("--psf-voxel-size", cls=VoxelSize, help="Voxel size of the PSF, µm (2D: 1 Y X)."),
        click.option("--voxel-size", cls=VoxelSize, help="Voxel size of the volume, µm (2D: 1 Y X)."),
        click.option(
            "--na", type=float, help="NA of the objective, for warnings; default: the image's or PSF's."
        ),
        click.option("--wavelength", type=float, help="Of the emitted light, µm (520 nm is 0.52), likewise."),
        click.option("--refractive-index", type=float, help="Of the immersion, likewise."),
        click.option("--level", default=0, show_default=True, help="Resolution level, 0 is the finest."),
        click.option("--channel", multiple=True, metavar="C", help="Index or name; repeatable; default all."),
        click.option("--timepoint", type=int, help="Index of one time point; default all."),
        click.option(
            "--roi",
            metavar="z0:z1,y0:y1,x0:x1",
            help="Region of interest, in voxels; nothing beyond it is read.",
        ),
        click.option(
            "--mask",
            type=click.Path(),
            metavar="FILE",
            help="Restore only where this image, of any resolution, is not 0; elsewhere the result is 0.",
        ),
        click.option(
            "--skip-dim",
            type=float,
            metavar="VALUE",
            help="Leave blocks as they are whose brightest voxel, halo included, is below this.",
        ),
        click.option(
            "--follow-links",
            is_flag=True,
            help="Links inside a Zarr store may lead out of it, to parts on other disks.",
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
        click.option("--model", type=click.Path(), metavar="FILE",
                     help="Trained model, or an earlier result with one."),
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
        click.option("--block", type=NumberOrAuto(int), metavar="N|auto",
                     help="Extent of a block's core, voxels; auto: by the memory [default: 128, in 2D 512]."),
        click.option("--halo", type=int, help="Context around a block, voxels; default 32 or as needed."),
        click.option("--tile", type=int, help="Extent of one network pass, voxels; default: what fits."),
        click.option("--engine", type=click.Choice(ENGINES), default="auto", show_default=True,
                     help="How blocks get their halo; the result is the same."),
    ]  # fmt: skip
    return _apply(options, command)


def _output_options(command: Any) -> Any:
    options = [
        click.option(
            "-o",
            "--output",
            type=click.Path(),
            metavar="DIR",
            help="Default: NAME.deconvolved.ome.zarr beside the input.",
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
        click.option(
            "--max-failed",
            type=int,
            default=500,
            show_default=True,
            metavar="N",
            help="Stop when more than N blocks cannot be restored; up to N are left empty (exit code 3).",
        ),
        click.option("--overwrite", is_flag=True, help="Replace an earlier result of bigdecon."),
        click.option(
            "--report/--no-report",
            default=True,
            show_default=True,
            help="Write NAME.report.html and .png beside the result: what it is like, "
            "and whether to trust it.",
        ),
    ]
    return _apply(options, command)


def _cluster_options(command: Any) -> Any:
    options = [
        click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda."),
        click.option("--cluster", default="local", show_default=True, metavar="local|slurm|tcp://HOST:PORT|FILE",
                     help="Workers here, in jobs of SLURM, or a running scheduler's address or file."),
        click.option("--workers", type=int, help="Worker processes (of a job); default one a GPU, else one."),
        click.option("--gpus", type=int, help="GPUs to use (in a job); default all, or those of --gres."),
        click.option("--threads", type=int, help="CPU threads of a worker; default all."),
        click.option("--memory-limit", metavar="SIZE", help="Of a worker, as 4GiB; default the machine's."),
        click.option("--dashboard-address", default="127.0.0.1:8787", show_default=True,
                     help="Of the Dask dashboard; none switches it off."),
    ]  # fmt: skip
    return _apply(options, command)


def _slurm_options(command: Any) -> Any:
    options = [
        click.option("--partition", metavar="NAME", help="SLURM: partition of the jobs."),
        click.option("--account", metavar="NAME", help="SLURM: account they are booked on."),
        click.option("--walltime", metavar="TIME", help="SLURM: a job's time limit [default: 4:00:00]."),
        click.option("--gres", metavar="GRES", help="SLURM: generic resources of a job, as gpu:2."),
        click.option("--mem", metavar="SIZE", help="SLURM: memory of a job, as 64G."),
        click.option("--jobs", metavar="MIN:MAX",
                     help="SLURM: jobs kept alive, at least and at most [default: 1:1]."),
        click.option("--job-directive", multiple=True, metavar="TEXT",
                     help="SLURM: another option of sbatch, as --constraint=a100; repeatable."),
        click.option("--prologue", multiple=True, metavar="LINE",
                     help="SLURM: shell line before the workers start, as 'module load cuda'; repeatable."),
        click.option("--log-directory", type=click.Path(), metavar="DIR",
                     help="SLURM: where jobs write their logs [default: NAME.logs beside the result]."),
        click.option("--interface", metavar="NAME",
                     help="SLURM: network interface of scheduler and workers, as ib0."),
        click.option("--tls/--no-tls", default=True, show_default=True,
                     help="SLURM: encrypt, and accept only this run's own workers."),
    ]  # fmt: skip
    return _apply(options, command)


def _log_option(command: Any) -> Any:
    option = click.option(
        "--log-file", type=click.Path(), metavar="FILE", help="Append all messages, with times, to this file."
    )
    return option(command)


def _slurm_settings(chosen: dict[str, Any]) -> SlurmSettings:
    """Take the options of SLURM's jobs out of those chosen, and refuse them for another cluster."""
    context = click.get_current_context()
    for name in (*SLURM, "interface", "tls"):
        # Who types another cluster than the file names need not take the file's jobs out of it.
        given = typed(context, name) or (was_given(context, name) and not typed(context, "cluster"))
        if given and chosen["cluster"] != "slurm":
            flag = "--no-tls" if name == "tls" and typed(context, name) else given_as(context, name)
            raise OptionError(f"{flag} belongs to --cluster slurm, not to {chosen['cluster']}.")
    values = {field: chosen.pop(name) for name, field in SLURM.items()}
    values["jobs"] = parse_jobs(values["jobs"]) if values["jobs"] else (1, 1)
    values["directives"], values["prologue"] = tuple(values["directives"]), tuple(values["prologue"])
    return SlurmSettings(**values)


def _refuse_idle_options(method: str, model: str | None) -> None:
    """Refuse options that the method would take no notice of: who gives one expects it to matter."""
    context = click.get_current_context()
    for name, owners in OWNERS.items():
        if not was_given(context, name):
            continue
        flag = given_as(context, name)
        if method not in owners:
            several = f"methods {', '.join(owners[:-1])} and {owners[-1]}"
            whose = several if len(owners) > 1 else f"method {owners[0]}"
            raise OptionError(f"{flag} belongs to the {whose}, not to {method}.")
        if model and name in TRAINING_OPTIONS:
            raise OptionError(f"{flag} is about training, but --model names a network that is trained.")


def _apply(options: list[Any], command: Any) -> Any:
    for option in reversed(options):
        command = option(command)
    return command
