from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest
import tifffile
from bigdecon_cli.main import main
from bigdecon_cli.simulate import KINDS, command
from click.testing import CliRunner

from bigdecon.errors import InputError
from bigdecon.evaluation.metrics import evaluate
from bigdecon.io.reading import open_volume
from bigdecon.optics.psf import load_psf, save_psf
from bigdecon.optics.simulation import paper_noise, paper_psf, simulate_image
from bigdecon.optics.specimens import SPECIMENS


def simulate(*arguments):
    result = CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def read(path):
    return np.asarray(open_volume(path))


def test_the_kinds_are_those_of_the_library():
    assert tuple(SPECIMENS) == KINDS


def test_a_volume_with_truth_and_psf(tmp_path):
    output = simulate("filaments", "-o", tmp_path / "out", "--shape", 24, 70, 66)
    assert "24 x 70 x 66" in output
    noisy = open_volume(tmp_path / "out" / "noisy.ome.zarr")
    assert noisy.axes == "zyx"
    assert noisy.spatial_shape == (24, 70, 66)
    assert noisy.voxel_size_um == pytest.approx((0.406,) * 3)
    psf = load_psf(tmp_path / "out" / "psf.tif", voxel_size_um=noisy.voxel_size_um)
    np.testing.assert_allclose(psf.array, paper_psf(3).array, atol=1e-5)
    scores = evaluate(np.asarray(noisy), read(tmp_path / "out" / "truth.ome.zarr"), data_range=1)
    assert 18 < scores.plain.psnr < scores.affine.psnr < 26


