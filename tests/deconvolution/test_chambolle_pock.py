"""Chambolle–Pock: known solutions, an independent solver, and blocks that agree."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import convolve, gaussian_filter

from bigdecon.deconvolution.block import Deconvolver
from bigdecon.deconvolution.blockwise import deconvolve
from bigdecon.deconvolution.chambolle_pock import ChambollePock, _minimise
from bigdecon.errors import OptionError, PSFError
from bigdecon.optics.blur import Blur
from bigdecon.volume import Volume
from tests.deconvolution.psfs import uneven

pytestmark = pytest.mark.usefixtures("one_thread")


def points(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Blurred points over a background of 20 counts with photon noise."""
    rng = np.random.default_rng(3)
    return rng.poisson(gaussian_filter((rng.random(shape) > 0.99) * 2000.0, 1) + 20).astype(np.float32)


def matrix(psf: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Blurring as a matrix: y[i] = sum over t of psf[t] x[i + 2 r - t], the object x reaching r beyond y."""
    extent = tuple(n + p - 1 for n, p in zip(shape, psf.shape, strict=True))
    a = np.zeros((int(np.prod(shape)), int(np.prod(extent))))
    voxels = np.indices(shape).reshape(len(shape), -1).T
    for t, value in np.ndenumerate(psf):
        source = voxels + np.array(psf.shape) - 1 - np.array(t)
        a[np.arange(len(a)), np.ravel_multi_index(tuple(source.T), extent)] = value
    return a


def differences(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Forward differences as a matrix (axes, voxels, voxels); none beyond the last voxel."""
    count = int(np.prod(shape))
    index = np.arange(count).reshape(shape)
    d = np.zeros((len(shape), count, count))
    for axis in range(len(shape)):
        here = np.delete(index, -1, axis).ravel()
        d[axis, here, here] = -1
        d[axis, here, np.delete(index, 0, axis).ravel()] = 1
    return d


def solve_by_admm(
    a: NDArray[Any], d: NDArray[Any], data: NDArray[Any], weight: float, rounds: int
) -> NDArray[np.float64]:
    """Minimise ½ |A x - y|² + λ TV(x) over x >= 0, with copies of D x and of x that are drawn together."""
    rho, (axes, count, _) = 0.3, d.shape
    stacked = d.reshape(axes * count, count)
    inverse = np.linalg.inv(a.T @ a + rho * (stacked.T @ stacked + np.eye(count)))
    slopes = slopes_off = np.zeros((axes, count))
    clipped = clipped_off = np.zeros(count)
    x = clipped
    for _ in range(rounds):
        pulled = stacked.T @ (slopes - slopes_off).ravel() + clipped - clipped_off
        x = inverse @ (a.T @ data + rho * pulled)
        wanted = (stacked @ x).reshape(axes, count) + slopes_off
        length = np.sqrt((wanted**2).sum(0)).clip(1e-12)
        slopes = wanted * (1 - weight / rho / length).clip(0)
        slopes_off = wanted - slopes
        clipped, clipped_off = (x + clipped_off).clip(0), (x + clipped_off).clip(None, 0)
    return clipped


@pytest.mark.parametrize(("shape", "size"), [((9, 10), (3, 5)), ((8, 7), (5, 3)), ((5, 4, 5), (3, 1, 3))])
@pytest.mark.parametrize("weight", [0.5, 5.0])
def test_finds_what_an_independent_solver_finds(
    shape: tuple[int, ...], size: tuple[int, ...], weight: float
) -> None:
    psf, background = uneven(size), 12.0
    image = (np.random.default_rng(1).uniform(size=shape) > 0.75) * 100 + np.random.default_rng(2).normal(
        10, 6, shape
    )
    extent = tuple(n + p - 1 for n, p in zip(shape, size, strict=True))
    a, d = matrix(psf.astype(float), shape), differences(extent)
    data = image.ravel() - background

    def objective(x: NDArray[Any]) -> float:
        variation = np.sqrt(((d @ x) ** 2).sum(0)).sum()
        return float(0.5 * ((a @ x - data) ** 2).sum() + weight * variation)

    expected = solve_by_admm(a, d, data, weight, 4000)
    ours = _minimise(Blur(psf), torch.tensor(image - background).float()[None, None], weight, 1500)
    found = ours.double().numpy().ravel()
    assert found.min() >= 0
    assert objective(found) < objective(expected) * (1 + 3e-4)
    result = ChambollePock(psf, regularization=weight, background=background, iterations=1500)(image)
    inner = tuple(slice(p // 2, p // 2 + n) for n, p in zip(shape, size, strict=True))
    # Voxels at the edge may trade light at hardly any cost, so the mean is compared; it is some 40 from voxel
    # to voxel.
    assert np.abs(result - background - expected.reshape(extent)[inner]).mean() < 1


@pytest.mark.parametrize("shape", [(15, 16), (9, 12, 11)])
@pytest.mark.parametrize("size", [1, 5])
def test_without_regularization_a_delta_only_clips(shape: tuple[int, ...], size: int) -> None:
    psf = np.zeros((size,) * len(shape), np.float32)
    psf[(size // 2,) * len(shape)] = 1
    image = np.random.default_rng(0).integers(0, 100, shape).astype(np.uint16)
    result = ChambollePock(psf, regularization=0, background=40, iterations=5)(image)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, image.clip(40), atol=1e-3)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("ndim", [2, 3])
def test_plateaus_move_by_the_known_amount(axis: int, ndim: int) -> None:
    """A step from 10 to 20, 4 and 8 voxels wide: the plateaus move by λ / 4 and λ / 8 towards each other."""
    axis = axis % ndim
    step = np.repeat([10.0, 20.0], [4, 8])
    shape = [5, 6, 7][:ndim]
    shape[axis] = 12
    image = np.broadcast_to(step.reshape([-1 if a == axis else 1 for a in range(ndim)]), shape)
    result = ChambollePock(np.ones((1,) * ndim, np.float32), regularization=4.0, iterations=1000)(image)
    expected = np.where(image == 10, 11.0, 19.5)
    np.testing.assert_allclose(result, expected, atol=5e-3)
    flat = ChambollePock(np.ones((1,) * ndim, np.float32), regularization=40.0, iterations=1000)(image)
    np.testing.assert_allclose(flat, image.mean(), atol=0.1)


@pytest.mark.parametrize(
    ("shape", "iterations", "surplus"), [((41, 40), 1000, 2e-3), ((20, 24, 21), 300, 0.15)]
)
def test_a_bead_keeps_its_place_and_in_the_end_its_light(
    shape: tuple[int, ...], iterations: int, surplus: float
) -> None:
    psf = uneven((5, 7, 5)[-len(shape) :])
    sharp = np.zeros(shape)
    place = tuple(n // 2 for n in shape)
    sharp[place] = 1000
    image = convolve(sharp, psf.astype(float), mode="constant")
    result = ChambollePock(psf, regularization=0.01, iterations=iterations)(image)
    centre = [float((result * axis).sum() / result.sum()) for axis in np.indices(shape)]
    np.testing.assert_allclose(centre, place, atol=0.05)
    assert np.unravel_index(result.argmax(), shape) == place
    assert result.sum() == pytest.approx(1000, rel=surplus)


@pytest.mark.parametrize("shape", [(40, 31), (15, 16, 17)])
@pytest.mark.parametrize("background", [0, 30])
def test_a_flat_image_stays_flat_to_its_very_edge(shape: tuple[int, ...], background: float) -> None:
    psf = uneven((7, 9, 7)[-len(shape) :])
    for weight in (0.0, 3.0):
        method = ChambollePock(psf, regularization=weight, background=background, iterations=60)
        np.testing.assert_allclose(method(np.full(shape, 100)), 100, rtol=1e-2)
        np.testing.assert_allclose(method(np.full(shape, background)), background, atol=1e-5)


@pytest.mark.parametrize("weight", [0.3, 10.0])
@pytest.mark.parametrize(("iterations", "block"), [(25, 32), (60, 50)])
def test_blocks_agree_with_the_whole_plane(weight: float, iterations: int, block: int) -> None:
    method = ChambollePock(uneven((5, 7)), regularization=weight, background=20, iterations=iterations)
    image = points((130, 121))
    whole = method(image)
    assert max(method.halo) < block
    blocks = np.asarray(deconvolve(Volume.from_array(image), method, block=block))
    assert np.abs(blocks - whole).max() < 3e-4 * np.ptp(whole)


def test_blocks_agree_with_the_whole_volume() -> None:
    method = ChambollePock(uneven((3, 5, 3)), regularization=5, background=20, iterations=16)
    image = points((33, 46, 40))
    whole = method(image)
    assert max(method.halo) < 22
    blocks = np.asarray(deconvolve(Volume.from_array(image), method, block=22))
    assert np.abs(blocks - whole).max() < 3e-4 * np.ptp(whole)


def test_halo_follows_the_light_and_the_iterations() -> None:
    method = ChambollePock(uneven((5, 7, 9)), regularization=1)
    assert method.halo == ChambollePock(np.pad(method.psf, 5), regularization=1).halo
    assert ChambollePock(method.psf, regularization=1, iterations=400).halo > method.halo
    assert ChambollePock(method.psf, regularization=1, iterations=1).halo == (4, 4, 8)
    assert method.halo[0] < method.halo[2]
    wide = np.ones((9, 1), np.float32) / 9  # a wide axis lets what a cut spoils travel along the other too
    assert (
        ChambollePock(wide, regularization=1).halo[1] > ChambollePock(wide[:1] * 9, regularization=1).halo[1]
    )


def test_pickles_and_meets_the_protocol() -> None:
    method = ChambollePock(uneven((5, 7)), regularization=1, iterations=5, background=1)
    image = points((20, 21))
    assert isinstance(method, Deconvolver)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(method))(image), method(image))
    assert 4 * 15 * 200**2 < method.working_bytes((200, 200)) < 4 * 40 * 200**2


def test_settings_that_cannot_work() -> None:
    psf = uneven((5, 5))
    for value in (-1, np.inf, np.nan):
        with pytest.raises(OptionError, match=f"regularization is {value:g}"):
            ChambollePock(psf, regularization=value)
    with pytest.raises(OptionError, match="0 iterations"):
        ChambollePock(psf, regularization=1, iterations=0)
    with pytest.raises(OptionError, match="background is -1"):
        ChambollePock(psf, regularization=1, background=-1)
    with pytest.raises(PSFError, match=r"2 dimensions .* 3"):
        ChambollePock(psf, regularization=1)(np.zeros((4, 4, 4)))
