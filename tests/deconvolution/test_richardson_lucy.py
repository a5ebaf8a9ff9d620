"""Richardson–Lucy: what must not change, what must agree, and what must be conserved."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import dask
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.restoration import richardson_lucy

from bigdecon.deconvolution.blockwise import Deconvolver, deconvolve
from bigdecon.deconvolution.classical import cached_blur
from bigdecon.deconvolution.richardson_lucy import RichardsonLucy
from bigdecon.errors import OptionError, PSFError
from bigdecon.optics.blur import TRANSFORMS_KEPT, Blur
from bigdecon.volume import Volume


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small transforms lose more to threads than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with dask.config.set(scheduler="synchronous"):
        yield
    torch.set_num_threads(threads)


def gaussian(shape: tuple[int, ...], sigma: tuple[float, ...]) -> NDArray[np.float32]:
    grid = np.ogrid[tuple(slice(-(n // 2), n // 2 + 1) for n in shape)]
    psf = np.exp(-sum((x / s) ** 2 for x, s in zip(grid, sigma, strict=True)) / 2)
    return (psf / psf.sum()).astype(np.float32)


def lopsided(shape: tuple[int, ...], sigma: tuple[float, ...]) -> NDArray[np.float32]:
    """A Gaussian with a weaker one a voxel or two to the side; its centre of mass is off the centre."""
    psf = gaussian(shape, sigma)
    psf = psf + 0.5 * np.roll(psf, (1, 2), axis=(-2, -1)) * (np.indices(shape)[-1] > shape[-1] // 2)
    return (psf / psf.sum()).astype(np.float32)


def specimen(shape: tuple[int, ...]) -> NDArray[np.float32]:
    rng = np.random.default_rng(3)
    points = gaussian_filter((rng.random(shape) > 0.998) * rng.uniform(500, 3000, shape), 0.8)
    return (points + gaussian_filter((rng.random(shape) > 0.99) * 300.0, 3)).astype(np.float32)


def photograph(psf: NDArray[Any], shape: tuple[int, ...], background: float = 0) -> NDArray[np.float32]:
    """Blur a specimen that reaches beyond the image, and count photons."""
    larger = specimen(tuple(n + p - 1 for n, p in zip(shape, psf.shape, strict=True)))
    image = Blur(psf).valid(torch.from_numpy(larger)[None, None])[0, 0].numpy().clip(0)
    return np.random.default_rng(4).poisson(image + background).astype(np.float32)


def blurred(psf: NDArray[Any], sharp: NDArray[Any]) -> NDArray[np.float32]:
    return Blur(psf).forward(torch.from_numpy(sharp)[None, None])[0, 0].numpy().clip(0)


@pytest.mark.parametrize("shape", [(15, 16), (9, 12, 11)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("size", [1, 9])
def test_a_delta_changes_nothing(shape: tuple[int, ...], dtype: Any, size: int) -> None:
    psf = np.zeros((size,) * len(shape), np.float32)
    psf[(size // 2,) * len(shape)] = 1
    image = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    result = RichardsonLucy(psf, iterations=5)(image)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, image, atol=200e-5)


@pytest.mark.parametrize(("shape", "sizes"), [((70, 75), (9, 7)), ((36, 40, 41), (5, 7, 7))])
def test_agrees_with_scikit_image_away_from_the_edges(shape: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    psf = lopsided(sizes, (1.0,) * len(sizes))
    image = photograph(psf, shape) / 3000
    ours = RichardsonLucy(psf, iterations=10)(image)
    theirs = richardson_lucy(image, psf, num_iter=10, clip=False, filter_epsilon=1e-9)
    inner = tuple(slice(2 * n, -2 * n) for n in sizes)  # four radii; the edges are treated differently
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=1e-3 * np.ptp(theirs[inner]))


@pytest.mark.parametrize("shape", [(41, 41), (40, 42), (21, 23, 25), (20, 24, 22)])
def test_a_lopsided_psf_is_not_mirrored(shape: tuple[int, ...]) -> None:
    psf = lopsided((9, 11, 13)[-len(shape) :], (1.2,) * len(shape))
    sharp = np.zeros(shape, np.float32)
    place = tuple(n // 2 for n in shape)
    sharp[place] = 1000
    result = RichardsonLucy(psf, iterations=60)(blurred(psf, sharp))
    centre = [float((result * axis).sum() / result.sum()) for axis in np.indices(shape)]
    np.testing.assert_allclose(centre, place, atol=0.05)
    assert np.unravel_index(result.argmax(), shape) == place


@pytest.mark.parametrize("background", [0.0, 20.0])
def test_intensity_is_conserved_in_the_inputs_units(background: float) -> None:
    psf = lopsided((7, 9, 9), (1.5, 1.2, 1.2))
    sharp = np.zeros((32, 34, 36), np.float32)
    sharp[8:-8, 8:-8, 8:-8] = 50 * specimen((16, 18, 20))
    image = blurred(psf, sharp) + background
    result = RichardsonLucy(psf, iterations=20, background=background)(image)
    assert result.min() >= background
    assert (result - background).sum() == pytest.approx(sharp.sum(), rel=0.01)
    assert np.abs(result - background - sharp).mean() < 0.6 * np.abs(image - background - sharp).mean()


@pytest.mark.parametrize("iterations", [1, 7])
def test_without_background_every_iteration_conserves_intensity(iterations: int) -> None:
    psf = lopsided((9, 9), (1.5, 1.2))
    sharp = np.zeros((60, 64), np.float32)
    sharp[16:-16, 16:-16] = specimen((28, 32))
    image = np.random.default_rng(0).poisson(blurred(psf, sharp))
    result = RichardsonLucy(psf, iterations=iterations)(image)
    assert result.sum() == pytest.approx(image.sum(), rel=1e-3)


def test_a_flat_image_stays_flat_to_its_very_edge() -> None:
    psf = lopsided((9, 9), (1.5, 1.5))
    for background in (0.0, 30.0):
        result = RichardsonLucy(psf, iterations=20, background=background)(np.full((40, 31), 100.0))
        np.testing.assert_allclose(result, 100, rtol=2e-3)


@pytest.mark.parametrize("value", [0, 7, -5])
def test_an_image_without_signal_gives_its_background(value: int) -> None:
    psf = gaussian((5, 5), (1, 1))
    image = np.full((12, 13), value, np.int16)
    np.testing.assert_allclose(RichardsonLucy(psf, background=8)(image), 8, atol=1e-5)
    assert np.isfinite(RichardsonLucy(psf)(image)).all()


def test_never_negative_and_never_nan() -> None:
    image = np.random.default_rng(0).normal(0, 10, (40, 40)).astype(np.float32)
    image[:20] = 0
    image[30, 30] = 1e6
    result = RichardsonLucy(gaussian((9, 9), (2, 2)), iterations=50)(image)
    assert np.isfinite(result).all()
    assert result.min() >= 0


@pytest.mark.parametrize("background", [0.0, 20.0])
@pytest.mark.parametrize("iterations", [10, 20])
def test_blocks_of_any_size_agree_with_the_whole_plane(background: float, iterations: int) -> None:
    psf = lopsided((11, 9), (1.5, 1.3))
    image = photograph(psf, (230, 211), background)
    method = RichardsonLucy(psf, iterations=iterations, background=background)
    whole = method(image)
    for block in (32, 64, 96):
        blocks = np.asarray(deconvolve(Volume.from_array(image), method, block=block))
        assert np.abs(blocks - whole).max() < 1e-4 * np.ptp(whole)


def test_blocks_agree_with_the_whole_volume() -> None:
    psf = lopsided((5, 7, 7), (0.9, 1.0, 1.0))
    image = photograph(psf, (40, 52, 50), 20)
    method = RichardsonLucy(psf, iterations=15, background=20)
    whole = method(image)
    blocks = np.asarray(deconvolve(Volume.from_array(image), method, block=24))
    assert np.abs(blocks - whole).max() < 1e-4 * np.ptp(whole)


@pytest.mark.slow
def test_blocks_agree_with_the_whole_volume_for_a_psf_of_17() -> None:
    psf = lopsided((17, 17, 17), (2.5, 1.5, 1.5))
    image = photograph(psf, (100, 110, 132), 20)
    method = RichardsonLucy(psf, iterations=20, background=20)
    whole = method(image)
    for block in (64, 96):
        blocks = np.asarray(deconvolve(Volume.from_array(image), method, block=block))
        assert np.abs(blocks - whole).max() < 1e-4 * np.ptp(whole)


def test_halo_follows_the_light_not_the_array() -> None:
    tight = RichardsonLucy(gaussian((9, 9, 9), (2, 1, 1)))
    padded = RichardsonLucy(np.pad(tight.psf, 6))
    assert tight.halo == padded.halo
    assert tight.halo[0] > tight.halo[1] == tight.halo[2]
    assert all(h % 4 == 0 for h in tight.halo)
    assert RichardsonLucy(tight.psf, iterations=160).halo > tight.halo
    assert RichardsonLucy(tight.psf, iterations=1).halo == (8, 8, 8)
    assert RichardsonLucy(np.ones((1, 1), np.float32)).halo == (0, 0)


def test_few_transforms_are_kept() -> None:
    method = RichardsonLucy(gaussian((9, 9), (1, 1)), iterations=1)
    for n in range(20, 60, 4):
        method(np.ones((n, n), np.float32))
    blur = cached_blur(method.psf)
    assert 1 <= len(blur._transforms) <= TRANSFORMS_KEPT


def test_pickles_and_meets_the_protocol() -> None:
    method = RichardsonLucy(gaussian((5, 7), (1, 1)), iterations=3, background=1)
    image = photograph(method.psf, (20, 21), 1)
    assert isinstance(method, Deconvolver)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(method))(image), method(image))


def test_working_bytes_count_what_the_psf_adds() -> None:
    method = RichardsonLucy(gaussian((17, 17, 17), (2, 2, 2)))
    per_voxel = [method.working_bytes((n, n, n)) / n**3 for n in (64, 192)]
    assert 40 < per_voxel[1] < per_voxel[0]


def test_settings_that_cannot_work() -> None:
    psf = gaussian((5, 5), (1, 1))
    with pytest.raises(OptionError, match="0 iterations"):
        RichardsonLucy(psf, iterations=0)
    with pytest.raises(OptionError, match="background is -1"):
        RichardsonLucy(psf, background=-1)
    with pytest.raises(PSFError, match="odd"):
        RichardsonLucy(np.ones((4, 5), np.float32))
    with pytest.raises(PSFError, match=r"2 dimensions .* 3"):
        RichardsonLucy(psf)(np.zeros((4, 4, 4)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_agrees_with_the_cpu() -> None:
    psf = lopsided((9, 9, 9), (1.5, 1.2, 1.2))
    image = photograph(psf, (40, 44, 48), 10)
    on_cpu = RichardsonLucy(psf, background=10)(image)
    on_gpu = RichardsonLucy(psf, background=10, device="cuda")(image)
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-4 * np.ptp(on_cpu))
