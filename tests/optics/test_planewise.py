"""In pieces or whole, a convolution is the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bigdecon.deconvolution.richardson_lucy import RichardsonLucy
from bigdecon.optics import planewise
from bigdecon.optics.blur import Blur, fast_size
from bigdecon.optics.planewise import lines_across, pays


@pytest.fixture(autouse=True, params=[1, 2])
def _threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def lopsided(*shape: int) -> np.ndarray:
    psf = np.random.default_rng(0).random(shape).astype(np.float32) ** 3
    return psf / psf.sum()


@pytest.mark.parametrize("piece", [1, 30_000, 1e9])
@pytest.mark.parametrize("psf", [(3, 7, 5), (13, 3, 9), (1, 5, 1)])
def test_in_pieces_or_whole_it_is_the_same(
    psf: tuple[int, ...], piece: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 1, 19, 23, 26)).astype(np.float32))
    whole = Blur(lopsided(*psf))
    expected = whole.valid(x), whole.valid_adjoint(x)
    monkeypatch.setattr(planewise, "LEAST_VOXELS", 0)
    monkeypatch.setattr(planewise, "PIECE", piece)
    pieces = Blur(lopsided(*psf))
    for found, wanted in zip((pieces.valid(x), pieces.valid_adjoint(x)), expected, strict=True):
        assert found.is_contiguous()
        torch.testing.assert_close(found, wanted, atol=2e-6, rtol=0)


def test_the_gradient_is_the_adjoint_in_pieces_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planewise, "LEAST_VOXELS", 0)
    blur = Blur(lopsided(5, 3, 7))
    x = torch.rand(1, 1, 14, 15, 16, requires_grad=True)
    y = torch.rand(1, 1, 10, 13, 10)
    blur.valid(x).backward(y)
    torch.testing.assert_close(x.grad, blur.valid_adjoint(y), atol=1e-6, rtol=0)


@pytest.mark.parametrize("more", [{}, {"accelerate": True}, {"total_variation": 0.01}, {"sieve": 0.7}])
def test_richardson_lucy_in_pieces_or_whole_is_the_same(
    more: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.random.default_rng(2).poisson(40, (18, 25, 22)).astype(np.float32)
    image[9, 12, 11] = 2000
    method = RichardsonLucy(lopsided(5, 7, 3), iterations=5, background=10, **more)
    whole = method(image)
    steps = dict(method.iterates(image, [3, 5]))
    method.forget()
    monkeypatch.setattr(planewise, "LEAST_VOXELS", 0)
    monkeypatch.setattr(planewise, "PIECE", 60_000)
    np.testing.assert_allclose(method(image), whole, atol=1e-4 * np.ptp(whole))
    for k, result in method.iterates(image, [3, 5]):
        np.testing.assert_allclose(result, steps[k], atol=1e-4 * np.ptp(whole))
    method.forget()


def test_large_volumes_are_taken_in_pieces_and_patches_are_not() -> None:
    assert pays((64, 256, 256))
    assert not pays((80, 80, 80))
    assert not pays((4096, 4096))


def test_another_order_in_memory_holds_the_same_numbers() -> None:
    x = torch.rand(3, 4, 5)
    assert torch.equal(lines_across(x), x)
    assert lines_across(x).stride(0) == 1


@pytest.mark.parametrize(
    ("n", "size", "even"), [(1, 1, 2), (17, 18, 18), (75, 75, 80), (272, 280, 280), (576, 576, 576)]
)
def test_fast_sizes(n: int, size: int, even: int) -> None:
    assert fast_size(n) == size
    assert fast_size(n, even=True) == even
