"""Trained networks on disk: weights as safetensors, everything else as JSON beside them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from bigdecon.config import LossWeights, Method, NetworkConfig, TrainingConfig
from bigdecon.described import checked_fields, from_json
from bigdecon.errors import ModelError, OptionError
from bigdecon.intensity import IntensityStats, Scaling
from bigdecon.learning.model_path import unreadable_model
from bigdecon.learning.networks import Network, build_network
from bigdecon.optics.psf import PSF
from bigdecon.ssi_config import SSIConfig, SSINetworkConfig, Training
from bigdecon.storage import places
from bigdecon.storage.places import Place, PlaceLike, as_place
from bigdecon.storage.write_errors import write_error
from bigdecon.untrusted import MAX_DOCUMENT_BYTES, parse_json, reason, shown

__all__ = [
    "Checkpoint",
    "CurvePoint",
    "check_fit",
    "load_checkpoint",
    "save_checkpoint",
    "scaling_for",
    "write_atomically",
]

FORMAT_VERSION = 2
"""Version 1, which is still read, knew no other method than siamese."""
PSF_TOLERANCE = 0.05
MAX_MODEL_BYTES = 2**32
"""4 GiB: three hundred times the weights of the published network."""
MAX_CHANNELS = 4096
MAX_DEPTH = 12
"""A network twelve levels deep looks at cubes of 2048 voxels at its coarsest."""
MAX_PSF_EXTENT = 2047
"""In voxels along an axis: a PSF that reaches from edge to edge of 1024 voxels, on both sides."""
REQUIRED = ("psf_sha256", "voxel_size_um", "seconds", "device", "stopped_by", "precision")
"""What every version has written."""


@dataclass(frozen=True)
class CurvePoint:
    """One point of the training curve.

    Attributes
    ----------
    step : steps done
    loss : mean loss since the last point, in squared units of the scaled image
    held_out_error : mean squared error at held-out voxels, same units
    """

    step: int
    loss: float
    held_out_error: float | None


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and what is needed to use it.

    Attributes
    ----------
    weights : state of the network by name, as plain arrays: no tensor travels between processes
    config : how it was trained
    stats : brightness of the training data, in data units
    psf : array it was trained for
    psf_sha256 : hash of that PSF as loaded
    voxel_size_um : of the training data; None where unknown
    curve : loss and held-out error over training
    seconds : training time
    device : where it was trained
    stopped_by : "steps", "time" or "plateau"
    training_precision : "float32", or "bfloat16" inside the network
    precision : of inference: "float32", or a half format where that was measured to agree on this device
    """

    weights: dict[str, NDArray[Any]]
    config: Training
    stats: IntensityStats
    psf: NDArray[np.float32]
    psf_sha256: str
    voxel_size_um: tuple[float, ...] | None
    curve: tuple[CurvePoint, ...] = field(default=())
    seconds: float = 0.0
    device: str = "cpu"
    stopped_by: str = "steps"
    training_precision: str = "float32"
    precision: str = "float32"

    @property
    def sha256(self) -> str:
        """Hash of the weights, 64 hexadecimal digits."""
        state = hashlib.sha256()
        for name, array in sorted(self.weights.items()):
            state.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return state.hexdigest()

    def __repr__(self) -> str:
        """Describe the network in a line."""
        steps = self.curve[-1].step if self.curve else 0
        return f"<Checkpoint {self.method}: {steps} steps on {self.device}, sha256 {self.sha256[:12]}>"

    def _repr_html_(self) -> str:
        """Show the training curve and a table in notebooks."""
        from bigdecon.learning.checkpoint_display import checkpoint_html

        return checkpoint_html(self)

    @property
    def method(self) -> Method:
        """Name of the method that trained it."""
        return self.config.method

    def scaling(self, stats: IntensityStats | None = None) -> Scaling:
        """Give the units in which the network works, for a volume of this brightness; else for its own."""
        return scaling_for(self.config, stats or self.stats)

    def network(self) -> Network:
        """Build the network with its weights, in evaluation mode, on the CPU."""
        network = build_network(self.config.network)
        network.load_state_dict({name: torch.from_numpy(array) for name, array in self.weights.items()})
        return network.eval()


