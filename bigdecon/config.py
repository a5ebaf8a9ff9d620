"""Settings, as frozen dataclasses, and the presets that fill them.

Nothing here imports torch, dask or zarr: the command line reads this module to build its help.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, get_args

from bigdecon.cluster_settings import SlurmSettings
from bigdecon.errors import OptionError

__all__ = [
    "CLASSICAL",
    "LOSS_PRESETS",
    "Auto",
    "ClassicalSettings",
    "Engine",
    "LossWeights",
    "Method",
    "NetworkConfig",
    "Preset",
    "RunConfig",
    "TilingConfig",
    "TrainingConfig",
    "parse_loss",
    "training_preset",
]

Method = Literal["siamese", "ssi", "richardson-lucy", "wiener", "conjugate-gradient", "chambolle-pock"]
Preset = Literal["auto", "fast", "paper"]
Engine = Literal["auto", "map-overlap", "direct"]
Normalisation = Literal["batch", "none"]
Skip = Literal["add", "concatenate"]
Up = Literal["transposed", "linear"]
Schedule = Literal["halving", "one-cycle"]
Auto = Literal["auto"]
"""Chosen from the image itself."""

METHODS: tuple[str, ...] = get_args(Method)
PRESETS: tuple[str, ...] = get_args(Preset)
ENGINES: tuple[str, ...] = get_args(Engine)
SLURM_RECORDED = ("partition", "walltime", "jobs")
CLASSICAL = ("richardson-lucy", "wiener", "conjugate-gradient", "chambolle-pock")
"""Methods without training."""


@dataclass(frozen=True)
class LossWeights:
    """Weights of the six terms of Eq. 1 of Papkov et al. 2023; all at least 0.

    Attributes
    ----------
    bsp : blind spot, masked pass against the input at masked voxels
    rec : reconstruction, unmasked pass against the input
    inv : invariance of the reconvolved output to masking
    inv_d : invariance of the deconvolved output to masking
    bound : reconvolved output outside the bounds
    bound_d : deconvolved output outside the bounds
    """

    bsp: float = 0.0
    rec: float = 0.0
    inv: float = 0.0
    inv_d: float = 0.0
    bound: float = 0.0
    bound_d: float = 0.0

    def __post_init__(self) -> None:
        """Refuse weights that leave nothing to learn from."""
        for name, value in asdict(self).items():
            if not 0 <= value < float("inf"):
                raise OptionError(f"the loss weight {name} is {value:g}; weights are finite and at least 0.")
        if self.bsp == 0 and self.rec == 0:
            raise OptionError(
                "the loss compares nothing with the data: "
                "at least one of the weights bsp and rec must be above 0."
            )

    @property
    def needs_masked_pass(self) -> bool:
        """Whether any term looks at the output of the masked input."""
        return self.bsp > 0 or self.inv > 0 or self.inv_d > 0

    @property
    def needs_unmasked_pass(self) -> bool:
        """Whether any term looks at the output of the input as it is."""
        return self.rec > 0 or self.inv > 0 or self.inv_d > 0


LOSS_PRESETS: dict[str, LossWeights] = {
    "noise2self": LossWeights(bsp=1),
    "noise2self+bound": LossWeights(bsp=1, bound=0.1),
    "noise2same": LossWeights(rec=1, inv=2),
    "noise2same+bound": LossWeights(rec=1, inv=2, bound=0.1),
    "noise2same-d": LossWeights(rec=1, inv_d=2),
    "noise2same-d+bound": LossWeights(rec=1, inv_d=2, bound_d=0.1),
}
"""The rows of Tables 1 and 3 of Papkov et al. 2023."""


def parse_loss(text: str) -> LossWeights:
    """Read `--loss`: the name of a preset, or weights by name as in "rec=1,inv=2,bound=0.1".

    Raises
    ------
    OptionError
        if a name is unknown or a value is no number
    """
    if text in LOSS_PRESETS:
        return LOSS_PRESETS[text]
    names = [f.name for f in fields(LossWeights)]
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        try:
            weights[name] = float(value)
        except ValueError:
            value = ""
        if name not in names or not value:
            raise OptionError(
                f"the loss {text!r} is not understood at {part!r}; give one of {', '.join(LOSS_PRESETS)}, "
                f"or weights such as rec=1,inv=2 with the names {', '.join(names)}."
            )
    return LossWeights(**weights)


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of the U-Net.

    Attributes
    ----------
    ndim : 2 or 3
    channels : features after the first convolution; doubled at every level down
    depth : number of resolution levels (3: two steps down)
    skip : how the encoder's features join the decoder's
    up : how features reach the next finer level: by transposed convolution, as in the paper, or by linear
        interpolation. Transposed convolutions leave grids with a period of 2 and 4 voxels, which a wide PSF
        hides from the loss.
    norm : batch normalisation (frozen at inference) or none
    smooth : whether the output passes a fixed 1-2-1 filter along every axis (a sieve, Snyder & Miller
        1985). A PSF hides the finest patterns from the loss; the filter is zero at a checkerboard's
        frequency. Not in the paper.
    """

    ndim: int = 3
    channels: int = 48
    depth: int = 3
    skip: Skip = "add"
    norm: Normalisation = "batch"
    smooth: bool = False
    up: Up = "transposed"


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained.

    Attributes
    ----------
    network : shape of the U-Net
    loss : weights of the six terms
    patch_shape : extent of a training patch along the spatial axes, in voxels
    batch : patches a step
    steps : training steps at most
    learning_rate : of Adam, at its highest
    schedule : "halving" of the rate again and again, as in the paper, or "one-cycle": up over the first tenth
        of the steps, then down half a cosine
    clip_gradient : largest norm of the gradient over all weights, longer ones are shortened; 0 for no limit
    halve_every : steps after which the rate is halved; one cycle takes no notice of it
    mask_fraction : part of the voxels that is masked, in (0, 1)
    mask_noise : standard deviation of the noise that replaces masked voxels, in standardised units
    valid_losses : compare only where the reconvolution is exact (False: whole patches, as in the paper)
    upper_bound : whether the boundary terms also punish values above the input's maximum, as in the paper
    augment : whether patches are turned and flipped at random, in the ways that leave the PSF as it is
    held_out_fraction : part of the voxels that is kept out of every loss, to measure the error on
    evaluate_every : steps between measurements of the held-out error
    patience : measurements without improvement after which training comes to an end; 0 never stops early
    checkpoint_every : steps between checkpoints
    minutes : time budget; None for no limit
    mixed_precision : bfloat16 inside the network, where the device computes with it
    seed : of weights, patches, masks and augmentation
    """

    network: NetworkConfig = NetworkConfig()
    loss: LossWeights = LOSS_PRESETS["noise2same"]
    patch_shape: tuple[int, ...] = (64, 64, 64)
    batch: int = 4
    steps: int = 15000
    learning_rate: float = 4e-4
    schedule: Schedule = "halving"
    halve_every: int = 2000
    clip_gradient: float = 0.0
    mask_fraction: float = 0.005
    mask_noise: float = 0.2
    valid_losses: bool = True
    upper_bound: bool = False
    augment: bool = True
    held_out_fraction: float = 0.005
    evaluate_every: int = 100
    patience: int = 0
    checkpoint_every: int = 100
    minutes: float | None = None
    mixed_precision: bool = False
    seed: int = 0

    method: ClassVar[Method] = "siamese"


@dataclass(frozen=True)
class ClassicalSettings:
    """The numbers of a classical method; each method takes those it knows.

    Attributes
    ----------
    background : the camera's offset, in data units, at least 0
    iterations : at most this many (richardson-lucy: exactly)
    sieve : richardson-lucy; width of the Gaussian that image and PSF pass first, in voxels; 0 for none
    total_variation : richardson-lucy; weight of the total variation; 0 for none
    accelerate : richardson-lucy; whether iterations build up momentum
    regularization : wiener and conjugate-gradient, noise over signal in power; chambolle-pock, weight of the
        total variation in `unit`
    unit : standard deviation of the channel, in data units
    """

    background: float = 0.0
    iterations: int = 10
    sieve: float = 0.0
    total_variation: float = 0.0
    accelerate: bool = False
    regularization: float = 0.1
    unit: float = 1.0


@dataclass(frozen=True)
class TilingConfig:
    """How a volume is cut for deconvolution, in voxels; one number serves every spatial axis.

    Attributes
    ----------
    block : extent of a block's core, the part it writes; None takes 128 in 3D and 512 in 2D, "auto" the one
        with which the memory of the workers serves best
    halo : context computed around a block and cut off; None takes what the method needs
    tile : extent of one network pass inside a block; None takes the whole block
    engine : how blocks get their halo
    """

    block: int | Auto | None = None
    halo: int | None = None
    tile: int | None = None
    engine: Engine = "auto"


@dataclass(frozen=True)
class RunConfig:
    """Everything that `bigdecon run` was asked for.

    Attributes carry the names of the command's flags; lengths are in micrometres, sizes in voxels,
    intensities in data units. "auto" is chosen from the image, None is the method's own choice.
    """

    input: str
    psf: tuple[str, ...]
    output: str | None = None
    voxel_size: tuple[float, ...] | None = None
    psf_voxel_size: tuple[float, ...] | None = None
    na: float | None = None
    wavelength: float | None = None
    refractive_index: float | None = None
    level: int = 0
    channel: tuple[str, ...] = ()
    timepoint: int | None = None
    roi: str | None = None
    follow_links: bool = False
    method: Method = "siamese"
    preset: Preset = "auto"
    loss: str | None = None
    steps: int | None = None
    train_minutes: float | None = None
    model: str | None = None
    refine: int | None = None
    seed: int = 0
    tiling: TilingConfig = TilingConfig()
    iterations: int | Auto | None = None
    background: float | Auto = "auto"
    sieve: float | Auto | None = None
    total_variation: float = 0.0
    accelerate: bool | None = None
    regularization: float | Auto = "auto"
    subtract_background: bool = False
    mask: str | None = None
    skip_dim: float | None = None
    max_failed: int = 500
    device: str = "auto"
    dtype: str = "float32"
    ome_version: Literal["0.5", "0.4"] = "0.5"
    overwrite: bool = False
    dry_run: bool = False
    report: bool = False
    cluster: str = "local"
    workers: int | None = None
    threads: int | None = None
    memory_limit: str | None = None
    dashboard_address: str = "127.0.0.1:8787"
    gpus: int | None = None
    interface: str | None = None
    tls: bool = True
    slurm: SlurmSettings = field(default_factory=SlurmSettings)

    def as_dict(self) -> dict[str, Any]:
        """Give plain JSON types, for provenance; of SLURM only what tells how a run was shared out.

        The lines of a prologue, and options of sbatch, may hold what nobody else shall read.
        """
        slurm = {name: getattr(self.slurm, name) for name in SLURM_RECORDED}
        return {**asdict(self), "slurm": slurm}


def training_preset(preset: Preset, *, ndim: int, accelerator: bool) -> TrainingConfig:
    """Choose training settings for a preset.

    Parameters
    ----------
    preset : "paper" is the setting of Papkov et al. 2023; "fast" suits a CPU;
        "auto" is "fast" on a CPU and a larger network with more steps on a GPU
    ndim : 2 or 3
    accelerator : whether a GPU will train
    """
    flat = ndim == 2
    if preset == "paper":
        return TrainingConfig(
            network=NetworkConfig(ndim, 96 if flat else 48, 3, "concatenate" if flat else "add", "batch"),
            loss=LOSS_PRESETS["noise2same-d" if flat else "noise2same"],
            patch_shape=(128, 128) if flat else (64, 64, 64),
            batch=16 if flat else 4,
            steps=3000 if flat else 15000,
            halve_every=500 if flat else 2000,
            valid_losses=False,
            upper_bound=True,
        )
    published = training_preset("paper", ndim=ndim, accelerator=accelerator)
    loss = replace(published.loss, bound_d=0.3)
    base = replace(
        published, loss=loss, schedule="one-cycle", clip_gradient=1.0, valid_losses=True, upper_bound=False
    )
    if preset == "auto" and accelerator:
        return replace(
            base,
            network=NetworkConfig(ndim, 64 if flat else 32, 3, "add", "batch", smooth=True, up="linear"),
            steps=3000 if flat else 4000,
            learning_rate=4e-3,
            mixed_precision=True,
            patience=8,
        )
    return replace(
        base,
        network=NetworkConfig(ndim, 32 if flat else 16, 3, "add", "batch", smooth=True, up="linear"),
        batch=4 if flat else 1,
        steps=600 if flat else 450,
        learning_rate=5e-3,
        mixed_precision=True,
        evaluate_every=50,
        checkpoint_every=50,
    )
