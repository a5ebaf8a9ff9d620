"""Settings: presets hold the numbers of the paper, and what cannot work is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict
from pathlib import Path
from typing import Any

import pytest

from bigdecon.cluster_settings import SlurmSettings
from bigdecon.config import (
    LOSS_PRESETS,
    PRESETS,
    LossWeights,
    NetworkConfig,
    RunConfig,
    TilingConfig,
    TrainingConfig,
    parse_loss,
    training_preset,
)
from bigdecon.errors import OptionError
from bigdecon.ssi_config import SSIConfig, SSINetworkConfig, ssi_preset


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("noise2self", LossWeights(bsp=1)),
        ("noise2same", LossWeights(rec=1, inv=2)),
        ("noise2same-d", LossWeights(rec=1, inv_d=2)),
        ("rec=1,inv=2,bound=0.1", LossWeights(rec=1, inv=2, bound=0.1)),
        (" bsp = 1 , bound_d = 1e-1 ", LossWeights(bsp=1, bound_d=0.1)),
    ],
)
def test_losses_are_read(text: str, weights: LossWeights) -> None:
    assert parse_loss(text) == weights


@pytest.mark.parametrize(
    "text", ["", "noise2void", "rec", "rec=", "rec=x", "foo=1", "rec=1,,inv=2", "rec=1;inv=2"]
)
def test_a_loss_that_is_not_understood_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(OptionError, match=r"noise2same-d.*bound_d"):
        parse_loss(text)


@pytest.mark.parametrize("text", ["rec=-1", "rec=nan", "bsp=inf", "rec=1,inv=-0.1"])
def test_weights_are_finite_and_not_negative(text: str) -> None:
    with pytest.raises(OptionError, match="finite and at least 0"):
        parse_loss(text)


@pytest.mark.parametrize("text", ["inv=2", "bound=1,bound_d=1", "rec=0,inv=1"])
def test_a_loss_must_compare_with_the_data(text: str) -> None:
    with pytest.raises(OptionError, match="compares nothing with the data"):
        parse_loss(text)


@pytest.mark.parametrize(
    ("text", "unmasked", "masked"),
    [
        ("noise2self", False, True),
        ("noise2same", True, True),
        ("rec=1", True, False),
        ("rec=1,inv_d=1", True, True),
    ],
)
def test_only_the_passes_that_are_needed(text: str, unmasked: bool, masked: bool) -> None:
    weights = parse_loss(text)
    assert (weights.needs_unmasked_pass, weights.needs_masked_pass) == (unmasked, masked)


@pytest.mark.parametrize("accelerator", [False, True])
def test_the_paper_preset_is_the_papers(accelerator: bool) -> None:
    volume = training_preset("paper", ndim=3, accelerator=accelerator)
    assert volume.network == NetworkConfig(3, 48, 3, "add", "batch")
    assert (volume.patch_shape, volume.batch, volume.steps, volume.halve_every) == (
        (64, 64, 64),
        4,
        15000,
        2000,
    )
    assert volume.loss == LOSS_PRESETS["noise2same"]
    image = training_preset("paper", ndim=2, accelerator=accelerator)
    assert image.network == NetworkConfig(2, 96, 3, "concatenate", "batch")
    assert (image.patch_shape, image.batch, image.steps, image.halve_every) == ((128, 128), 16, 3000, 500)
    assert image.loss == LOSS_PRESETS["noise2same-d"]
    for config in (volume, image):
        assert (config.learning_rate, config.mask_fraction, config.mask_noise) == (4e-4, 0.005, 0.2)
        assert config.upper_bound
        assert not config.valid_losses


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("accelerator", [False, True])
def test_every_preset_fits_together(preset: str, ndim: int, accelerator: bool) -> None:
    config = training_preset(preset, ndim=ndim, accelerator=accelerator)  # type: ignore[arg-type]
    assert config.network.ndim == len(config.patch_shape) == ndim
    assert all(n % 2 ** (config.network.depth - 1) == 0 for n in config.patch_shape)
    assert config.mixed_precision == (preset != "paper")
    assert config.evaluate_every <= config.steps
    assert config.checkpoint_every <= config.steps


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("accelerator", [False, True])
def test_the_paper_preset_of_ssi_is_the_published_program(ndim: int, accelerator: bool) -> None:
    config = ssi_preset("paper", ndim=ndim, accelerator=accelerator)
    assert config.network == SSINetworkConfig(ndim, channels=8, depth=5)
    assert (config.steps, config.patience, config.rate_patience, config.rate_factor) == (3000, 300, 150, 0.9)
    assert (config.learning_rate, config.weight_decay, config.parameter_noise) == (0.01, 1e-6, 0.1)
    assert (config.mask_density_start, config.mask_density, config.mask_decay) == (0.5, 0.05, 0.995)
    assert (config.training_noise, config.boundary_weight, config.held_out_fraction) == (0.1, 0.1, 0.1)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("accelerator", [False, True])
def test_every_preset_of_ssi_fits_together(preset: str, ndim: int, accelerator: bool) -> None:
    config = ssi_preset(preset, ndim=ndim, accelerator=accelerator)  # type: ignore[arg-type]
    assert config.network.ndim == len(config.patch_shape) == ndim
    assert all(n % 16 == 0 for n in config.patch_shape)
    assert max(config.evaluate_every, config.checkpoint_every) <= config.steps
    published = preset == "paper" or (preset == "auto" and accelerator)
    assert config == ssi_preset("paper" if published else "fast", ndim=ndim, accelerator=False)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"patch_shape": (64, 64)}, r"patch \(64, 64\) does not suit a network of 3 dimensions"),
        ({"patch_shape": (64, 64, 0)}, "one extent of at least 1 voxel for every dimension"),
        ({"steps": 0}, "steps is 0; SSI needs at least 1"),
        ({"batch": 0}, "batch is 0"),
        ({"mask_density": 0.0}, "mask_density is 0; SSI needs a part above 0 and below 1"),
        ({"mask_density_start": 1.0}, "mask_density_start is 1"),
        ({"held_out_fraction": 0.0}, "held_out_fraction is 0"),
        ({"learning_rate": -1.0}, "learning_rate is -1; SSI needs a finite number that is at least 0"),
        ({"training_noise": float("nan")}, "training_noise is nan"),
        ({"mask_decay": 1.5}, "mask_decay is 1.5; SSI needs a factor of at most 1"),
    ],
)
def test_settings_that_cannot_train_by_ssi_are_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        SSIConfig(**wrong)


def test_auto_is_fast_without_an_accelerator() -> None:
    for ndim in (2, 3):
        assert training_preset("auto", ndim=ndim, accelerator=False) == training_preset(
            "fast", ndim=ndim, accelerator=False
        )


def test_a_run_can_be_written_as_json() -> None:
    config = RunConfig("in.tif", ("psf.tif",), voxel_size=(0.3, 0.1, 0.1), tiling=TilingConfig(block=64))
    written = json.loads(json.dumps(config.as_dict()))
    assert written["tiling"]["block"] == 64
    assert written["voxel_size"] == [0.3, 0.1, 0.1]


def test_what_jobs_are_given_is_not_recorded() -> None:
    slurm = SlurmSettings(
        partition="gpu", prologue=("export AWS_SECRET_ACCESS_KEY=hush",), directives=("--export=TOKEN=hush",)
    )
    written = RunConfig("in.tif", ("psf.tif",), slurm=slurm).as_dict()
    assert written["slurm"] == {"partition": "gpu", "walltime": None, "jobs": (1, 1)}
    assert "hush" not in json.dumps(written)


def test_settings_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        TrainingConfig().steps = 1  # type: ignore[misc]


def test_settings_import_nothing_heavy() -> None:
    code = "import sys, bigdecon.config; print({'torch', 'dask', 'zarr', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_page_about_presets_is_true(ndim: int) -> None:
    page = (Path(__file__).parents[1] / "docs" / "presets.md").read_text()
    section = page.split(f"In {ndim}D:")[1].split("\n\n")[1]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines()]
    columns = [
        training_preset("fast", ndim=ndim, accelerator=False),
        training_preset("auto", ndim=ndim, accelerator=True),
        training_preset("paper", ndim=ndim, accelerator=True),
    ]
    rows = {
        "channels": [str(c.network.channels) for c in columns],
        "skip connections": [c.network.skip for c in columns],
        "steps up by": [
            "interpolation" if c.network.up == "linear" else "transposed convolution" for c in columns
        ],
        "1-2-1 filter on the output": ["yes" if c.network.smooth else "no" for c in columns],
        "loss": [
            ",".join(f"{name}={weight:g}" for name, weight in asdict(c.loss).items() if weight)
            for c in columns
        ],
        "losses where": ["valid region" if c.valid_losses else "whole patch" for c in columns],
        "upper bound in the boundary terms": ["yes" if c.upper_bound else "no" for c in columns],
        "patch": [str(c.patch_shape[0]) for c in columns],
        "patches a step": [str(c.batch) for c in columns],
        "steps": [str(c.steps) for c in columns],
        "learning rate": [f"{c.learning_rate:g}" for c in columns],
        "schedule": [c.schedule for c in columns],
        "norm of the gradient at most": [
            f"{c.clip_gradient:g}" if c.clip_gradient else "no limit" for c in columns
        ],
        "stops early": ["yes" if c.patience else "no" for c in columns],
        "bfloat16 in training": ["where it is fast" if c.mixed_precision else "no" for c in columns],
    }
    assert {row[0]: row[1:] for row in table[2:]} == rows
