"""Images of beads whose PSF is known exactly, wherever between voxels the beads lie."""

from __future__ import annotations

import numpy as np

from bigdecon.optics.models import make_psf
from bigdecon.optics.pupil import Optics, intensity

VOXEL_UM = (0.2, 0.1, 0.1)
NA, WAVELENGTH_UM, INDEX = 1.2, 0.52, 1.33
CONDITIONS = {"numerical_aperture": NA, "wavelength_um": WAVELENGTH_UM, "refractive_index": INDEX}
STEP_UM = 0.004


def point_image(shape, place, half=(16, 20, 20), optics=None):
    """Image of a point of peak 1 at a place in voxels, its light cut off at `half` voxels."""
    optics = optics or Optics(NA, WAVELENGTH_UM, INDEX, INDEX, 0.0)
    box = [
        slice(max(0, round(p) - h), min(n, round(p) + h + 1))
        for p, h, n in zip(place, half, shape, strict=True)
    ]
    z, y, x = ((np.arange(b.start, b.stop) - p) * v for b, p, v in zip(box, place, VOXEL_UM, strict=True))
    away = np.hypot(y[:, None], x)
    radii = STEP_UM * np.arange(int(away.max() / STEP_UM) + 2)
    peak = intensity("richards-wolf", optics, np.zeros(1), np.zeros(1)).item()
    lines = intensity("richards-wolf", optics, radii, z) / peak
    image = np.zeros(shape, np.float32)
    image[tuple(box)] = [np.interp(away, radii, line) for line in lines.T]
    return image


def bead_image(shape, places, brightness=1000.0, offset=100.0, noise=True, seed=0):
    """Image of beads on a camera's offset, with photon and readout noise."""
    image = np.zeros(shape, np.float32)
    bright = np.broadcast_to(brightness, len(places))
    for place, value in zip(places, bright, strict=True):
        image += value * point_image(shape, place)
    if not noise:
        return image + np.float32(offset)
    rng = np.random.default_rng(seed)
    return (rng.poisson(image) + offset + rng.normal(0, 3, shape)).round().clip(0).astype(np.uint16)


def scattered(shape, spacing, seed=0, margin=(18, 22, 22)):
    """Places between voxels, near the nodes of a lattice."""
    rng = np.random.default_rng(seed)
    lines = [np.arange(m, n - m, s) for n, m, s in zip(shape, margin, spacing, strict=True)]
    nodes = np.stack(np.meshgrid(*lines, indexing="ij"), -1).reshape(-1, 3)
    return nodes + rng.uniform(-0.5, 0.5, nodes.shape)


def true_psf(shape):
    """Give the PSF at the middle voxel."""
    return make_psf(
        "richards-wolf", **CONDITIONS, voxel_size_um=VOXEL_UM, shape=shape, pixel_integration=False
    ).array


def difference(measured, shape=(17, 21, 21)):
    """Root of the squared difference to the truth over that of the truth, near the middle, at best scale."""
    box = tuple(
        slice(n // 2 - s // 2, n // 2 + s // 2 + 1) for n, s in zip(measured.shape, shape, strict=True)
    )
    truth, part = true_psf(shape), measured[box]
    scale = (part * truth).sum() / (part**2).sum()
    return float(np.linalg.norm(scale * part - truth) / np.linalg.norm(truth))
