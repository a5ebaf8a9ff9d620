from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bigdecon.errors import OptionError, VolumeError
from bigdecon.optics.blur import Blur
from bigdecon.optics.image_specimen import image_specimen
from bigdecon.optics.simulation import (
    NoiseModel,
    SimulatedSource,
    paper_noise,
    paper_psf,
    simulate_box,
    simulate_image,
)
from bigdecon.optics.specimens import SPECIMENS, bars, filaments
from bigdecon.volume import ArraySource, Volume

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


@pytest.mark.parametrize("level", [0.45, 0.5, 0.6])
def test_the_papers_noise_has_its_variance_at_every_brightness(level):
    """Four sigma away from the ends, where clipping takes nothing; rounding adds a thousandth."""
    image = paper_noise(3).apply(np.full((200, 1000), level), np.random.default_rng(1))
    assert image.mean(dtype=float) == pytest.approx(level, abs=0.001)
    assert image.var(dtype=float) == pytest.approx(0.001 * level + 0.01, rel=0.01)


def test_noise_is_clipped_to_the_range_and_keeps_a_background():
    """Half of a normal distribution of deviation 0.1 has the mean 0.1 / sqrt(2 pi)."""
    image = paper_noise(3).apply(np.zeros((300, 300)), np.random.default_rng(0))
    assert image.min() == 0
    assert np.mean(image == 0) == pytest.approx(0.5, abs=0.01)
    assert image.mean() == pytest.approx(0.1 / np.sqrt(2 * np.pi), abs=0.001)
    assert paper_noise(3).apply(np.ones((300, 300)), np.random.default_rng(0)).max() == 1


@pytest.mark.parametrize("bits", [1, 2, 10])
def test_levels_are_multiples_of_a_power_of_two(bits):
    image = NoiseModel(0.001, 0.3, bits=bits).apply(np.full((300, 300), 0.5), np.random.default_rng(0))
    counts = image.astype(float) * 2**bits
    np.testing.assert_array_equal(counts, np.round(counts))
    assert (counts.min(), counts.max()) == (0, 2**bits)


def test_uniform_impulses_take_any_value_in_the_right_share():
    image = NoiseModel(0, 0, salt_and_pepper=0.01, bits=10).apply(
        np.full((1000, 1000), 0.5), np.random.default_rng(0)
    )
    hit = image[image != 0.5]
    assert len(hit) / image.size == pytest.approx(0.01, rel=0.03)
    counts, _ = np.histogram(hit, bins=10, range=(0, 1))
    np.testing.assert_allclose(counts, len(hit) / 10, rtol=0.15)


def test_extreme_impulses_are_0_or_1_by_halves():
    noise = NoiseModel(0, 0, salt_and_pepper=0.1, bits=2, impulses="extreme")
    image = noise.apply(np.full((300, 300), 0.4), np.random.default_rng(0))
    assert set(np.unique(image)) == {0.0, 0.5, 1.0}
    assert np.mean(image == 0) == pytest.approx(0.05, rel=0.1)
    assert np.mean(image == 1) == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("impulses", ["uniform", "extreme"])
def test_impulses_leave_the_other_noise_as_it_is(impulses):
    clean = np.full((100, 100), 0.5)
    with_some = NoiseModel(salt_and_pepper=0.01, impulses=impulses)
    a, b = (noise.apply(clean, np.random.default_rng(3)) for noise in (NoiseModel(), with_some))
    assert 0 < np.mean(a != b) < 0.02


def test_the_papers_noise():
    assert paper_noise(3) == NoiseModel(0.001, 0.1, 0.0, 10)
    assert paper_noise(2) == NoiseModel(0.001, 0.1, 0.01, 10, "uniform")


@pytest.mark.parametrize(
    "wrong",
    [{"poisson": -1}, {"gaussian": float("nan")}, {"salt_and_pepper": 2}, {"bits": 17}, {"impulses": "odd"}],
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
    plain, counts = source("noisy")[box], source("noisy", gain=1024.0, offset=100.0)[box]
    np.testing.assert_allclose(counts, plain * 1024 + 100, rtol=1e-6)
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


def test_the_papers_2d_psf_is_the_plane_3_um_from_the_focus():
    """Alike to the outermost plane of the 3D PSF, 3.25 µm away, and much less to the focal one."""
    volume, plane = paper_psf(3).array, paper_psf(2).array
    likeness = [np.corrcoef(plane.ravel(), z.ravel())[0, 1] for z in volume]
    assert max(likeness) == max(likeness[0], likeness[1], likeness[-1], likeness[-2])
    assert likeness[8] < 0.5


def test_the_papers_2d_psf_is_out_of_focus():
    """Less than a tenth of the light in the middle voxel, where the focal plane has about a third."""
    focal = paper_psf(3).array[8]
    assert paper_psf(2).array.max() < 0.3 * (focal / focal.sum()).max()


# --- from an image ----------------------------------------------------------------------------


def crooked_psf(ndim):
    """All light a fixed way off the centre along every axis, and another way along the last."""
    psf = np.zeros((7,) * ndim, np.float32)
    psf[(5,) * (ndim - 1) + (1,)] = 0.75
    psf[(3,) * ndim] = 0.25
    return psf


@pytest.mark.parametrize("ndim", [2, 3])
def test_an_image_is_blurred_without_mirroring_or_shifting(ndim):
    image = np.zeros((21,) * ndim, np.uint8)
    image[(10,) * ndim] = 200
    truth, noisy = simulate_image(image, crooked_psf(ndim), SILENT)
    np.testing.assert_array_equal(truth, image / np.float32(200))
    expected = np.zeros((21,) * ndim)
    expected[(12,) * (ndim - 1) + (8,)] = 0.75
    expected[(10,) * ndim] = 0.25
    np.testing.assert_allclose(noisy, expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(300, 290), (30, 70, 66), (1, 5, 90), (3, 4)])
