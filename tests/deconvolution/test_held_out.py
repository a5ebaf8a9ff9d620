"""Hidden voxels: what stays hidden, what is measured where, and that the measure tells good from bad."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from bigdecon.deconvolution.held_out import HIDDEN, draw_samples, errors_at_hidden, held_out_error, hide
from bigdecon.deconvolution.richardson_lucy import RichardsonLucy
from bigdecon.learning.masking import held_out_voxels
from bigdecon.optics.blur import Blur
from bigdecon.volume import Stack, Volume
from tests.deconvolution.psfs import uneven

pytestmark = pytest.mark.usefixtures("one_thread")


def scene(psf: NDArray[Any], shape: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Give points and patches of light, and their exact image, both of this shape."""
    rng = np.random.default_rng(3)
    larger = tuple(n + p - 1 for n, p in zip(shape, psf.shape, strict=True))
    sharp = gaussian_filter((rng.random(larger) > 0.99) * rng.uniform(200, 2000, larger), 0.6)
    sharp = (sharp + 10).astype(np.float32)
    image = Blur(psf).valid(torch.from_numpy(sharp)[None, None])[0, 0].numpy()
    inner = tuple(slice(p // 2, p // 2 + n) for n, p in zip(shape, psf.shape, strict=True))
    return sharp[inner], image


def stack_of(image: NDArray[Any]) -> Stack:
    return Volume.from_array(image).stack()


@pytest.mark.parametrize("shape", [(60, 61), (20, 31, 22)])
def test_what_is_hidden_is_not_shown(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(100, 10, shape).astype(np.float32)
    psf = uneven((5,) * len(shape))
    hidden = held_out_voxels((0,) * len(shape), shape, HIDDEN, 5)
    other = np.where(hidden, rng.uniform(-1e4, 1e4, shape), image).astype(np.float32)
    sample, changed = hide(image, psf, seed=5), hide(other, psf, seed=5)
    np.testing.assert_array_equal(changed.shown, sample.shown)
    np.testing.assert_array_equal(changed.image, other)
    np.testing.assert_array_equal(sample.shown[~hidden], image[~hidden])
    assert np.abs(sample.shown - image)[hidden].min() > 0
    assert hidden.mean() == pytest.approx(HIDDEN, rel=0.35)
    assert not (sample.hidden & ~hidden).any()


@pytest.mark.parametrize("size", [(7, 11), (1, 5), (5, 9, 3)])
def test_nothing_counts_where_the_psf_misses_light(size: tuple[int, ...]) -> None:
    shape = (48,) * len(size)
    sample = hide(np.random.default_rng(0).random(shape), uneven(size), fraction=0.2)
    for axis, n in enumerate(size):
        counts = sample.hidden.sum(axis=tuple(a for a in range(len(size)) if a != axis))
        assert not counts[: n // 2].any()
        assert not counts[48 - n // 2 :].any()
        assert counts[n // 2 : n // 2 + 3].any()
        assert counts[48 - n // 2 - 3 : 48 - n // 2].any()


def test_a_psf_as_wide_as_the_image_leaves_voxels() -> None:
    for size in (41, 81):
        sample = hide(np.random.default_rng(0).random((41, 41)), np.ones((size, size)))
        assert sample.hidden.sum() > 5
        assert not sample.hidden[:10].any()


def test_the_same_seed_hides_the_same_voxels() -> None:
    image = np.random.default_rng(0).random((40, 40))
    psf = uneven((5, 5))
    hidden = hide(image, psf, seed=1).hidden
    np.testing.assert_array_equal(hide(2 * image, psf, seed=1).hidden, hidden)
    assert (hide(image, psf, seed=2).hidden != hidden).any()


@pytest.mark.parametrize("background", [0.0, 100.0])
@pytest.mark.parametrize(("shape", "size"), [((150, 161), (7, 9)), ((40, 41, 43), (5, 3, 7))])
def test_of_the_true_object_the_noise_is_left(
    shape: tuple[int, ...], size: tuple[int, ...], background: float
) -> None:
    psf = uneven(size)
    sharp, image = scene(psf, shape)
    noisy = image + background + np.random.default_rng(1).normal(0, 3, shape)
    sample = hide(noisy, psf)
    errors = errors_at_hidden(sample, sharp + np.float32(background), psf, background)
    assert errors.shape == (int(sample.hidden.sum()),)
    standard_error = errors.std(ddof=1) / math.sqrt(len(errors))
    assert standard_error < 1
    assert abs(errors.mean() - 9) < 2.5 * standard_error
    found = held_out_error(_Oracle(sharp + background), [sample], psf, background)
    assert found == pytest.approx((errors.mean(), standard_error))


class _Oracle:
    """A method that knows the truth."""

    name, alignment, halo = "oracle", 1, (0, 0, 0)

    def __init__(self, truth: NDArray[Any]) -> None:
        self.truth = truth.astype(np.float32)

    def __call__(self, block: NDArray[Any], /) -> NDArray[np.float32]:
        return self.truth


@pytest.mark.parametrize(("shape", "size"), [((60, 61), (7, 9)), ((24, 25, 26), (5, 3, 7))])
def test_the_psf_is_not_mirrored(shape: tuple[int, ...], size: tuple[int, ...]) -> None:
    psf = uneven(size)
    sharp, image = scene(psf, shape)
    sample = hide(image, psf)
    right = errors_at_hidden(sample, sharp, psf, 0).mean()
    assert right < 1e-6 * image.var()
    for axis in range(len(size)):
        wrong = np.ascontiguousarray(np.flip(psf, axis))
        assert errors_at_hidden(sample, sharp, wrong, 0).mean() > 1e3 * right


def test_too_many_iterations_are_found_worse() -> None:
    psf = uneven((9, 9))
    sharp, image = scene(psf, (220, 221))
    noisy = np.random.default_rng(1).poisson(image / 100 + 2)
    sample = hide(noisy, psf)
    errors, truly = {}, {}
    for iterations in (6, 200):
        method = RichardsonLucy(psf, iterations=iterations, background=2, accelerate=True)
        errors[iterations] = errors_at_hidden(sample, method(sample.shown), psf, 2)
        truly[iterations] = ((method(noisy) - 2 - sharp / 100) ** 2).mean()
    worse = errors[200] - errors[6]
    assert worse.mean() > 2 * worse.std() / math.sqrt(len(worse))
    assert truly[200] > truly[6]


def test_a_small_image_is_one_sample() -> None:
    image = np.random.default_rng(0).integers(0, 9, (20, 30, 25)).astype(np.uint16)
    samples = draw_samples([stack_of(image)], uneven((5, 5, 5)), 0)
    assert len(samples) == 1
    np.testing.assert_array_equal(samples[0].image, image)
    assert samples[0].image.dtype == np.float32
    expected = hide(image, uneven((5, 5, 5)))
    np.testing.assert_array_equal(samples[0].hidden, expected.hidden)


def test_time_points_hide_different_voxels() -> None:
    volume = Volume.from_array(np.random.default_rng(0).random((2, 40, 41)), "tyx")
    samples = draw_samples([volume.stack(timepoint=t) for t in range(2)], uneven((5, 5)), 0)
    assert len(samples) == 2
    assert (samples[0].hidden != samples[1].hidden).any()


@pytest.mark.parametrize("seed", [0, 1])
def test_parts_of_a_large_image_hold_signal(seed: int) -> None:
    """Light in one quarter: parts are drawn where it is, within the voxels allowed."""
    image = np.full((2048, 2048), 100, np.uint16)
    image[1024:, 1024:] = 1000
    samples = draw_samples([stack_of(image)], uneven((5, 5)), 100, seed=seed, voxels=5 * 2**18)
    assert 1 <= len(samples) <= 5
    assert sum(sample.image.size for sample in samples) <= 5 * 2**18
    assert all(sample.image.shape == (512, 512) for sample in samples)
    assert max(float((sample.image > 100).mean()) for sample in samples) > 0.25
    again = draw_samples([stack_of(image)], uneven((5, 5)), 100, seed=seed, voxels=5 * 2**18)
    for one, other in zip(samples, again, strict=True):
        np.testing.assert_array_equal(one.hidden, other.hidden)
        np.testing.assert_array_equal(one.shown, other.shown)


def test_a_part_is_as_wide_as_a_wide_psf() -> None:
    image = np.random.default_rng(0).integers(0, 9, (80, 120, 110)).astype(np.uint8)
    (sample,) = draw_samples([stack_of(image)], np.ones((3, 81, 5)), 0, voxels=2**19)
    assert sample.image.shape == (64, 81, 64)
    assert sample.hidden.any()
