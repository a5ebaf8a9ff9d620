"""Conjugate gradients: the solution of the normal equations, flat edges, and blocks that agree."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import convolve, gaussian_filter

from bigdecon.deconvolution.block import Deconvolver
from bigdecon.deconvolution.blockwise import deconvolve
from bigdecon.deconvolution.classical import LEAST_SEEN
from bigdecon.deconvolution.conjugate_gradient import ConjugateGradient, needed_for
from bigdecon.deconvolution.wiener import Wiener
from bigdecon.errors import OptionError, PSFError
from bigdecon.volume import Volume
from tests.deconvolution.psfs import uneven

pytestmark = pytest.mark.usefixtures("one_thread")


def noise(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(0, 100, shape).astype(np.float32)


def points(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Blurred points over a background of 20 counts, brighter on one side, with photon noise."""
    rng = np.random.default_rng(3)
    signal = gaussian_filter((rng.random(shape) > 0.99) * 1000.0, 1) * np.linspace(0.2, 3, shape[-1])
    return rng.poisson(signal + 20).astype(np.float32)


def matrix(psf: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Blurring as a matrix: y[i] = sum over t of psf[t] x[i + 2 r - t], the object x reaching r beyond y."""
    extent = tuple(n + p - 1 for n, p in zip(shape, psf.shape, strict=True))
    a = np.zeros((int(np.prod(shape)), int(np.prod(extent))))
    voxels = np.indices(shape).reshape(len(shape), -1).T
    for t, value in np.ndenumerate(psf):
        source = voxels + np.array(psf.shape) - 1 - np.array(t)
        a[np.arange(len(a)), np.ravel_multi_index(tuple(source.T), extent)] = value
    return a


def solve_densely(image: NDArray[Any], psf: NDArray[Any], k: float, background: float) -> NDArray[np.float64]:
    a = matrix(psf, image.shape)
    weight = a.sum(axis=0)
    seen = weight > LEAST_SEEN
    normal = a[:, seen].T @ a[:, seen] + k * np.diag(weight[seen])
    x = np.zeros(len(weight))
    x[seen] = (1 + k) * np.linalg.solve(normal, a[:, seen].T @ (image.ravel() - background))
    x = x.reshape([n + p - 1 for n, p in zip(image.shape, psf.shape, strict=True)])
    inner = tuple(slice(p // 2, p // 2 + n) for n, p in zip(image.shape, psf.shape, strict=True))
    return x[inner] + background


@pytest.mark.parametrize("k", [0.005, 0.2])
@pytest.mark.parametrize(
    ("shape", "size"),
    [((13, 16), (3, 5)), ((14, 11), (7, 3)), ((6, 7, 8), (3, 1, 5)), ((5, 8, 6), (3, 3, 3))],
)
def test_solves_the_normal_equations(shape: tuple[int, ...], size: tuple[int, ...], k: float) -> None:
    psf, image = uneven(size), noise(shape)
    result = ConjugateGradient(psf, regularization=k, background=30)(image)
    expected = solve_densely(image, psf, k, 30)
    np.testing.assert_allclose(result, expected, atol=2e-4 * np.ptp(expected))


@pytest.mark.parametrize(("shape", "size"), [((120, 111), (5, 7)), ((60, 61, 67), (3, 5, 5))])
def test_is_the_wiener_filter_away_from_the_edges(shape: tuple[int, ...], size: tuple[int, ...]) -> None:
    psf, image = uneven(size), noise(shape)
    method = ConjugateGradient(psf, regularization=0.1)
    inner = tuple(slice(h, n - h) for n, h in zip(shape, method.halo, strict=True))
    expected = Wiener(psf, regularization=0.1)(image)[inner]
    np.testing.assert_allclose(method(image)[inner], expected, atol=1e-3 * np.ptp(image))


@pytest.mark.parametrize("shape", [(15, 16), (9, 12, 11)])
@pytest.mark.parametrize("size", [1, 5])
def test_a_delta_changes_nothing(shape: tuple[int, ...], size: int) -> None:
    psf = np.zeros((size,) * len(shape), np.float32)
    psf[(size // 2,) * len(shape)] = 1
    image = noise(shape).astype(np.uint16)
    result = ConjugateGradient(psf, regularization=0.2)(image)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, image, atol=100e-5)


@pytest.mark.parametrize("shape", [(61, 60), (40, 42, 41)])
def test_a_bead_keeps_its_place_and_its_light(shape: tuple[int, ...]) -> None:
    psf = uneven((5, 7, 5)[-len(shape) :])
    sharp = np.zeros(shape)
    place = tuple(n // 2 for n in shape)
    sharp[place] = 1000
    result = ConjugateGradient(psf, regularization=0.1)(convolve(sharp, psf.astype(float), mode="constant"))
    centre = [float((result * axis).sum() / result.sum()) for axis in np.indices(shape)]
    np.testing.assert_allclose(centre, place, atol=0.05)
    assert np.unravel_index(result.argmax(), shape) == place
    assert result.sum() == pytest.approx(1000, rel=1e-3)


@pytest.mark.parametrize("shape", [(40, 31), (15, 16, 17)])
@pytest.mark.parametrize("background", [0, 30])
def test_a_flat_image_stays_flat_to_its_very_edge(shape: tuple[int, ...], background: float) -> None:
    method = ConjugateGradient(uneven((7, 9, 7)[-len(shape) :]), background=background)
    np.testing.assert_allclose(method(np.full(shape, 100)), 100, rtol=1e-2)
    np.testing.assert_allclose(method(np.full(shape, background)), background, atol=1e-5)


@pytest.mark.parametrize(("shape", "block"), [((170, 161), 32), ((170, 161), 50), ((44, 52, 58), 24)])
def test_blocks_agree_with_the_whole(shape: tuple[int, ...], block: int) -> None:
    method = ConjugateGradient(uneven((3, 5, 5)[-len(shape) :]), regularization=0.05, background=20)
    image = points(shape)
    whole = method(image)
    assert max(method.halo) < block
    blocks = np.asarray(deconvolve(Volume.from_array(image), method, block=block))
    assert np.abs(blocks - whole).max() < 1e-4 * np.ptp(whole)


def test_iterations_that_may_not_suffice_are_refused() -> None:
    psf = uneven((5, 5))
    assert needed_for(0.1) < needed_for(0.01) < needed_for(0.001) < ConjugateGradient(psf).iterations
    for k in (0.1, 0.001):
        with pytest.raises(OptionError, match=f"at least {needed_for(k)} are needed"):
            ConjugateGradient(psf, regularization=k, iterations=needed_for(k) - 1)
        ConjugateGradient(psf, regularization=k, iterations=needed_for(k))


@pytest.mark.parametrize("k", [1.0, 0.03, 0.001])
def test_as_many_iterations_as_theory_asks_for_are_enough(k: float) -> None:
    psf, image = uneven((7, 9)), points((64, 61))
    few = ConjugateGradient(psf, regularization=k, iterations=needed_for(k))(image)
    many = ConjugateGradient(psf, regularization=k, iterations=10000)(image)
    np.testing.assert_array_equal(few, many)


def test_pickles_and_meets_the_protocol() -> None:
    method = ConjugateGradient(uneven((5, 7)), background=1)
    image = points((20, 21))
    assert isinstance(method, Deconvolver)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(method))(image), method(image))
    assert 4 * 15 * 200**2 < method.working_bytes((200, 200)) < 4 * 40 * 200**2


def test_settings_that_cannot_work() -> None:
    psf = uneven((5, 5))
    for value in (0, -1, np.inf, np.nan):
        with pytest.raises(OptionError, match=f"regularization is {value:g}"):
            ConjugateGradient(psf, regularization=value)
    with pytest.raises(OptionError, match="background is -1"):
        ConjugateGradient(psf, background=-1)
    with pytest.raises(PSFError, match=r"2 dimensions .* 3"):
        ConjugateGradient(psf)(np.zeros((4, 4, 4)))