def test_the_seed_decides(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        simulate("points", "-o", tmp_path / name, "--shape", 8, 20, 20, "--seed", seed)
    a, b, c = (read(tmp_path / name / "noisy.ome.zarr") for name in "abc")
    assert (a == b).all()
    assert (a != c).any()


def test_a_flat_image_in_counts_with_a_psf_of_its_own(tmp_path):
    save_psf(paper_psf(2), tmp_path / "own.tif")
    options = ["--shape", 1, 60, 80, "--dtype", "uint16", "--offset", 100, "--psf", tmp_path / "own.tif"]
    simulate("nuclei", "-o", tmp_path / "out", *options)
    noisy = open_volume(tmp_path / "out" / "noisy.ome.zarr")
    assert noisy.axes == "yx"
    assert noisy.dtype == np.uint16
    counts = np.asarray(noisy)
    assert counts.min() == 100
    assert counts.max() <= 1124
    truth = read(tmp_path / "out" / "truth.ome.zarr")
    assert truth.min() == 100
    assert np.corrcoef(truth.ravel(), counts.ravel())[0, 1] > 0.4


def test_the_psf_is_resampled_to_another_voxel_size(tmp_path):
    save_psf(paper_psf(3), tmp_path / "own.tif")
    options = ["--shape", 8, 20, 20, "--psf", tmp_path / "own.tif", "--voxel-size", 0.406, 0.203, 0.203]
    simulate("points", "-o", tmp_path / "out", *options)
    assert open_volume(tmp_path / "out" / "noisy.ome.zarr").voxel_size_um == pytest.approx(
        (0.406, 0.203, 0.203)
    )


def test_a_psf_without_voxel_size_takes_the_one_given(tmp_path):
    np.save(tmp_path / "own.npy", paper_psf(3).array)
    options = ["--shape", 8, 20, 20, "--psf", tmp_path / "own.npy", "--voxel-size", 0.3, 0.2, 0.2]
    simulate("points", "-o", tmp_path / "with", *options)
    assert open_volume(tmp_path / "with" / "noisy.ome.zarr").voxel_size_um == pytest.approx((0.3, 0.2, 0.2))
    simulate("points", "-o", tmp_path / "without", *options[:-4])
    assert open_volume(tmp_path / "without" / "truth.ome.zarr").voxel_size_um is None


def test_the_help_shows_the_examples_line_by_line():
    lines = [line.strip() for line in simulate("--help").splitlines()]
    assert "bigdecon simulate bars -o flat --shape 1 512 512" in lines


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "psf.tif").write_text("precious")
    with pytest.raises(InputError, match=r"psf\.tif exists already"):
        simulate("bars", "-o", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["psf.tif"]
    assert (tmp_path / "psf.tif").read_text() == "precious"


@pytest.mark.parametrize(
    "options",
    [
        ["--gaussian", "-1"],
        ["--bits", "20"],
        ["--psf", "missing.tif"],
        ["--dtype", "uint16", "--offset", "70000"],
        ["--dtype", "uint16", "--bits", "16"],
        ["--channel", "0"],
        ["--voxel-size", "1", "1", "1"],
    ],
)
def test_bad_settings_write_nothing(tmp_path, options):
    with pytest.raises(InputError):
        simulate("bars", "-o", tmp_path / "out", "--shape", 8, 8, 8, *options)
    assert not (tmp_path / "out").exists()


def test_counts_are_whole_numbers_up_to_a_power_of_two(tmp_path):
    options = ["--shape", 1, 60, 80, "--bits", 4, "--gaussian", 1]
    simulate("bars", "-o", tmp_path / "counts", *options, "--dtype", "uint16")
    simulate("bars", "-o", tmp_path / "plain", *options)
    counts, plain = (read(tmp_path / name / "noisy.ome.zarr") for name in ("counts", "plain"))
    assert (counts.min(), counts.max()) == (0, 16)
    np.testing.assert_array_equal(counts, plain * 16)


def test_the_help_names_the_papers_setting():
    lines = [line.strip() for line in simulate("--help").splitlines()]
    assert "bigdecon simulate filaments --shape 128 256 512 -o paper3d --seed 0" in lines
    assert "bigdecon simulate image.png -o paper2d" in lines


# --- from an image ----------------------------------------------------------------------------


def picture(shape, seed=0):
    return np.random.default_rng(seed).integers(10, 200, shape).astype(np.uint8)


def write_png(path, image):
    matplotlib.image.imsave(path, np.repeat(image[..., None], 3, axis=-1))


def test_a_png_by_the_papers_protocol(tmp_path):
    image = picture((60, 300))
    write_png(tmp_path / "image.png", image)
    output = simulate(tmp_path / "image.png", "-o", tmp_path / "out", "--seed", 3)
    assert "60 x 300" in output
    expected = simulate_image(image, paper_psf(2).array, paper_noise(2), seed=3)
    truth = read(tmp_path / "out" / "truth.ome.zarr")
    np.testing.assert_allclose(truth, expected.truth, atol=1e-6)
    noisy = read(tmp_path / "out" / "noisy.ome.zarr")
    assert np.mean(noisy != expected.noisy) < 0.001  # a last bit may tip the rounding


@pytest.mark.parametrize("kind", ["tiff", "zarr"])
def test_a_volume_of_ones_own(tmp_path, kind):
    simulate("points", "-o", tmp_path / "first", "--shape", 20, 40, 70)
    path = tmp_path / "first" / "truth.ome.zarr"
    if kind == "tiff":
        path = tmp_path / "truth.tif"
        tifffile.imwrite(path, read(tmp_path / "first" / "truth.ome.zarr"), metadata={"axes": "ZYX"})
    simulate(path, "-o", tmp_path / "again")
    simulate(path, "-o", tmp_path / "other", "--seed", 1)
    again, other = (read(tmp_path / name / "noisy.ome.zarr") for name in ("again", "other"))
    assert again.shape == (20, 40, 70)
    assert (again != other).mean() > 0.5
    truth = read(tmp_path / "again" / "truth.ome.zarr")
    assert (truth.min(), truth.max()) == (0, 1)
    expected = simulate_image(read(path), paper_psf(3).array, paper_noise(3))
    np.testing.assert_array_equal(again, expected.noisy)
    np.testing.assert_array_equal(truth, expected.truth)


def test_one_plane_counts_as_2d_and_one_channel_of_several_is_taken(tmp_path):
    image = picture((2, 1, 30, 40)).transpose(1, 0, 2, 3)  # z, c, y, x
    tifffile.imwrite(tmp_path / "two.ome.tif", image, metadata={"axes": "ZCYX"})
    simulate(tmp_path / "two.ome.tif", "-o", tmp_path / "out", "--channel", 1)
    truth = read(tmp_path / "out" / "truth.ome.zarr")
    low, high = image[0, 1].min(), image[0, 1].max()
    np.testing.assert_allclose(truth, (image[0, 1] - float(low)) / (float(high) - low), atol=1e-6)
    assert "first channel" in simulate(tmp_path / "two.ome.tif", "-o", tmp_path / "first")


def test_the_psf_is_brought_to_the_images_voxel_size(tmp_path):
    save_psf(paper_psf(3), tmp_path / "own.tif")
    simulate("points", "-o", tmp_path / "first", "--shape", 8, 20, 20)
    image = tmp_path / "first" / "truth.ome.zarr"
    simulate(image, "-o", tmp_path / "a", "--psf", tmp_path / "own.tif", "--voxel-size", 0.2, 0.203, 0.203)
    assert open_volume(tmp_path / "a" / "noisy.ome.zarr").voxel_size_um == pytest.approx((0.2, 0.203, 0.203))
    simulate(image, "-o", tmp_path / "b", "--psf", tmp_path / "own.tif")
    assert open_volume(tmp_path / "b" / "noisy.ome.zarr").voxel_size_um == pytest.approx((0.406,) * 3)


def ends_with_one_sentence(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["bigdecon", "simulate", *(str(a) for a in arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert ended.value.code == 2
    assert told.out == ""
    assert "Traceback" not in told.err
    assert len(told.err.strip().splitlines()) == 1
    return told.err


@pytest.mark.parametrize("name", ["filamnets", "missing.png", "nowhere/image.tif"])
@pytest.mark.parametrize("more", [[], ["--shape", 8, 8, 8]])
def test_neither_image_nor_kind(tmp_path, monkeypatch, capsys, name, more):
    told = ends_with_one_sentence(monkeypatch, capsys, name, "-o", tmp_path / "out", *more)
    assert name in told
    assert "filaments, points, nuclei or bars" in told
    assert not (tmp_path / "out").exists()


def test_images_that_cannot_be_used(tmp_path, monkeypatch, capsys):
    matplotlib.image.imsave(tmp_path / "colour.png", picture((8, 8, 3)))
    write_png(tmp_path / "constant.png", np.full((8, 8), 7, np.uint8))
    write_png(tmp_path / "good.png", picture((8, 8)))
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    (tmp_path / "text.tif").write_text("no picture")
    tifffile.imwrite(tmp_path / "nan.tif", np.full((8, 8), np.nan, np.float32))
    cases = [
        ("colour.png", "in colour"),
        ("constant.png", "nothing can be simulated"),
        ("text.png", "cannot be read"),
        ("cut.png", "cannot be read"),
        ("text.tif", "text.tif"),
        ("nan.tif", "NaN"),
    ]
    for name, words in cases:
        assert words in ends_with_one_sentence(
            monkeypatch, capsys, tmp_path / name, "-o", tmp_path / "out"
        ), name
    for more, words in ((["--shape", 8, 8, 8], "--shape is for"), (["--channel", "0"], "do not fit")):
        told = ends_with_one_sentence(
            monkeypatch, capsys, tmp_path / "good.png", "-o", tmp_path / "out", *more
        )
        assert words in told
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_into_the_image(tmp_path):
    simulate("points", "-o", tmp_path / "first", "--shape", 8, 20, 20)
    image = tmp_path / "first" / "truth.ome.zarr"
    for output in (image, image / "deeper"):
        with pytest.raises(InputError, match="inside the image"):
            simulate(image, "-o", output)
