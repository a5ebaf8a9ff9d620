"""Outputs that a server does not take, and results that it holds, from the command line."""

from __future__ import annotations

import pytest
from bigdecon_cli.main import bigdecon
from click.testing import CliRunner

from bigdecon.errors import BigdeconError
from bigdecon.io.provenance import RunRecord, write_run
from bigdecon.io.writing import write_ome_zarr
from bigdecon.optics.psf import psf_from_array, save_psf
from bigdecon.storage import places
from bigdecon.storage.places import as_place
from bigdecon.volume import Volume
from tests.runs import SIZE, kernel, specimen, write_image
from tests.servers import FaultyProxy

PLAIN = (
    "--method",
    "richardson-lucy",
    "--iterations",
    "2",
    "--background",
    "0",
    "--sieve",
    "0",
    "--no-report",
    "--device",
    "cpu",
)


PROVENANCE = {"configuration": {}, "psfs": [], "input": {"digest": "", "shape": []}}


@pytest.fixture
def run_to(tmp_path):
    """Give a function that runs to an output that must be refused; it gives the sentence."""
    image = write_image(tmp_path / "a.ome.zarr", specimen())
    save_psf(psf_from_array(kernel(), voxel_size_um=SIZE, psf_voxel_size_um=SIZE), tmp_path / "psf.tif")

    def call(output) -> str:
        words = ["run", str(image), "--psf", str(tmp_path / "psf.tif"), "-o", str(output), *PLAIN]
        error = CliRunner().invoke(bigdecon, words).exception
        assert isinstance(error, BigdeconError)
        assert error.exit_code == 2
        assert "\n" not in str(error)
        return str(error)

    return call


def test_what_cannot_be_written_is_refused_before_any_work(s3, s3_server, run_to, monkeypatch):
    assert "there is no bucket 'no-such-bucket'" in run_to("s3://no-such-bucket/out.ome.zarr")
    assert "is on a server that takes no files" in run_to("http://127.0.0.1:9/out.ome.zarr")
    places.write(as_place(f"{s3}/other/data"), b"mine")
    assert "was not written by bigdecon" in run_to(f"{s3}/other")
    with FaultyProxy(s3_server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        proxy.rule = lambda method, path: "403" if method == "PUT" else "none"
        assert "access is denied: the server" in run_to(f"{s3}/out.ome.zarr")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        assert "no credentials were found" in run_to(f"{s3}/out.ome.zarr")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "no server answers" in run_to(f"{s3}/out.ome.zarr")


def test_info_tells_of_an_unfinished_result(s3, run_to):
    output = write_ome_zarr(Volume.from_array(specimen()), f"{s3}/a.ome.zarr").path
    run = output / "bigdecon" / "run.json"
    for finished in (False, True):
        write_run(run, RunRecord("f" * 64, PROVENANCE, finished))
        told = CliRunner().invoke(bigdecon, ["info", str(output)]).output
        assert ("not finished" in told) == (not finished)
    places.write(run, b"{")
    assert "is damaged" in str(CliRunner().invoke(bigdecon, ["info", str(output)]).exception)
