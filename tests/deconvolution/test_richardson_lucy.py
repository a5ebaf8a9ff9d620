"""Richardson–Lucy: what must not change, what must agree, and what must be conserved."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from scipy.ndimage import convolve, correlate, gaussian_filter
from skimage.restoration import richardson_lucy

from bigdecon.deconvolution.block import Deconvolver
from bigdecon.deconvolution.blockwise import deconvolve
from bigdecon.deconvolution.classical import cached_blur
from bigdecon.deconvolution.compute import computing
from bigdecon.deconvolution.richardson_lucy import RichardsonLucy, _sieved
from bigdecon.errors import OptionError, PSFError
from bigdecon.optics.blur import TRANSFORMS_KEPT, Blur
from bigdecon.volume import Volume
from tests.deconvolution.psfs import uneven

pytestmark = pytest.mark.usefixtures("one_thread")


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


SIZES = [((70, 75), (9, 7)), ((61, 64), (7, 11)), ((36, 40, 41), (5, 7, 7)), ((35, 37, 46), (7, 5, 9))]


@pytest.mark.parametrize(("shape", "sizes"), SIZES)
def test_agrees_with_scikit_image_away_from_the_edges(shape: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    """Four radii away: for scikit-image it is dark beyond them, and that spreads as it iterates."""
    psf = lopsided(sizes, (1.0,) * len(sizes))
    image = photograph(psf, shape) / 3000
    ours = RichardsonLucy(psf, iterations=10)(image)
    theirs = richardson_lucy(image, psf, num_iter=10, clip=False, filter_epsilon=1e-9)
    inner = tuple(slice(2 * n, -2 * n) for n in sizes)
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=1e-3 * np.ptp(theirs[inner]))


def in_the_dark(psf: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Photons of a specimen that ends three radii before the edges, over next to nothing."""
    sharp = np.zeros(shape, np.float32)
    inner = tuple(slice(3 * (n // 2), -3 * (n // 2)) for n in psf.shape)
    sharp[inner] = specimen(shape)[inner]
    return np.random.default_rng(4).poisson(blurred(psf, sharp)).astype(np.float32)


@pytest.mark.parametrize("iterations", [1, 10, 25])
@pytest.mark.parametrize(("shape", "sizes"), SIZES)
def test_agrees_with_scikit_image_from_two_radii_on(
    shape: tuple[int, ...], sizes: tuple[int, ...], iterations: int
) -> None:
    """Where it is dark at the edges, it matters little what lies beyond them."""
    psf = uneven(sizes)
    image = in_the_dark(psf, shape) / 3000
    ours = RichardsonLucy(psf, iterations=iterations)(image)
    theirs = richardson_lucy(image, psf, num_iter=iterations, clip=False, filter_epsilon=1e-12)
    inner = tuple(slice(n - 1, 1 - n) for n in sizes)
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=1e-3 * np.ptp(theirs[inner]))


@pytest.mark.skipif(shutil.which("dw") is None, reason="deconwolf is not installed")
@pytest.mark.parametrize(("shape", "sizes"), [((36, 40, 41), (5, 7, 7)), ((35, 37, 46), (7, 5, 9))])
def test_agrees_with_deconwolf_from_two_radii_on(
    shape: tuple[int, ...], sizes: tuple[int, ...], tmp_path: Path
) -> None:
    psf = uneven(sizes, slant=0.2)
    # deconwolf takes the brightest voxel for the centre.
    assert np.unravel_index(psf.argmax(), sizes) == tuple(n // 2 for n in sizes)
    image = in_the_dark(psf, shape)
    tifffile.imwrite(tmp_path / "image.tif", image.astype(np.uint16))
    tifffile.imwrite(tmp_path / "psf.tif", psf)
    plain = "--iter 10 --method rl --start_flat --bg 0 --offset 0 --bq 0 --threads 1"
    command = ["dw", *plain.split(), "--float", "--overwrite", "--out", "out.tif", "image.tif", "psf.tif"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    theirs = tifffile.imread(tmp_path / "out.tif").astype(np.float64)
    ours = RichardsonLucy(psf, iterations=10)(image)
    inner = tuple(slice(n - 1, 1 - n) for n in sizes)
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


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"sieve": -1.0}, "sieve is -1 voxels wide"),
        ({"sieve": 11.0}, "sieve is 11 voxels wide"),
        ({"sieve": float("nan")}, "sieve is nan voxels wide"),
        ({"total_variation": -0.1}, "total variation is -0.1"),
        ({"total_variation": 0.25}, "0 .none. to less than 0.25"),
        ({"total_variation": float("nan")}, "total variation is nan"),
    ],
)
def test_sieves_and_weights_that_cannot_work(settings: dict[str, float], told: str) -> None:
    with pytest.raises(OptionError, match=told):
        RichardsonLucy(gaussian((5, 5), (1, 1)), **settings)


