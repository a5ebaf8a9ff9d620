"""Test volumes of any size: specimens, the microscope's blur, and noise, made box by box.

Nothing here holds a volume. A specimen is a function of a box and a seed: space is divided into the
cells of a lattice, every cell has its own random numbers (keyed by the seed and the cell's index) and
so its own objects, and a box draws the objects of all cells that can reach it.

    +-------+-------+-------+     o  where a cell's object starts
    |   o~~~|~~~~~+-|----+  |     +--+  the box: it draws the objects of its own cell
    |       |     | ~~~~~|  |           and of the neighbours within the objects' reach
    +-------+-----+-|----+--+

A box is therefore equal, bit for bit, to the same part of any larger box. The specimen has no border:
beyond the edges of a volume it simply goes on, so the image is exact up to its last voxel.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bigdecon.volume import Box

__all__ = [
    "SPECIMENS",
    "Specimen",
    "bars",
    "cell_generator",
    "cells_reaching",
    "extent",
    "filaments",
    "intersect",
    "nuclei",
    "points",
    "within",
]

Specimen = Callable[[Box, int], NDArray[np.float32]]
"""Gives the fluorophore density, from 0 to 1, of a box of a world made from a seed.

The box has two or three slices with explicit bounds, which may be negative."""

Floats = NDArray[np.float64]

STREAM_FILAMENTS, STREAM_POINTS, STREAM_NUCLEI, STREAM_BARS = range(4)

# Brightness, width and density are such that 64x128x128 voxels under the paper's blur and noise have an
# affine PSNR of about 22.4 dB, and their clean blurred image one of about 24.3 dB.
FILAMENT_LATTICE = 64
FILAMENTS_PER_CELL = {2: 3, 3: 5}
FILAMENT_LENGTH = 192.0
FILAMENT_SIGMA = 0.9
FILAMENT_WAVES = 3
FILAMENT_BEND = 0.4  # largest slope of each wave
FILAMENT_WAVELENGTHS = (60.0, 160.0)
FILAMENT_BRIGHTNESS = (0.5, 1.02)
FILAMENT_STEP = 0.5
FILAMENT_FLATTENING = 0.6  # cells are flat: directions lean towards the plane

POINT_LATTICE = 32
POINTS_PER_CELL = {2: 6.0, 3: 12.0}
POINT_SIGMA = 0.9

NUCLEUS_LATTICE = 38
NUCLEUS_PROBABILITY = 0.8
NUCLEUS_SEMIAXES = (9.0, 15.0)
NUCLEUS_EDGE = 0.7
NUCLEUS_MARGIN = 5
NUCLEUS_WAVES = 16
NUCLEUS_WAVELENGTHS = (5.0, 16.0)

BAR_LATTICE = 32
BAR_WIDTHS = (1, 2, 3, 4, 6)
BAR_MARGIN = 4


def filaments(box: Box, seed: int) -> NDArray[np.float32]:
    """Draw thin, smoothly bent tubes of Gaussian profile (sigma 0.9 voxel), sparse like microtubules.

    A filament is 192 voxels long: a straight line plus sinusoids of long wavelength. Where filaments
    cross, densities add and are clipped at 1.
    """
    density = _empty(box)
    reach = FILAMENT_LENGTH / 2 + _filament_wiggle()
    for cell in cells_reaching(box, FILAMENT_LATTICE, reach):
        curves = _draw_filaments(cell_generator(seed, STREAM_FILAMENTS, cell), cell)
        near = curves.near(box)
        if len(near.centres) > 0:
            places, heights = _sample_filaments(near)
            _deposit(density, places, heights, FILAMENT_SIGMA, box)
    return _finish(density)


def points(box: Box, seed: int) -> NDArray[np.float32]:
    """Draw small Gaussian spots (sigma 0.9 voxel) of peak density 0.3 to 1 at random places."""
    density = _empty(box)
    for cell in cells_reaching(box, POINT_LATTICE, 4 * POINT_SIGMA):
        rng = cell_generator(seed, STREAM_POINTS, cell)
        count = rng.poisson(POINTS_PER_CELL[len(box)])
        places = (np.array(cell) + rng.random((count, len(box)))) * POINT_LATTICE
        _deposit(density, places, rng.uniform(0.3, 1.0, count), POINT_SIGMA, box)
    return _finish(density)


def nuclei(box: Box, seed: int) -> NDArray[np.float32]:
    """Draw ellipsoids with semi-axes of 9 to 15 voxels, soft edges and a mottled inside."""
    density = _empty(box)
    reach = NUCLEUS_SEMIAXES[1] + NUCLEUS_MARGIN
    for cell in cells_reaching(box, NUCLEUS_LATTICE, reach):
        rng = cell_generator(seed, STREAM_NUCLEI, cell)
        if rng.random() < NUCLEUS_PROBABILITY:
            _draw_nucleus(density, rng, cell, box)
    return _finish(density)


def bars(box: Box, seed: int) -> NDArray[np.float32]:
    """Draw groups of parallel bars, 1 to 6 voxels wide and as far apart, along any of the axes.

    In 3D a bar is as thick as it is wide. Each cell of 32 voxels holds one group of one width.
    """
    density = _empty(box)
    for cell in cells_reaching(box, BAR_LATTICE, 0):
        whole = tuple(slice(c * BAR_LATTICE, (c + 1) * BAR_LATTICE) for c in cell)
        part = intersect(whole, box)
        density[within(part, box)] = _draw_bars(cell_generator(seed, STREAM_BARS, cell), within(part, whole))
    return _finish(density)


SPECIMENS: dict[str, Specimen] = {
    "filaments": filaments,
    "points": points,
    "nuclei": nuclei,
    "bars": bars,
}


def cell_generator(seed: int, stream: int, cell: tuple[int, ...]) -> np.random.Generator:
    """Give the random numbers of one cell, whatever was drawn before; cells may have negative indices."""
    key = (stream, *(index + 2**31 for index in cell))
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))


def cells_reaching(box: Box, side: int, reach: float) -> Iterator[tuple[int, ...]]:
    """Give the lattice's cells whose objects, reaching so far beyond them, may touch the box."""
    margin = int(np.ceil(reach))
    ranges = [range((p.start - margin) // side, (p.stop - 1 + margin) // side + 1) for p in box]
    return itertools.product(*ranges) if min(extent(box)) > 0 else iter(())


def extent(box: Box) -> tuple[int, ...]:
    """Give the number of voxels of a box along every axis."""
    return tuple(part.stop - part.start for part in box)


def _empty(box: Box) -> Floats:
    return np.zeros(extent(box))


def _finish(density: Floats) -> NDArray[np.float32]:
    return density.clip(0, 1).astype(np.float32)


def intersect(box: Box, other: Box) -> Box:
    """Give the box that two boxes share; its extent is not above 0 if they share none."""
    pairs = zip(box, other, strict=True)
    return tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in pairs)


def within(part: Box, box: Box) -> Box:
    """Give where a part lies within a box, counted from the box's first voxel."""
    return tuple(slice(p.start - b.start, p.stop - b.start) for p, b in zip(part, box, strict=True))


class _Filaments(NamedTuple):
    """Curves centre + direction t + sum of bends sin(2 pi t / wavelength + phase); n filaments, k waves."""

    centres: Floats  # (n, ndim), voxels
    directions: Floats  # (n, ndim), unit vectors
    bends: Floats  # (n, k, ndim), amplitudes in voxels
    wavelengths: Floats  # (n, k), voxels
    phases: Floats  # (n, k)
    brightness: Floats  # (n,), density on the axis

    def near(self, box: Box) -> _Filaments:
        """Keep those that could touch the box."""
        half = np.abs(self.directions) * FILAMENT_LENGTH / 2 + _filament_wiggle() + 4 * FILAMENT_SIGMA
        lower, upper = np.array([p.start for p in box]), np.array([p.stop for p in box])
        touching = np.all((self.centres + half > lower) & (self.centres - half < upper), axis=1)
        return _Filaments(*(part[touching] for part in self))


def _draw_filaments(rng: np.random.Generator, cell: tuple[int, ...]) -> _Filaments:
    ndim = len(cell)
    n, k = FILAMENTS_PER_CELL[ndim], FILAMENT_WAVES
    directions = _random_directions(rng, (n, ndim))
    if ndim == 3:
        directions[:, 0] *= FILAMENT_FLATTENING
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    wavelengths = rng.uniform(*FILAMENT_WAVELENGTHS, (n, k))
    slopes = rng.uniform(0, FILAMENT_BEND, (n, k, 1))
    return _Filaments(
        centres=(np.array(cell) + rng.random((n, ndim))) * FILAMENT_LATTICE,
        directions=directions,
        bends=_random_directions(rng, (n, k, ndim)) * slopes * wavelengths[..., None] / (2 * np.pi),
        wavelengths=wavelengths,
        phases=rng.uniform(0, 2 * np.pi, (n, k)),
        brightness=rng.uniform(*FILAMENT_BRIGHTNESS, n),
    )


def _filament_wiggle() -> float:
    """How far a filament can stray from its straight line, in voxels."""
    return FILAMENT_WAVES * FILAMENT_BEND * FILAMENT_WAVELENGTHS[1] / (2 * np.pi)


def _sample_filaments(curves: _Filaments) -> tuple[Floats, Floats]:
    """Spots along the filaments, close enough to add up to smooth tubes: (m, ndim) places, (m,) heights.

    Spots of height h, spaced d apart on a line, add up to h sqrt(2 pi) sigma / d; d follows the slope.
    """
    t = np.arange(-FILAMENT_LENGTH / 2, FILAMENT_LENGTH / 2, FILAMENT_STEP)
    wave_numbers = 2 * np.pi / curves.wavelengths[..., None]  # (n, k, 1)
    angles = wave_numbers * t + curves.phases[..., None]  # (n, k, t)
    places = curves.centres[:, None] + curves.directions[:, None] * t[:, None]  # (n, t, ndim)
    slopes = np.repeat(curves.directions[:, None], len(t), axis=1)
    for wave in range(FILAMENT_WAVES):
        bend = curves.bends[:, wave, None]  # (n, 1, ndim)
        places += bend * np.sin(angles[:, wave, :, None])
        slopes += bend * (wave_numbers * np.cos(angles))[:, wave, :, None]
    spacing = FILAMENT_STEP * np.linalg.norm(slopes, axis=-1)
    heights = curves.brightness[:, None] * spacing / (np.sqrt(2 * np.pi) * FILAMENT_SIGMA)
    return places.reshape(-1, places.shape[-1]), heights.ravel()


def _deposit(density: Floats, places: Floats, heights: Floats, sigma: float, box: Box) -> None:
    """Add Gaussian spots to the box: places (m, ndim) in the world's voxels, heights (m,).

    Each voxel receives its spots in the order given, so that its last bit does not depend on the box.
    """
    radius = int(np.ceil(3.2 * sigma))
    nearest = np.rint(places).astype(np.int64)
    lower, upper = np.array([p.start for p in box]), np.array([p.stop for p in box])
    touching = np.all((nearest + radius >= lower) & (nearest - radius < upper), axis=1)
    places, heights, nearest = places[touching], heights[touching], nearest[touching]
    window = np.arange(-radius, radius + 1)
    values, indices = heights, np.zeros(len(heights), np.int64)
    inside = np.ones(len(heights), bool)
    for axis, part in enumerate(box):
        voxels = nearest[:, axis, None] + window  # (m, window)
        profile = np.exp(-((voxels - places[:, axis, None]) ** 2) / (2 * sigma**2))
        shape = (len(heights), *(1,) * axis, len(window))
        values = values[..., None] * profile.reshape(shape)
        indices = indices[..., None] * (part.stop - part.start) + (voxels - part.start).reshape(shape)
        inside = inside[..., None] & ((voxels >= part.start) & (voxels < part.stop)).reshape(shape)
    np.add.at(density.reshape(-1), indices[inside], values[inside])


def _draw_nucleus(density: Floats, rng: np.random.Generator, cell: tuple[int, ...], box: Box) -> None:
    """Keep the larger of what is there and one nucleus, over the part of it that lies in the box."""
    ndim = len(box)
    centre = (np.array(cell) + rng.uniform(0.2, 0.8, ndim)) * NUCLEUS_LATTICE
    semiaxes = rng.uniform(*NUCLEUS_SEMIAXES, ndim)
    axes = np.linalg.qr(rng.standard_normal((ndim, ndim)))[0] / semiaxes[:, None]
    waves = _random_directions(rng, (NUCLEUS_WAVES, ndim)) * 2 * np.pi
    waves /= rng.uniform(*NUCLEUS_WAVELENGTHS, (NUCLEUS_WAVES, 1))
    phases, brightness = rng.uniform(0, 2 * np.pi, NUCLEUS_WAVES), rng.uniform(0.4, 1.0)
    reach = float(semiaxes.max()) + NUCLEUS_MARGIN
    support = tuple(slice(int(np.ceil(c - reach)), int(np.floor(c + reach)) + 1) for c in centre)
    part = intersect(support, box)
    if min(extent(part)) <= 0:
        return
    grid = np.ix_(*(np.arange(p.start, p.stop) - c for p, c in zip(part, centre, strict=True)))
    radius = np.sqrt(sum(_combine(row, grid) ** 2 for row in axes))
    inside = 1 / (1 + np.exp((radius - 1) * float(semiaxes.mean()) / NUCLEUS_EDGE))
    ripple = sum(np.sin(_combine(wave, grid) + phase) for wave, phase in zip(waves, phases, strict=True))
    texture = np.clip(0.6 + 0.4 * ripple / np.sqrt(NUCLEUS_WAVES), 0.1, 1)
    here = within(part, box)
    density[here] = np.maximum(density[here], brightness * inside * texture)


def _draw_bars(rng: np.random.Generator, part: Box) -> Floats:
    """Draw a part of a cell's group; the box is counted from the cell's first voxel."""
    width = int(rng.choice(BAR_WIDTHS))
    repeat_axis, _, *thin_axes = rng.permutation(len(part)).tolist()
    product = np.ones(())
    for axis, local in enumerate(np.ogrid[part]):
        inside = (local >= BAR_MARGIN) & (local < BAR_LATTICE - BAR_MARGIN)
        if axis == repeat_axis:
            inside &= (local - BAR_MARGIN) // width % 2 == 0
        if axis in thin_axes:
            inside = np.abs(2 * local + 1 - BAR_LATTICE) <= width
        product = product * inside
    return product


def _combine(coefficients: Floats, grid: tuple[Floats, ...]) -> Floats:
    """Linear function of the coordinates, over an open grid."""
    total: Floats = sum((a * x for a, x in zip(coefficients, grid, strict=True)), np.zeros(()))
    return total


def _random_directions(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Draw unit vectors along the last axis, evenly over the sphere or circle."""
    vectors = rng.standard_normal(shape)
    unit: Floats = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit
