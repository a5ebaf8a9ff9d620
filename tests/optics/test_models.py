from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import j0, j1, jv

from bigdecon.errors import PSFError
from bigdecon.optics.models import make_psf
from bigdecon.optics.psf import find_centre

MODELS = ["gaussian", "born-wolf", "gibson-lanni", "richards-wolf"]
NA, WAVELENGTH, INDEX = 1.3, 0.52, 1.515


def make(model, **changes):
    settings = {
        "numerical_aperture": NA,
        "wavelength_um": WAVELENGTH,
        "refractive_index": INDEX,
        "voxel_size_um": (0.2, 0.1, 0.1),
        "shape": (21, 23, 25),
    }
    return make_psf(model, **(settings | changes))


def integral(function, end):
    real = quad(lambda t: function(t).real, 0, end, limit=500)[0]
    return real + 1j * quad(lambda t: function(t).imag, 0, end, limit=500)[0]


def direct_born_wolf(r, z):
    k = 2 * np.pi / WAVELENGTH
    return abs(integral(lambda q: q * j0(k * q * r) * np.exp(-0.5j * k * q**2 * z / INDEX), NA)) ** 2


def direct_gibson_lanni(r, z):
    k = 2 * np.pi / WAVELENGTH
    return abs(integral(lambda q: q * j0(k * q * r) * np.exp(1j * k * z * np.sqrt(INDEX**2 - q**2)), NA)) ** 2


def direct_richards_wolf(r, z):
    k, end = 2 * np.pi * INDEX / WAVELENGTH, np.arcsin(NA / INDEX)

    def rings(bessel, weight):
        def ring(t):
            wave = np.exp(1j * k * z * np.cos(t))
            return np.sqrt(np.cos(t)) * np.sin(t) * weight(t) * bessel(k * r * np.sin(t)) * wave

        return abs(integral(ring, end)) ** 2

    i0 = rings(j0, lambda t: 1 + np.cos(t))
    return i0 + 2 * rings(j1, np.sin) + rings(lambda v: jv(2, v), lambda t: 1 - np.cos(t))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("shape", [(21, 23, 25), (23, 25)])
