"""Simulated images of any size: a specimen, the microscope's blur and the camera's noise, box by box.

A drawn specimen has no border (see `specimens`): beyond the edges of a volume it simply goes on, so the
image is exact up to its last voxel. A user's own image (see `image_specimen`) repeats its edges. Noise has
its own random numbers for every cell of the image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bigdecon.errors import OptionError
from bigdecon.optics.image_specimen import ImageSpecimen, image_specimen
from bigdecon.optics.specimens import Specimen, cell_generator, cells_reaching, extent, intersect, within
from bigdecon.volume import Box

if TYPE_CHECKING:
    from bigdecon.optics.psf import PSF

__all__ = [
    "NoiseModel",
    "SimulatedBox",
    "SimulatedSource",
    "paper_noise",
    "paper_psf",
    "simulate_box",
    "simulate_image",
]

STREAM_NOISE = 100

PAPER_VOXEL_UM = 0.406
PAPER_DEFOCUS_2D_UM = 3.05

# Noise and blur are always computed for whole cells of this side, so that FFT sizes, and with them
# the last bit of every voxel, do not depend on the box that was asked for.
IMAGE_CELL = {2: 256, 3: 64}


@dataclass(frozen=True)
class NoiseModel:
    """The camera: noise, rounding and clipping of an image whose range is 0 to 1.

    As in section 4 of Papkov et al. 2023 and in their reference code:
    x + sqrt(poisson x + gaussian²) N(0, 1), then salt and pepper, then rounding to `bits`, then clipping
    to [0, 1].

    Attributes
    ----------
    poisson : variance of the shot noise per unit of signal
    gaussian : standard deviation of the read-out noise
    salt_and_pepper : share of the voxels whose value is replaced by an impulse
    bits : levels are k / 2^bits for k from 0 to 2^bits, both ends included; 0 leaves the values unrounded
    impulses : "uniform" draws the impulses evenly from 0 to 1, which is what the paper's reference code
        calls salt and pepper; "extreme" sets them to 0 or 1, half of them each
    """

    poisson: float = 0.001
    gaussian: float = 0.1
    salt_and_pepper: float = 0.0
    bits: int = 10
    impulses: Literal["uniform", "extreme"] = "uniform"

    def __post_init__(self) -> None:
        """Refuse a camera that cannot be."""
        for name, value in (("poisson", self.poisson), ("gaussian", self.gaussian)):
            if not 0 <= value < float("inf"):
                raise OptionError(f"the {name} noise is {value:g}; it must be finite and at least 0.")
        if not 0 <= self.salt_and_pepper <= 1:
            raise OptionError(f"the share of salt and pepper is {self.salt_and_pepper:g}, not 0 to 1.")
        if not 0 <= self.bits <= 16:
            raise OptionError(f"{self.bits} bits asked for; give 1 to 16, or 0 for no rounding.")
        if self.impulses not in ("uniform", "extreme"):
            raise OptionError(f"impulses can be uniform or extreme, not {self.impulses}.")

    def apply(self, image: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.float32]:
        """Take a clean image (any shape, values from 0 to 1) and return it as the camera gives it."""
        clean = np.maximum(image.astype(np.float64), 0)
        noisy = clean + np.sqrt(self.poisson * clean + self.gaussian**2) * rng.standard_normal(clean.shape)
        if self.salt_and_pepper > 0:
            self._add_impulses(noisy, rng)
        if self.bits:
            noisy = np.round(noisy * 2**self.bits) / 2**self.bits
        return noisy.clip(0, 1).astype(np.float32)

    def _add_impulses(self, image: NDArray[np.float64], rng: np.random.Generator) -> None:
        draw = rng.random(image.shape)
        hit = draw < self.salt_and_pepper
        if self.impulses == "uniform":
            image[hit] = rng.random(np.count_nonzero(hit))
        else:
            image[hit] = draw[hit] >= self.salt_and_pepper / 2


def paper_noise(ndim: int) -> NoiseModel:
    """Give the noise of Papkov et al. 2023; only their 2D images have salt and pepper, 1 %, uniform."""
    return NoiseModel(salt_and_pepper=0.01 if ndim == 2 else 0.0, impulses="uniform")


def paper_psf(ndim: int) -> PSF:
    """Make the PSF of Papkov et al. 2023: NA 0.8 in water, light of 0.6 µm, voxels of 0.406 µm, 17 wide.

    In 2D it is the plane 3.05 µm out of focus, the first of the 17 planes of their reference code.

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
    return PSF(whole.array[0] / whole.array[0].sum(), lateral, name="paper, 3.05 µm out of focus")


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
    specimen : one of `SPECIMENS`, an `ImageSpecimen`, or another function of box and seed
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


def simulate_image(
    image: NDArray[Any], psf_array: NDArray[np.floating], noise: NoiseModel, seed: int = 0
) -> SimulatedBox:
    """Simulate the camera's view of an image in memory; what lies beyond it repeats its edge.

    `SimulatedSource` with an `ImageSpecimen` gives the same for images larger than memory, bit for bit.

    Parameters
    ----------
    image : (z, y, x) or (y, x), in any units; the truth is this, scaled to 0..1 by minimum and maximum
    psf_array : PSF of odd extent along the same axes, summing to 1; `paper_psf(ndim).array` is the paper's
    noise : the camera; `paper_noise(ndim)` is the paper's
    seed : at least 0; decides on the noise

    Raises
    ------
    OptionError
        if image and PSF differ in their number of dimensions, or the seed is negative
    VolumeError
        if the image has other than 2 or 3 dimensions, NaN or infinity, or one value only
    """
    specimen = image_specimen(image)
    source = SimulatedSource(specimen, "noisy", image.shape, seed, psf_array, noise)
    whole = tuple(slice(0, n) for n in image.shape)
    return SimulatedBox(source.truth[whole], source[whole])


@dataclass(frozen=True, eq=False)
class SimulatedSource:
    """A simulated volume as a source for a `Volume`: nothing is made before it is read.

    Attributes
    ----------
    specimen : one of `SPECIMENS`, an `ImageSpecimen`, or another function of a module, so that it pickles
    kind : "truth", or "noisy" for the camera's image
    shape : extent along (z, y, x) or (y, x), in voxels
    seed : at least 0; truth and noisy image of one seed belong together; it decides on the noise, and on
        the specimen unless that is an image
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
    if isinstance(specimen, ImageSpecimen):
        specimen = specimen.read_once(_needed(box, blur.radius, side))
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

    grown = _grow(box, blur.radius)
    image: NDArray[np.float32] = blur.valid(torch.from_numpy(specimen(grown, seed))[None, None])[0, 0].numpy()
    return image


def _needed(box: Box, radius: tuple[int, ...], side: int) -> Box:
    """Give what the blur of all cells that a box touches depends on."""
    cells = tuple(slice(p.start // side * side, -(-p.stop // side) * side) for p in box)
    return _grow(cells, radius)


def _grow(box: Box, radius: tuple[int, ...]) -> Box:
    return tuple(slice(p.start - r, p.stop + r) for p, r in zip(box, radius, strict=True))