# --- on the way ------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"accelerate": True, "sieve": 1.0}, {"total_variation": 0.02}])
def test_iterates_are_what_calls_would_give(settings: dict[str, Any]) -> None:
    psf = lopsided((7, 9), (1.2, 1.0))
    image = photograph(psf, (40, 37), 5)
    counts = (1, 2, 5, 9)
    found = list(RichardsonLucy(psf, iterations=1, background=5, **settings).iterates(image, counts))
    assert [count for count, _ in found] == list(counts)
    for count, result in found:
        expected = RichardsonLucy(psf, iterations=count, background=5, **settings)(image)
        np.testing.assert_array_equal(result, expected)


def test_between_iterates_others_compute_and_learn() -> None:
    """Two of them in step, a third in another thread, and gradients: nothing waits, nothing leaks."""
    psf = gaussian((5, 5), (1, 1))
    method, image = RichardsonLucy(psf), photograph(psf, (20, 21))
    done: list[NDArray[np.float32]] = []
    ways = [method.iterates(image, (1, 3)) for _ in range(2)]
    for (_, one), (_, other) in zip(*ways, strict=True):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()
        leaf = torch.ones(2, requires_grad=True)
        (leaf * 2).sum().backward()
        thread = threading.Thread(target=lambda: done.append(method(image)))
        thread.start()
        thread.join(timeout=60)
        assert not thread.is_alive()
        with computing(None):
            assert torch.is_inference_mode_enabled()
        np.testing.assert_array_equal(one, other)
    assert len(done) == 2


def test_iterates_that_are_given_up_leave_nothing_locked() -> None:
    psf = gaussian((5, 5), (1, 1))
    steps = RichardsonLucy(psf).iterates(np.ones((9, 9)), (1, 50))
    next(steps)
    del steps
    assert np.isfinite(RichardsonLucy(psf)(np.ones((9, 9)))).all()


# --- sieve -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 43), (20, 22, 21)])
def test_a_delta_with_a_sieve_keeps_intensity_and_flat_images(shape: tuple[int, ...]) -> None:
    delta = np.zeros((3,) * len(shape), np.float32)
    delta[(1,) * len(shape)] = 1
    sharp = np.zeros(shape, np.float32)
    inner = (slice(8, -8),) * len(shape)
    sharp[inner] = specimen(shape)[inner] + 5
    method = RichardsonLucy(delta, iterations=20, sieve=1.0)
    assert method(sharp).sum() == pytest.approx(sharp.sum(), rel=1e-3)
    # The corners of a volume are a little off, see LEAST_SEEN.
    np.testing.assert_allclose(method(np.full(shape, 100.0)), 100, rtol=2e-3 if len(shape) == 2 else 6e-3)