def test_sums_to_one_and_is_symmetric(model, shape):
    psf = make(model, shape=shape, voxel_size_um=(0.2, 0.1, 0.1)[-len(shape) :])
    assert psf.array.shape == shape
    assert psf.array.dtype == np.float32
    assert psf.array.sum(dtype=float) == pytest.approx(1, abs=1e-5)
    assert psf.array.min() >= 0
    assert np.unravel_index(psf.array.argmax(), shape) == tuple(n // 2 for n in shape)
    for axis in range(len(shape)):
        assert np.allclose(psf.array, np.flip(psf.array, axis), rtol=0, atol=1e-6 * psf.array.max())


@pytest.mark.parametrize(
    ("model", "direct"),
    [
        ("born-wolf", direct_born_wolf),
        ("gibson-lanni", direct_gibson_lanni),
        ("richards-wolf", direct_richards_wolf),
    ],
)
def test_equals_direct_evaluation(model, direct):
    array = make(model, pixel_integration=False).array
    array, brightest = array / array.max(), direct(0, 0)
    for z, y, x in [(0, 0, 1), (0, 2, 2), (3, 0, 0), (5, 3, -4), (-10, 11, 12), (10, 0, 6)]:
        expected = direct(0.1 * np.hypot(y, x), 0.2 * z) / brightest
        assert array[10 + z, 11 + y, 12 + x] == pytest.approx(expected, abs=1e-3)


def test_pixels_collect_the_light_on_their_area():
    coarse = make("richards-wolf", voxel_size_um=(0.4, 0.4), shape=(9, 9)).array
    fine = make(
        "richards-wolf", voxel_size_um=(0.4 / 41, 0.4 / 41), shape=(369, 369), pixel_integration=False
    ).array
    binned = fine.reshape(9, 41, 9, 41).sum(axis=(1, 3))
    assert np.abs(coarse - binned).max() < 1e-3 * coarse.max()


def test_first_dark_ring_of_the_airy_pattern():
    step = 0.02
    psf = make(
        "born-wolf", numerical_aperture=0.3, refractive_index=1.0, voxel_size_um=(step, step), shape=(3, 201)
    )
    line = psf.array[1, 100:]
    dark = step * next(i for i in range(1, 100) if line[i] < line[i + 1])
    assert dark == pytest.approx(0.61 * WAVELENGTH / 0.3, abs=1.5 * step)


def test_first_dark_point_on_the_axis():
    expected = 2 * 1.0 * WAVELENGTH / 0.3**2
    step = expected / 50
    psf = make(
        "born-wolf",
        numerical_aperture=0.3,
        refractive_index=1.0,
        voxel_size_um=(step, 0.05, 0.05),
        shape=(161, 3, 3),
        pixel_integration=False,
    )
    line = psf.array[80:, 1, 1]
    dark = step * next(i for i in range(1, 80) if line[i] < line[i + 1])
    assert dark == pytest.approx(expected, abs=1.5 * step)
    assert line.min() < 1e-3 * line[0]


@pytest.mark.parametrize("model", ["richards-wolf", "gibson-lanni"])
def test_all_models_agree_at_low_aperture(model):
    low = {"numerical_aperture": 0.2, "refractive_index": 1.0, "voxel_size_um": (4.0, 0.5, 0.5)}
    scalar = make("born-wolf", **low).array
    assert np.abs(make(model, **low).array - scalar).max() < 0.02 * scalar.max()


def test_the_gaussian_has_the_core_of_the_scalar_focus():
    low = {"numerical_aperture": 0.3, "refractive_index": 1.0, "voxel_size_um": (0.8, 0.1, 0.1)}
    scalar, gauss = (make(m, pixel_integration=False, **low).array for m in ("born-wolf", "gaussian"))
    core = scalar > 0.7 * scalar.max()
    assert np.abs(gauss / gauss.max() - scalar / scalar.max())[core].max() < 0.03


def test_the_gaussian_is_as_wide_as_published():
    """Compare with the paraxial case: σ_r = √2 / (k NA), σ_z = 2 √6 n / (k NA²)."""
    step = (0.5, 0.1)
    gauss = make(
        "gaussian",
        numerical_aperture=0.2,
        refractive_index=1.0,
        voxel_size_um=(step[0], step[1], step[1]),
        shape=(301, 3, 151),
        pixel_integration=False,
    ).array
    k = 2 * np.pi / WAVELENGTH
    for axes, at, expected in [
        ((1, 2), step[0], 2 * np.sqrt(6) / (k * 0.04)),
        ((0, 1), step[1], np.sqrt(2) / (k * 0.2)),
    ]:
        line = gauss.sum(axis=axes, dtype=float)
        place = at * (np.arange(len(line)) - len(line) // 2)
        assert np.sqrt((line * place**2).sum() / line.sum()) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("model", ["born-wolf", "gibson-lanni", "richards-wolf"])
def test_every_plane_holds_the_same_light(model):
    planes = make(model, shape=(11, 129, 129), voxel_size_um=(0.1, 0.1, 0.1)).array.sum(axis=(1, 2))
    assert planes.min() > 0.96 * planes.max()


def test_a_vectorial_focus_is_wider_than_a_scalar_one():
    size = {"voxel_size_um": (0.02, 0.02), "shape": (101, 101)}
    scalar, vectorial = (
        make(m, numerical_aperture=1.4, **size).array for m in ("born-wolf", "richards-wolf")
    )
    half = [(line > 0.5 * line.max()).sum() for line in (scalar[50], vectorial[50])]
    assert half[1] > half[0]


# Aberration


def test_an_aberrated_psf_is_centred_and_asymmetric():
    psf = make(
        "gibson-lanni",
        shape=(61, 33, 33),
        sample_refractive_index=1.38,
        emitter_depth_um=8.0,
    )
    assert find_centre(psf.array) == pytest.approx((30, 16, 16), abs=0.01)
    axis = psf.array[:, 16, 16]
    assert np.abs(axis - axis[::-1]).sum() > 0.2 * axis.sum()
    assert axis.max() < 0.8 * make("gibson-lanni", shape=(61, 33, 33)).array.max()


def test_its_tail_lies_where_the_outer_rays_focus():
    """In a sample of lower index the outer rays bend more and meet nearer to the coverslip (stage z < 0)."""
    deep = {"shape": (81, 33, 33), "emitter_depth_um": 10.0}
    skew = []
    for index in (1.40, 1.63):
        axis = make("gibson-lanni", sample_refractive_index=index, **deep).array[:, 16, 16]
        peak = int(axis.argmax())
        skew.append(axis[:peak].sum() - axis[peak + 1 :].sum())
    assert skew[0] * skew[1] < 0


def test_no_depth_or_no_mismatch_means_no_aberration():
    plain = make("gibson-lanni").array
    assert np.allclose(make("gibson-lanni", emitter_depth_um=5.0).array, plain, atol=1e-7)
    assert np.allclose(make("gibson-lanni", sample_refractive_index=1.33).array, plain, atol=1e-7)


def test_an_aperture_above_the_samples_index_gives_a_finite_psf():
    psf = make("gibson-lanni", numerical_aperture=1.49, sample_refractive_index=1.33, emitter_depth_um=2.0)
    assert np.isfinite(psf.array).all()


def test_defocus_of_a_plane_is_a_plane_of_the_volume():
    volume = make("richards-wolf").array
    plane = make("richards-wolf", shape=(23, 25), voxel_size_um=(0.1, 0.1), defocus_um=0.8).array
    assert np.allclose(plane, volume[14] / volume[14].sum(), atol=1e-6)


# Bad input


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"numerical_aperture": 1.6}, "1.6 exceeds the refractive index 1.515"),
        ({"numerical_aperture": 0}, "numerical aperture is 0"),
        ({"wavelength_um": -0.5}, "wavelength is -0.5"),
        ({"wavelength_um": 520}, "520 nm is 0.52"),
        ({"refractive_index": float("nan")}, "refractive index is nan"),
        ({"voxel_size_um": (0.2, 0, 0.1)}, "voxel size"),
        ({"voxel_size_um": (0.1, 0.1)}, "both have 2 or both 3"),
        ({"shape": (20, 21, 21)}, r"such as \(21, 21, 21\)"),
        ({"shape": (21,), "voxel_size_um": (0.1,)}, "both have 2 or both 3"),
        ({"numerical_aperture": 1e-9}, "between 0.01 and 2"),
        ({"wavelength_um": 5e-324}, "between 0.2 and 2"),
        ({"refractive_index": 1e9}, "between 1 and 2"),
        ({"emitter_depth_um": 1e9}, "from 0 to 1000"),
        ({"emitter_depth_um": -1}, "depth is -1"),
        ({"emitter_depth_um": 5}, "use gibson-lanni"),
        ({"sample_refractive_index": 1.33}, "use gibson-lanni"),
        ({"defocus_um": 1}, "2D PSF only"),
    ],
)
def test_impossible_settings_are_refused(changes, words):
    with pytest.raises(PSFError, match=words):
        make("born-wolf", **changes)


def test_unknown_model():
    with pytest.raises(PSFError, match="there is no PSF model 'airy'"):
        make("airy")