def test_beyond_an_image_its_edge_goes_on(shape):
    image = np.random.default_rng(0).random(shape)
    psf = crooked_psf(len(shape))
    truth, noisy = simulate_image(image, psf, SILENT)
    assert (truth.min(), truth.max()) == (0, 1)
    padded = torch.from_numpy(np.pad(truth, 3, mode="edge"))[None, None]
    np.testing.assert_allclose(noisy, Blur(psf).valid(padded)[0, 0].numpy(), atol=1e-6)


@pytest.mark.parametrize("ndim", [2, 3])
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_a_box_of_an_image_is_a_crop_of_the_image_with_repeated_edges(ndim, data):
    shape = (data.draw(st.integers(2, 12)), *(data.draw(st.integers(1, 12)) for _ in range(ndim - 1)))
    whole = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    specimen = image_specimen(whole)
    box = tuple(
        slice(start, start + data.draw(st.integers(0, 25)))
        for start in (data.draw(st.integers(-20, 20)) for _ in shape)
    )
    places = [np.arange(p.start, p.stop).clip(0, n - 1) for p, n in zip(box, whole.shape, strict=True)]
    expected = whole[np.ix_(*places)] / whole.max()
    np.testing.assert_array_equal(specimen(box, 0), expected.astype(np.float32))
    np.testing.assert_array_equal(specimen.read_once(box)(box, 0), expected.astype(np.float32))


@pytest.mark.parametrize("shape", [(300, 530), (70, 66, 130)])
def test_blocks_of_an_image_equal_the_whole_bit_for_bit(shape):
    ndim = len(shape)
    image = np.random.default_rng(0).integers(0, 1000, shape).astype(np.uint16)
    psf, noise = some_psf(ndim), paper_noise(ndim)
    whole = simulate_image(image, psf, noise, seed=4)
    source = SimulatedSource(image_specimen(image), "noisy", shape, 4, psf, noise)
    source = pickle.loads(pickle.dumps(source))
    for start in (0, 37):
        box = tuple(slice(start, n - 5) for n in shape)
        np.testing.assert_array_equal(source[box], whole.noisy[box])
        np.testing.assert_array_equal(source.truth[box], whole.truth[box])
    nothing = (slice(5, 5), *(slice(None),) * (ndim - 1))
    assert source.truth[nothing].shape == source[nothing].shape == (0, *shape[1:])


def test_an_image_is_read_once_for_a_box():
    class Counted(ArraySource):
        count = 0

        def __getitem__(self, selection):
            Counted.count += 1
            return super().__getitem__(selection)

    image = np.random.default_rng(0).random((600, 600))
    specimen = image_specimen(Counted(image))
    Counted.count = 0
    source = SimulatedSource(specimen, "noisy", image.shape, 0, some_psf(2), paper_noise(2))
    assert source[0:600, 0:600].shape == (600, 600)
    assert Counted.count == 1


def test_the_seed_changes_the_noise_of_an_image_only():
    image = np.random.default_rng(0).random((40, 50))
    a, b, c = (simulate_image(image, some_psf(2), paper_noise(2), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a.noisy, b.noisy)
    assert (a.noisy != c.noisy).mean() > 0.5
    np.testing.assert_array_equal(a.truth, c.truth)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.ones((5, 5)), "value 1"),
        (np.array([[0, 1], [np.nan, 2]]), "NaN"),
        (np.array([[0, 1], [np.inf, 2]]), "infinity"),
        (np.zeros(5), "2D or 3D"),
        (np.zeros((0, 5)), "2D or 3D"),
    ],
)
def test_an_image_that_cannot_be_scaled_is_refused(image, message):
    with pytest.raises(VolumeError, match=message):
        image_specimen(image)


def test_simulate_image_refuses_what_does_not_fit():
    image = np.random.default_rng(0).random((8, 8))
    with pytest.raises(OptionError, match="dimensions"):
        simulate_image(image, some_psf(3), SILENT)
    with pytest.raises(OptionError, match="seed is -1"):
        simulate_image(image, some_psf(2), SILENT, seed=-1)