def scaling_for(config: Training, stats: IntensityStats) -> Scaling:
    """Choose the units in which a network works: those of its method, for a volume of this brightness."""
    return stats.unit_range if isinstance(config, SSIConfig) else stats.standard


def save_checkpoint(checkpoint: Checkpoint, path: PlaceLike) -> Place:
    """Write `path` (.safetensors) and its JSON neighbour; returns the path of the weights."""
    target = as_place(path).with_suffix(".safetensors")
    places.make_folder(target.parent)
    tensors = {f"network.{name}": torch.from_numpy(array) for name, array in checkpoint.weights.items()}
    tensors["psf"] = torch.from_numpy(np.ascontiguousarray(checkpoint.psf))
    described = asdict(replace(checkpoint, weights={}, psf=np.zeros(0, np.float32)))
    del described["weights"], described["psf"]
    heading = {
        "format": "bigdecon-model",
        "format_version": FORMAT_VERSION,
        "method": checkpoint.method,
    }
    text = json.dumps({**heading, **described}, indent=2)
    write_atomically(target.with_suffix(".json"), text.encode())
    write_atomically(target, save(tensors))
    return target


def load_checkpoint(path: PlaceLike) -> Checkpoint:
    """Read a trained network; nothing is unpickled.

    Parameters
    ----------
    path : the .safetensors file or its .json neighbour

    Raises
    ------
    ModelError
        if a file is missing, damaged, or written by a newer version
    """
    target = as_place(path).with_suffix(".safetensors")
    try:
        described = parse_json(places.read(target.with_suffix(".json"), limit=MAX_DOCUMENT_BYTES))
        tensors = load(places.read(target, limit=MAX_MODEL_BYTES))
    except (OSError, ValueError, SafetensorError) as error:
        raise unreadable_model(target, error) from error
    if not isinstance(described, dict):
        raise ModelError(f"the model {target} is damaged: its .json does not describe a model.")
    version = described.get("format_version")
    if described.get("format") != "bigdecon-model" or version not in (1, FORMAT_VERSION):
        raise ModelError(
            f"the model {target} has format {shown(described.get('format'))}, "
            f"version {shown(version)}; this bigdecon reads bigdecon-model, versions 1 to {FORMAT_VERSION}."
        )
    try:
        return _assemble(described, tensors)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"the model {target} is incomplete: {reason(error)}.") from error
    except OptionError as error:
        raise ModelError(f"the model {target} is incomplete: {str(error).rstrip('.')}.") from error


def check_fit(checkpoint: Checkpoint, psf: PSF, voxel_size_um: tuple[float, ...] | None) -> None:
    """Refuse a model that was trained for another PSF or voxel size.

    PSFs fit if their absolute difference sums to at most 5 % of their sum; voxel sizes to 1 %.

    Raises
    ------
    ModelError
        if they do not fit
    """
    if checkpoint.psf.ndim != psf.array.ndim:
        raise ModelError(
            f"the model is for {checkpoint.psf.ndim}D images, but the PSF has {psf.array.ndim} dimensions."
        )
    trained = checkpoint.voxel_size_um
    if trained and voxel_size_um and not np.allclose(trained, voxel_size_um, rtol=0.01):
        raise ModelError(
            f"the model was trained for voxels of {_sizes(trained)} µm, "
            f"but the volume has {_sizes(voxel_size_um)} µm; train a model for this volume."
        )
    difference = _psf_difference(checkpoint.psf, psf.array)
    if difference > PSF_TOLERANCE:
        raise ModelError(
            f"the model was trained for another PSF (they differ by {difference:.0%} of their energy, "
            f"{PSF_TOLERANCE:.0%} is allowed); train a model for this PSF."
        )


def write_atomically(path: Place, data: bytes) -> None:
    """Replace a file in one step, so that a crash leaves the old one or the new one.

    Raises
    ------
    WriteError
        if the file system or the server refuses
    """
    try:
        places.write(path, data)
    except OSError as error:
        raise write_error(path, error) from error


