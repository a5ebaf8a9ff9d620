"""The trained network as a method for the block engine."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bigdecon.config import Method, TrainingConfig
from bigdecon.deconvolution.compute import computing
from bigdecon.deconvolution.tiling import pyramid_weights, tile_boxes
from bigdecon.device_errors import device_in_words, is_out_of_memory, release_memory
from bigdecon.intensity import IntensityStats
from bigdecon.learning.checkpoint import Checkpoint
from bigdecon.learning.folding import folded
from bigdecon.learning.networks import Network, alignment, receptive_radius
from bigdecon.learning.unet import memory_format
from bigdecon.ssi_config import NetworkShape, SSIConfig, SSINetworkConfig

__all__ = ["DEFAULT_HALO", "NetworkDeconvolver", "NetworkNeeds", "inference_bytes_per_voxel"]

DEFAULT_HALO = 32
"""Halo in voxels, of the paper's tiles; at least the receptive radius of its network, 24 voxels."""

SSI_FIELDS = 7
"""Fields of all features that a pass of the network of SSI holds: on a CPU, with 8 features, 171 to 214 bytes
a voxel in passes of 2 to 4 million voxels, 2D and 3D."""

logger = logging.getLogger(__name__)

_loaded: dict[tuple[str, str], Network] = {}

_fitting: dict[tuple[str, str], int] = {}
"""The tile to which a network had to go back on a device of this process, in voxels."""


@dataclass(frozen=True)
class NetworkNeeds:
    """What a network will need of the blocks, known before it is trained.

    Attributes
    ----------
    halo : voxels on each side of a block, for every spatial axis
    alignment : blocks start at multiples of this, in voxels
    name : of the method
    """

    halo: tuple[int, ...]
    alignment: int
    name: Method = "siamese"

    @classmethod
    def of(cls, config: NetworkShape) -> NetworkNeeds:
        """Read the needs off the network's shape."""
        trained_by = SSIConfig if isinstance(config, SSINetworkConfig) else TrainingConfig
        return cls((receptive_radius(config),) * config.ndim, alignment(config), trained_by.method)


def inference_bytes_per_voxel(config: NetworkShape) -> int:
    """Estimate peak memory of a float32 pass for every voxel of its input, in bytes.

    Five fields of all features (seven with joined skips) live at once at the top level. What the levels
    below and the convolutions' scratch space add, a third, was measured on a CPU in 3D
    (benchmarks/memory.py); a pass of any size takes some 0.1 GB besides. For the network of SSI all of it
    was measured at once.
    """
    if isinstance(config, SSINetworkConfig):
        return int(4 * config.channels * SSI_FIELDS)
    alive = 5 if config.skip == "add" else 7
    return int(4 * config.channels * alive * 1.35)


