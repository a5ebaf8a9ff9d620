"""Blocks in parts where memory is short: the same image, on that worker alone, and nothing tried twice."""

from __future__ import annotations

import logging
import math
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from bigdecon.config import NetworkConfig, TrainingConfig
from bigdecon.deconvolution import network as network_module
from bigdecon.deconvolution import recovery
from bigdecon.deconvolution.block import Deconvolver
from bigdecon.deconvolution.blockwise import deconvolve
from bigdecon.deconvolution.chambolle_pock import ChambollePock
from bigdecon.deconvolution.classical import cached_blur
from bigdecon.deconvolution.conjugate_gradient import ConjugateGradient
from bigdecon.deconvolution.network import NetworkDeconvolver
from bigdecon.deconvolution.recovery import WithinMemory, restore_within_memory, split_block
from bigdecon.deconvolution.refined import RefinedNetwork, refining_lucy
from bigdecon.deconvolution.richardson_lucy import RichardsonLucy
from bigdecon.deconvolution.tiling import trim
from bigdecon.deconvolution.wiener import Wiener
from bigdecon.errors import DeviceMemoryError, OptionError
from bigdecon.intensity import IntensityStats
from bigdecon.learning.checkpoint import Checkpoint
from bigdecon.learning.unet import PassNorm, UNet
from bigdecon.volume import Volume
from tests.deconvolution.psfs import uneven

pytestmark = pytest.mark.usefixtures("one_thread")

STATS = IntensityStats(mean=100, std=20, minimum=0, maximum=300, background=60)


@pytest.fixture(autouse=True)
def _nothing_learnt_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "_too_large", {})
    monkeypatch.setattr(recovery, "_told", {})
    monkeypatch.setattr(network_module, "_fitting", {})


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.WARNING, "bigdecon"):
        yield caplog


# --- the geometry -----------------------------------------------------------------------------------


@st.composite
def blocks(draw: Any) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    ndim = draw(st.integers(2, 3))
    return (
        tuple(draw(st.integers(1, 300)) for _ in range(ndim)),
        tuple(draw(st.integers(0, 60)) for _ in range(ndim)),
        draw(st.sampled_from([1, 2, 4, 8, 16])),
    )


@given(blocks())
@example(((3, 3), (1, 1), 1))
def test_parts_cover_the_block_once_and_see_their_full_halo(block: Any) -> None:
    shape, halo, alignment = block
    parts = split_block(shape, halo, alignment)
    if parts is None:
        return
    count = np.zeros(shape, np.uint8)
    for core, grown in parts:
        count[core] += 1
        for inner, outer, n, h in zip(core, grown, shape, halo, strict=True):
            assert 0 <= outer.start <= inner.start < inner.stop <= outer.stop <= n
            assert outer.start % alignment == 0
            assert inner.start - outer.start >= h or outer.start == 0
            assert outer.stop - inner.stop >= h or outer.stop == n
            assert outer.stop % alignment == 0 or outer.stop == n
        # Much smaller each time: the number of parts cannot explode.
        assert math.prod(s.stop - s.start for s in grown) <= 0.85 * math.prod(shape)
    assert (count == 1).all()


@settings(max_examples=500)
@given(blocks())
def test_only_what_is_too_small_is_not_cut(block: Any) -> None:
    shape, halo, alignment = block
    large = [n >= max(2, 3 * h + 9 * alignment) for n, h in zip(shape, halo, strict=True)]
    if any(large):
        assert split_block(shape, halo, alignment) is not None
    else:
        small = [n < max(2, 2 * alignment, 2.8 * h) for n, h in zip(shape, halo, strict=True)]
        assert not all(small) or split_block(shape, halo, alignment) is None


