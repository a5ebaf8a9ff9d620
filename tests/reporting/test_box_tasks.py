"""Measures of boxes: identities that hold for a model that is right, and fail for one that is not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import convolve

from bigdecon.deconvolution.richardson_lucy import RichardsonLucy
from bigdecon.diagnosis.result_checks import check_detail
from bigdecon.errors import ReadError
from bigdecon.evaluation.cutoffs import psf_cutoff_per_um
from bigdecon.evaluation.detail import detail_curves
from bigdecon.reporting.box_tasks import Pairing, cut_residual, look_at_box, measure_box, repeat_box
from bigdecon.reporting.charts import draw_chart
from bigdecon.reporting.curves import detail_charts
from bigdecon.reporting.measuring import StackMeasures
from bigdecon.reporting.method_recipe import MethodRecipe
from bigdecon.reporting.samples import Sample
from bigdecon.volume import Volume
from tests.runs import kernel

PSF = (kernel() / kernel().sum()).astype("float32")
BACKGROUND = 100.0
SHAPE = (36, 64, 64)
BOX_OF_ALL = tuple(slice(0, n) for n in SHAPE)
BOX = (slice(6, 30), slice(8, 56), slice(8, 56))


def pairing(psf=PSF, scale=1.0, offset=0.0):
    """An image that is a specimen blurred by PSF, with photon noise; and the specimen as the result."""
    random = np.random.default_rng(0)
    truth = np.zeros(SHAPE)
    truth[tuple(random.integers(0, n, 120) for n in SHAPE)] = 20_000
    image = random.poisson(convolve(truth, PSF, mode="nearest") + BACKGROUND).astype("uint16")
    stacks = (
        Volume.from_array(a.astype("float32")).stack() for a in (image, scale * truth + BACKGROUND - offset)
    )
    return Pairing(*stacks, psf, BACKGROUND, offset)


def measured(pair):
    return measure_box(pair, BOX, look_at_box(pair, BOX).noise)


def test_a_perfect_model_leaves_white_noise():
    found = measured(pairing())
    assert 0.85 < found.chi_square < 1.15
    assert all(abs(value) < 0.03 for value in found.correlation)
    assert found.spectrum[1:] == pytest.approx(1, abs=0.25)
    assert found.kept == pytest.approx(1, abs=0.01)


def test_what_was_taken_off_the_result_is_put_back():
    plain, taken = measured(pairing()), measured(pairing(offset=BACKGROUND))
    assert taken.chi_square == pytest.approx(plain.chi_square, rel=1e-3)


def test_a_wrong_psf_leaves_structure():
    wide = kernel(sigma=2.5)
    found = measured(pairing((wide / wide.sum()).astype("float32")))
    assert found.chi_square > 2
    assert max(found.correlation) > 0.3


def test_light_that_is_lost_is_counted():
    assert measured(pairing(scale=0.8)).kept == pytest.approx(0.8, abs=0.02)


def test_detail_that_a_smooth_result_lacks_is_found():
    """From a box to a finding, a chart and its words."""
    pair = pairing()
    blurred = convolve(pair.result[BOX_OF_ALL].astype(float), kernel(sigma=2.5) / kernel(sigma=2.5).sum())
    smooth = Pairing(pair.image, Volume.from_array(blurred.astype("float32")).stack(), PSF, BACKGROUND)
    size = (0.3, 0.2, 0.2)
    for given, severity in ((pair, "good"), (smooth, "warning")):
        found = measure_box(given, BOX, look_at_box(given, BOX).noise, size)
        curves = detail_curves([found.detail], size, psf_cutoff_per_um(PSF, size))
        finding = check_detail(curves, (0.0,))
        assert finding.severity == severity, finding.sentence
        assert "µm in the plane" in finding.sentence
        (chart,) = detail_charts(StackMeasures(0, 0, Sample(((0, 64),), ((0,),)), detail=curves), in_um=True)
        assert {line.name for line in chart.lines} <= {"lateral", "axial"}
        assert "lateral to" in chart.alt
        assert str(draw_chart(chart)).count('class="line') >= 2
    assert list(detail_charts(StackMeasures(0, 0, Sample(((0, 64),), ((0,),))), in_um=True)) == []


def test_planes_of_the_residual_lie_in_the_box():
    pair = pairing()
    planes = cut_residual(pair, BOX, look_at_box(pair, BOX).noise)
    assert planes.xy.shape == planes.before.shape == planes.after.shape
    assert planes.xz.shape[0] == planes.whole.normalised.shape[0]
    assert planes.xy.std() == pytest.approx(1, abs=0.15)


def test_the_brightest_place_is_no_single_pixel():
    pair = pairing()
    data = pair.image.source.array.copy()
    data[10, 12, 14] += 30_000  # a broken pixel
    data[18:24, 30:36, 30:36] += 3_000
    place = look_at_box(Pairing(Volume.from_array(data).stack(), pair.result, PSF, BACKGROUND), BOX).place
    assert all(abs(at - middle) <= 4 for at, middle in zip(place, (20.5, 32.5, 32.5), strict=True))


def test_halves_of_a_bright_specimen_agree_and_deconvolution_sharpens_them():
    pair = pairing()
    noise = look_at_box(pair, BOX).noise
    recipe = MethodRecipe(RichardsonLucy(PSF, iterations=10, background=BACKGROUND))
    one, other = (repeat_box(pair, BOX, noise, recipe, (0.3, 0.2, 0.2), seed) for seed in (0, 0))
    np.testing.assert_array_equal(one.after.lateral.correlation, other.after.lateral.correlation)
    assert one.before.lateral.correlation[1] > 0.9
    assert one.after.lateral.resolution_um <= one.before.lateral.resolution_um
    assert one.after.lateral.resolution_um >= 1 / one.after.lateral.bound_per_um * (1 - 1e-9)


def test_noise_alone_does_not_agree():
    image = np.random.default_rng(0).poisson(BACKGROUND, SHAPE).astype("float32")
    stack = Volume.from_array(image).stack()
    pair = Pairing(stack, stack, PSF, 0.0)
    recipe = MethodRecipe(RichardsonLucy(PSF, iterations=3))
    halves = repeat_box(pair, BOX, look_at_box(pair, BOX).noise, recipe, (0.3, 0.2, 0.2), 0)
    assert halves.before.lateral.resolution_um is None or halves.before.lateral.resolution_um > 2


class Torn:
    """A source that cannot be read."""

    shape, dtype, chunks = SHAPE, np.dtype("float32"), SHAPE

    def __getitem__(self, box):
        raise ReadError("torn")


def test_what_cannot_be_read_is_none():
    pair = pairing()
    torn = Pairing(Volume(Torn(), "zyx").stack(), pair.result, PSF, BACKGROUND)
    noise = look_at_box(pair, BOX).noise
    recipe = MethodRecipe(RichardsonLucy(PSF, iterations=3))
    assert look_at_box(torn, BOX) is None
    assert measure_box(torn, BOX, noise) is None
    assert cut_residual(torn, BOX, noise) is None
    assert repeat_box(torn, BOX, noise, recipe, (1, 1, 1), 0) is None


def test_a_constant_box_tells_nothing():
    flat = Volume.from_array(np.full(SHAPE, 7.0, "float32")).stack()
    assert look_at_box(Pairing(flat, flat, PSF, 0.0), BOX) is None