@dataclass(frozen=True, eq=False)
class NetworkDeconvolver:
    """Runs a trained network over a block, tile by tile where the block is too large for one pass.

    Attributes
    ----------
    checkpoint : the trained network
    stats : brightness of the volume to restore, measured once for all of its blocks; that of the
        training data if not given
    device : torch device, "cpu" or "cuda"
    tile : extent of a network pass, in voxels; None takes the whole block
    exact_tiles : tiles weigh nothing where a cut face may have spoilt them; False is the paper's way,
        tiles that overlap by 32 voxels and all count
    threads : CPU threads for the network; None leaves torch's setting
    """

    checkpoint: Checkpoint
    stats: IntensityStats | None = None
    device: str = "cpu"
    tile: int | None = None
    exact_tiles: bool = True
    threads: int | None = None
    _key: str = field(default="", init=False, repr=False)

    def __post_init__(self) -> None:
        """Name the weights by their content, so that a worker process builds their network once."""
        object.__setattr__(self, "_key", self.checkpoint.sha256)

    @property
    def name(self) -> Method:
        """The method that trained the network."""
        return self.checkpoint.method

    @property
    def halo(self) -> tuple[int, ...]:
        """Receptive radius of the network, for every spatial axis."""
        return NetworkNeeds.of(self.checkpoint.config.network).halo

    @property
    def alignment(self) -> int:
        """Blocks start at multiples of this, in voxels."""
        return alignment(self.checkpoint.config.network)

    def __call__(self, block: NDArray[Any]) -> NDArray[np.float32]:
        """Restore a block ([z,] y, x) in data units; the result has its shape and units."""
        scaling = self.checkpoint.scaling(self.stats)
        x = self._padded(scaling.apply(block))
        with computing(self.threads, self.device, block.size):
            y = self._restore(self._network(), torch.from_numpy(x), self.tile)
        return scaling.restore(y[tuple(slice(0, n) for n in block.shape)])

    def _padded(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Repeat the far edge up to the next multiple of the alignment."""
        return np.pad(x, [(0, -n % self.alignment) for n in x.shape], mode="edge")

    def _network(self) -> Network:
        """Give the network on its device, loaded once in a process."""
        key = (self._key, self.device)
        if key not in _loaded:
            torch.backends.cudnn.deterministic = True
            torch.backends.cudnn.allow_tf32 = False  # float32 means float32
            network = folded(self.checkpoint.network())
            layout = memory_format(network.config.ndim)
            _loaded[key] = network.to(device=self.device, memory_format=layout)  # type: ignore[call-overload]
        return _loaded[key]

    def _restore(self, network: Network, x: Tensor, tile: int | None) -> NDArray[np.float32]:
        """Predict in tiles; where the memory runs out, in smaller ones: the result stays the same.

        The tile that fitted is remembered, so that no later block tries a larger one again.
        """
        key = (self._key, self.device)
        first = min(n for n in (tile, _fitting.get(key), max(x.shape)) if n)
        tile = first
        while True:
            try:
                result = self._in_tiles(network, x, tile)
                break
            except Exception as error:
                smaller = self._smaller(tile, network.receptive_radius)
                if smaller is None or not is_out_of_memory(error):
                    raise
                tile = smaller
            # Only here: the exception held on to the failed pass, and with it to the memory.
            release_memory()
        if tile < first:
            _fitting[key] = tile
            logger.warning(
                "%s works in tiles of %d voxels: the memory of %s does not suffice for %d; %s.",
                self.name,
                tile,
                device_in_words(self.device),
                first,
                "the result stays the same" if self.exact_tiles else "the result changes at their edges",
            )
        return result

    def _smaller(self, tile: int, radius: int) -> int | None:
        """Give the next tile to try: half as wide, but still three radii; None if it is no wider already.

        Of smaller tiles hardly any voxels would be left between the margins.
        """
        least = -(-(3 * radius + self.alignment) // self.alignment) * self.alignment
        return max(least, tile // 2 // self.alignment * self.alignment) if tile > least else None

    def _in_tiles(self, network: Network, x: Tensor, tile: int | None) -> NDArray[np.float32]:
        """Predict every tile and blend them with pyramid weights, on the device."""
        if tile is None or all(n <= tile for n in x.shape):
            return self._predict(network, x).cpu().numpy()
        radius = network.receptive_radius if self.exact_tiles else DEFAULT_HALO // 2
        total = torch.zeros(x.shape, device=self.device)
        weight = torch.zeros(x.shape, device=self.device)
        for part in tile_boxes(x.shape, [tile] * x.ndim, radius, self.alignment):
            ramps = pyramid_weights(part.shape, part.cut, radius if self.exact_tiles else 0)
            w = torch.from_numpy(ramps).to(self.device)
            total[part.box] += w * self._predict(network, x[part.box])
            weight[part.box] += w
        blended: NDArray[np.float32] = (total / weight).cpu().numpy()
        return blended

    def _predict(self, network: Network, x: Tensor) -> Tensor:
        """Run the network over ([z,] y, x); float32 in and out.

        Half precision overflows where a voxel is far brighter than any in training: then float32 serves.
        """
        kind = torch.device(self.device).type
        batch = x.to(self.device)[None, None].contiguous(memory_format=memory_format(x.ndim))
        if kind == "cuda" and self.checkpoint.precision != "float32":
            with torch.autocast(kind, getattr(torch, self.checkpoint.precision)):
                quick: Tensor = network(batch)[0, 0].float()
            if bool(torch.isfinite(quick).all()):
                return quick
        y: Tensor = network(batch)
        return y[0, 0].float()