def test_the_cut_leaves_the_smallest_parts() -> None:
    """Along the longest axis where halos are equal, else where the halo takes least."""
    first, second = split_block((40, 64, 48), (8, 8, 8), 1)
    assert first == ((slice(0, 40), slice(0, 32), slice(0, 48)), (slice(0, 40), slice(0, 40), slice(0, 48)))
    assert second == (
        (slice(0, 40), slice(32, 64), slice(0, 48)),
        (slice(0, 40), slice(24, 64), slice(0, 48)),
    )
    assert split_block((64, 50), (20, 4), 4)[0].core == (slice(0, 64), slice(0, 24))
    assert split_block((1, 1), (0, 0), 1) is None


# --- methods with little memory ---------------------------------------------------------------------


@dataclass(eq=False)
class Little:
    """A method on a device that holds only so many voxels."""

    method: Any
    most: int
    error: Callable[[], Exception] = lambda: torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to ...")
    tried: list[int] = field(default_factory=list)
    device: str = "cuda"

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def halo(self) -> tuple[int, ...]:
        return self.method.halo

    @property
    def alignment(self) -> int:
        return self.method.alignment

    def __call__(self, block: NDArray[Any]) -> NDArray[np.float32]:
        self.tried.append(block.size)
        if block.size > self.most:
            raise self.error()
        return self.method(block)


def checkpoint(config: NetworkConfig) -> Checkpoint:
    """A network with random weights and random running statistics."""
    torch.manual_seed(0)
    network = UNet(config)
    for module in network.modules():
        if isinstance(module, PassNorm):
            nn.init.normal_(module.bias, 0.3, 0.3)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    weights = {name: t.numpy().copy() for name, t in network.state_dict().items()}
    training = TrainingConfig(network=config, patch_shape=(16,) * config.ndim)
    return Checkpoint(weights, training, STATS, uneven((3,) * config.ndim), "", None)


def network(ndim: int, **options: Any) -> NetworkDeconvolver:
    return NetworkDeconvolver(checkpoint(NetworkConfig(ndim, 3, 2)), STATS, threads=1, **options)


PSF2, PSF3 = uneven((3, 5)), uneven((3, 3, 3))
METHODS: dict[str, Callable[[int], Any]] = {
    "richardson-lucy": lambda ndim: RichardsonLucy(PSF2 if ndim == 2 else PSF3, iterations=8, background=60),
    "accelerated": lambda ndim: RichardsonLucy(
        PSF2 if ndim == 2 else PSF3, iterations=5, background=60, accelerate=True
    ),
    "wiener": lambda ndim: Wiener(PSF2 if ndim == 2 else PSF3, regularization=0.1),
    "conjugate-gradient": lambda ndim: ConjugateGradient(PSF2 if ndim == 2 else PSF3, regularization=0.1),
    "chambolle-pock": lambda ndim: ChambollePock(
        PSF2 if ndim == 2 else PSF3, regularization=0.5, iterations=5
    ),
    "network": network,
    "refined": lambda ndim: RefinedNetwork(
        network(ndim), refining_lucy(PSF2 if ndim == 2 else PSF3, 3, background=60)
    ),
}


def image(shape: tuple[int, ...]) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    light = np.where(rng.random(shape) > 0.97, 400.0, 0.0)
    return rng.poisson(light + 100).astype(np.float32)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("ndim", [2, 3])
