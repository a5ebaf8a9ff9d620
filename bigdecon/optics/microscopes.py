"""Kinds of microscopes: how excitation and detection make one point spread function.

Each is a product, plane by plane, of the light that excites an emitter and the part of its own light that is
collected. Both are profiles around the axis (radius, plane) from `pupil.intensity`; h_ex and h_em stand for
the focused intensities at the wavelengths of excitation and emission, P for a pinhole's disc, ⊗ for the
convolution within a plane.

    widefield      h_em                                      camera
    confocal       h_ex · (h_em ⊗ P)                         one detector, the beam is scanned
    spinning-disk  h_em · Σ over pinholes (h_ex ⊗ P ⊗ P)      camera
    light-sheet    h_em · sheet(z)                           camera
    two-photon     h_ex²                                     one detector, the beam is scanned
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bigdecon.acquisition import LARGEST_INDEX, LIGHT_UM, MICROSCOPE_UM
from bigdecon.errors import PSFError
from bigdecon.optics.pupil import Optics, intensity, light_of_a_plane
from bigdecon.optics.rings import Grid, disc_mean, ring_radii

__all__ = ["Microscope", "MicroscopeKind", "check_microscope", "profiles", "ring_step"]

Real = NDArray[np.float64]

MicroscopeKind = Literal["widefield", "confocal", "spinning-disk", "light-sheet", "two-photon"]

NEEDS: dict[str, tuple[str, ...]] = {
    "widefield": (),
    "confocal": ("excitation_um", "pinhole_airy"),
    "spinning-disk": ("excitation_um", "pinhole_um"),
    "light-sheet": (),
    "two-photon": ("excitation_um",),
}
KNOWS: dict[str, tuple[str, ...]] = NEEDS | {
    "spinning-disk": ("excitation_um", "pinhole_um", "pinhole_spacing_um"),
    "light-sheet": ("excitation_um", "sheet_thickness_um", "sheet_aperture"),
}
WORDS = {
    "excitation_um": "the wavelength of excitation in µm (--excitation)",
    "pinhole_airy": "the pinhole's diameter in Airy units (--pinhole)",
    "pinhole_um": "the diameter of a disk's pinhole in the specimen, in µm (--disk-pinhole)",
    "pinhole_spacing_um": "the distance of a disk's pinholes in the specimen, in µm (--disk-spacing)",
    "sheet_thickness_um": "the light sheet's thickness in µm (--sheet-thickness)",
    "sheet_aperture": "the numerical aperture of the light sheet (--sheet-na)",
}

# Spacing of the radial profiles, in wavelength / NA; joined by lines they err by less than 2e-4 of the peak.
RADIAL_STEP = 1 / 128
LARGEST_PINHOLE = 100
"""Airy units; beyond it a pinhole is no longer one, and every photon passes."""
FARTHEST_PINHOLES = 60
"""Of a spinning disk, in wavelength / NA: 22 µm in the specimen at NA 1.4, where disks have some 2.5."""
RANGES: dict[str, tuple[float, float]] = {
    "excitation_um": LIGHT_UM,
    "pinhole_airy": (1e-4, 1e6),
    "pinhole_um": MICROSCOPE_UM,
    "pinhole_spacing_um": MICROSCOPE_UM,
    "sheet_thickness_um": MICROSCOPE_UM,
    "sheet_aperture": (1e-3, LARGEST_INDEX),
}


@dataclass(frozen=True)
class Microscope:
    """Kind of a fluorescence microscope, and what its kind needs to be known; lengths in micrometres.

    Attributes
    ----------
    kind : "widefield", "confocal", "spinning-disk", "light-sheet" or "two-photon"
    excitation_um : wavelength of the light that excites, in vacuum
    pinhole_airy : diameter of a confocal pinhole in Airy units of 1.22 λ_em / NA; infinity for an open one
    pinhole_um : diameter of a pinhole of a spinning disk, in the specimen: on the disk, divided by the
        magnification before it
    pinhole_spacing_um : distance between neighbouring pinholes, likewise; None leaves their cross-talk out
    sheet_thickness_um : full width at half maximum of a light sheet
    sheet_aperture : numerical aperture of the light sheet, instead of its thickness
    """

    kind: MicroscopeKind = "widefield"
    excitation_um: float | None = None
    pinhole_airy: float | None = None
    pinhole_um: float | None = None
    pinhole_spacing_um: float | None = None
    sheet_thickness_um: float | None = None
    sheet_aperture: float | None = None

    @property
    def scans(self) -> bool:
        """Whether a beam is scanned: a pixel is then a point, not the area of a camera's pixel."""
        return self.kind in ("confocal", "two-photon")

    @property
    def thickness_um(self) -> float:
        """Full width at half maximum of the light sheet.

        A Gaussian beam that falls to 1/e² at the angle of its numerical aperture has the waist
        w = λ_ex / (π NA) (half-width at 1/e²; Siegman, Lasers, 1986, ch. 17): √(2 ln 2) w at half maximum.
        """
        if self.sheet_thickness_um is not None:
            return self.sheet_thickness_um
        return float(
            np.sqrt(2 * np.log(2)) * (self.excitation_um or 0) / (np.pi * (self.sheet_aperture or 1))
        )


