"""Pictures keep proportions, share one contrast, and their scale bars are as long as they say."""

from __future__ import annotations

import base64
import io
import re
from itertools import product

import numpy as np
import pytest
from PIL import Image

from bigdecon.reporting.overview import mean_of_voxels
from bigdecon.reporting.page import WIDTH, ortho_svg, picture_svg
from bigdecon.reporting.pictures import (
    Window,
    data_uri,
    detail_views,
    grey_plane,
    grey_value,
    projection_views,
    psf_planes,
    scale_bar,
    shrunk,
    window_of,
)
from bigdecon.volume import Volume

SIZES = [(0.3, 0.1, 0.1), (0.2, 0.2, 0.1), (2.0, 0.35, 0.35), None]


def stack(shape, seed=0, size=(0.3, 0.1, 0.1)):
    data = np.random.default_rng(seed).random(shape).astype("float32")
    return Volume.from_array(data, voxel_size_um=size and size[-len(shape) :]).stack()


def lengths(svg):
    """Width of the drawing, of its bar, and what the bar says."""
    bar = re.search(r'class="bar" data-length="([^"]+)" x="[^"]+" y="[^"]+" width="([^"]+)"', svg)
    return float(bar[2]), float(bar[1])


@pytest.mark.parametrize("size", SIZES)
def test_scale_bars_are_as_long_as_they_say(size):
    views = detail_views(stack((12, 30, 50)), stack((12, 30, 50), 1), (6, 15, 25), size, 64)
    step = size or (1.0, 1.0, 1.0)
    svg = str(ortho_svg(views, "before", before=True))
    drawn, said = lengths(svg)
    xy_and_yz = 50 * step[2] + 12 * step[0]
    assert drawn / (WIDTH - 6) == pytest.approx(said / xy_and_yz, rel=1e-3)
    assert (f">{said:g} µm<" if size else f">{said:g} voxels<") in svg


def test_planes_are_drawn_in_their_true_proportions():
    views = detail_views(None, stack((12, 30, 50)), (6, 15, 25), (0.3, 0.2, 0.1), 64)
    assert [pair.name for pair in views.pairs] == ["xy", "xz", "yz"]
    extents = [(pair.after.width, pair.after.height) for pair in views.pairs]
    assert extents == [pytest.approx(e) for e in ((5.0, 6.0), (5.0, 3.6), (3.6, 6.0))]
    boxes = re.findall(
        r'<image x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"',
        ortho_svg(views, "after", before=False),
    )
    for (_, _, width, height), (wide, high) in zip(boxes, [extents[0], extents[2], extents[1]], strict=True):
        assert float(width) / float(height) == pytest.approx(wide / high, rel=2e-3)


def test_planes_go_through_the_place():
    after = stack((9, 20, 24))
    views = detail_views(None, after, (4, 11, 17), None, 64)
    low, high = views.window
    data = after.source.array
    for pair, expected in zip(views.pairs, (data[4], data[:, 11], data[:, :, 17].T), strict=True):
        grey = np.round(((expected - low) / (high - low)).clip(0, 1) * 255)
        np.testing.assert_array_equal(pair.after.pixels, grey)


def test_before_and_after_share_one_window():
    """A value has one grey, whichever of the two it is in."""
    before, after = stack((8, 16, 16)), stack((8, 16, 16), 1)
    views = projection_views(before.source.array, 3 * after.source.array, None)
    low, high = views.window
    assert low < 1
    assert high > 2.5
    greys = views.pairs[0].before.pixels.max(), views.pairs[0].after.pixels.max()
    assert greys[0] < 110 < greys[1]


def test_an_image_that_is_dim_beside_its_result_has_a_brighter_picture_as_well():
    before, after = (stack((8, 16, 16), seed).source.array for seed in (0, 1))
    views = projection_views(before, 5 * after, None)
    low, high = views.own_window
    assert (low, high) == window_of([projected(before, axis) for axis in range(3)])
    for pair, axis in zip(views.pairs, range(3), strict=True):
        scaled = (projected(before, axis) - low) / (high - low)
        expected = np.round(scaled.clip(0, 1) * 255)
        np.testing.assert_array_equal(pair.brighter.pixels, expected.T if axis == 2 else expected)
        assert pair.brighter.pixels.max() > 2 * pair.before.pixels.max()
    assert shrunk(views, 8).own_window == views.own_window
    assert shrunk(views, 8).pairs[0].brighter.pixels.shape == (8, 8)


def test_an_image_as_bright_as_its_result_has_one_picture():
    before, after = (stack((8, 16, 16), seed).source.array for seed in (0, 1))
    assert projection_views(before, 1.2 * after, None).own_window is None
    assert projection_views(None, 5 * after, None).own_window is None


def test_the_free_corner_says_which_values_are_black_and_white():
    before, after = (1000 * stack((30, 40, 40), seed).source.array for seed in (0, 1))
    views = projection_views(before, 5 * after, None)
    high, own = f">white {grey_value(views.window.high)}<", f">white {grey_value(views.own_window.high)}<"
    assert high != own
    svg = ortho_svg(views, "before", before=True)
    assert high in svg
    assert own in svg
    svg = ortho_svg(views, "after", before=False)
    assert high in svg
    assert own not in svg
    flat = projection_views(before[:4], 5 * after[:4], None)
    assert ">white" not in ortho_svg(flat, "a corner too small for words", before=True)


def projected(image, axis):
    return image.max(axis=axis)


