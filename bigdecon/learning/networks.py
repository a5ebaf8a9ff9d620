"""The networks by the shape that describes them: one of each kind of shape."""

from __future__ import annotations

from bigdecon.learning import ssi_network, unet
from bigdecon.learning.ssi_network import SSIUNet
from bigdecon.learning.unet import UNet
from bigdecon.ssi_config import NetworkShape, SSINetworkConfig

__all__ = ["Network", "alignment", "build_network", "receptive_radius"]

Network = UNet | SSIUNet


def build_network(shape: NetworkShape) -> Network:
    """Build a network with weights drawn from torch's own source of randomness."""
    return SSIUNet(shape) if isinstance(shape, SSINetworkConfig) else UNet(shape)


def alignment(shape: NetworkShape) -> int:
    """Give the multiple, in voxels, that extents and cuts between blocks must have."""
    if isinstance(shape, SSINetworkConfig):
        return ssi_network.alignment(shape)
    return unet.alignment(shape)


def receptive_radius(shape: NetworkShape) -> int:
    """Give the farthest voxel, along any axis, that an output voxel can depend on."""
    if isinstance(shape, SSINetworkConfig):
        return ssi_network.receptive_radius(shape)
    return unet.receptive_radius(shape)
