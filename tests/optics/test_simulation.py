from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bigdecon.errors import OptionError
from bigdecon.optics.blur import Blur
from bigdecon.optics.simulation import NoiseModel, SimulatedSource, paper_noise, paper_psf, simulate_box
from bigdecon.optics.specimens import SPECIMENS, bars, filaments
from bigdecon.volume import Volume

SILENT = NoiseModel(poisson=0, gaussian=0, salt_and_pepper=0, bits=0)
LONGEST = {2: 150, 3: 40}


def boxes(ndim):
    part = st.tuples(st.integers(-300, 300), st.integers(1, LONGEST[ndim]))
    return st.tuples(*[part] * ndim).map(lambda parts: tuple(slice(a, a + n) for a, n in parts))


@st.composite
def boxes_within(draw, ndim):
    outer = draw(boxes(ndim))
    inner = []
    for part in outer:
        start = draw(st.integers(part.start, part.stop - 1))
        inner.append(slice(start, draw(st.integers(start + 1, part.stop))))
    return outer, tuple(inner)


def cut(array, inner, outer):
    pairs = zip(inner, outer, strict=True)
    return array[tuple(slice(i.start - o.start, i.stop - o.start) for i, o in pairs)]


def some_psf(ndim, radius=2):
    psf = np.random.default_rng(0).random((2 * radius + 1,) * ndim)
    return (psf / psf.sum()).astype(np.float32)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("kind", SPECIMENS)
@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_a_box_is_a_crop_of_the_whole(kind, ndim, data):
    outer, inner = data.draw(boxes_within(ndim))
    seed = data.draw(st.integers(0, 3))
    whole = SPECIMENS[kind](outer, seed)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(SPECIMENS[kind](inner, seed), cut(whole, inner, outer))


@pytest.mark.parametrize("ndim", [2, 3])
@settings(deadline=None, max_examples=4)
@given(data=st.data())
def test_a_noisy_box_is_a_crop_of_the_whole(ndim, data):
    outer, inner = data.draw(boxes_within(ndim))
    parts = [simulate_box(filaments, some_psf(ndim), paper_noise(ndim), box, 5) for box in (outer, inner)]
    for whole, part in zip(*parts, strict=True):
        np.testing.assert_array_equal(part, cut(whole, inner, outer))


@pytest.mark.parametrize("shape", [(200, 150), (40, 96, 80)])
@pytest.mark.parametrize("kind", SPECIMENS)
def test_specimens_are_sparse_fill_the_range_and_follow_the_seed(kind, shape):
    box = tuple(slice(0, n) for n in shape)
    density = SPECIMENS[kind](box, 0)
    assert density.shape == shape
    assert density.min() == 0
    assert 0.8 < density.max() <= 1
    assert 0.0005 < density.mean() < 0.4
    assert np.mean(density < 0.01) > 0.3
    assert (density != SPECIMENS[kind](box, 1)).any()


def test_filaments_go_on_across_cells():
    """What crosses one plane crosses the next, at the border of cells as elsewhere."""
    volume = filaments((slice(0, 130), slice(0, 128), slice(0, 128)), 0).astype(np.float64)
    likeness = [np.corrcoef(volume[z].ravel(), volume[z + 1].ravel())[0, 1] for z in (30, 63, 64, 100)]
    assert min(likeness) > 0.6
    assert np.ptp(likeness) < 0.2


def test_bars_are_as_far_apart_as_wide():
    image = bars((slice(0, 320), slice(0, 320)), 0)
    assert set(np.unique(image)) == {0.0, 1.0}
    alone = image[32:64, 0:32]
    assert alone[:4].max() == 0
    assert alone[4:28, 4:28].any()


@pytest.mark.parametrize("shape", [(40, 50), (20, 30, 24)])
def test_without_noise_the_image_is_the_exact_blur(shape):
    box, psf = tuple(slice(7, 7 + n) for n in shape), some_psf(len(shape))
    grown = tuple(slice(part.start - 2, part.stop + 2) for part in box)
    truth = torch.from_numpy(filaments(grown, 1))[None, None]
    exact = Blur(psf).valid(truth)[0, 0].numpy()
    np.testing.assert_allclose(simulate_box(filaments, psf, SILENT, box, 1).noisy, exact, atol=1e-6)


def test_a_point_without_noise_is_not_moved():
    box, psf = (slice(0, 60), slice(0, 60)), np.zeros((5, 5), np.float32)
    psf[2, 2] = 1
    truth, image = simulate_box(SPECIMENS["points"], psf, SILENT, box, 0)
    np.testing.assert_allclose(image, truth, atol=1e-6)