def test_what_was_taken_off_is_put_back():
    image = stack((8, 16, 16))
    taken = Volume.from_array(image.source.array - 5).stack()
    views = detail_views(image, taken, (4, 8, 8), None, 64, offset=5.0)
    for pair in views.pairs:
        np.testing.assert_allclose(pair.before.pixels.astype(int), pair.after.pixels, atol=1)


def test_a_flat_image_has_one_picture():
    views = detail_views(stack((40, 60)), stack((40, 60), 1), (20, 30), (0.1, 0.1), 32)
    assert [pair.name for pair in views.pairs] == ["xy"]
    assert views.pairs[0].after.pixels.shape == (32, 32)
    assert "voxels" not in picture_svg(views.pairs[0].after, "all")


def test_constant_images_have_pictures():
    plane = np.full((5, 6), 3.0)
    assert window_of([plane]) == Window(3.0, 4.0)
    assert grey_plane(plane, window_of([plane]), (1, 1), in_um=False).pixels.max() == 0


def test_planes_without_a_finite_voxel_have_pictures():
    nothing, plane = np.full((5, 6), np.nan), np.full((5, 6), 3.0)
    assert window_of([nothing, plane]) == Window(3.0, 4.0)
    assert window_of([nothing]) == Window(0.0, 1.0)


def test_the_addresses_of_pictures_hold_the_pictures():
    pixels = np.arange(48, dtype=np.uint8).reshape(6, 8)
    plane = grey_plane(pixels, Window(0, 255), (1, 1), in_um=True)
    exact = Image.open(io.BytesIO(base64.b64decode(data_uri(plane, exact=True).partition(",")[2])))
    np.testing.assert_array_equal(np.asarray(exact), pixels)
    lossy = Image.open(io.BytesIO(base64.b64decode(data_uri(plane).partition(",")[2])))
    np.testing.assert_allclose(np.asarray(lossy).astype(int), pixels, atol=6)


def test_shrinking_keeps_lengths_and_bars():
    image = np.random.default_rng(0).random((6, 100, 260)).astype("float32")
    views = projection_views(None, image, (0.5, 0.1, 0.1))
    small = shrunk(views, 128)
    assert max(max(pair.after.pixels.shape) for pair in small.pairs) <= 128
    for one, other in zip(views.pairs, small.pairs, strict=True):
        assert (one.after.width, one.after.height) == (other.after.width, other.after.height)
        assert scale_bar(one.after) == scale_bar(other.after)


@pytest.mark.parametrize("factors", [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 4, 4)])
def test_coarse_images_are_means(factors):
    data = np.random.default_rng(0).random((7, 22, 30)).astype("float32")
    coarse = mean_of_voxels(Volume.from_array(data).stack(), factors)
    assert coarse.shape == tuple(-(-n // f) for n, f in zip(data.shape, factors, strict=True))
    first = data[tuple(slice(0, f) for f in factors)].mean()
    last = data[tuple(slice((n - 1) // f * f, n) for n, f in zip(data.shape, factors, strict=True))].mean()
    assert coarse[0, 0, 0] == pytest.approx(first, rel=1e-5)
    assert coarse[-1, -1, -1] == pytest.approx(last, rel=1e-5)


@pytest.mark.parametrize("chunks", [(7, 22, 30), (1, 22, 30), (3, 5, 30), (4, 4, 4)])
@pytest.mark.parametrize("crop", [None, (slice(2, 7), slice(3, 22), slice(0, 29))])
@pytest.mark.parametrize("pieces", [1, 2**9, 2**23])
def test_a_coarse_image_decodes_every_chunk_once(monkeypatch, chunks, crop, pieces):
    monkeypatch.setattr("bigdecon.reporting.overview.PIECE_VOXELS", pieces)
    data = np.random.default_rng(0).random((7, 22, 30)).astype("float32")
    read = []

    class Chunked:
        shape, dtype = data.shape, data.dtype

        def __getitem__(self, box):
            ranges = [range(p.start // c, -(-p.stop // c)) for p, c in zip(box, self.chunks, strict=True)]
            read.extend(product(*ranges))
            return data[box]

    source = Chunked()
    source.chunks = chunks
    whole = Volume(source, "zyx")
    coarse = mean_of_voxels((whole.crop(crop) if crop else whole).stack(), (2, 4, 4))
    expected = mean_of_voxels(Volume.from_array(data[crop] if crop else data).stack(), (2, 4, 4))
    assert np.allclose(coarse, expected, rtol=1e-5)
    assert len(read) == len(set(read))


def test_a_psf_is_shown_through_its_centre():
    psf = np.zeros((5, 7, 9), "float32")
    psf[2, 3, 4] = 1
    psf[0, 0, 0] = 0.01  # keeps the picture as large as the PSF
    planes = psf_planes(psf, (0.3, 0.1, 0.1))
    assert list(planes) == ["xy", "xz"]
    for plane, centre in zip(planes.values(), ((3, 4), (2, 4)), strict=True):
        assert np.argwhere((plane.pixels != plane.pixels[0, 0]).any(-1)).tolist() == [list(centre)]


def test_what_is_too_faint_to_be_seen_is_left_out():
    psf = np.full((5, 7, 9), 1e-4, "float32")
    psf[1:4, 3, 3:6] = 1
    planes = psf_planes(psf, (0.3, 0.1, 0.1))
    assert planes["xy"].pixels.shape[:2] == (1, 3)
    assert planes["xz"].pixels.shape[:2] == (3, 3)
