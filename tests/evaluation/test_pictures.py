from __future__ import annotations

import numpy as np
import pytest
from matplotlib.image import imread

from bigdecon.errors import OptionError, OutputError
from bigdecon.evaluation.pictures import before_after_picture, comparison_picture


def volume(shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


@pytest.mark.parametrize("shape", [(20, 30), (6, 20, 30), (1, 20, 30), (130, 12, 400)])
def test_any_image_gives_a_picture(tmp_path, shape):
    path = tmp_path / "picture.png"
    before_after_picture(
        volume(shape),
        volume(shape, 1),
        path,
        psf=volume((5,) * len(shape)),
        truth=volume(shape, 2),
        voxel_size_um=(0.4, 0.1, 0.1)[-len(shape) :],
        title="a title",
    )
    pixels = imread(path)
    assert min(pixels.shape[:2]) > 150
    assert pixels[..., :3].std() > 0.1


def test_a_constant_image_and_a_huge_psf_are_no_obstacle(tmp_path):
    path = tmp_path / "picture.png"
    before_after_picture(np.zeros((9, 9), np.uint8), np.ones((9, 9)), path, psf=volume((99, 99)))
    assert path.stat().st_size > 1000


def test_the_voxel_size_gives_the_aspect(tmp_path):
    image = volume((20, 32, 32))
    heights = []
    for z_um in (0.1, 0.5):
        before_after_picture(image, image, tmp_path / "p.png", voxel_size_um=(z_um, 0.1, 0.1))
        heights.append(imread(tmp_path / "p.png").shape[0])
    assert heights[1] > 1.5 * heights[0]


def test_each_column_shows_its_own_image(tmp_path):
    """The left half bright in one image, the right half in the other."""
    left, right = np.zeros((40, 40)), np.zeros((40, 40))
    left[:, :20] = 1
    right[:, 20:] = 1
    comparison_picture([("left", left), ("right", right)], tmp_path / "p.png")
    row = imread(tmp_path / "p.png")[200, :, 0]
    width = len(row)
    dark = np.flatnonzero(row < 0.05)
    dark = dark[(dark > 0.1 * width) & (dark < 0.9 * width)]  # without the outer frames
    assert len(dark) > 0.3 * width
    assert 0.2 * width < dark.min() < dark.max() < 0.8 * width


def test_what_cannot_be_drawn_is_refused(tmp_path):
    image = volume((8, 8))
    with pytest.raises(OptionError, match=r"'after' has the shape \(7, 8\)"):
        before_after_picture(image, image[1:], tmp_path / "p.png")
    with pytest.raises(OptionError, match="2D or 3D"):
        before_after_picture(image[0], image[0], tmp_path / "p.png")
    with pytest.raises(OutputError, match="cannot be written"):
        before_after_picture(image, image, tmp_path / "missing" / "p.png")


def test_one_window_gives_a_row_the_grey_values_of_its_last_panel(tmp_path, monkeypatch) -> None:
    """A faint image stays faint beside a bright one."""
    from matplotlib.axes import Axes

    windows = []
    draw = Axes.imshow
    monkeypatch.setattr(
        Axes, "imshow", lambda self, *a, **k: (windows.append((k["vmin"], k["vmax"])), draw(self, *a, **k))[1]
    )
    ramp = np.linspace(0, 1, 400).reshape(20, 20)
    images = [("faint", 0.1 * ramp), ("bright", ramp)]
    comparison_picture(images, tmp_path / "a.png", one_window=True)
    comparison_picture(images, tmp_path / "b.png")
    together, apart = windows[:2], windows[2:4]
    assert together[0] == together[1] == apart[1]
    assert apart[0][1] == pytest.approx(0.1 * apart[1][1])