def test_noise_has_the_variance_of_its_model():
    noise = NoiseModel(poisson=0.02, gaussian=0.05, bits=0)
    rng = np.random.default_rng(0)
    for level in (0.3, 0.6):
        deviation = noise.apply(np.full((100, 1000), level), rng) - level
        assert deviation.mean() == pytest.approx(0, abs=0.002)
        assert deviation.var() == pytest.approx(0.02 * level + 0.05**2, rel=0.02)


def evenly(box, seed):
    return np.full([part.stop - part.start for part in box], 0.5, np.float32)


def test_noise_differs_from_cell_to_cell_and_from_voxel_to_voxel():
    box = tuple(slice(0, n) for n in (64, 64, 128))
    noise = NoiseModel(poisson=0, gaussian=0.1, bits=0)
    image = simulate_box(
        evenly,
        some_psf(3, 1),
        noise,
        box,
        0,
    ).noisy
    left, right = image[..., :64].ravel(), image[..., 64:].ravel()
    assert abs(np.corrcoef(left, right)[0, 1]) < 0.02
    assert abs(np.corrcoef(image[1:].ravel(), image[:-1].ravel())[0, 1]) < 0.02


def test_salt_and_pepper_and_the_levels_of_the_camera():
    rng = np.random.default_rng(0)
    image = NoiseModel(0, 0, salt_and_pepper=0.1, bits=2).apply(np.full((300, 300), 0.4), rng)
    assert set(np.unique(image)) == {0.0, np.float32(1 / 3), 1.0}
    assert np.mean(image == 0) == pytest.approx(0.05, rel=0.1)
    assert np.mean(image == 1) == pytest.approx(0.05, rel=0.1)


def test_the_papers_noise():
    assert paper_noise(3) == NoiseModel(0.001, 0.1, 0.0, 10)
    assert paper_noise(2) == NoiseModel(0.001, 0.1, 0.01, 10)


@pytest.mark.parametrize(
    "wrong", [{"poisson": -1}, {"gaussian": float("nan")}, {"salt_and_pepper": 2}, {"bits": 17}]
)
def test_impossible_noise_is_refused(wrong):
    with pytest.raises(OptionError):
        NoiseModel(**wrong)


def source(kind, **changes):
    settings = {"shape": (70, 40, 66), "seed": 2, "psf_array": some_psf(3), "noise": paper_noise(3)}
    return SimulatedSource(filaments, kind, **(settings | changes))


@pytest.mark.parametrize("kind", ["truth", "noisy"])
def test_a_source_reads_any_part_and_pickles(kind):
    whole = np.asarray(Volume(source(kind), "zyx"))
    assert whole.shape == (70, 40, 66)
    copy = pickle.loads(pickle.dumps(source(kind)))
    part = copy[(slice(60, 70), slice(None), slice(5, 9))]
    np.testing.assert_array_equal(part, whole[60:70, :, 5:9])


def test_gain_and_offset_give_counts():
    box = (slice(0, 20),) * 3
    plain, counts = source("noisy")[box], source("noisy", gain=1023.0, offset=100.0)[box]
    np.testing.assert_allclose(counts, plain * 1023 + 100, rtol=1e-6)
    np.testing.assert_array_equal(counts, np.round(counts))
    np.testing.assert_array_equal(source("noisy").truth[box], source("truth")[box])


def test_what_cannot_be_simulated_is_refused():
    with pytest.raises(OptionError, match="dimensions"):
        source("truth", psf_array=some_psf(2))
    with pytest.raises(OptionError, match="seed is -1"):
        source("truth", seed=-1)
    with pytest.raises(OptionError, match="shape"):
        source("truth", shape=(5,))
    with pytest.raises(OptionError, match="dimensions"):
        simulate_box(filaments, some_psf(3), SILENT, (slice(0, 4), slice(0, 4)), 0)


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_papers_psf(ndim):
    psf = paper_psf(ndim)
    assert psf.array.shape == (17,) * ndim
    assert psf.voxel_size_um == (0.406,) * ndim
    assert psf.array.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(psf.array, psf.array[..., ::-1], atol=1e-6)
    with pytest.raises(OptionError, match="4 dimensions"):
        paper_psf(4)


def test_the_papers_2d_psf_is_out_of_focus():
    """Less than a tenth of the light in the middle voxel, where the focal plane has about a third."""
    focal = paper_psf(3).array[8]
    assert paper_psf(2).array.max() < 0.3 * (focal / focal.sum()).max()
