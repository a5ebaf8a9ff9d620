"""The blur: true convolution by either way of computing it, and an exact transpose."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bigdecon.optics.blur import Blur


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_psf(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    psf = np.random.default_rng(seed).random(shape).astype(np.float32)
    return psf / psf.sum()


def image(shape: tuple[int, ...], seed: int = 1, batch: int = 1, channels: int = 1) -> torch.Tensor:
    values = np.random.default_rng(seed).normal(size=(batch, channels, *shape))
    return torch.from_numpy(values.astype(np.float32))


def both_ways(psf: NDArray[np.float32]) -> tuple[Blur, Blur]:
    """One blur that convolves directly, and one by FFT, whatever the PSF's size."""
    direct, fft = Blur(psf), Blur(psf)
    direct._direct, fft._direct = True, False
    return direct, fft


def inner(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() * b.double()).sum())


@settings(deadline=None, max_examples=12)
@given(
    psf_shape=st.lists(st.sampled_from([1, 3, 5, 7]), min_size=2, max_size=3),
    extra=st.lists(st.integers(1, 8), min_size=3, max_size=3),
    seed=st.integers(0, 1000),
)
def test_both_ways_agree_with_scipy_and_their_transposes_fit(
    psf_shape: list[int], extra: list[int], seed: int
) -> None:
    psf = random_psf(tuple(psf_shape), seed)
    shape = tuple(p - 1 + e for p, e in zip(psf_shape, extra, strict=False))
    x = image(shape, seed)
    same = torch.from_numpy(scipy.signal.fftconvolve(x[0, 0], psf, "same"))
    valid = torch.from_numpy(scipy.signal.fftconvolve(x[0, 0], psf, "valid"))
    y, z = image(shape, seed + 1), image(tuple(valid.shape), seed + 2)
    for blur in both_ways(psf):
        if all(n >= p for n, p in zip(shape, psf_shape, strict=True)):
            torch.testing.assert_close(blur.forward(x)[0, 0], same, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(blur.valid(x)[0, 0], valid, atol=1e-5, rtol=1e-5)
        assert inner(blur.forward(x), y) == pytest.approx(inner(x, blur.adjoint(y)), abs=1e-4)
        assert blur.valid_adjoint(z).shape == x.shape
        assert inner(blur.valid(x), z) == pytest.approx(inner(x, blur.valid_adjoint(z)), abs=1e-4)


@pytest.mark.parametrize("shape", [(9, 10), (5, 6, 7)])
def test_an_image_smaller_than_the_psf(shape: tuple[int, ...]) -> None:
    psf = random_psf((13,) * len(shape))
    x, y = image(shape), image(shape, 2)
    full = scipy.signal.fftconvolve(x[0, 0], psf, "full")
    expected = full[tuple(slice(6, 6 + n) for n in shape)]
    for blur in both_ways(psf):
        np.testing.assert_allclose(blur.forward(x)[0, 0], expected, atol=1e-5)
        assert inner(blur.forward(x), y) == pytest.approx(inner(x, blur.adjoint(y)), abs=1e-4)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("size", [3, 9])
def test_a_point_becomes_the_psf_itself_not_its_mirror_image(ndim: int, size: int) -> None:
    psf = random_psf((size,) * ndim)
    x = torch.zeros(1, 1, *(20,) * ndim)
    x[(0, 0, *(10,) * ndim)] = 1
    window = (slice(10 - size // 2, 11 + size // 2),) * ndim
    for blur in both_ways(psf):
        np.testing.assert_allclose(blur.forward(x)[0, 0][window], psf, atol=1e-6)
        np.testing.assert_allclose(blur.adjoint(x)[0, 0][window], np.flip(psf), atol=1e-6)


@pytest.mark.parametrize("shape", [(11, 12), (8, 9, 10)])
@pytest.mark.parametrize("size", [1, 3, 9])
def test_a_delta_changes_nothing(shape: tuple[int, ...], size: int) -> None:
    psf = np.zeros((size,) * len(shape), np.float32)
    psf[(size // 2,) * len(shape)] = 1
    x = image(shape)
    for blur in both_ways(psf):
        torch.testing.assert_close(blur.forward(x), x, atol=1e-5, rtol=0)
        torch.testing.assert_close(blur.adjoint(x), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(21, 16), (12, 15, 13)])
@pytest.mark.parametrize("size", [3, 9])
def test_a_constant_stays_itself_where_the_edge_is_repeated(shape: tuple[int, ...], size: int) -> None:
    x = torch.full((1, 1, *shape), 5.0)
    for blur in both_ways(random_psf((size,) * len(shape))):
        torch.testing.assert_close(blur.forward(x, "replicate"), x, atol=1e-4, rtol=0)
        darker = blur.forward(x)[(0, 0, *(0,) * len(shape))]
        assert float(darker) < 4


def test_batch_and_channels_are_blurred_one_by_one() -> None:
    psf = random_psf((9, 5))
    x = image((20, 21), batch=3, channels=2)
    for blur in both_ways(psf):
        together = blur.forward(x)
        assert together.shape == x.shape
        for b in range(3):
            for c in range(2):
                torch.testing.assert_close(
                    together[b, c], blur.forward(x[b : b + 1, c : c + 1])[0, 0], atol=1e-6, rtol=0
                )


@pytest.mark.parametrize("size", [3, 9])
def test_the_gradient_is_the_adjoint(size: int) -> None:
    for blur in both_ways(random_psf((size, size, size))):
        x = image((10, 11, 12)).requires_grad_()
        y = image((10, 11, 12), 2)
        blur.forward(x).backward(y)
        torch.testing.assert_close(x.grad, blur.adjoint(y), atol=1e-5, rtol=0)


def test_the_transform_is_computed_once_for_each_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    blur = Blur(random_psf((9, 9)))
    calls: list[tuple[int, ...]] = []
    transform = torch.fft.rfftn

    def counted(x: torch.Tensor, **options: object) -> torch.Tensor:
        calls.append(tuple(x.shape))
        return transform(x, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.fft, "rfftn", counted)
    for _ in range(3):
        blur.forward(image((30, 30)))
    of_the_psf = [shape for shape in calls if len(shape) == 2]
    assert len(of_the_psf) == 1
    blur.forward(image((60, 30)))
    assert len([shape for shape in calls if len(shape) == 2]) == 2


def test_small_psfs_are_convolved_directly_and_large_ones_by_fft() -> None:
    assert Blur(random_psf((3, 3)))._direct
    assert not Blur(random_psf((5, 5)))._direct
    assert not Blur(random_psf((3, 3, 3)))._direct


@pytest.mark.parametrize("shape", [(4, 5), (3, 3, 2)])
def test_even_psfs_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="odd extent"):
        Blur(random_psf(shape))
