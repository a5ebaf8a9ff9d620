"""Cut-off frequencies, and the Fourier shell correlation of halves of an image."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from bigdecon.errors import OptionError
from bigdecon.evaluation.cutoffs import optical_cutoff_per_um, psf_cutoff_per_um, transfer_function
from bigdecon.evaluation.fourier_shell import fourier_shell_correlation
from bigdecon.evaluation.noise import NoiseModel
from bigdecon.evaluation.thinning import thin
from tests.evaluation.images import OPTICS, SHAPES, VOXEL_UM, Camera, microscope_psf, simulate


def halves(ndim, specimen="nuclei", electrons=400.0):
    camera = Camera(electrons)
    got = simulate(specimen, ndim, 0, camera)
    noise = NoiseModel(camera.gain, camera.read_out**2, camera.offset)
    return thin(got.image, noise, np.random.default_rng(3))


def curves(result):
    return [curve for curve in (result.lateral, result.axial) if curve is not None]


# --- cut-offs --------------------------------------------------------------------------------------


def test_optical_cut_offs_are_those_of_a_widefield_microscope():
    axial, *lateral = optical_cutoff_per_um(1.2, 0.5, 1.5)
    assert lateral == pytest.approx([4.8, 4.8])
    assert axial == pytest.approx(1.5 * (1 - 0.6) / 0.5)  # sin a = 0.8, cos a = 0.6
    assert optical_cutoff_per_um(1.2, 0.5, 1.5, ndim=2) == pytest.approx((4.8, 4.8))


@pytest.mark.parametrize(("ndim", "shape"), [(2, (40, 51)), (3, (9, 8, 20))])
def test_the_transfer_function_is_that_of_a_convolution(ndim, shape):
    psf = microscope_psf(ndim)[(slice(6, 19),) * ndim]
    image = np.random.default_rng(0).random(shape)
    wrapped = ndimage.convolve(image, psf.astype(float), mode="wrap")
    ratio = np.abs(np.fft.rfftn(wrapped)) / np.abs(np.fft.rfftn(image))
    np.testing.assert_allclose(ratio / ratio.flat[0], transfer_function(psf, shape), atol=1e-8)


def test_a_psf_ends_where_its_optics_do():
    theory = optical_cutoff_per_um(**OPTICS)
    found = psf_cutoff_per_um(microscope_psf(3), VOXEL_UM)
    for measured, optical in zip(found, theory, strict=True):
        assert 0.7 * optical < measured < 1.15 * optical


def test_a_single_voxel_passes_all_that_is_sampled():
    point = np.zeros((5, 5, 5))
    point[2, 2, 2] = 1
    assert psf_cutoff_per_um(point, VOXEL_UM) == pytest.approx([0.5 / step for step in VOXEL_UM])


# --- shells ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [2, 3])
def test_an_image_agrees_with_itself_up_to_the_bound(ndim):
    image = np.random.default_rng(0).random(SHAPES[ndim])
    result = fourier_shell_correlation(image, 3 * image + 5, VOXEL_UM[-ndim:])
    assert len(curves(result)) == ndim - 1
    for curve, step in zip(curves(result), VOXEL_UM[::-1][:: len(VOXEL_UM) - 1], strict=False):
        np.testing.assert_allclose(curve.correlation, 1, atol=1e-6)
        assert curve.bounded
        assert curve.resolution_um == pytest.approx(2 * step)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_independent_noise_does_not_agree_anywhere(ndim, seed):
    random = np.random.default_rng(seed)
    result = fourier_shell_correlation(*random.standard_normal((2, *SHAPES[ndim])), VOXEL_UM[-ndim:])
    beyond = result.lateral.correlation[6:]  # the first shells hold a few voxels
    assert abs(beyond.mean()) < 0.06
    assert np.mean(beyond < result.lateral.half_bit[6:]) > 0.9
    assert result.lateral.resolution_um is None or result.lateral.resolution_um > 1


@pytest.mark.parametrize("ndim", [2, 3])
def test_order_and_units_do_not_matter_and_lengths_scale(ndim):
    first, second = halves(ndim)
    size = VOXEL_UM[-ndim:]
    plain = fourier_shell_correlation(first, second, size)
    swapped = fourier_shell_correlation(2 * second + 9, first, size)
    larger = fourier_shell_correlation(first, second, [2 * s for s in size])
    for a, b, c in zip(curves(plain), curves(swapped), curves(larger), strict=True):
        np.testing.assert_allclose(a.correlation, b.correlation, atol=1e-9)
        np.testing.assert_allclose(a.correlation, c.correlation, atol=1e-9)
        assert c.resolution_um == pytest.approx(2 * a.resolution_um)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("specimen", ["filaments", "nuclei", "points"])
def test_more_light_resolves_more_and_nothing_beyond_the_optics(ndim, specimen):
    cutoff = optical_cutoff_per_um(**OPTICS, ndim=ndim)
    size = VOXEL_UM[-ndim:]
    dim, bright = (
        fourier_shell_correlation(*halves(ndim, specimen, electrons), size, cutoff_per_um=cutoff)
        for electrons in (100.0, 4000.0)
    )
    for poor, rich in zip(curves(dim), curves(bright), strict=True):
        assert rich.resolution_um is not None
        assert poor.resolution_um is None or rich.resolution_um < poor.resolution_um
        assert rich.resolution_um >= 1 / rich.bound_per_um
    assert bright.lateral.bound_per_um == pytest.approx(cutoff[-1])


def test_resolution_is_where_a_known_filter_ends():
    """Halves that share what lies below a frequency, and nothing above it."""
    random = np.random.default_rng(0)
    shape, size, end = (48, 64, 64), (0.2, 0.1, 0.1), (1.0, 2.5)
    kz, ky, kx = np.meshgrid(*(np.fft.fftfreq(n, s) for n, s in zip(shape, size, strict=True)), indexing="ij")
    shared = np.fft.fftn(random.standard_normal(shape))
    shared *= (np.abs(kz) < end[0]) & (np.hypot(ky, kx) < end[1])
    common = np.fft.ifftn(shared).real
    first, second = (common + common.std() * random.standard_normal(shape) for _ in range(2))
    result = fourier_shell_correlation(first, second, size)
    assert result.lateral.resolution_um == pytest.approx(1 / end[1], rel=0.1)
    assert result.axial.resolution_um == pytest.approx(1 / end[0], rel=0.2)
    assert not result.lateral.bounded


def test_a_stack_of_few_planes_has_no_axial_curve():
    image = np.random.default_rng(0).random((5, 32, 32))
    assert fourier_shell_correlation(image, image, VOXEL_UM).axial is None


def test_what_cannot_be_compared_is_refused():
    image = np.zeros((16, 16))
    with pytest.raises(OptionError, match="must agree"):
        fourier_shell_correlation(image, image[1:], (1, 1))
    with pytest.raises(OptionError, match="at least 8"):
        fourier_shell_correlation(image[:4], image[:4], (1, 1))
