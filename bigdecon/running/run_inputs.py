"""What a run reads: the image, the PSFs, and the networks that were trained before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dask.utils import format_bytes
from distributed.system import MEMORY_LIMIT

from bigdecon.acquisition import LARGEST_INDEX, LEAST_APERTURE, LEAST_INDEX, LIGHT_UM, Objective
from bigdecon.config import RunConfig
from bigdecon.errors import ModelError, OptionError, VolumeError
from bigdecon.io.image_file import decoded_chunk_bytes
from bigdecon.io.reading import ChannelChoice, choose_channels, open_volume, parse_roi
from bigdecon.learning.checkpoint import Checkpoint, check_fit, load_checkpoint
from bigdecon.optics.psf import PSF, load_psf, psf_from_array
from bigdecon.optics.psf_corrections import LARGEST_VOXEL_UM
from bigdecon.running.early_checks import model_files
from bigdecon.volume import Volume

__all__ = ["load_models", "load_psfs", "open_input", "parse_roi", "psf_of"]


def open_input(config: RunConfig) -> Volume:
    """Open the image, and choose of it what was asked for."""
    selection = (config.level, choose_channels(config.channel), config.timepoint)
    volume = _open_selected(config.input, *selection, None, config.follow_links)
    if config.voxel_size:
        # An image without z leaves the first of three values aside.
        size = config.voxel_size[-len(volume.spatial_axes) :]
        volume = _open_selected(config.input, *selection, size, config.follow_links)
    largest = max(volume.voxel_size_um or (0.0,))
    if largest > LARGEST_VOXEL_UM:
        raise VolumeError(
            f"a voxel of {largest:g} µm is none of a microscope; give --voxel-size in micrometres, "
            f"so {largest:g} nm is {largest / 1000:g}."
        )
    _check_chunks(volume)
    volume = _with_optics(volume, config)
    return volume.crop(parse_roi(config.roi, volume.spatial_axes)) if config.roi else volume


def _with_optics(volume: Volume, config: RunConfig) -> Volume:
    """Let the optics that were given go before those of the image's metadata."""
    na, light, index = config.na, config.wavelength, config.refractive_index
    if na is not None and not LEAST_APERTURE <= na <= LARGEST_INDEX:
        raise OptionError(
            f"--na is {na:g}; a numerical aperture is between {LEAST_APERTURE:g} and {LARGEST_INDEX:g}, "
            "and below the refractive index of the immersion."
        )
    if index is not None and not LEAST_INDEX <= index <= LARGEST_INDEX:
        raise OptionError(
            f"--refractive-index is {index:g}; it is between {LEAST_INDEX:g} and {LARGEST_INDEX:g}: "
            "oil has 1.515, water 1.33, air 1."
        )
    if light is not None and not LIGHT_UM[0] <= light <= LIGHT_UM[1]:
        raise OptionError(f"--wavelength is {light:g}; it is in micrometres, so 520 nm is 0.52.")
    if light is not None and volume.n_channels > 1:
        raise OptionError(
            f"--wavelength is that of one channel, and {volume.name} has {volume.n_channels}; "
            "choose one with --channel."
        )
    known = volume.objective
    objective = Objective(na or known.numerical_aperture, index or known.refractive_index)
    if na is not None or index is not None:
        _check_objective(objective, na, index)
    channels = volume.channels
    if light is not None:
        channels = (replace(channels[0], emission_um=light),)
    return replace(volume, objective=objective, channels=channels)


def _check_objective(objective: Objective, na: float | None, index: float | None) -> None:
    """Refuse an aperture that the immersion does not allow, if one of both was given."""
    aperture, immersion = objective.numerical_aperture, objective.refractive_index
    if aperture is None or immersion is None or aperture < immersion:
        return
    given, told = "(given)", "(of the image's metadata)"
    raise OptionError(
        f"a numerical aperture of {aperture:g} {told if na is None else given} needs an immersion of a "
        f"larger refractive index than {immersion:g} {told if index is None else given}; give --na and "
        "--refractive-index as they are: oil has 1.515, water 1.33, air 1."
    )


def _check_chunks(volume: Volume) -> None:
    """Refuse chunks that this process could not hold, before the first one is read."""
    chunk = decoded_chunk_bytes(volume.source)
    if chunk > int(MEMORY_LIMIT) // 2:
        memory = format_bytes(int(MEMORY_LIMIT))
        raise VolumeError(
            f"a chunk of {volume.name} takes {format_bytes(chunk)} once decoded, and {memory} of memory are "
            "there; rewrite the image with smaller chunks, 128 voxels a side say."
        )


def _open_selected(
    path: str,
    level: int,
    channel: ChannelChoice | None,
    timepoint: int | None,
    voxel_size_um: tuple[float, ...] | None,
    follow_links: bool,
) -> Volume:
    return open_volume(
        path,
        level=level,
        channel=channel,
        timepoint=timepoint,
        voxel_size_um=voxel_size_um,
        follow_links=follow_links,
    )


def load_psfs(config: RunConfig, volume: Volume) -> tuple[PSF, ...]:
    """Load one PSF for every channel; one file serves all channels."""
    if len(config.psf) > 1 and len(config.psf) != volume.n_channels:
        raise OptionError(
            f"{len(config.psf)} PSFs were given for {volume.n_channels} channels; give one for all, "
            "or one --psf for every channel in their order."
        )
    loaded = [
        load_psf(
            path,
            voxel_size_um=volume.voxel_size_um,
            psf_voxel_size_um=(config.psf_voxel_size or ())[-len(volume.spatial_axes) :] or None,
            ndim=len(volume.spatial_axes),
            max_shape=[2 * n - 1 for n in volume.spatial_shape],
        )
        for path in config.psf
    ]
    return tuple(loaded * volume.n_channels if len(loaded) == 1 else loaded)


def load_models(config: RunConfig, psfs: Sequence[PSF], volume: Volume) -> tuple[Checkpoint, ...]:
    """Load the network of every channel: of one file for all, or of a folder or an earlier result."""
    if config.model is None:
        return ()
    files = model_files(config.model)
    if len(files) not in (1, volume.n_channels):
        raise ModelError(
            f"{config.model} holds {len(files)} models for {volume.n_channels} channels; "
            "name one of its files, or choose channels with --channel."
        )
    loaded = [load_checkpoint(file) for file in files]
    models = tuple(loaded * volume.n_channels if len(loaded) == 1 else loaded)
    own = [psf_from_array(model.psf, ndim=len(volume.spatial_axes)) for model in models]
    for model, psf in zip(models, psfs or own, strict=True):
        check_fit(model, psf, volume.voxel_size_um)
    return models


def psf_of(model: Checkpoint) -> PSF:
    """Give the PSF that a network was trained for."""
    size = model.voxel_size_um
    return psf_from_array(model.psf, voxel_size_um=size, psf_voxel_size_um=size, name="PSF of the model")
