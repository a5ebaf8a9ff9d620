"""What of a run can be refused at once: settings by themselves, and paths that lead nowhere.

Nothing here opens an image or loads torch, dask or zarr, which takes seconds: the command line asks it first,
and `planning.prepare` asks again whoever calls it from Python.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from bigdecon.config import CLASSICAL, RunConfig, parse_loss
from bigdecon.distributed.devices import parse_device
from bigdecon.errors import ModelError, OptionError, OutputError
from bigdecon.io.image_paths import check_image_path
from bigdecon.io.layout import check_dtype
from bigdecon.io.output_folder import (
    BOOKKEEPING,
    check_output_path,
    default_output,
    is_own_output,
    output_place,
)
from bigdecon.learning.model_path import check_model_path
from bigdecon.optics.psf_path import check_psf_path
from bigdecon.storage import places
from bigdecon.storage.places import Place, as_place

__all__ = ["check_early", "check_options", "choose_output", "model_files", "refuse_auto_iterations"]

MAX_ITERATIONS = 10_000
"""What is more than this is a slip of the keyboard: noise is amplified after some hundred."""


def check_early(config: RunConfig) -> None:
    """Refuse what can be refused without opening a file; what lies on servers is left to them.

    Raises
    ------
    InputError
        one of its kinds; nothing has been written
    """
    check_options(config)
    check_image_path(config.input)
    for psf in config.psf:
        check_psf_path(psf)
    if config.model is not None and isinstance(as_place(config.model), Path):
        for file in model_files(config.model):
            check_model_path(file)
    if config.mask:
        check_image_path(config.mask)
    output = choose_output(config)
    if isinstance(output, Path) and not is_own_output(output):
        check_output_path(output, overwrite=config.overwrite, input_location=config.input)


def check_options(config: RunConfig) -> None:
    """Refuse settings that cannot work, whatever the image.

    Raises
    ------
    OptionError
        if there is one
    """
    if not config.psf and not config.model:
        raise OptionError("no PSF was given; name its file with --psf, or make one with bigdecon psf make.")
    if config.input in config.psf:
        raise OptionError(
            f"{config.input} was given as the image and as its PSF; "
            "give the image first, and the PSF with --psf."
        )
    if config.model and config.method in CLASSICAL:
        raise OptionError(f"--model belongs to the methods siamese and ssi, not to {config.method}.")
    refuse_auto_iterations(config)
    if config.refine is not None and config.method in CLASSICAL:
        raise OptionError(f"--refine belongs to the methods siamese and ssi, not to {config.method}.")
    if config.output == "":
        raise OptionError("the name of the output is empty; give a folder with -o, or leave out -o.")
    if config.refine is not None and not 1 <= config.refine <= MAX_ITERATIONS:
        raise OptionError(f"--refine is {config.refine}; give 1 to {MAX_ITERATIONS} iterations.")
    if isinstance(config.iterations, int) and not 1 <= config.iterations <= MAX_ITERATIONS:
        raise OptionError(
            f"{config.iterations} iterations were asked for; give 1 to {MAX_ITERATIONS}, or leave out "
            "--iterations, which are then chosen."
        )
    if config.steps is not None and config.steps < 1:
        raise OptionError(f"--steps is {config.steps}; at least 1 step is needed.")
    if not 0 <= config.seed < 2**62:
        raise OptionError(f"--seed is {config.seed}; it must be between 0 and {2**62 - 1}.")
    if config.train_minutes is not None and not config.train_minutes > 0:
        raise OptionError(f"--train-minutes is {config.train_minutes:g}; it must be above 0.")
    _check_block(config.tiling.block)
    if config.max_failed < 0:
        raise OptionError(f"--max-failed is {config.max_failed}; it must be at least 0.")
    if config.skip_dim is not None and not math.isfinite(config.skip_dim):
        raise OptionError(f"--skip-dim is {config.skip_dim:g}; it must be a finite number in data units.")
    if config.background != "auto" and not math.isfinite(config.background):
        raise OptionError(f"--background is {config.background:g}; it must be a finite number in data units.")
    if config.loss is not None:
        parse_loss(config.loss)
    check_dtype(config.dtype)
    parse_device(config.device)


def _check_block(block: object) -> None:
    """Refuse what is neither a number of voxels nor "auto"; a script may give anything."""
    if block in (None, "auto"):
        return
    if isinstance(block, bool) or not isinstance(block, int):
        raise OptionError(f"--block is {block!r}; give a whole number of voxels, or auto.")
    if block < 1:
        raise OptionError(f"--block is {block}; a block has at least 1 voxel along every axis.")


def refuse_auto_iterations(config: RunConfig) -> None:
    """Refuse "auto" where a method has no such choice.

    Raises
    ------
    OptionError
        if it is asked for
    """
    if config.iterations == "auto" and config.method in CLASSICAL and config.method != "richardson-lucy":
        raise OptionError(f"--iterations auto belongs to the method richardson-lucy, not to {config.method}.")


def choose_output(config: RunConfig) -> Place:
    """Say where the result goes.

    Raises
    ------
    OutputError
        if its name is that of a TIFF
    """
    output = output_place(config.output) if config.output else default_output(config.input)
    if output.suffix.lower() in (".tif", ".tiff"):
        raise OutputError(
            f"the result is an OME-Zarr folder, but {output} is a TIFF by name; give {output.stem}.ome.zarr."
        )
    return output


def model_files(name: str) -> list[Place]:
    """Find models: the file itself, or those in a folder or in the result of an earlier run.

    Raises
    ------
    ModelError
        if there is none
    """
    path = as_place(name)
    if not path.is_dir() if isinstance(path, Path) else path.suffix in (".safetensors", ".json"):
        return [path]
    folder = path / BOOKKEEPING / "model" if is_own_output(path) else path
    try:
        found = [name for name in places.names(folder) if re.fullmatch(r"channel-\d+\.safetensors", name)]
    except OSError as error:
        raise ModelError(f"{folder} cannot be listed ({error.strerror or error}).") from error
    if not found:
        raise ModelError(f"{path} holds no model; name a .safetensors file or the result of a siamese run.")
    return [folder / name for name in sorted(found, key=lambda name: int(name[8:].partition(".")[0]))]
