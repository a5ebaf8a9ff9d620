"""Scores box by box are those of whole images, in bounded memory, and leave nothing behind."""

from __future__ import annotations

import gc
import math
import os
import shutil
import tempfile
import tracemalloc
from collections import namedtuple
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import metrics as reference

from bigdecon.errors import OptionError, OutputError, VolumeError
from bigdecon.evaluation import scratch, spectra
from bigdecon.evaluation.boxes import BOX_VOXELS, LARGEST_BOX_VOXELS, box_shape, cut, pencils
from bigdecon.evaluation.boxwise import evaluate_stacks, without_border
from bigdecon.evaluation.formulas import Moments, joint_histogram, ssim_values, ssim_window
from bigdecon.evaluation.metrics import evaluate
from bigdecon.volume import ArraySource, Stack, Volume

SHAPES = [(33, 40), (12, 17, 20), (5, 19, 23), (1, 19, 23)]
DTYPES = [np.uint8, np.uint16, np.float32]
Usage = namedtuple("Usage", "total used free")


def pair(shape, dtype=np.float32, seed=3):
    """Give a truth of some bright voxels, and a result with gain, offset and noise."""
    rng = np.random.default_rng(seed)
    truth = 200 * rng.random(shape) ** 3
    result = np.clip(20 + 0.6 * truth + 8 * rng.standard_normal(shape), 0, 250)
    return result.astype(dtype), truth.astype(dtype)


def stack(array):
    return Volume.from_array(array).stack()


@dataclass(frozen=True)
class WatchedSource:
    """An array that refuses to be read in large parts, and fails when it is told to."""

    array: np.ndarray
    most_voxels: int = 2**30
    fails_after: int = 2**30
    reads: list = field(default_factory=list)

    @property
    def shape(self):
        return self.array.shape

    @property
    def dtype(self):
        return self.array.dtype

    @property
    def chunks(self):
        return self.shape

    def __getitem__(self, selection):
        data = self.array[selection]
        self.reads.append(data.size)
        assert data.size <= self.most_voxels, "too much at once"
        if len(self.reads) > self.fails_after:
            raise RuntimeError("the disk is gone")
        return data

    @property
    def stack(self):
        return Stack(self, "zyx"[-self.array.ndim :])


