"""Simulated images of any size: a specimen, the microscope's blur and the camera's noise, box by box.

The specimen has no border (see `specimens`): beyond the edges of a volume it simply goes on, so the
image is exact up to its last voxel. Noise has its own random numbers for every cell of the image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bigdecon.errors import OptionError
from bigdecon.optics.specimens import Specimen, cell_generator, cells_reaching, extent, intersect, within
from bigdecon.volume import Box

if TYPE_CHECKING:
    from bigdecon.optics.psf import PSF

__all__ = ["NoiseModel", "SimulatedBox", "SimulatedSource", "paper_noise", "paper_psf", "simulate_box"]

STREAM_NOISE = 100

PAPER_VOXEL_UM = 0.406
PAPER_DEFOCUS_2D_UM = 3.05

# Noise and blur are always computed for whole cells of this side, so that FFT sizes, and with them
# the last bit of every voxel, do not depend on the box that was asked for.
IMAGE_CELL = {2: 256, 3: 64}


@dataclass(frozen=True)
class NoiseModel:
    """The camera: noise, rounding and clipping of an image whose range is 0 to 1.

    As in section 4 of Papkov et al. 2023: x + sqrt(poisson x + gaussian²) N(0, 1), then salt and
    pepper, then rounding to `bits`, then clipping to [0, 1].

    Attributes
    ----------
    poisson : variance of the shot noise per unit of signal
    gaussian : standard deviation of the read-out noise
    salt_and_pepper : share of the voxels set to 0 or 1, half of them each
    bits : levels are k / (2^bits - 1); 0 leaves the values unrounded
    """

    poisson: float = 0.001
    gaussian: float = 0.1
    salt_and_pepper: float = 0.0
    bits: int = 10

    def __post_init__(self) -> None:
        """Refuse a camera that cannot be."""
        for name, value in (("poisson", self.poisson), ("gaussian", self.gaussian)):
            if not 0 <= value < float("inf"):
                raise OptionError(f"the {name} noise is {value:g}; it must be finite and at least 0.")
        if not 0 <= self.salt_and_pepper <= 1:
            raise OptionError(f"the share of salt and pepper is {self.salt_and_pepper:g}, not 0 to 1.")
        if not 0 <= self.bits <= 16:
            raise OptionError(f"{self.bits} bits asked for; give 1 to 16, or 0 for no rounding.")

    def apply(self, image: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.float32]:
        """Take a clean image (any shape, values from 0 to 1) and return it as the camera gives it."""
        clean = np.maximum(image.astype(np.float64), 0)
        noisy = clean + np.sqrt(self.poisson * clean + self.gaussian**2) * rng.standard_normal(clean.shape)
        if self.salt_and_pepper > 0:
            draw = rng.random(clean.shape)
            noisy[draw < self.salt_and_pepper] = 1
            noisy[draw < self.salt_and_pepper / 2] = 0
        if self.bits:
            levels = 2**self.bits - 1
            noisy = np.round(noisy * levels) / levels
        return noisy.clip(0, 1).astype(np.float32)


def paper_noise(ndim: int) -> NoiseModel:
    """Give the noise of Papkov et al. 2023; only their 2D images have salt and pepper, 1 %."""
    return NoiseModel(salt_and_pepper=0.01 if ndim == 2 else 0.0)


def paper_psf(ndim: int) -> PSF:
    """Make the PSF of Papkov et al. 2023: NA 0.8 in water, light of 0.6 um, voxels of 0.406 um, 17 wide.

    In 2D it is the plane 3.05 um out of focus, the first of the 17 planes of their reference code.

    Raises
    ------
    OptionError
        if `ndim` is neither 2 nor 3
    """
    from bigdecon.optics.models import make_psf
    from bigdecon.optics.psf import PSF

    if ndim not in (2, 3):
        raise OptionError(f"the paper has a PSF for 2D and one for 3D, none for {ndim} dimensions.")
    lateral = (PAPER_VOXEL_UM,) * 2
    whole = make_psf(
        "richards-wolf",
        numerical_aperture=0.8,
        wavelength_um=0.6,
        refractive_index=1.33,
        voxel_size_um=(PAPER_VOXEL_UM if ndim == 3 else PAPER_DEFOCUS_2D_UM, *lateral),
        shape=(17 if ndim == 3 else 3, 17, 17),
    )
    if ndim == 3:
        return whole
    return PSF(whole.array[0] / whole.array[0].sum(), lateral, name="paper, 3.05 um out of focus")


class SimulatedBox(NamedTuple):
    """What was there and what the camera saw; float32 from 0 to 1, the shape of the box."""

    truth: NDArray[np.float32]
    noisy: NDArray[np.float32]


def simulate_box(
    specimen: Specimen, psf_array: NDArray[np.floating], noise: NoiseModel, box: Box, seed: int
) -> SimulatedBox:
    """Simulate a box of a world without borders: specimen, blur, noise.

    Every voxel is the same, bit for bit on one machine, in whichever box it is asked for.

    Parameters
    ----------
    specimen : one of `SPECIMENS`, or another function of box and seed
    psf_array : PSF of odd extent along (z, y, x) or (y, x), summing to 1
    noise : the camera
    box : explicit bounds in voxels for every spatial axis
    seed : at least 0; decides on the specimen and on the noise

    Raises
    ------
    OptionError
        if box and PSF differ in their number of dimensions
    """
    return SimulatedBox(specimen(box, seed), _camera_image(specimen, psf_array, noise, box, seed))


@dataclass(frozen=True, eq=False)
class SimulatedSource:
    """A simulated volume as a source for a `Volume`: nothing is made before it is read.

    Attributes
    ----------
    specimen : one of `SPECIMENS`; it must be a function of a module, so that it pickles
    kind : "truth", or "noisy" for the camera's image
    shape : extent along (z, y, x) or (y, x), in voxels
    seed : at least 0; truth and noisy image of one seed belong together
    psf_array : PSF of odd extent, summing to 1, with as many dimensions as `shape`
    noise : the camera
    gain : data units per unit of density
    offset : data units where there is nothing, as the offset of a camera
    """

    specimen: Specimen
    kind: Literal["truth", "noisy"]
    shape: tuple[int, ...]
    seed: int
    psf_array: NDArray[np.floating]
    noise: NoiseModel
    gain: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated."""
        if len(self.shape) not in (2, 3) or min(self.shape) < 1:
            raise OptionError(f"the shape {self.shape} is not that of a 2D or 3D image.")
        if self.seed < 0:
            raise OptionError(f"the seed is {self.seed}; it must be at least 0.")
        _check_dimensions(self.psf_array, self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values: float32."""
        return np.dtype(np.float32)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Cells in which blur and noise are computed, no larger than the volume."""
        return tuple(min(IMAGE_CELL[len(self.shape)], n) for n in self.shape)

    @property
    def truth(self) -> SimulatedSource:
        """The truth that belongs to this image."""
        return replace(self, kind="truth")

    def __getitem__(self, selection: Box, /) -> NDArray[np.float32]:
        """Simulate a part, in data units."""
        bounds = [part.indices(n)[:2] for part, n in zip(selection, self.shape, strict=True)]
        box = tuple(slice(start, max(start, stop)) for start, stop in bounds)
        if self.kind == "truth":
            values = self.specimen(box, self.seed)
        else:
            values = _camera_image(self.specimen, self.psf_array, self.noise, box, self.seed)
        return values * np.float32(self.gain) + np.float32(self.offset)


def _check_dimensions(psf_array: NDArray[np.floating], extents: tuple[Any, ...]) -> None:
    if psf_array.ndim != len(extents):
        raise OptionError(
            f"the PSF has {psf_array.ndim} dimensions and the image {len(extents)}; they must agree."
        )


def _camera_image(
    specimen: Specimen, psf_array: NDArray[np.floating], noise: NoiseModel, box: Box, seed: int
) -> NDArray[np.float32]:
    from bigdecon.optics.blur import Blur

    _check_dimensions(psf_array, box)
    blur, side = Blur(psf_array), IMAGE_CELL[len(box)]
    image = np.empty(extent(box), np.float32)
    for cell in cells_reaching(box, side, 0):
        whole = tuple(slice(c * side, (c + 1) * side) for c in cell)
        part = intersect(whole, box)
        noisy = noise.apply(_blurred(specimen, blur, whole, seed), cell_generator(seed, STREAM_NOISE, cell))
        image[within(part, box)] = noisy[within(part, whole)]
    return image


def _blurred(specimen: Specimen, blur: Any, box: Box, seed: int) -> NDArray[np.float32]:
    """Blur the truth of the box grown by the PSF's radius: exact for every voxel of the box."""
    import torch

    grown = tuple(slice(p.start - r, p.stop + r) for p, r in zip(box, blur.radius, strict=True))
    image: NDArray[np.float32] = blur.valid(torch.from_numpy(specimen(grown, seed))[None, None])[0, 0].numpy()
    return image