def test_in_parts_it_is_the_same_image(name: str, ndim: int, told: pytest.LogCaptureFixture) -> None:
    """Odd extents, at least three halos long, so that both the volume's faces and cuts are among them."""
    method = METHODS[name](ndim)
    least = [3 * -(-h // method.alignment) * method.alignment for h in method.halo]
    shape = tuple(max(n, m) + 1 for n, m in zip((71, 143) if ndim == 2 else (29, 33, 47), least, strict=True))
    block = image(shape)
    limited = Little(method, math.ceil(0.85 * block.size))
    whole = method(block)
    parts = restore_within_memory(limited, block)
    assert parts.dtype == np.float32
    assert np.ptp(whole) > 1
    assert np.abs(parts - whole).max() <= 1e-4 * np.ptp(whole)
    assert sum(size <= limited.most for size in limited.tried) >= 2
    assert len(told.messages) == 1
    assert "parts: the memory of GPU 0 does not suffice" in told.messages[0]


@pytest.mark.parametrize("share", [0.5, 0.3, 0.15])
def test_parts_are_cut_again_until_they_fit(share: float) -> None:
    method = METHODS["richardson-lucy"](2)
    block = image((201, 333))
    limited = Little(method, int(share * block.size))
    whole = method(block)
    assert np.abs(restore_within_memory(limited, block) - whole).max() <= 1e-4 * np.ptp(whole)


@pytest.mark.parametrize("name", ["wiener", "network"])
def test_blocks_of_a_volume_in_parts_are_the_same_image(name: str) -> None:
    method = METHODS[name](3)
    volume = Volume.from_array(image((61, 45, 70)))
    limited = Little(method, 40_000)
    whole = np.asarray(deconvolve(volume, method, block=64))
    parts = np.asarray(deconvolve(volume, WithinMemory(limited), block=64))
    assert max(limited.tried) > limited.most
    assert np.abs(parts - whole).max() <= 1e-4 * np.ptp(whole)


def test_what_did_not_fit_is_not_tried_again_and_told_once(told: pytest.LogCaptureFixture) -> None:
    limited = Little(RichardsonLucy(PSF2, iterations=2), 12_000)
    block = image((150, 150))
    restore_within_memory(limited, block)
    assert limited.tried[:2] == [block.size] * 2  # once more after what was kept has been given up
    assert max(limited.tried[2:]) <= limited.most
    limited.tried.clear()
    for _ in range(3):
        restore_within_memory(limited, block)
    assert max(limited.tried) <= limited.most
    assert len(told.messages) == 1
    assert told.messages[0].startswith("richardson-lucy computes a block of 150 x 150 voxels in 2 parts")
    # A copy, as another task brings it, knows as well.
    limited.tried.clear()
    restore_within_memory(pickle.loads(pickle.dumps(limited.method)), block)
    restore_within_memory(Little(limited.method, 12_000, tried=limited.tried), block)
    assert max(limited.tried) <= limited.most


def test_smaller_blocks_are_not_cut() -> None:
    limited = Little(RichardsonLucy(PSF2, iterations=2), 12_000)
    restore_within_memory(limited, image((150, 150)))
    limited.tried.clear()
    restore_within_memory(limited, image((100, 110)))
    assert limited.tried == [11_000]


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        np._core._exceptions._ArrayMemoryError((1 << 40,), np.dtype("f4")),
        RuntimeError("MPS backend out of memory (MPS allocated: 10 GB)"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_every_allocator_s_words_are_understood(error: Exception) -> None:
    limited = Little(RichardsonLucy(PSF2, iterations=2), 12_000, lambda: error)
    assert restore_within_memory(limited, image((150, 150))).shape == (150, 150)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), OptionError("no"), ValueError("a")])
def test_other_errors_pass_at_once(error: Exception) -> None:
    limited = Little(RichardsonLucy(PSF2, iterations=2), 12_000, lambda: error)
    with pytest.raises(type(error), match=str(error)):
        restore_within_memory(limited, image((150, 150)))
    assert len(limited.tried) == 1


def test_where_nothing_fits_the_remedy_is_named_and_every_block_may_try() -> None:
    limited = Little(RichardsonLucy(PSF2, iterations=2), 0)
    block = image((40, 50))
    sentence = r"memory of GPU 0 does not suffice for \d+ x \d+ voxels, the smallest part .* richardson-lucy"
    with pytest.raises(DeviceMemoryError, match=sentence):
        restore_within_memory(limited, block)
    limited.most = 10**6  # another process has left the GPU
    assert restore_within_memory(limited, block).shape == block.shape


def test_a_failed_attempt_leaves_nothing_in_memory() -> None:
    """The exception holds the frames of the attempt, and they what had been computed."""
    import gc
    import weakref

    class Array(np.ndarray):
        """One that can be watched."""

    held: list[weakref.ref[Any]] = []

    class Greedy(Little):
        def __call__(self, block: NDArray[Any]) -> NDArray[np.float32]:
            gc.collect()
            assert not any(ref() is not None for ref in held)
            scratch = np.zeros(10).view(Array)
            held.append(weakref.ref(scratch))
            return super().__call__(block)

    restore_within_memory(Greedy(RichardsonLucy(PSF2, iterations=2), 3_000), image((60, 80)))
    assert len(held) > 3


