from __future__ import annotations

import os
import pickle
import struct

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bigdecon.errors import PSFError
from bigdecon.optics.blur import Blur
from bigdecon.optics.models import make_psf
from bigdecon.optics.psf import (
    PSF,
    check_psf,
    find_centre,
    load_psf,
    psf_from_array,
    read_psf_file,
    save_psf,
    symmetries,
)


def gaussian(shape, centre, sigma):
    lines = [
        np.exp(-0.5 * ((np.arange(n) - c) / s) ** 2) for n, c, s in zip(shape, centre, sigma, strict=True)
    ]
    result = lines[0]
    for line in lines[1:]:
        result = result[..., None] * line
    return result


def comet(shape, centre):
    """Build a PSF with a tail towards +x, as coma makes one."""
    head = gaussian(shape, centre, [1.5] * len(shape))
    tail = gaussian(shape, [*centre[:-1], centre[-1] + 3], [1.5] * (len(shape) - 1) + [2.5])
    return head + 0.3 * tail


def total_difference(a, b):
    """L1 distance of two arrays of odd extents around their middle voxels, both scaled to sum 1."""
    shape = np.maximum(a.shape, b.shape)
    a, b = (np.pad(v, [((m - n) // 2,) * 2 for m, n in zip(shape, v.shape, strict=True)]) for v in (a, b))
    return np.abs(a / a.sum() - b / b.sum()).sum()


@pytest.fixture(scope="module")
def widefield():
    return make_psf(
        "richards-wolf",
        numerical_aperture=1.2,
        wavelength_um=0.52,
        refractive_index=1.33,
        voxel_size_um=(0.2, 0.1, 0.1),
        shape=(41, 43, 43),
    )


# Invariants


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_any_bead_becomes_a_proper_psf(data):
    ndim = data.draw(st.integers(2, 3))
    shape = tuple(data.draw(st.integers(18, 25)) for _ in range(ndim))
    centre = [n / 2 + data.draw(st.floats(-2, 2)) for n in shape]
    sigma = [data.draw(st.floats(1, 2)) for _ in range(ndim)]
    psf = psf_from_array(gaussian(shape, centre, sigma))
    middle = tuple(n // 2 for n in psf.array.shape)
    truth = gaussian(psf.array.shape, middle, sigma)
    assert all(n % 2 == 1 for n in psf.array.shape)
    assert psf.array.sum(dtype=float) == pytest.approx(1, abs=1e-5)
    assert psf.array.min() >= 0
    assert find_centre(psf.array) == pytest.approx(middle, abs=0.02)
    assert total_difference(psf.array, truth) < 0.05


@pytest.mark.parametrize("shape", [(32, 31), (31, 32), (24, 25, 26)])
@pytest.mark.parametrize("offset", [0.0, 0.3, -0.5, 1.7])
def test_a_point_stays_where_it_is_when_deconvolved(shape, offset):
    sigma = [1.4] * len(shape)
    psf = psf_from_array(gaussian(shape, [n // 2 + offset for n in shape], sigma))
    size = [40 if i % 2 else 41 for i in range(len(shape))]
    place = [18, 20, 21][: len(shape)]
    image = gaussian(size, place, sigma)  # what a microscope shows of a point there
    result = _wiener(image, psf.array)
    axes = np.meshgrid(*map(np.arange, size), indexing="ij")
    weight = np.where(result > 0.3 * result.max(), result, 0)
    centroid = [(a * weight).sum() / weight.sum() for a in axes]
    assert centroid == pytest.approx(place, abs=0.05)


def _wiener(image, kernel):
    padded = np.pad(kernel, [(0, max(0, n - k)) for n, k in zip(image.shape, kernel.shape, strict=True)])
    padded = padded[tuple(slice(0, n) for n in image.shape)]
    otf = np.fft.fftn(np.roll(padded, [-(k // 2) for k in kernel.shape], tuple(range(image.ndim))))
    return np.fft.ifftn(np.fft.fftn(image) * otf.conj() / (np.abs(otf) ** 2 + 1e-3)).real


def test_an_asymmetric_psf_is_not_mirrored():
    shape = (33, 33)
    psf = psf_from_array(comet(shape, (16, 16)))
    point = torch.zeros(1, 1, 41, 41)
    point[0, 0, 20, 20] = 1
    image = Blur(psf.array).forward(point)[0, 0].numpy()
    assert image[20, 24] > 3 * image[20, 16]
    assert image[24, 20] == pytest.approx(image[16, 20], rel=0.1)


def test_an_asymmetric_psf_is_hardly_moved():
    shape = (33, 33)
    clean = comet(shape, (16, 16))
    offset = np.array(find_centre(clean)) - 16
    centroid = (clean * np.arange(33)).sum() / clean.sum() - 16
    assert abs(offset[0]) < 1e-3
    assert offset[1] < 0.6 * centroid


def test_far_tails_and_noise_do_not_move_the_centre():
    rng = np.random.default_rng(0)
    bead = gaussian((40, 40), (20.3, 19.4), (1.5, 1.5))
    tails = 0.01 * gaussian((40, 40), (24, 24), (9, 9))
    centre = find_centre(bead + tails + np.abs(rng.normal(0, 0.01, bead.shape)))
    assert centre == pytest.approx((20.3, 19.4), abs=0.05)


def test_a_hot_pixel_is_not_the_centre():
    bead = gaussian((32, 32, 32), (16, 16, 16), (2, 2, 2))
    bead[3, 28, 4] = 3
    assert find_centre(bead) == pytest.approx((16, 16, 16), abs=0.02)


def test_a_defocused_ring_is_centred_in_its_middle():
    y, x = np.indices((31, 31))
    ring = np.exp(-0.5 * ((np.hypot(y - 15.2, x - 14.7) - 7) / 1.2) ** 2)
    assert find_centre(ring) == pytest.approx((15.2, 14.7), abs=0.02)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000))
def test_loading_again_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    shape = rng.integers(10, 20, 3)
    array = gaussian(shape, shape / 2 + rng.uniform(-1, 1, 3), (2.0, 1.5, 1.5))
    once = psf_from_array(array, max_shape=(9, 9, 9))
    twice = psf_from_array(once.array)
    assert twice.array.shape == once.array.shape
    assert twice.sha256 == once.sha256


def test_a_delta_stays_a_delta():
    array = np.zeros((9, 9, 9), np.uint16)
    array[4, 4, 4] = 7
    psf = psf_from_array(array)
    assert psf.array.shape == (3, 3, 3)
    assert psf.array[1, 1, 1] == 1


@pytest.mark.parametrize("dtype", ["u1", ">u2", "<i4", "f4", ">f4", "f8"])
def test_every_type_gives_the_same_psf(dtype):
    array = np.round(200 * gaussian((15, 15), (7, 7), (1.5, 1.5))).astype(dtype)
    expected = psf_from_array(array.astype(np.float64))
    assert np.allclose(psf_from_array(array).array, expected.array, atol=1e-7)


def test_values_too_large_for_float32_are_scaled():
    assert psf_from_array(1e300 * gaussian((15, 15), (7, 7), (1.5, 1.5))).array.sum() == pytest.approx(1)


def test_the_hash_knows_values_and_voxel_size():
    array = gaussian((9, 9), (4, 4), (1, 1)).astype(np.float32)
    hashes = {PSF(array).sha256, PSF(array, (0.1, 0.1)).sha256, PSF(array * 2).sha256}
    assert len(hashes) == 3
    assert PSF(array.copy()).sha256 == PSF(array).sha256


# Background


@pytest.mark.parametrize("offset", [1.0, 100.0])
def test_an_offset_is_removed(offset):
    bead = 50 * gaussian((25, 25, 25), (12, 12, 12), (2, 2, 2))
    psf = psf_from_array(bead + offset)
    assert total_difference(psf.array, bead) < 0.02
    assert f"background of {offset:g}" in psf.corrections[0]


@pytest.mark.parametrize("peak", [1500, 3000])
def test_an_offset_with_noise_leaves_no_pedestal(widefield, peak):
    rng = np.random.default_rng(1)
    clean = widefield.array / widefield.array.max() * peak
    noisy = rng.poisson(clean) + rng.normal(100, 5, clean.shape)
    clipped = np.maximum(noisy - 100, 0)
    loaded = psf_from_array(noisy)
    assert total_difference(loaded.array, clean) < 0.6 * total_difference(clipped, clean)


def test_a_widefield_cone_at_the_border_is_no_background(widefield):
    psf = psf_from_array(widefield.array, voxel_size_um=(1, 1, 1), psf_voxel_size_um=(1, 1, 1))
    assert widefield.array[0].sum() > 0.2 * widefield.array[20].sum()
    assert psf.corrections == ()
    assert psf.sha256 == PSF(widefield.array, (1.0, 1.0, 1.0)).sha256


def test_a_tightly_cut_gaussian_has_no_background():
    array = gaussian((9, 9), (4, 4), (2, 2))
    assert total_difference(psf_from_array(array).array, array) < 1e-6


# Voxel sizes


@pytest.mark.parametrize("ratio", [0.4, 0.995, 1.3, 2.0, 3.7])
def test_resampling_gives_the_psf_of_the_other_grid(ratio):
    sigma = np.array([4.0, 3.0])
    fine = gaussian((49, 48), (24.3, 23.6), sigma)
    psf = psf_from_array(fine, psf_voxel_size_um=(0.1, 0.1), voxel_size_um=(0.1 * ratio,) * 2)
    # a box of width √(r² − 1), over which coarser voxels average, adds its variance
    wide = np.sqrt(sigma**2 + max(ratio**2 - 1, 0) / 12) / ratio
    middle = [n // 2 for n in psf.array.shape]
    assert total_difference(psf.array, gaussian(psf.array.shape, middle, wide)) < 0.02
    assert find_centre(psf.array) == pytest.approx(middle, abs=0.02)
    assert psf.voxel_size_um == pytest.approx((0.1 * ratio,) * 2)
    assert any("resampled" in sentence for sentence in psf.corrections) == (ratio != 0.995)


def test_only_the_axis_that_differs_is_resampled():
    array = gaussian((33, 33, 33), (16, 16, 16), (3, 2, 2))
    psf = psf_from_array(array, psf_voxel_size_um=(0.1, 0.1, 0.1), voxel_size_um=(0.3, 0.1, 0.1))
    assert psf.array.shape[0] < 11
    line = psf.array.sum(axis=0)
    assert total_difference(line, array.sum(axis=0)) < 0.01


@pytest.mark.parametrize(
    ("own", "wanted", "flag"),
    [((0.1, 0.1), None, "give it with --voxel-size"), (None, (0.1, 0.1), "give it with --psf-voxel-size")],
)
def test_one_unknown_voxel_size_is_refused(own, wanted, flag):
    with pytest.raises(PSFError, match=flag):
        psf_from_array(np.eye(9), psf_voxel_size_um=own, voxel_size_um=wanted)


def test_two_unknown_voxel_sizes_are_assumed_equal():
    assert "assumed equal" in " ".join(psf_from_array(gaussian((9, 9), (4, 4), (1, 1))).corrections)
    alone = check_psf(gaussian((9, 9), (4, 4), (1, 1))).corrections
    assert "volume" not in " ".join(alone)


@pytest.mark.parametrize("size", [(0.1,), (0.1, 0.0), (0.1, float("nan"))])
def test_impossible_voxel_sizes_are_refused(size):
    with pytest.raises(PSFError, match="positive numbers"):
        psf_from_array(np.eye(9), psf_voxel_size_um=size, voxel_size_um=(0.1, 0.1))


# Size


def test_empty_margins_are_cropped_and_reported():
    array = np.pad(gaussian((15, 15, 15), (7, 7, 7), (1.5, 1.5, 1.5)), 10)
    psf = psf_from_array(array)
    assert max(psf.array.shape) <= 13
    assert "(35, 35, 35) to (" in psf.corrections[-1]


def test_a_psf_larger_than_the_volume_is_cropped(widefield):
    psf = psf_from_array(widefield.array, max_shape=(7, 127, 127))
    assert psf.array.shape == (7, 43, 43)
    assert psf.array.sum() == pytest.approx(1)
    assert "(41, 43, 43) to (7, 43, 43)" in psf.corrections[-1]


def test_even_sizes_become_odd_without_losing_energy():
    array = gaussian((16, 16), (8, 8), (6, 6))
    psf = psf_from_array(array)
    assert psf.array.shape == (17, 17)
    assert psf.array[0, 0] > 0
    assert "made odd" in " ".join(psf.corrections)


# Bad input


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((9, 9)), "every voxel"),
        (np.full((9, 9), 3.0), "every voxel"),
        (-np.eye(9), "sum to -9"),
        (np.where(np.eye(9), np.nan, 1.0), "9 voxels that are NaN"),
        (np.where(np.eye(9), np.inf, 1.0), "9 voxels that are NaN or inf"),
        (np.ones(9), "1 dimensions"),
        (np.ones((3, 4, 5, 6)), "4 dimensions"),
        (np.ones((9, 9), complex), "complex"),
        (np.ones((0, 9)), "must be real numbers"),
    ],
)
def test_what_is_no_psf_is_refused(array, words):
    with pytest.raises(PSFError, match=words):
        psf_from_array(array)


def test_wrong_dimensions_name_the_remedy():
    volume = gaussian((9, 9, 9), (5, 4, 4), (1, 1, 1))
    with pytest.raises(PSFError, match="take one plane of it, such as 5"):
        psf_from_array(volume, ndim=2)
    with pytest.raises(PSFError, match="give a PSF with z, y and x"):
        psf_from_array(volume[5], ndim=3)


def test_axes_of_extent_one_are_dropped():
    assert psf_from_array(gaussian((9, 9), (4, 4), (1, 1))[None, None], ndim=2).ndim == 2


# Files


def _bead():
    return gaussian((9, 11, 13), (4, 5, 6), (1, 1, 1)).astype(np.float32)


@pytest.mark.parametrize(
    ("unit", "um"),
    [("micron", 1), ("um", 1), ("\\u00B5m", 1), ("nm", 1e-3), ("mm", 1e3), ("pixel", None), ("", None)],
)
def test_imagej_units(tmp_path, unit, um):
    path = tmp_path / "psf.tif"
    metadata = {"axes": "ZYX", "spacing": 300.0, "unit": unit}
    tifffile.imwrite(path, _bead(), imagej=True, metadata=metadata, resolution=(1 / 100, 1 / 130))
    array, size = read_psf_file(path)
    assert array.shape == (9, 11, 13)
    assert size == (None if um is None else pytest.approx((300 * um, 130 * um, 100 * um)))


@pytest.mark.parametrize(("unit", "um"), [("µm", 1), ("nm", 1e-3), ("mm", 1e3), (None, 1)])
def test_ome_units(tmp_path, unit, um):
    path = tmp_path / "psf.ome.tif"
    metadata = {"axes": "ZYX"}
    for axis, size in zip("ZYX", (3.0, 1.3, 1.0), strict=True):
        metadata |= {f"PhysicalSize{axis}": size} | ({f"PhysicalSize{axis}Unit": unit} if unit else {})
    tifffile.imwrite(path, _bead(), ome=True, metadata=metadata)
    assert read_psf_file(path)[1] == pytest.approx((3 * um, 1.3 * um, 1 * um))


def test_resolution_tags_of_a_plain_2d_tiff(tmp_path):
    path = tmp_path / "psf.tif"
    tifffile.imwrite(path, _bead()[4], resolution=(1e4 / 0.1, 1e4 / 0.13), resolutionunit="CENTIMETER")
    assert read_psf_file(path)[1] == pytest.approx((0.13, 0.1))
    tifffile.imwrite(path, _bead()[4], resolution=(72, 72), resolutionunit="INCH")
    assert read_psf_file(path)[1] is None
    tifffile.imwrite(path, _bead(), resolution=(1e5, 1e5), resolutionunit="CENTIMETER")
    assert read_psf_file(path)[1] is None  # nothing is known of z


def test_npy(tmp_path):
    np.save(tmp_path / "psf.npy", _bead())
    assert load_psf(tmp_path / "psf.npy", ndim=3).name == "psf.npy"


def test_files_that_are_no_psf(tmp_path):
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "text.tif").write_text("not an image")
    tifffile.imwrite(tmp_path / "colour.tif", np.zeros((9, 9, 3), np.uint8), photometric="rgb")
    for name, words in [
        ("object.npy", "cannot be read"),
        ("text.tif", "cannot be read"),
        ("colour.tif", "colour image"),
        ("missing.tif", "there is no PSF file"),
    ]:
        with pytest.raises(PSFError, match=words):
            load_psf(tmp_path / name)


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_saved_psf_is_read_back_identically(tmp_path, ndim):
    size = (0.3, 0.13, 0.1066666)[-ndim:]
    psf = psf_from_array(_bead() if ndim == 3 else _bead()[4], voxel_size_um=size, psf_voxel_size_um=size)
    save_psf(psf, tmp_path / "psf.tif")
    again = load_psf(tmp_path / "psf.tif", voxel_size_um=size)
    assert np.array_equal(again.array, psf.array)
    assert again.sha256 == psf.sha256
    assert again.corrections == ()
    assert read_psf_file(tmp_path / "psf.tif")[1] == pytest.approx(size, rel=1e-8)


def test_a_psf_without_voxel_size_is_saved_without(tmp_path):
    save_psf(psf_from_array(_bead()), tmp_path / "psf.tif")
    assert read_psf_file(tmp_path / "psf.tif")[1] is None


# Description


def test_symmetries():
    round_psf = psf_from_array(gaussian((15, 15, 15), (7, 7, 7), (2, 1.5, 1.5)))
    oval = psf_from_array(gaussian((15, 15, 15), (7, 7, 7), (2, 1.5, 2)))
    coma = psf_from_array(comet((25, 25), (12, 10)))
    assert symmetries(round_psf).flips == (True, True, True)
    assert symmetries(round_psf).rot90
    assert symmetries(oval).flips == (True, True, True)
    assert not symmetries(oval).rot90
    assert symmetries(coma).flips == (True, False)
    assert not symmetries(coma).rot90


def test_a_quarter_turn_needs_an_equal_extent_only_where_there_is_energy():
    array = np.pad(gaussian((15, 15), (7, 7), (2, 2)), ((0, 0), (2, 2))).astype(np.float32)
    assert symmetries(PSF(array / array.sum())).rot90


def test_a_report_says_what_was_put_in():
    bead = 500 * gaussian((32, 33), (16.3, 16.0), (2, 3)) + 20
    report = check_psf(bead, (0.1, 0.2))
    assert report.centre_offset == pytest.approx((0.3, 0), abs=0.01)
    assert report.background == pytest.approx(20, abs=0.1)
    assert report.fwhm_voxels == pytest.approx((2.355 * 2, 2.355 * 3), rel=0.03)
    assert report.fwhm_um == pytest.approx((0.2355 * 2, 0.471 * 3), rel=0.03)
    assert report.core_energy == pytest.approx(0.96, abs=0.03)
    assert report.symmetries.flips == (True, True)
    assert len(report.corrections) == 4


def test_a_psf_wider_than_its_array_has_no_width():
    report = check_psf(gaussian((9, 9), (4, 4), (9, 1)))
    assert report.fwhm_voxels[0] is None
    assert report.fwhm_um is None


def npy(shape, dtype="<f4", data=bytes(36)):
    """Write the heading of a .npy file by hand."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}}}".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


NPY = {
    "shape of 10^12": (npy((10**12,)), "cannot be read"),
    "shape of 10^30": (npy((10**30, 3)), "cannot be read"),
    "shape negative": (npy((-3, 3)), "cannot be read"),
    "objects": (npy((3, 3), "|O"), "cannot be read"),
    "complex": (npy((3, 3), "<c8", bytes(72)), "complex64"),
    "structure": (npy((3,), [("a", "<f4")]), "holds values of type"),
    "texts": (npy((3,), "<U3"), "holds values of type"),
    "heading that is code": (b"\x93NUMPY\x01\x00\x10\x00__import__('os')", "cannot be read"),
    "cut short": (npy((30, 30)), "cannot be read"),
    "a pickle": (pickle.dumps([1, 2]), "cannot be read"),
    "empty": (b"", "cannot be read"),
}


@pytest.mark.parametrize("case", NPY)
def test_malformed_npy(tmp_path, case):
    content, message = NPY[case]
    (tmp_path / "psf.npy").write_bytes(content)
    with pytest.raises(PSFError, match=message) as caught:
        read_psf_file(tmp_path / "psf.npy")
    assert "\n" not in str(caught.value)


def tiff(**tags):
    """Give a TIFF of one page of 3 x 3 bytes with tags as given."""
    numbers = {256: 3, 257: 3, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 3, 279: 9}
    numbers |= {int(name[1:]): value for name, value in tags.items()}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, n) for tag, n in sorted(numbers.items()))
    return (
        struct.pack("<2sHI", b"II", 42, 18) + bytes(10) + struct.pack("<H", len(numbers)) + entries + bytes(4)
    )


TIFF = {
    "absurd size": tiff(t256=2**31 - 1, t257=2**31 - 1, t278=2**31 - 1),
    "larger than a PSF": tiff(t256=2**17, t257=2**17, t278=2**17),
    "far larger than its file": tiff(t256=2**12, t257=2**12, t278=2**12),
    "cut short": tiff()[:30],
    "entities": None,
}


@pytest.mark.parametrize("case", TIFF)
def test_malformed_tiff(tmp_path, case):
    path = tmp_path / "psf.tif"
    if TIFF[case] is None:
        laughs = "<!DOCTYPE x [<!ENTITY a 'ha'>]><OME>&a;</OME>"
        tifffile.imwrite(path, np.ones((3, 3), "f4"), description=laughs, metadata=None)
    else:
        path.write_bytes(TIFF[case])
    with pytest.raises(PSFError, match="cannot be read") as caught:
        read_psf_file(path)
    assert "\n" not in str(caught.value)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ["psf.npy", "psf.tif"])
def test_a_pipe_in_place_of_a_psf_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(PSFError, match="there is no PSF file"):
        read_psf_file(tmp_path / name)
