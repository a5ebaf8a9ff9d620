import json

import numpy as np
import pytest
import tifffile
from bigdecon_cli.info import command, readable_bytes
from click.testing import CliRunner

from bigdecon.errors import VolumeError
from bigdecon.io.writing import write_ome_zarr
from bigdecon.volume import Volume


def run(*arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)


def test_zarr_as_text_and_json(tmp_path):
    data = np.ones((2, 5, 300, 310), "float32")
    path = write_ome_zarr(Volume.from_array(data, "czyx", voxel_size_um=(1, 0.5, 0.5)), tmp_path / "a").path
    text = run(path).output
    for part in ("OME-Zarr 0.5", "2 × 5 × 300 × 310", "1 × 0.5 × 0.5 µm (z, y, x)", "shards", "level 1"):
        assert part in text
    found = json.loads(run(path, "--json").output)
    assert found["levels"][0]["shape"] == [2, 5, 300, 310]
    assert found["levels"][1]["voxel_size_um"] == [1, 1, 1]
    assert found["channels"][1]["name"] == "channel 1"


def test_tiff_without_voxel_size(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((5, 20, 30), "uint8"), photometric="minisblack")
    assert "--voxel-size" in run(tmp_path / "a.tif").output


def test_no_image(tmp_path):
    with pytest.raises(VolumeError):
        run(tmp_path / "none")


@pytest.mark.parametrize(("n", "text"), [(0, "0 B"), (2048, "2.0 KiB"), (3 * 2**40, "3.0 TiB")])
def test_readable_bytes(n, text):
    assert readable_bytes(n) == text
