"""Simulated images of a camera with gain, offset and read-out noise, and what it saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bigdecon.optics.blur import Blur
from bigdecon.optics.models import make_psf
from bigdecon.optics.specimens import SPECIMENS

SHAPES = {2: (160, 160), 3: (40, 72, 72)}
VOXEL_UM = (0.2, 0.1, 0.1)
OPTICS = {"numerical_aperture": 1.2, "wavelength_um": 0.52, "refractive_index": 1.33}


@dataclass(frozen=True)
class Camera:
    """Photon electrons at full density, data units per electron, offset, and read-out noise in data units."""

    electrons: float = 400.0
    gain: float = 2.0
    offset: float = 100.0
    read_out: float = 3.0

    def variance_at(self, expected: NDArray[np.floating]) -> NDArray[np.floating]:
        """Give the true variance, rounding to whole numbers included."""
        return self.gain * (expected - self.offset) + self.read_out**2 + 1 / 12


@dataclass(frozen=True)
class Simulated:
    """One box: the truth and the noise-free image in data units, the camera's image, and the PSF."""

    truth: NDArray[np.float64]
    expected: NDArray[np.float64]
    image: NDArray[np.uint16]
    psf: NDArray[np.float32]


def microscope_psf(ndim: int, voxel_um=VOXEL_UM, **changed) -> NDArray[np.float32]:
    """Make the PSF of a microscope that samples its plane well."""
    shape = (25, 25, 25)[:ndim]
    return make_psf("richards-wolf", **OPTICS | changed, voxel_size_um=voxel_um[-ndim:], shape=shape).array


def simulate(specimen: str, ndim: int, seed: int, camera: Camera | None = None, psf=None) -> Simulated:
    """Take a box of an endless specimen, blurred exactly up to its faces."""
    camera = camera or Camera()
    psf = microscope_psf(ndim) if psf is None else psf
    shape = SHAPES[ndim]
    radius = [n // 2 for n in psf.shape]
    grown = tuple(slice(-r, n + r) for r, n in zip(radius, shape, strict=True))
    density = SPECIMENS[specimen](grown, seed)
    blurred = Blur(psf).valid(torch.from_numpy(density)[None, None])[0, 0].numpy().astype(np.float64)
    electrons = camera.electrons * blurred.clip(0)
    random = np.random.default_rng(seed + 1000)
    counts = camera.gain * random.poisson(electrons) + camera.read_out * random.standard_normal(shape)
    inner = tuple(slice(r, r + n) for r, n in zip(radius, shape, strict=True))
    units = camera.gain * camera.electrons
    return Simulated(
        density[inner].astype(np.float64) * units + camera.offset,
        electrons * camera.gain + camera.offset,
        np.rint(counts + camera.offset).clip(0, 65535).astype("uint16"),
        psf,
    )