def _assemble(described: dict[str, Any], tensors: dict[str, Tensor]) -> Checkpoint:
    method = described["method"] if described["format_version"] > 1 else "siamese"
    config = _read_config(method, described["config"])
    weights = {name.removeprefix("network."): t for name, t in tensors.items() if name != "psf"}
    _check_weights(config, weights)
    plain = {name: described[name] for name in REQUIRED}
    plain["training_precision"] = described.get("training_precision", "float32")
    return Checkpoint(
        weights={name: tensor.numpy() for name, tensor in weights.items()},
        config=config,
        stats=_read_stats(described["stats"]),
        psf=_checked_psf(tensors["psf"]),
        curve=_read_curve(described["curve"]),
        **checked_fields(Checkpoint, plain),
    )


def _read_stats(values: object) -> IntensityStats:
    stats = from_json(IntensityStats, values)
    if not (stats.std > 0 and stats.minimum <= stats.maximum and 0 < stats.sampled <= 1):
        raise ValueError(f"the brightness of its training data cannot be {stats}")
    return stats


def _read_curve(values: object) -> tuple[CurvePoint, ...]:
    if not isinstance(values, list):
        raise ValueError(f"its training curve is {shown(values)} instead of a list")
    return tuple(from_json(CurvePoint, point) for point in values)


def _check_weights(config: Training, weights: Mapping[str, Tensor]) -> None:
    """Compare weights with the network that the settings describe, without memory for that network."""
    shape = config.network
    if not (shape.ndim in (2, 3) and 1 <= shape.channels <= MAX_CHANNELS and 1 <= shape.depth <= MAX_DEPTH):
        raise ValueError(
            f"a network of {shape.ndim} dimensions, {shape.channels} channels and {shape.depth} levels is "
            f"not read; it has 2 or 3 dimensions, up to {MAX_CHANNELS} channels and {MAX_DEPTH} levels"
        )
    with torch.device("meta"):
        expected = {name: t.shape for name, t in build_network(shape).state_dict().items()}
    if {name: t.shape for name, t in weights.items()} != expected:
        raise ValueError("its weights are not those of the network that its .json describes")
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"its weights {name} hold NaN or infinity")


def _checked_psf(tensor: Tensor) -> NDArray[np.float32]:
    if tensor.ndim not in (2, 3) or tensor.dtype != torch.float32 or not torch.isfinite(tensor).all():
        raise ValueError("its PSF is no image of finite numbers in two or three dimensions")
    if any(n % 2 == 0 or n > MAX_PSF_EXTENT for n in tensor.shape):
        raise ValueError(
            f"its PSF has the shape {tuple(tensor.shape)}; every extent is odd and at most {MAX_PSF_EXTENT}"
        )
    array: NDArray[np.float32] = tensor.numpy()
    return array


def _read_config(method: object, settings: object) -> Training:
    if method not in (SSIConfig.method, TrainingConfig.method):
        raise ValueError(f"the method {shown(method)} is unknown")
    if not isinstance(settings, dict):
        raise ValueError(f"its settings are {shown(settings)} instead of an object")
    if method == SSIConfig.method:
        ssi_shape = from_json(SSINetworkConfig, settings["network"])
        return from_json(SSIConfig, {**settings, "network": ssi_shape})
    loss = from_json(LossWeights, settings["loss"])
    shape = from_json(NetworkConfig, settings["network"])
    return from_json(TrainingConfig, {**settings, "network": shape, "loss": loss})


def _psf_difference(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Half the summed absolute difference of two centred PSFs of odd extents, in [0, 1].

    It takes memory for the box that they share alone: a needle and a plate would span an enormous one.
    """
    shape = np.minimum(first.shape, second.shape)
    shared, outside = [], 0.0
    for psf in (first, second):
        start = [(n - int(m)) // 2 for n, m in zip(psf.shape, shape, strict=True)]
        inside = psf[tuple(slice(s, s + int(m)) for s, m in zip(start, shape, strict=True))]
        shared.append(inside)
        outside += _energy(psf) - _energy(inside)
    return (_energy(shared[0] - shared[1]) + outside) / 2


def _energy(psf: NDArray[np.float32]) -> float:
    return float(np.abs(psf).sum(dtype=np.float64))


def _sizes(voxel_size_um: tuple[float, ...]) -> str:
    return " x ".join(f"{size:g}" for size in voxel_size_um)
