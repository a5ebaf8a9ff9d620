"""Wiener filter: the formula, what must not change, and blocks that equal the whole."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import convolve

from bigdecon.deconvolution import wiener
from bigdecon.deconvolution.block import Deconvolver
from bigdecon.deconvolution.blockwise import deconvolve
from bigdecon.deconvolution.wiener import Wiener, wiener_filter
from bigdecon.errors import OptionError, PSFError
from bigdecon.volume import Volume
from tests.deconvolution.psfs import uneven

pytestmark = pytest.mark.usefixtures("one_thread")


def noise(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(0, 100, shape).astype(np.float32)


def periodic(image: NDArray[Any], psf: NDArray[Any], ratio: float) -> NDArray[np.float64]:
    """The filter by its formula, on an image that repeats without end."""
    placed = np.zeros(image.shape)
    for index, value in np.ndenumerate(psf):
        placed[tuple(i - n // 2 for i, n in zip(index, psf.shape, strict=True))] = value
    otf = np.fft.fftn(placed)
    return np.fft.ifftn(np.fft.fftn(image) * (1 + ratio) * otf.conj() / (abs(otf) ** 2 + ratio)).real


@pytest.mark.parametrize("ratio", [0.03, 0.3])
@pytest.mark.parametrize(
    ("shape", "size"), [((110, 121), (5, 7)), ((111, 90), (7, 5)), ((60, 61, 68), (3, 5, 3))]
)
def test_agrees_with_the_formula_away_from_the_edges(
    shape: tuple[int, ...], size: tuple[int, ...], ratio: float
) -> None:
    psf, image = uneven(size), noise(shape)
    method = Wiener(psf, regularization=ratio)
    inner = tuple(slice(h, n - h) for n, h in zip(shape, method.halo, strict=True))
    expected = periodic(image, psf, ratio)[inner]
    assert expected.size > 100
    np.testing.assert_allclose(method(image)[inner], expected, atol=5e-4 * np.ptp(image))


def test_what_is_cut_off_the_kernel_is_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    psf = uneven((7, 5)).astype(np.float64)
    cut = wiener._kernel(psf, 0.02)
    monkeypatch.setattr(wiener, "CUT_OFF", 1e-9)
    full = wiener._kernel(psf, 0.02)
    margin = [(n - m) // 2 for n, m in zip(full.shape, cut.shape, strict=True)]
    assert min(margin) > 0
    assert np.abs(full - np.pad(cut, [(m, m) for m in margin])).sum() < 2e-3
    assert cut.sum() == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("shape", [(15, 16), (9, 12, 11)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("size", [1, 5])
def test_a_delta_changes_nothing(shape: tuple[int, ...], dtype: Any, size: int) -> None:
    psf = np.zeros((size,) * len(shape), np.float32)
    psf[(size // 2,) * len(shape)] = 1
    image = noise(shape).astype(dtype)
    method = Wiener(psf, regularization=0.2, background=3)
    assert method.halo == (0,) * len(shape)
    result = method(image)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, image, atol=1e-4)


def test_a_delta_beside_the_centre_moves_the_image_back() -> None:
    psf = np.zeros((5, 5), np.float32)
    psf[3, 0] = 1
    image = noise((20, 21))
    np.testing.assert_allclose(Wiener(psf)(image)[:-1, 2:], image[1:, :-2], atol=1e-3)


@pytest.mark.parametrize("shape", [(61, 60), (40, 42, 41)])
def test_a_bead_keeps_its_place_and_its_light(shape: tuple[int, ...]) -> None:
    psf = uneven((5, 7, 5)[-len(shape) :])
    sharp = np.zeros(shape)
    place = tuple(n // 2 for n in shape)
    sharp[place] = 1000
    result = Wiener(psf, regularization=0.1)(convolve(sharp, psf.astype(float), mode="constant"))
    centre = [float((result * axis).sum() / result.sum()) for axis in np.indices(shape)]
    np.testing.assert_allclose(centre, place, atol=0.05)
    assert np.unravel_index(result.argmax(), shape) == place
    assert result.sum() == pytest.approx(1000, rel=1e-3)
    assert result.min() < 0


def test_beyond_the_image_its_edge_repeats() -> None:
    psf, image = uneven((7, 5)), noise((30, 33))
    method = Wiener(psf, background=20)
    padded = method(np.pad(image, 40, mode="edge"))[40:-40, 40:-40]
    np.testing.assert_allclose(method(image), padded, atol=1e-3)
    np.testing.assert_allclose(method(np.full((9, 40), 70)), 70, atol=1e-3)


@pytest.mark.parametrize(("shape", "block"), [((150, 141), 32), ((150, 141), 50), ((40, 52, 50), 24)])
def test_blocks_equal_the_whole(shape: tuple[int, ...], block: int) -> None:
    method = Wiener(uneven((3, 5, 5)[-len(shape) :]), regularization=0.1, background=5)
    image = noise(shape)
    whole = method(image)
    assert max(method.halo) < block
    blocks = np.asarray(deconvolve(Volume.from_array(image), method, block=block))
    assert np.abs(blocks - whole).max() < 1e-5 * np.ptp(whole)


def test_halo_follows_the_light_and_the_regularization() -> None:
    psf = uneven((5, 7, 5))
    method = Wiener(psf, regularization=0.1)
    assert method.halo == Wiener(np.pad(psf, 4), regularization=0.1).halo
    assert Wiener(psf, regularization=0.01).halo > method.halo
    assert method.halo[2] > method.halo[0]
    assert wiener_filter(psf, 0.1) is wiener_filter(psf.copy(), 0.1)


def test_a_flat_axis_needs_no_halo() -> None:
    method = Wiener(uneven((1, 5, 5)))
    assert method.halo[0] == 0
    assert method(noise((3, 30, 30))).shape == (3, 30, 30)


def test_a_filter_that_reaches_too_far_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiener, "LARGEST_GRID", 2**12)
    with pytest.raises(OptionError, match=r"regularization of 0.000123 .* larger"):
        _ = Wiener(uneven((7, 9)), regularization=0.000123).halo


def test_pickles_and_meets_the_protocol() -> None:
    method = Wiener(uneven((5, 7)), background=1)
    assert isinstance(method, Deconvolver)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(method))(noise((20, 21))), method(noise((20, 21)))
    )
    assert 4 * 9 * 200**2 < method.working_bytes((200, 200)) < 4 * 30 * 200**2


def test_settings_that_cannot_work() -> None:
    psf = uneven((5, 5))
    for value in (0, -1, np.inf, np.nan):
        with pytest.raises(OptionError, match=f"regularization is {value:g}"):
            Wiener(psf, regularization=value)
    with pytest.raises(OptionError, match="background is -1"):
        Wiener(psf, background=-1)
    with pytest.raises(PSFError, match=r"2 dimensions .* 3"):
        Wiener(psf)(np.zeros((4, 4, 4)))