def check_microscope(microscope: Microscope, model: str, optics: Optics) -> None:
    """Refuse settings that are missing, impossible, or those of another kind.

    Raises
    ------
    PSFError
        if so; the message names the setting
    """
    kind = microscope.kind
    if kind not in get_args(MicroscopeKind):
        raise PSFError(f"there is no microscope {kind!r}; choose from {', '.join(get_args(MicroscopeKind))}.")
    given = {name: getattr(microscope, name) for name in WORDS if getattr(microscope, name) is not None}
    for name in NEEDS[kind]:
        if name not in given:
            raise PSFError(f"the PSF of a {kind} microscope needs {WORDS[name]}.")
    for name, value in given.items():
        if name not in KNOWS[kind]:
            raise PSFError(f"a {kind} microscope has no use for {WORDS[name]}.")
        _check_range(name, value)
    if kind == "light-sheet":
        _check_sheet(microscope, optics)
    _check_wavelengths(microscope, optics)
    if microscope.pinhole_um and (microscope.pinhole_spacing_um or np.inf) < microscope.pinhole_um:
        raise PSFError(
            f"pinholes of {microscope.pinhole_um:g} µm cannot lie {microscope.pinhole_spacing_um:g} µm apart."
        )
    _check_disk(microscope, optics)
    if microscope.pinhole_spacing_um and model == "gaussian":
        raise PSFError(
            "cross-talk between pinholes is light far from the focus, of which the model gaussian has none; "
            "choose another model, or leave --disk-spacing out."
        )


def _check_range(name: str, value: float) -> None:
    """Refuse a length or a number that no microscope has; pinholes and sheets may be open."""
    low, high = RANGES[name]
    if low <= value <= high or (np.isposinf(value) and name in ("pinhole_airy", "sheet_thickness_um")):
        return
    example = f"; {value:g} nm is {value / 1000:g}" if name == "excitation_um" and value > high else ""
    raise PSFError(f"{WORDS[name]} is {value:g}; it must be between {low:g} and {high:g}{example}.")


def _check_disk(microscope: Microscope, optics: Optics) -> None:
    """Refuse pinholes so far apart for the resolution that their light would take all memory to compute."""
    limit = (
        FARTHEST_PINHOLES * min(optics.wavelength_um, microscope.excitation_um or np.inf) / optics.aperture
    )
    for name in ("pinhole_um", "pinhole_spacing_um"):
        value = getattr(microscope, name)
        if value is not None and value > limit:
            raise PSFError(
                f"{WORDS[name]} is {value:.6g}, and at most {limit:.3g} is computed at this aperture; divide "
                "what the disk has by the magnification."
            )


def _check_sheet(microscope: Microscope, optics: Optics) -> None:
    thickness, aperture = microscope.sheet_thickness_um, microscope.sheet_aperture
    if (thickness is None) == (aperture is None):
        raise PSFError(
            "the PSF of a light-sheet microscope needs either the sheet's thickness in µm "
            "(--sheet-thickness) or its numerical aperture and the wavelength of excitation "
            "(--sheet-na, --excitation)."
        )
    if aperture is not None and microscope.excitation_um is None:
        raise PSFError(f"a light sheet's numerical aperture needs {WORDS['excitation_um']} as well.")
    if aperture is not None and aperture > optics.index:
        raise PSFError(
            f"the light sheet's numerical aperture {aperture:g} exceeds "
            f"the refractive index {optics.index:g}."
        )


def _check_wavelengths(microscope: Microscope, optics: Optics) -> None:
    excitation = microscope.excitation_um
    if excitation is None:
        return
    if microscope.kind == "two-photon" and excitation <= optics.wavelength_um:
        raise PSFError(
            f"two photons of {excitation:g} µm cannot excite light of {optics.wavelength_um:g} µm; "
            "two-photon excitation has a longer wavelength than the emission, such as 0.9 µm."
        )
    if microscope.kind != "two-photon" and excitation >= optics.wavelength_um:
        raise PSFError(
            f"light of {excitation:g} µm cannot excite an emission of {optics.wavelength_um:g} µm; "
            "the wavelength of excitation must be the shorter one (were the two exchanged?)."
        )


def ring_step(microscope: Microscope, optics: Optics) -> float:
    """Give a spacing of the radii, in micrometres, that is fine enough for all light in the microscope."""
    shortest = min(optics.wavelength_um, microscope.excitation_um or np.inf)
    return RADIAL_STEP * shortest / optics.aperture