def test_transforms_of_whole_blocks_are_dropped() -> None:
    method = RichardsonLucy(uneven((7, 7)), iterations=2)
    method(image((150, 150)))
    blur = cached_blur(method.psf)
    assert blur._transforms
    method.forget()
    assert cached_blur(method.psf) is not blur


def test_it_is_a_deconvolver_that_travels() -> None:
    method = WithinMemory(RichardsonLucy(PSF2, iterations=2))
    assert isinstance(method, Deconvolver)
    block = image((40, 50))
    copy = pickle.loads(pickle.dumps(method))
    np.testing.assert_array_equal(copy(block), method.method(block))
    assert (copy.name, copy.halo, copy.alignment) == ("richardson-lucy", method.method.halo, 1)


# --- the network's own way: smaller tiles -----------------------------------------------------------


def limit_passes(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    predict, tried = NetworkDeconvolver._predict, []

    def with_little_memory(self: NetworkDeconvolver, network: Any, x: torch.Tensor) -> torch.Tensor:
        tried.append(x.numel())
        if x.numel() > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return predict(self, network, x)

    monkeypatch.setattr(NetworkDeconvolver, "_predict", with_little_memory)
    return tried


@pytest.mark.parametrize(("shape", "most"), [((150, 97), 8_000), ((61, 200), 5_000), ((45, 38, 41), 50_000)])
def test_a_network_goes_back_to_smaller_tiles_first(
    shape: tuple[int, ...], most: int, monkeypatch: pytest.MonkeyPatch, told: pytest.LogCaptureFixture
) -> None:
    method, block = network(len(shape)), image(shape)
    whole = method(block)
    tried = limit_passes(monkeypatch, most)
    tiled = restore_within_memory(method, block)
    assert max(tried) > most
    assert np.abs(tiled - whole).max() <= 1e-4 * np.ptp(whole)
    assert len(told.messages) == 1
    assert "siamese works in tiles of" in told.messages[0]
    tried.clear()
    np.testing.assert_array_equal(restore_within_memory(network(len(shape)), block), tiled)
    assert max(tried) <= most
    assert len(told.messages) == 1


def test_a_refined_network_s_lucy_is_cut_by_itself(
    monkeypatch: pytest.MonkeyPatch, told: pytest.LogCaptureFixture
) -> None:
    method, block = METHODS["refined"](2), image((150, 171))
    whole = method(block)
    call, sizes = RichardsonLucy.__call__, []

    def with_little_memory(self: RichardsonLucy, part: NDArray[Any]) -> NDArray[np.float32]:
        sizes.append(part.size)
        if part.size > 16_000:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return call(self, part)

    monkeypatch.setattr(RichardsonLucy, "__call__", with_little_memory)
    assert np.abs(restore_within_memory(method, block) - whole).max() <= 1e-4 * np.ptp(whole)
    assert max(sizes) == block.size
    assert ["richardson-lucy computes" in sentence for sentence in told.messages] == [True]


def test_parts_within_parts_stay_where_they_belong() -> None:
    """A method that gives each voxel back: any mix-up of places would show."""

    @dataclass
    class Same:
        name: str = "same"
        halo: tuple[int, ...] = (3, 0, 5)
        alignment: int = 2
        device: str = "mps"

        def __call__(self, block: NDArray[Any]) -> NDArray[np.float32]:
            if block.size > 2_000:
                raise MemoryError
            return block.astype(np.float32)

    block = np.arange(31 * 17 * 40).reshape(31, 17, 40)
    np.testing.assert_array_equal(restore_within_memory(Same(), block), block)
    core = (slice(3, 9), slice(0, 4))
    assert trim(core, (slice(1, 12), slice(0, 8))) == (slice(2, 8), slice(0, 4))
