"""Settings of Self-Supervised Inversion, the rival of the Siamese training, and its presets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from bigdecon.config import Method, NetworkConfig, Preset, TrainingConfig
from bigdecon.errors import OptionError

__all__ = ["NetworkShape", "SSIConfig", "SSINetworkConfig", "Training", "ssi_preset"]


@dataclass(frozen=True)
class SSINetworkConfig:
    """Shape of the U-Net of Self-Supervised Inversion (Kobayashi et al. 2020).

    Attributes
    ----------
    ndim : 2 or 3
    channels : features at the finest level; doubled at every level down but the last
    depth : number of resolution levels, at least 2 (5: four steps down, as published)
    """

    ndim: int = 3
    channels: int = 8
    depth: int = 5

    def __post_init__(self) -> None:
        """Refuse shapes that are no U-Net."""
        if self.ndim not in (2, 3) or self.channels < 1 or self.depth < 2:
            raise OptionError(
                f"an SSI network of {self.ndim} dimensions, {self.channels} channels and {self.depth} levels "
                "cannot be built; it takes 2 or 3 dimensions, 1 channel or more, and 2 levels or more."
            )


@dataclass(frozen=True)
class SSIConfig:
    """How a network is trained by Self-Supervised Inversion (Kobayashi et al. 2020, arXiv 2006.06156).

    Intensities are scaled to [0, 1] by the extremes of the volume. The values are those of the published
    program where it has them.

    Attributes
    ----------
    network : shape of the U-Net
    patch_shape : extent of a training patch along the spatial axes, in voxels
    batch : patches a step
    steps : training steps at most
    learning_rate : of Adam, at the start
    rate_factor : what the rate is multiplied by on a plateau of the validation loss, in (0, 1]
    rate_patience : steps without improvement that make such a plateau; they are counted anew after it
    weight_decay : of Adam (added to the gradient)
    parameter_noise : standard deviation of the noise on the weights after the first step, as part of the
        learning rate; it falls as 1 / (1 + step)
    training_noise : standard deviation of the noise on the input at the first step, in scaled units; it
        falls as 1 / (1 + 10000 step / steps)
    mask_density : part of the voxels that is masked in the end, in (0, 1)
    mask_density_start : the same before the first step
    mask_decay : what the difference of the two is multiplied by at every step, in [0, 1]
    boundary_weight : of the squared mean by which the output lies outside [0, 1]
    held_out_fraction : part of the voxels that is kept out of the loss, for validation, in (0, 1)
    validation_patches : patches, always the same, on which every step is validated
    patience : steps without a new best validation loss after which training comes to an end; 0 never
        stops early
    evaluate_every : steps between points of the training curve
    checkpoint_every : steps between checkpoints
    minutes : time budget; None for no limit
    seed : of weights, patches, masks and noise
    """

    network: SSINetworkConfig = SSINetworkConfig()
    patch_shape: tuple[int, ...] = (128, 128, 128)
    batch: int = 1
    steps: int = 3000
    learning_rate: float = 0.01
    rate_factor: float = 0.9
    rate_patience: int = 150
    weight_decay: float = 1e-6
    parameter_noise: float = 0.1
    training_noise: float = 0.1
    mask_density: float = 0.05
    mask_density_start: float = 0.5
    mask_decay: float = 0.995
    boundary_weight: float = 0.1
    held_out_fraction: float = 0.1
    validation_patches: int = 1
    patience: int = 300
    evaluate_every: int = 50
    checkpoint_every: int = 50
    minutes: float | None = None
    seed: int = 0

    method: ClassVar[Method] = "ssi"

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        if len(self.patch_shape) != self.network.ndim or min(self.patch_shape) < 1:
            raise OptionError(
                f"the patch {self.patch_shape} does not suit a network of {self.network.ndim} dimensions; "
                "give one extent of at least 1 voxel for every dimension."
            )
        for name in ("batch", "steps", "validation_patches", "evaluate_every", "checkpoint_every"):
            if (count := getattr(self, name)) < 1:
                raise OptionError(f"{name} is {count}; SSI needs at least 1.")
        for name in ("mask_density", "mask_density_start", "held_out_fraction"):
            if not 0 < (part := getattr(self, name)) < 1:
                raise OptionError(f"{name} is {part:g}; SSI needs a part above 0 and below 1.")
        for name in _SSI_AMOUNTS:
            if not 0 <= (amount := getattr(self, name)) < float("inf"):
                raise OptionError(f"{name} is {amount:g}; SSI needs a finite number that is at least 0.")
        for name in ("rate_factor", "mask_decay"):
            if (factor := getattr(self, name)) > 1:
                raise OptionError(f"{name} is {factor:g}; SSI needs a factor of at most 1.")


_SSI_AMOUNTS = (
    "learning_rate",
    "rate_factor",
    "rate_patience",
    "weight_decay",
    "parameter_noise",
    "training_noise",
    "mask_decay",
    "boundary_weight",
    "patience",
)

NetworkShape = NetworkConfig | SSINetworkConfig
Training = TrainingConfig | SSIConfig


def ssi_preset(preset: Preset, *, ndim: int, accelerator: bool) -> SSIConfig:
    """Choose settings for Self-Supervised Inversion.

    Parameters
    ----------
    preset : "paper" is the published setting; "fast" suits a CPU, with smaller patches and fewer steps;
        "auto" is "fast" on a CPU and "paper" on a GPU
    ndim : 2 or 3
    accelerator : whether a GPU will train
    """
    # The published program takes its largest tile, up to 1024 pixels a side, from the image.
    published = SSIConfig(
        network=SSINetworkConfig(ndim), patch_shape=(1024, 1024) if ndim == 2 else (128, 128, 128)
    )
    if preset == "paper" or (preset == "auto" and accelerator):
        return published
    return replace(
        published,
        patch_shape=(256, 256) if ndim == 2 else (64, 64, 64),
        steps=1000 if ndim == 2 else 600,
        validation_patches=2,
    )
