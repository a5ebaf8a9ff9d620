"""What looks like a mistaken voxel size, or too small a part of an image."""

from __future__ import annotations

from collections.abc import Sequence

from bigdecon.config import RunConfig
from bigdecon.optics.psf import PSF
from bigdecon.volume import Volume

__all__ = ["size_warnings"]


def size_warnings(config: RunConfig, volume: Volume, psfs: Sequence[PSF]) -> list[str]:
    """Say in sentences what is rare about the sizes of voxels, PSFs and region.

    Parameters
    ----------
    config : of the run
    volume : its input
    psfs : at the volume's voxel size, one or more
    """
    found = []
    size = volume.voxel_size_um
    if size and len(size) == 3 and size[0] < 0.9 * min(size[1:]):
        found.append(
            f"the voxel is smaller along z ({size[0]:g} µm) than in the plane, which is rare; "
            "voxel sizes are given in the order Z Y X."
        )
    if size and max(size[-2:]) > 1.5 * min(size[-2:]):
        found.append(
            f"the voxel is {size[-2]:g} µm along y and {size[-1]:g} µm along x, which is rare; "
            "voxel sizes are given in the order Z Y X."
        )
    least = min(psfs, key=lambda psf: max(psf.array.shape))
    if size and max(least.array.shape) <= 3:
        found.append(
            f"the PSF is only {' x '.join(map(str, least.array.shape))} voxels at the volume's voxel size; "
            "check the voxel sizes of both, in micrometres and in the order Z Y X."
        )
    extents = zip(volume.spatial_shape, *(psf.array.shape for psf in psfs), strict=True)
    if config.roi and any(max(widths) > n for n, *widths in extents):
        found.append(
            "the region is smaller than the PSF, so its result, and all that is chosen from it, will differ "
            "from the whole's; a --dry-run of the whole tells its settings."
        )
    return found
