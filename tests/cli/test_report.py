"""`bigdecon report`, and what `bigdecon run` says of the report it makes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from bigdecon_cli import main as entry

from bigdecon.optics.psf import psf_from_array, save_psf
from tests.runs import SIZE, kernel, specimen, write_image

QUICK = ("--method", "richardson-lucy", "--iterations", "3", "--background", "100", "--sieve", "0.5")


@pytest.fixture
def bigdecon(tmp_path, monkeypatch, capsys, cluster):
    """Give a command in a folder with an image and its PSF; runs go to the shared cluster."""
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "a.ome.zarr", specimen())
    save_psf(psf_from_array(kernel(), voxel_size_um=SIZE, psf_voxel_size_um=SIZE), tmp_path / "psf.tif")

    def call(*words):
        if words[0] == "run":
            words = (
                *words,
                "a.ome.zarr",
                "--psf",
                "psf.tif",
                *QUICK,
                "--device",
                "cpu",
                "--cluster",
                cluster,
            )
        monkeypatch.setattr(sys, "argv", ["bigdecon", *words])
        with pytest.raises(SystemExit) as ended:
            entry.main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return call


def test_a_run_tells_what_it_warned_of_only_once(bigdecon):
    optics = ("--na", "1.2", "--wavelength", "0.5", "--refractive-index", "1.33")
    code, out, err = bigdecon("run", *optics)
    assert code == 0
    lines = [line for line in (out + err).splitlines() if line.strip()]
    assert len(lines) == len(set(lines))
    assert (out + err).count("The voxels are too large") == 1


def test_run_names_its_report_and_report_makes_it_again(tmp_path, bigdecon):
    code, out, _ = bigdecon("run")
    page = tmp_path / "a.deconvolved.report.html"
    assert code == 0
    assert f"Report: {page}" in out
    assert "Can this result be used?" in out
    page.unlink()
    page.with_suffix(".png").unlink()
    code, out, err = bigdecon("report", "a.deconvolved.ome.zarr")
    assert (code, err) == (0, "")
    assert out.splitlines()[-2:] == [f"Report:  {page}", f"Picture: {page.with_suffix('.png')}"]
    assert page.exists()
    assert page.with_suffix(".png").exists()


def test_json_names_the_report_and_the_verdict(tmp_path, bigdecon):
    _, out, _ = bigdecon("run", "--json")
    ended = json.loads(out.splitlines()[-1])
    page = str(tmp_path / "a.deconvolved.report.html")
    assert (ended["event"], ended["report"], len(ended["verdict"])) == ("Result", page, 3)
    code, out, _ = bigdecon("report", "a.deconvolved.ome.zarr", "--json", "-o", "elsewhere/b.html")
    told = json.loads(out)
    assert (code, told["report"]) == (0, str(tmp_path / "elsewhere" / "b.html"))
    assert [s["question"] for s in told["verdict"]] == [s["question"] for s in ended["verdict"]]
    assert {f["severity"] for f in told["findings"]} <= {"good", "note", "warning", "distrust"}
    assert (tmp_path / "elsewhere" / "b.png").exists()


def test_no_report_and_quiet(tmp_path, bigdecon):
    assert bigdecon("run", "--no-report", "--quiet")[:2] == (0, "")
    assert not list(tmp_path.glob("*.report.*"))
    code, out, _ = bigdecon("run", "--quiet")
    assert (code, out) == (0, "")
    assert sorted(p.suffix for p in tmp_path.glob("*.report.*")) == [".html", ".png"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("none.ome.zarr",), "does not exist"),
        (("a.ome.zarr",), "does not tell how it was made"),
        (("a.ome.zarr", "-o", "page.pdf"), "give a name that ends in .html"),
        (("a.ome.zarr", "--threads", "0"), "--threads is 0"),
    ],
)
def test_bad_input_is_one_sentence(bigdecon, words, said):
    code, out, err = bigdecon("report", *words)
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert said in err


def test_no_room_for_a_report_leaves_code_and_result_as_they_are(tmp_path, bigdecon):
    for name in ("a.deconvolved.report.html", "a.deconvolved.ome.zarr.report.html"):
        (tmp_path / name).mkdir()
    code, out, err = bigdecon("run")
    assert code == 0
    assert "Result: " in out
    assert "the report could not be made" in out + err


@pytest.mark.slow
def test_warnings_of_libraries_do_not_show(tmp_path, bigdecon):
    bigdecon("run", "--no-report")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "bigdecon_cli", "report", "a.deconvolved.ome.zarr"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