def profiles(model: str, microscope: Microscope, optics: Optics, grid: Grid, shift_um: float) -> Real:
    """Compute the PSF (radius, plane) at the radii `rings.ring_radii` of the grid.

    Parameters
    ----------
    model : one of `models.Model`
    microscope, optics : see there; `optics` holds the wavelength of emission
    grid : planes and pixels wanted
    shift_um : added to the grid's planes: the place of the focus of an aberrated objective
    """
    build = {"confocal": _confocal, "spinning-disk": _spinning_disk, "two-photon": _two_photon}
    if microscope.kind in build:
        return build[microscope.kind](model, microscope, optics, grid, shift_um)
    radii = ring_radii(grid, ring_step(microscope, optics))
    detected = intensity(model, optics, radii, grid.z_um + shift_um)
    if microscope.kind == "light-sheet":
        return detected * _sheet(microscope, grid)
    return detected


def _sheet(microscope: Microscope, grid: Grid) -> Real:
    """Brightness of the sheet in every plane: Gaussian along z, the detection's axis, brightest in focus.

    Over the few micrometres of a PSF the sheet is as thick everywhere; Engelbrecht & Stelzer, Opt. Lett. 31
    (2006) 1477: the PSF is the product of the sheet and the PSF of the detection.
    """
    return np.asarray(np.exp(-4 * np.log(2) * (grid.z_um / microscope.thickness_um) ** 2))


def _confocal(model: str, microscope: Microscope, optics: Optics, grid: Grid, shift_um: float) -> Real:
    """h_ex · (h_em ⊗ P): Wilson, Sheppard, Theory and Practice of Scanning Optical Microscopy, 1984, ch. 3.

    The excitation fills the pupil evenly, with circular or no polarisation.
    """
    step, z = ring_step(microscope, optics), grid.z_um + shift_um
    radii = ring_radii(grid, step)
    excitation = intensity(model, optics.at(microscope.excitation_um or 0), radii, z)
    airy = microscope.pinhole_airy or 0
    if airy > LARGEST_PINHOLE:
        return excitation  # a plane's light is the same everywhere, and all of it is detected
    radius = airy * 0.61 * optics.wavelength_um / optics.aperture
    wide = intensity(model, optics, ring_radii(grid, step, radius), z)
    return excitation * disc_mean(wide, step, radius, len(radii))


def _two_photon(model: str, microscope: Microscope, optics: Optics, grid: Grid, shift_um: float) -> Real:
    """h_ex²: Denk, Strickler, Webb, Science 248 (1990) 73; all light is detected, wherever it arrives."""
    radii = ring_radii(grid, ring_step(microscope, optics))
    return intensity(model, optics.at(microscope.excitation_um or 0), radii, grid.z_um + shift_um) ** 2


def _spinning_disk(model: str, microscope: Microscope, optics: Optics, grid: Grid, shift_um: float) -> Real:
    """h_em · Σ over pinholes (h_ex ⊗ P ⊗ P), averaged over a turn of the disk.

    A camera's point x sees an emitter through the pinhole at p if x lies in it: P(x − p). That pinhole
    lights the emitter with (h_ex ⊗ P)(p); summed over all places p of a turn this is (h_ex ⊗ P ⊗ P)(x). The
    other pinholes light the emitter too, the more the further it is out of focus: the cross-talk described by
    Egner, Andresen, Hell, J. Microsc. 206 (2002) 24. They are taken as spread evenly, 2 / (√3 spacing²) to
    an area as in a hexagonal pattern, over all but the disc that is one pinhole's share.
    """
    step, z = ring_step(microscope, optics), grid.z_um + shift_um
    hole, spacing = (microscope.pinhole_um or 0) / 2, microscope.pinhole_spacing_um
    density = 0.0 if spacing is None else 2 / (np.sqrt(3) * spacing**2)
    share = 1 / np.sqrt(np.pi * density) if density else 0.0
    light = optics.at(microscope.excitation_um or 0)
    counts = [len(ring_radii(grid, step, beyond)) for beyond in (0, share, share + hole, share + 2 * hole)]
    radii = np.asarray(step * np.arange(counts[3]), np.float64)
    lit = intensity(model, light, radii, z)
    for count in (counts[2], counts[1]):
        lit = disc_mean(lit, step, hole, count)
    own = lit[: counts[0]]
    if density:
        # One pinhole's share has an area of 1 / density: the mean over it is density times the light on it.
        others = density * light_of_a_plane(model, light) - disc_mean(lit, step, share, counts[0])
        own = own + np.maximum(others, 0)
    return np.asarray(own * intensity(model, optics, radii[: counts[0]], z))
