"""What the documents take for granted: a user's folder with two small volumes, a PSF and beads; and how their
commands are cut short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.signal
import tifffile
import zarr

__all__ = ["SHAPE_ZYX", "blurred_points", "fill_user_folder", "shortened", "write_volume"]

VOXEL_SIZE_UM = (0.2, 0.1, 0.1)
SHAPE_ZYX = (32, 48, 48)


def write_volume(path: Path, image: np.ndarray[Any, Any]) -> None:
    """Write a small OME-Zarr 0.5 image, by zarr alone."""
    group = zarr.create_group(path, zarr_format=3)
    array = group.create_array(
        "0", shape=image.shape, chunks=(16, 24, 24), dtype=image.dtype, dimension_names=list("zyx")
    )
    array[...] = image
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    scale = [{"type": "scale", "scale": list(VOXEL_SIZE_UM)}]
    levels = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{"name": path.name, "axes": axes, "datasets": levels}],
    }


def blurred_points(seed: int, psf: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Camera image of some points: uint16, offset 100."""
    generator = np.random.default_rng(seed)
    truth = (generator.random(SHAPE_ZYX) > 0.998) * 2e4
    blurred = scipy.signal.fftconvolve(truth, psf, mode="same")
    return generator.poisson(100 + np.clip(blurred, 0, None)).astype(np.uint16)


def write_beads(path: Path, psf: np.ndarray[Any, Any]) -> None:
    """Write an OME-TIFF image of nine beads on an offset of 100, with noise."""
    generator = np.random.default_rng(0)
    image = np.zeros((41, 120, 120), np.float32)
    for y in (20, 60, 100):
        for x in (20, 60, 100):
            z, v, u = np.add(generator.integers(-2, 3, 3), (20, y, x)).tolist()
            image[z - 8 : z + 9, v - 8 : v + 9, u - 8 : u + 9] += 1000 * psf / psf.max()
    metadata: dict[str, Any] = {"axes": "ZYX"}
    metadata |= {f"PhysicalSize{axis}": size for axis, size in zip("ZYX", VOXEL_SIZE_UM, strict=True)}
    tifffile.imwrite(path, generator.poisson(100 + image).astype(np.uint16), metadata=metadata)


def fill_user_folder(folder: Path) -> Path:
    """Write volume.ome.zarr, second.ome.zarr (32x48x48 voxels), psf.tif (17^3) and beads.ome.tif."""
    z, y, x = np.mgrid[-8:9, -8:9, -8:9]
    psf = np.exp(-(z**2 / 8 + (y**2 + x**2) / 4)).astype(np.float32)
    psf /= psf.sum()
    for seed, name in enumerate(("volume.ome.zarr", "second.ome.zarr")):
        write_volume(folder / name, blurred_points(seed, psf))
    tifffile.imwrite(
        folder / "psf.tif",
        psf,
        imagej=True,
        resolution=(1 / VOXEL_SIZE_UM[2], 1 / VOXEL_SIZE_UM[1]),
        metadata={"spacing": VOXEL_SIZE_UM[0], "unit": "um", "axes": "ZYX"},
    )
    write_beads(folder / "beads.ome.tif", psf)
    return folder


def shortened(words: list[str], cluster: str) -> list[str]:
    """Cut what takes long in a command: steps of training, settings to be chosen, a cluster of its own."""
    if words[0] not in ("run", "plan") or "slurm" in words:
        return words
    method = words[words.index("--method") + 1] if "--method" in words else "siamese"
    words = [*words, *([] if "--cluster" in words else ["--cluster", cluster])]
    if method == "siamese" and "--model" not in words:
        words += ["--steps", "2"]
    elif method == "richardson-lucy" and "--iterations" not in words:
        words += ["--iterations", "2", "--background", "0", "--sieve", "1"]
    return words