@pytest.mark.parametrize("sieve", [0.7, 1.0, 2.5])
def test_a_sieve_widens_the_psf_by_its_variance(sieve: float) -> None:
    psf = uneven((7, 9, 11))
    wide = _sieved(psf, sieve)
    assert wide.sum() == pytest.approx(1, abs=1e-5)
    assert all(n % 2 for n in wide.shape)

    def moments(values: NDArray[Any], axis: int) -> tuple[float, float]:
        place = np.indices(values.shape)[axis] - values.shape[axis] // 2
        mean = float((values * place).sum() / values.sum())
        return mean, float((values * (place - mean) ** 2).sum() / values.sum())

    for axis in range(3):
        (mean, variance), (mean_after, variance_after) = moments(psf, axis), moments(wide, axis)
        assert mean_after == pytest.approx(mean, abs=1e-4)
        # The Gaussian is cut at three standard deviations, which takes 3 % of its variance.
        assert variance_after - variance == pytest.approx(sieve**2, rel=0.04)


@pytest.mark.parametrize("shape", [(51, 52), (26, 27, 29)])
def test_a_sieve_does_not_move_a_bead(shape: tuple[int, ...]) -> None:
    psf = uneven((7, 9, 7)[-len(shape) :])
    sharp = np.zeros(shape, np.float32)
    place = tuple(n // 2 for n in shape)
    sharp[place] = 1000
    result = RichardsonLucy(psf, iterations=40, sieve=1.0, accelerate=True)(blurred(psf, sharp))
    centre = [float((result * axis).sum() / result.sum()) for axis in np.indices(shape)]
    np.testing.assert_allclose(centre, place, atol=0.05)
    assert np.unravel_index(result.argmax(), shape) == place


def by_hand(
    image: NDArray[Any], psf: NDArray[Any], iterations: int, weight: float = 0.0
) -> NDArray[np.float64]:
    """Richardson–Lucy in double precision on a periodic image, from a flat start.

    With total variation as the module says: x is divided by 1 - λ div(∇x / (|∇x| + 4 ndim λ x)).
    """
    kernel = psf.astype(np.float64) / psf.sum(dtype=np.float64)
    x = correlate(image.astype(np.float64), kernel, mode="wrap")
    for _ in range(iterations - 1):
        ratio = image / convolve(x, kernel, mode="wrap")
        after = x * correlate(ratio, kernel, mode="wrap")
        steps = [np.roll(x, -1, axis) - x for axis in range(x.ndim)]
        length = np.sqrt(sum(s**2 for s in steps)) + 4 * x.ndim * weight * x + 1e-300
        turn = sum(s / length - np.roll(s / length, 1, axis) for axis, s in enumerate(steps))
        x = after / (1 - weight * turn)
    return x


@pytest.mark.parametrize(("shape", "sizes"), [((70, 75), (9, 7)), ((44, 46, 47), (5, 7, 5))])
def test_with_a_sieve_it_is_plain_on_what_passed_the_sieve(
    shape: tuple[int, ...], sizes: tuple[int, ...]
) -> None:
    psf = uneven(sizes)
    image = photograph(psf, shape, 5)
    expected = by_hand(gaussian_filter(image.astype(float), 1.0, truncate=3), _sieved(psf, 1.0), 8)
    result = RichardsonLucy(psf, iterations=8, sieve=1.0)(image)
    inner = tuple(slice(n + 8, -n - 8) for n in sizes)
    np.testing.assert_allclose(result[inner], expected[inner], atol=1e-3 * np.ptp(expected))


def test_a_sieve_lowers_the_error_of_a_noisy_image() -> None:
    psf = gaussian((11, 11), (1.8, 1.8))
    sharp = gaussian_filter(specimen((90, 93)), 1)
    image = np.random.default_rng(0).poisson(blurred(psf, sharp) * 0.1 + 2)

    def error(sieve: float) -> float:
        result = RichardsonLucy(psf, iterations=40, sieve=sieve, background=2)(image) - 2
        return float(((result - 0.1 * sharp)[10:-10, 10:-10] ** 2).mean())

    assert error(1.0) < 0.7 * error(0.0)


# --- total variation -------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.002, 0.05])
@pytest.mark.parametrize(("shape", "sizes"), [((60, 63), (9, 7)), ((32, 33, 34), (5, 7, 5))])
def test_an_iteration_with_total_variation_by_hand(
    shape: tuple[int, ...], sizes: tuple[int, ...], weight: float
) -> None:
    psf = uneven(sizes)
    image = photograph(psf, shape, 10)
    expected = by_hand(image, psf, 2, weight)
    result = RichardsonLucy(psf, iterations=2, total_variation=weight)(image)
    inner = tuple(slice(n + 2, -n - 2) for n in sizes)
    np.testing.assert_allclose(result[inner], expected[inner], atol=1e-4 * np.ptp(expected))
    plain = by_hand(image, psf, 2)
    assert np.abs(expected - plain)[inner].max() > 2e-3 * np.ptp(expected)


@pytest.mark.parametrize("size", [1, 9])
@pytest.mark.parametrize("weight", [0.02, 0.1])
def test_total_variation_leaves_a_flat_image_flat_to_its_very_edge(size: int, weight: float) -> None:
    """Nothing is known beyond the image; it must not be taken for a step down to 0."""
    delta = np.pad(np.ones((1, 1), np.float32), 4)
    psf = delta if size == 1 else lopsided((9, 9), (1.5, 1.5))
    result = RichardsonLucy(psf, iterations=40, total_variation=weight)(np.full((40, 31), 100.0))
    np.testing.assert_allclose(result, 100, rtol=3e-3)


def variation(x: NDArray[Any]) -> float:
    return sum(float(np.abs(np.diff(x, axis=axis)).sum()) for axis in range(x.ndim))


@pytest.mark.parametrize("accelerate", [False, True])
def test_total_variation_is_less_with_it(accelerate: bool) -> None:
    psf = lopsided((9, 7), (1.2, 1.0))
    image = photograph(psf, (60, 61), 20)
    found = [
        variation(RichardsonLucy(psf, iterations=20, total_variation=w, accelerate=accelerate)(image))
        for w in (0.0, 0.005, 0.05)
    ]
    assert found[2] < 0.8 * found[1] < 0.8 * found[0]


@pytest.mark.parametrize("weight", [0.02, 0.1, 0.2])
def test_total_variation_does_not_swing(weight: float) -> None:
    """In a flat noisy patch directions of the gradient turn round at the slightest change."""
    image = np.random.default_rng(0).poisson(100, (40, 41))
    method = RichardsonLucy(lopsided((9, 7), (1.2, 1.0)), total_variation=weight)
    found = [result for _, result in method.iterates(image, range(50, 101))]
    steps = np.abs(np.diff(found, axis=0)).max(axis=(1, 2))
    assert steps.max() < 0.2
    assert steps[-1] <= steps[0]
    assert np.abs(found[-1] - found[0]).max() < 4
    assert found[-1].std() <= found[0].std() + 0.1


# --- acceleration ----------------------------------------------------------------------------------


def test_the_first_two_accelerated_iterations_are_plain_ones() -> None:
    """There is no momentum before two steps: (k - 1) / (k + 2) is 0 for k = 1."""
    psf = lopsided((9, 7), (1.2, 1.0))
    image = photograph(psf, (40, 41), 10)
    plain = dict(RichardsonLucy(psf).iterates(image, (1, 2, 3)))
    fast = dict(RichardsonLucy(psf, accelerate=True).iterates(image, (1, 2, 3)))
    np.testing.assert_array_equal(fast[1], plain[1])
    np.testing.assert_array_equal(fast[2], plain[2])
    assert np.abs(fast[3] - plain[3]).max() > 1e-2 * np.ptp(plain[3])


@pytest.mark.parametrize("background", [0.0, 20.0])
def test_fifteen_accelerated_iterations_explain_more_than_thirty_plain_ones(background: float) -> None:
    psf = lopsided((9, 7), (1.5, 1.2))
    image = photograph(psf, (100, 101), background)

    def unlikely(iterations: int, accelerate: bool) -> float:
        """Negative logarithm of the Poisson likelihood, where the model needs nothing from beyond."""
        method = RichardsonLucy(psf, background=background, iterations=iterations, accelerate=accelerate)
        sharp = torch.from_numpy(method(image) - np.float32(background))[None, None]
        model = Blur(psf).valid(sharp)[0, 0].numpy().astype(float).clip(1e-3) + background
        return float((model - image[4:-4, 3:-3] * np.log(model))[6:-6, 6:-6].sum())

    assert unlikely(15, True) < unlikely(30, False) < unlikely(15, False)


@pytest.mark.parametrize("sieve", [0.0, 1.0])
def test_acceleration_never_gives_negative_values_or_nan(sieve: float) -> None:
    image = np.random.default_rng(0).normal(0, 10, (40, 40)).astype(np.float32)
    image[:20] = 0
    image[30, 30] = 1e6
    for weight in (0.0, 0.05):
        result = RichardsonLucy(
            gaussian((9, 9), (2, 2)), iterations=100, accelerate=True, sieve=sieve, total_variation=weight
        )(image)
        assert np.isfinite(result).all()
        assert result.min() >= 0


@pytest.mark.parametrize("iterations", [3, 15])
def test_acceleration_keeps_the_intensity(iterations: int) -> None:
    """Whatever an iteration starts from, multiplying by the ratio gives the data's intensity."""
    psf = lopsided((9, 9), (1.5, 1.2))
    sharp = np.zeros((60, 64), np.float32)
    sharp[16:-16, 16:-16] = specimen((28, 32))
    image = np.random.default_rng(0).poisson(blurred(psf, sharp))
    result = RichardsonLucy(psf, iterations=iterations, accelerate=True)(image)
    assert result.sum() == pytest.approx(image.sum(), rel=1e-3)


@pytest.mark.parametrize(
    "settings",
    [
        {"accelerate": True},
        {"accelerate": True, "background": 20.0},
        {"accelerate": True, "sieve": 1.0},
        {"accelerate": True, "sieve": 1.0, "background": 20.0},
        {"accelerate": True, "sieve": 1.5, "total_variation": 0.01},
        {"total_variation": 0.02},
        {"total_variation": 0.02, "background": 20.0},
        {"sieve": 1.0},
    ],
    ids=str,
)
def test_blocks_agree_with_the_whole_plane_whatever_is_added(settings: dict[str, Any]) -> None:
    psf = lopsided((11, 9), (1.5, 1.3))
    image = photograph(psf, (190, 171), settings.get("background", 0))
    method = RichardsonLucy(psf, iterations=20, **settings)
    whole = method(image)
    for block in (max(method.halo), 64, 96):
        blocks = np.asarray(deconvolve(Volume.from_array(image), method, block=block))
        assert np.abs(blocks - whole).max() < 1e-3 * np.ptp(whole)


def test_accelerated_blocks_agree_with_the_whole_volume() -> None:
    psf = lopsided((5, 7, 7), (0.9, 1.0, 1.0))
    image = photograph(psf, (40, 72, 70), 20)
    method = RichardsonLucy(psf, iterations=15, background=20, sieve=0.75, accelerate=True)
    whole = method(image)
    blocks = np.asarray(deconvolve(Volume.from_array(image), method, block=40))
    assert np.abs(blocks - whole).max() < 1e-3 * np.ptp(whole)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_agrees_with_the_cpu() -> None:
    psf = lopsided((9, 9, 9), (1.5, 1.2, 1.2))
    image = photograph(psf, (40, 44, 48), 10)
    on_cpu = RichardsonLucy(psf, background=10)(image)
    on_gpu = RichardsonLucy(psf, background=10, device="cuda")(image)
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-4 * np.ptp(on_cpu))
