"""What classes show in notebooks: true, escaped, without scripts, and at little cost."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from bigdecon.config import RunConfig, training_preset
from bigdecon.deconvolution.blockwise import deconvolve
from bigdecon.deconvolution.richardson_lucy import RichardsonLucy
from bigdecon.intensity import IntensityStats
from bigdecon.io.reading import open_volume
from bigdecon.learning.checkpoint import Checkpoint, CurvePoint
from bigdecon.notebook_html import card, curve_picture, grey_picture
from bigdecon.optics.models import make_psf
from bigdecon.optics.psf import psf_from_array
from bigdecon.running.planning import prepare
from bigdecon.volume import Volume
from bigdecon.volume_display import MOST_BYTES
from tests.runs import SIZE, kernel, specimen, write_image

NASTY = "<script>alert(1)</script>\"'&"
VOID = ("img", "br", "hr", "rect", "polyline")


class Balanced(HTMLParser):
    """Checks that tags are closed in order, and that nothing could run or be loaded."""

    def __init__(self, html):
        super().__init__()
        self.open = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "iframe", "object", "link", "style")
        assert not [name for name, _ in attrs if name.startswith("on")]
        for name, value in attrs:
            if name == "src":
                assert value.startswith("data:image/png;base64,")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def pictures(html):
    """The pictures of a page, as another program reads them."""
    found = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in found]


@dataclass(frozen=True)
class Counting:
    """A source that counts the bytes of the chunks it reads."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    levels: tuple = ()
    read: list[int] = field(default_factory=list)
    dtype = np.dtype("uint16")

    def coarser_levels(self):
        return list(self.levels)

    def __getitem__(self, selection):
        sides = [(-(-p.stop // c) - p.start // c) * c for p, c in zip(selection, self.chunks, strict=True)]
        self.read.append(int(np.prod(sides)) * 2)
        return np.ones([p.stop - p.start for p in selection], np.uint16)


def test_a_picture_is_the_image_between_its_percentiles():
    image = np.tile(np.arange(64, dtype=np.float32), (32, 1))
    (drawn,) = pictures(grey_picture(image))
    assert drawn.shape == (32, 64)
    assert drawn[0, 0] == 0
    assert drawn[0, -1] == 255
    assert (np.diff(drawn[0].astype(int)) >= 0).all()


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan, np.inf])
def test_a_picture_of_one_value_is_drawn(value):
    assert pictures(grey_picture(np.full((5, 3), value)))[0].shape == (5, 3)


def test_names_are_escaped_everywhere():
    volume = Volume.from_array(np.ones((2, 3), np.uint8), name=NASTY)
    psf = replace(make_gaussian(), name=NASTY, corrections=(NASTY,))
    for html in (
        card(NASTY, [(NASTY, NASTY)], note=NASTY, code=NASTY),
        volume._repr_html_(),
        psf._repr_html_(),
    ):
        assert "<script" not in html
        Balanced(html)


def make_gaussian():
    return make_psf(
        "gaussian", numerical_aperture=1.2, wavelength_um=0.5, refractive_index=1.33,
        voxel_size_um=(0.3, 0.1, 0.1), shape=(11, 9, 9),
    )  # fmt: skip


@pytest.mark.parametrize(("shape", "axes"), [((9, 8), "yx"), ((4, 9, 8), "zyx"), ((2, 3, 4, 9, 8), "tczyx")])
def test_a_volume_shows_a_plane_and_its_size(shape, axes):
    data = np.random.default_rng(0).poisson(50, shape).astype(np.uint16)
    volume = Volume.from_array(data, axes, voxel_size_um=(0.3, 0.2, 0.1)[-min(3, len(shape)) :])
    html = volume._repr_html_()
    Balanced(html)
    assert pictures(html)[0].shape == (9, 8)
    assert " × ".join(map(str, shape)) in html
    assert repr(volume).startswith("<Volume array: " + axes)
    assert len(repr(volume)) < 200


def test_a_coarser_level_is_read_where_the_plane_is_large():
    coarse = Counting((128, 256, 256), (64, 64, 64))
    fine = Counting((2048, 4096, 4096), (64, 64, 64), (Counting((512, 1024, 1024), (64, 64, 64)), coarse))
    html = Volume(fine, "zyx").crop((slice(0, 1024), slice(0, 2048), slice(0, 4096)))._repr_html_()
    assert (fine.read, fine.levels[0].read) == ([], [])
    assert sum(coarse.read) <= MOST_BYTES
    assert pictures(html)[0].shape == (128, 256)  # the crop's half, at the coarser level


@pytest.mark.parametrize("chunks", [(64, 64, 64), (1, 8192, 8192), (1, 1, 8192), (2048, 4096, 4096)])
def test_little_is_read_where_there_is_no_coarser_level(chunks):
    source = Counting((2048, 8192, 8192), chunks)
    Volume(source, "zyx")._repr_html_()
    assert sum(source.read) <= MOST_BYTES


def test_a_lazy_result_is_not_computed_for_its_picture():
    source = Counting((16, 32, 32), (16, 32, 32))
    lazy = deconvolve(Volume(source, "zyx"), RichardsonLucy(kernel((3, 3, 3)), iterations=1), block=16)
    for volume in (lazy, lazy.crop((slice(0, 8), slice(0, 8), slice(0, 8)))):
        html = volume._repr_html_()
        Balanced(html)
        assert "crop" in html
        assert not pictures(html)
    assert source.read == []


def test_an_image_that_cannot_be_read_still_has_its_table(tmp_path):
    path = write_image(tmp_path / "a.ome.zarr", specimen())
    volume = open_volume(path)
    for chunk in (path / "0" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"damaged")
    html = volume._repr_html_()
    assert "24 × 40 × 44" in html
    assert not pictures(html)


def test_a_psf_shows_sections_and_widths():
    psf = make_gaussian()
    html = psf._repr_html_()
    Balanced(html)
    assert [picture.shape for picture in pictures(html)] == [(9, 9), (11, 9)]
    assert "µm" in html
    flat = psf_from_array(kernel((1, 7, 7))[0])
    assert len(pictures(flat._repr_html_())) == 1


def test_a_trained_network_shows_its_curve():
    curve = tuple(CurvePoint(step, 1 / step, 2 / step if step % 2 else None) for step in range(1, 9))
    config = training_preset("fast", ndim=3, accelerator=False)
    stats = IntensityStats(mean=1.0, std=1.0, background=0.0, minimum=0.0, maximum=9.0, sampled=1.0)
    weights = {"a": np.zeros((4, 5), np.float32)}
    checkpoint = Checkpoint(weights, config, stats, kernel(), "0" * 64, SIZE, curve)
    html = checkpoint._repr_html_()
    Balanced(html)
    assert html.count("<polyline") == 2
    assert "8 steps" in html
    assert "siamese: 8 steps" in repr(checkpoint)
    assert "<polyline" not in replace(checkpoint, curve=())._repr_html_()


def test_a_curve_stays_in_its_frame():
    drawn = curve_picture(range(1, 100), [10.0**-step for step in range(1, 100)], [None] * 99)
    numbers = re.findall(r"([\d.]+),([\d.]+)", re.search(r'points="([^"]+)"', drawn)[1])
    assert all(0 <= float(x) <= 192 and 0 <= float(y) <= 100 for x, y in numbers)


def test_a_plan_shows_itself(tmp_path):
    import tifffile

    path = write_image(tmp_path / "a.ome.zarr", specimen())
    tifffile.imwrite(tmp_path / "psf.tif", kernel())
    config = RunConfig(
        str(path), (str(tmp_path / "psf.tif"),), method="richardson-lucy", iterations=1, sieve=0.0,
        background=100.0, psf_voxel_size=SIZE,
    )  # fmt: skip
    plan = prepare(config, "cpu")
    html = plan._repr_html_()
    Balanced(html)
    assert len(pictures(html)) == 1
    assert "richardson-lucy" in repr(plan)
    assert len(repr(plan)) < 300
