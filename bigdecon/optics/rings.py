"""From profiles around an axis to pixels, and means over a disc: geometry without optics.

Profiles are arrays (radius, plane) at radii 0, step, 2 step, …; all lengths are micrometres.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import scipy.special
from numpy.typing import NDArray

__all__ = ["Grid", "disc_mean", "pixel_filler", "ring_radii"]

Real = NDArray[np.float64]

ROWS = 256
"""Radii whose disc means are computed at a time, to bound the memory."""


@dataclass(frozen=True)
class Grid:
    """Where the PSF is wanted; for a 2D PSF z holds one plane.

    Attributes
    ----------
    z_um : positions of the planes relative to the focus
    shape_yx : odd extents
    pixel_um : pixel size (y, x)
    integrate : whether a pixel collects the light on its whole area, as a camera's does
    """

    z_um: Real
    shape_yx: tuple[int, int]
    pixel_um: tuple[float, float]
    integrate: bool


def ring_radii(grid: Grid, step: float, beyond_um: float = 0.0) -> Real:
    """Radii from the axis to the grid's corner, and `beyond_um` further."""
    reach = [(n // 2 + 0.5) * p for n, p in zip(grid.shape_yx, grid.pixel_um, strict=True)]
    corner = float(np.hypot(reach[0], reach[1])) + beyond_um
    return np.asarray(step * np.arange(int(corner / step) + 3), np.float64)


def disc_mean(profiles: Real, step: float, radius: float, count: int) -> Real:
    """Average over a disc around every point, in each plane.

    A circle of radius s around the axis lies within the disc of radius a around a point at distance r on
    an arc of 2 arccos((r² + s² − a²) / 2rs); the mean is the integral over s with these arcs as weights.

    Parameters
    ----------
    profiles : (radius, plane), up to at least `radius` beyond the last of the `count` radii asked for
    step : spacing of the radii
    radius : of the disc; one below the step leaves the profiles as they are
    count : radii in the result
    """
    if radius < step:
        return profiles[:count]
    s = step * np.arange(len(profiles))
    result = np.empty((count, profiles.shape[1]))
    for start in range(0, count, ROWS):
        r = step * np.arange(start, min(start + ROWS, count))[:, None]
        cosine = (r**2 + s**2 - radius**2) / np.maximum(2 * r * s, 1e-12 * step**2)
        weights = s * np.arccos(np.clip(cosine, -1, 1))
        result[start : start + len(r)] = weights @ profiles / weights.sum(axis=1, keepdims=True)
    return result


def pixel_filler(grid: Grid, step: float, nodes_per_um: float) -> Callable[[Real], Real]:
    """Prepare the way from profiles (radius, plane) to pixels (plane, y, x); one quadrant is computed.

    Parameters
    ----------
    grid : the pixels
    step : spacing of the radii, of which there must be as many as `ring_radii` gives
    nodes_per_um : fineness of the mean over a pixel's area, beyond three nodes a side
    """
    ny, nx = grid.shape_yx
    matrix = _quadrant_weights(grid, step, nodes_per_um)
    quadrant = (ny // 2 + 1, nx // 2 + 1)

    def fill(profiles: Real) -> Real:
        part = (matrix @ profiles).T.reshape(-1, *quadrant)
        y, x = np.abs(np.arange(ny) - ny // 2), np.abs(np.arange(nx) - nx // 2)
        return np.asarray(part[:, y[:, None], x])

    return fill


def _quadrant_weights(grid: Grid, step: float, nodes_per_um: float) -> Any:
    """Sparse matrix (pixel of a quadrant, radius): linear interpolation, averaged over a pixel's area."""
    n_pixels = (grid.shape_yx[0] // 2 + 1) * (grid.shape_yx[1] // 2 + 1)
    shape = (n_pixels, len(ring_radii(grid, step)))
    total = scipy.sparse.csr_matrix(shape)
    y_nodes, x_nodes = (_pixel_nodes(p, nodes_per_um, grid.integrate) for p in grid.pixel_um)
    for dy, wy in zip(*y_nodes, strict=True):
        for dx, wx in zip(*x_nodes, strict=True):
            y = (np.arange(grid.shape_yx[0] // 2 + 1) + dy) * grid.pixel_um[0]
            x = (np.arange(grid.shape_yx[1] // 2 + 1) + dx) * grid.pixel_um[1]
            r = np.hypot(y[:, None], x).ravel() / step
            low = np.floor(r).astype(int)
            values = np.concatenate([1 - (r - low), r - low]) * (wy * wx)
            where = (np.tile(np.arange(n_pixels), 2), np.concatenate([low, low + 1]))
            total = total + scipy.sparse.csr_matrix((values, where), shape=shape)
    return total


def _pixel_nodes(pixel_um: float, nodes_per_um: float, integrate: bool) -> tuple[Real, Real]:
    """Gauss-Legendre nodes in a pixel, in pixels from its middle, with weights that sum to 1."""
    if not integrate:
        return np.zeros(1), np.ones(1)
    x, w = scipy.special.roots_legendre(3 + int(pixel_um * nodes_per_um))
    return x / 2, w / 2