@pytest.fixture
def on_disk(monkeypatch, tmp_path):
    """Use temporary files for images of any size, in a folder of their own, named by TMPDIR."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(scratch, "IN_MEMORY_VOXELS", 0)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def assert_same(one, other, rel=1e-6):
    assert (one.fit.scale, one.fit.offset) == pytest.approx((other.fit.scale, other.fit.offset), rel=1e-9)
    assert one.data_range == other.data_range
    for a, b in ((one.plain, other.plain), (one.affine, other.affine)):
        assert (a.rmse, a.psnr, a.smi) == pytest.approx((b.rmse, b.psnr, b.smi), rel=rel)
        assert a.ssim == pytest.approx(b.ssim, rel=1e-6)
        assert a.mi == b.mi


# --- equal to the whole image -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_give_the_scores_of_the_whole_image(shape, dtype):
    result, truth = pair(shape, dtype)
    for box in (8, None):
        scores = evaluate_stacks(stack(result), stack(truth), box=box)
        assert_same(scores, evaluate(result, truth), rel=1e-9)


@pytest.mark.parametrize("dtype", [*DTYPES, np.int32, np.float64])
@pytest.mark.parametrize("shape", SHAPES[:2])
def test_so_do_temporary_files(on_disk, shape, dtype):
    result, truth = pair(shape, dtype)
    assert_same(evaluate_stacks(stack(result), stack(truth), box=11), evaluate(result, truth))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_box_gives_the_same_scores(data):
    shape = data.draw(st.lists(st.integers(3, 15), min_size=2, max_size=3))
    box = [data.draw(st.integers(2, 18)) for _ in shape]
    result, truth = pair(tuple(shape), seed=data.draw(st.integers(0, 100)))
    expected = evaluate(result, truth, data_range=100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scratch, "IN_MEMORY_VOXELS", data.draw(st.sampled_from([0, 2**24])))
        scores = evaluate_stacks(stack(result), stack(truth), box=box, data_range=100, threads=2)
        assert_same(scores, expected)
        alone = evaluate_stacks(stack(result), stack(truth), box=box, data_range=100, smi=False)
    assert alone.plain.smi is alone.affine.smi is None
    assert (alone.plain.ssim, alone.affine.mi) == pytest.approx((expected.plain.ssim, expected.affine.mi))


def test_negative_gain_and_nothing_in_common():
    result, truth = pair((10, 11, 12))
    for other in (-3 * result + 9, np.full_like(result, 0.1), np.zeros_like(result), truth):
        assert_same(evaluate_stacks(stack(other), stack(truth), box=5), evaluate(other, truth))
    perfect = evaluate_stacks(stack(truth), stack(truth), box=5)
    assert perfect.plain.rmse == perfect.affine.rmse == 0
    assert perfect.affine.psnr == math.inf
    assert perfect.fit.scale == 1
    assert evaluate_stacks(stack(np.full_like(result, 0.1)), stack(truth), box=5).fit.scale == 0


def test_a_border_is_left_out():
    result, truth = pair((14, 15, 16))
    inner = (slice(2, -2),) * 3
    assert_same(
        evaluate_stacks(stack(result), stack(truth), box=5, crop_border=2),
        evaluate(result[inner], truth[inner]),
    )


def test_one_channel_at_one_time_point():
    result, truth = pair((2, 3, 9, 10, 11))
    volumes = Volume.from_array(result), Volume.from_array(truth)
    assert_same(evaluate_stacks(*volumes), evaluate(result[0, 0], truth[0, 0]))
    stacks = [volume.stack(timepoint=1, channel=2) for volume in volumes]
    inner = (1, 2, *(slice(1, -1),) * 3)
    assert_same(evaluate_stacks(*stacks, crop_border=1), evaluate(result[inner], truth[inner]))


# --- equal to other definitions ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES[:2])
def test_psnr_and_ssim_are_those_of_scikit_image(shape, dtype):
    result, truth = pair(shape, dtype)
    scores = evaluate_stacks(stack(result), stack(truth), box=9, data_range=180)
    fitted = scores.fit.apply(result)
    for image, row in ((result.astype(float), scores.plain), (fitted, scores.affine)):
        expected = reference.peak_signal_noise_ratio(truth.astype(float), image, data_range=180)
        assert row.psnr == pytest.approx(expected, rel=1e-9)
        expected = reference.structural_similarity(truth.astype(float), image, data_range=180)
        assert row.ssim == pytest.approx(expected, rel=1e-5)


def test_ssim_keeps_its_digits_on_a_large_offset():
    result, truth = pair((8, 9, 10), np.float64)
    window = ssim_window(result.shape)
    near = ssim_values(result, truth, window, 1e8)[0]
    assert np.isfinite(near).all()
    far = ssim_values(result + 1e9, truth + 1e9, window, 1.0)[0]
    assert far.mean() == pytest.approx(_contrast_term(result, truth, window).mean(), abs=1e-4)


def _contrast_term(result, truth, window):
    """SSIM where both means are far from zero: (2 cov + c2) / (var + var + c2), by direct windows."""
    views = [np.lib.stride_tricks.sliding_window_view(a, window).reshape(-1, 343) for a in (result, truth)]
    x, y = (v - v.mean(axis=1, keepdims=True) for v in views)
    c2 = 0.03**2
    return (2 * (x * y).sum(1) / 342 + c2) / (((x * x).sum(1) + (y * y).sum(1)) / 342 + c2)


def test_values_worked_out_by_hand():
    # Counts of (result, truth): (0, 0) 4, (0, 1) 1, (1, 0) 1, (1, 1) 3.
    result = np.array([[0, 0, 0], [0, 0, 1], [1, 1, 1]], np.uint8)
    truth = np.array([[0, 0, 0], [0, 1, 0], [1, 1, 1]], np.uint8)
    scores = evaluate_stacks(stack(result), stack(truth), box=2)
    assert scores.plain.rmse == pytest.approx(math.sqrt(2 / 9))
    assert scores.plain.psnr == pytest.approx(10 * math.log10(9 / 2))
    # Means 4/9; spread 4 - 16/9 = 20/9; joint spread 3 - 16/9 = 11/9; what is left 20/9 - 121/180.
    assert scores.fit.scale == pytest.approx(11 / 20)
    assert scores.fit.offset == pytest.approx(4 / 9 * (1 - 11 / 20))
    assert scores.affine.rmse == pytest.approx(math.sqrt((20 / 9 - 121 / 180) / 9))
    joint = -sum(n / 9 * math.log(n / 9) for n in (4, 1, 1, 3))
    single = -sum(n / 9 * math.log(n / 9) for n in (5, 4))
    assert scores.plain.mi == pytest.approx((2 * single - joint) / joint)
    assert scores.affine.mi == scores.plain.mi


def cosine_sums(image):
    """Type-2 DCT by its definition: 2 sum_n x[n] cos(pi k (2 n + 1) / 2 N) along every axis."""
    for axis, n in enumerate(image.shape):
        k, i = np.mgrid[:n, :n]
        matrix = 2 * np.cos(np.pi * k * (2 * i + 1) / (2 * n))
        image = np.moveaxis(np.tensordot(matrix, image, axes=(1, axis)), 0, axis)
    return image


def information_of(x, y):
    counts, _, _ = np.histogram2d(x.ravel(), y.ravel(), bins=256)
    p = counts / counts.sum()
    entropies = [-(q[q > 0] * np.log(q[q > 0])).sum() for q in (p.sum(0), p.sum(1), p)]
    return (entropies[0] + entropies[1] - entropies[2]) / entropies[2]


@pytest.mark.parametrize("shape", [(3, 5), (4, 3, 5)])
def test_smi_is_that_of_cosine_sums_of_normalised_images(on_disk, shape):
    result, truth = pair(shape)
    scores = evaluate_stacks(stack(result), stack(truth), box=3)
    truth = truth.astype(float)
    for image, row in ((result.astype(float), scores.plain), (scores.fit.apply(result), scores.affine)):
        transforms = [cosine_sums(one / np.linalg.norm(one)) for one in (image, truth)]
        assert row.smi == pytest.approx(information_of(*transforms), rel=1e-6)


def test_bins_are_those_of_numpy():
    rng = np.random.default_rng(0)
    samples = [
        rng.random(500),
        rng.integers(0, 257, 500).astype(float),  # all on edges
        rng.integers(0, 3, 500) * 0.1,
        1e16 + 2.0 * rng.integers(0, 2, 500),  # bins narrower than the rounding
        np.full(500, 7.0),
        1e-310 * rng.integers(0, 5, 500),
    ]
    for x in samples:
        for y in samples:
            expected, _, _ = np.histogram2d(x, y, bins=256)
            found = joint_histogram(x, y, (x.min(), x.max()), (y.min(), y.max()))
            np.testing.assert_array_equal(found, expected)


def test_moments_are_merged_without_loss():
    rng = np.random.default_rng(1)
    x = 1e8 + rng.standard_normal(1000)
    y = 3 * x - 2e8 + 0.1 * rng.standard_normal(1000)
    merged = Moments.of(x[:10], y[:10]) + Moments.of(x[10:600], y[10:600]) + Moments.of(x[600:], y[600:])
    assert merged.count == 1000
    assert merged.spread == pytest.approx(((x - x.mean()) ** 2).sum(), rel=1e-9)
    slope, _ = np.polyfit(x - x.mean(), y - y.mean(), 1)
    assert merged.fit.scale == pytest.approx(slope, rel=1e-9)
    assert merged.fit.scale * x.mean() + merged.fit.offset == pytest.approx(y.mean(), rel=1e-12)
    assert (merged.result_range, merged.truth_range) == ((x.min(), x.max()), (y.min(), y.max()))


# --- geometry ---------------------------------------------------------------------------------


@given(st.data())
def test_boxes_cover_every_voxel_once(data):
    shape = data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=3))
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    size = [data.draw(st.integers(1, 10)) for _ in shape]
    voxels = data.draw(st.integers(1, 200))
    lines = list(pencils(shape, tuple(axes), voxels))
    for boxes in (list(cut(tuple(slice(0, n) for n in shape), size)), lines):
        count = np.zeros(shape, int)
        for box in boxes:
            count[box] += 1
        assert (count == 1).all()
    for box in lines:
        assert all(box[axis] == slice(0, shape[axis]) for axis in axes)
        least = math.prod(shape[axis] for axis in axes)
        assert math.prod(part.stop - part.start for part in box) <= max(voxels, least)


@dataclass(frozen=True)
class Extents:
    """All that a choice of boxes looks at."""

    shape: tuple
    chunks: tuple


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [
        ((5000, 4000, 4000), (64, 64, 64)),
        ((100, 4000, 4000), (1, 4000, 4000)),
        ((5000, 4000, 4000), (5000, 4000, 4000)),
        ((30, 40, 50), (64, 64, 64)),
        ((100_000, 100_000), (256, 512)),
        ((1, 10_000, 10_000), (1, 256, 256)),
    ],
)
def test_boxes_are_whole_chunks_of_bounded_size(shape, chunks):
    stacks = [Extents(shape, chunks), Extents(shape, tuple(max(1, c // 2) for c in chunks))]
    found = box_shape(stacks, None)
    assert math.prod(found) <= LARGEST_BOX_VOXELS
    if math.prod(chunks) <= LARGEST_BOX_VOXELS:
        assert all(f % c == 0 or f == n for f, c, n in zip(found, chunks, shape, strict=True))
        assert math.prod(found) >= min(math.prod(shape), BOX_VOXELS // 2)


# --- memory and temporary files ---------------------------------------------------------------


def test_memory_is_bounded_by_the_box(on_disk):
    result, truth = pair((72, 128, 128))
    sources = [WatchedSource(image, most_voxels=22**3) for image in (result, truth)]
    tracemalloc.start()
    try:
        scores = evaluate_stacks(*(source.stack for source in sources), box=16, threads=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 7e6 < result.nbytes + truth.nbytes
    assert sum(sources[0].reads) == result.size  # decoded once, then read from the copies
    assert scores.plain.rmse == pytest.approx(evaluate(result, truth).plain.rmse)


def test_large_planes_are_transformed_line_by_line(on_disk):
    result, truth = pair((6, 40, 50))
    scores = evaluate_stacks(stack(result), stack(truth), box=4)
    assert_same(scores, evaluate(result, truth))


def held(folder):
    """What this process keeps of the files in a folder: names, open files, mappings."""
    found = [str(entry) for entry in Path(folder).iterdir()]
    if os.path.isdir("/proc/self/fd"):
        for name in os.listdir("/proc/self/fd"):
            try:
                found.append(os.readlink(f"/proc/self/fd/{name}"))
            except OSError:
                continue
        found += Path("/proc/self/maps").read_text().splitlines()
    return [one for one in found if str(folder) in one]


def test_temporary_files_are_gone_afterwards(on_disk, monkeypatch):
    result, truth = pair((10, 20, 20))
    seen = []
    transform = spectra._transform

    def watched(*arguments):
        seen.append(held(on_disk))
        transform(*arguments)

    monkeypatch.setattr(spectra, "_transform", watched)
    evaluate_stacks(stack(result), stack(truth))
    assert len(seen) == 2
    if os.path.isdir("/proc/self/fd"):
        assert all(seen), "no temporary files were used"
    gc.collect()
    assert held(on_disk) == []


@pytest.mark.parametrize("reads", [0, 3, 2**30])
def test_temporary_files_are_gone_after_a_failure(on_disk, monkeypatch, reads):
    result, truth = pair((10, 20, 20))
    if reads == 2**30:

        def broken(*_, **__):
            raise RuntimeError("the disk is gone")

        monkeypatch.setattr(spectra.scipy.fft, "dct", broken)
    source = WatchedSource(result, fails_after=reads)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        evaluate_stacks(source.stack, stack(truth), box=8)
    gc.collect()
    assert held(on_disk) == []


def test_too_little_space_is_told_before_anything_is_read(on_disk, monkeypatch):
    result, truth = pair((10, 20, 20))
    needed = 2 * 4 * 4000
    asked = []

    def usage(folder):
        asked.append(str(folder))
        return Usage(10**9, 0, needed - 1)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    source = WatchedSource(result, most_voxels=0)
    with pytest.raises(OutputError) as told:
        evaluate_stacks(source.stack, stack(truth))
    for word in (f"{needed} bytes", f"{needed - 1} bytes", str(on_disk), "TMPDIR", "--without-smi"):
        assert word in str(told.value)
    assert asked == [str(on_disk)]
    assert source.reads == []
    assert evaluate_stacks(stack(result), stack(truth), smi=False).plain.smi is None


def test_a_folder_that_takes_no_files(on_disk, monkeypatch):
    result, truth = pair((10, 20, 20))
    monkeypatch.setattr(tempfile, "tempdir", str(on_disk / "missing"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 10**9))
    with pytest.raises(OutputError, match=r"no temporary file can be made in .*missing.*TMPDIR"):
        evaluate_stacks(stack(result), stack(truth))


# --- errors -----------------------------------------------------------------------------------


def test_what_cannot_be_scored_is_refused():
    result, truth = pair((10, 12, 14))
    with pytest.raises(VolumeError, match=r"\(9, 12, 14\).*\(10, 12, 14\)"):
        evaluate_stacks(stack(result[1:]), stack(truth))
    with pytest.raises(VolumeError, match="everywhere"):
        evaluate_stacks(stack(result), stack(np.ones_like(truth)), box=5)
    with pytest.raises(VolumeError, match="at least 3 voxels"):
        evaluate_stacks(stack(result[:2]), stack(truth[:2]))
    for wrong in ({"data_range": 0}, {"box": 0}, {"box": (3, 3)}, {"threads": 0}, {"crop_border": 5}):
        with pytest.raises(OptionError):
            evaluate_stacks(stack(result), stack(truth), **wrong)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_voxel_that_is_no_number_is_named_by_its_place_in_the_file(value):
    result, truth = pair((10, 12, 14))
    truth[7, 8, 9] = value
    for border in (0, 1):
        with pytest.raises(VolumeError, match=r"truth is not finite at the voxel \(7, 8, 9\)"):
            evaluate_stacks(stack(result), stack(truth), box=5, crop_border=border)


def test_a_border_keeps_channels_and_time_points():
    array = np.arange(2 * 3 * 6 * 7 * 8).reshape(2, 3, 6, 7, 8)
    inner = without_border(Stack(ArraySource(array), "tczyx", 1, 2), 2)
    assert inner.shape == (2, 3, 4)
    np.testing.assert_array_equal(inner[0:2, 0:3, 0:4], array[1, 2, 2:4, 2:5, 2:6])
