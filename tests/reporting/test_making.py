"""Reports beside results: what they say, and that whatever goes wrong with them harms no result."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import re
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from bigdecon import pipeline
from bigdecon.config import TilingConfig
from bigdecon.deconvolution.ledger import Ledger
from bigdecon.distributed.progress import Message
from bigdecon.errors import OutputError, VolumeError, WriteError
from bigdecon.io.provenance import PSFRecord, read_run
from bigdecon.io.stored_psf import keep_psfs, kept_psf
from bigdecon.optics.psf import psf_from_array
from bigdecon.reporting import making
from bigdecon.reporting.content import gather
from bigdecon.reporting.making import make_report
from bigdecon.reporting.measuring import run_here
from bigdecon.reporting.report_names import report_place
from bigdecon.reporting.subject import find_subject
from bigdecon.storage import places
from bigdecon.storage.places import as_place
from tests.reporting.conftest import write_psf
from tests.runs import SIZE, kernel, snapshot, specimen, write_image, write_in_chunks

MOST_BYTES = 3_000_000


def page_of(result) -> str:
    return places.read(result.report.page).decode()


def check_page(page: str) -> None:
    """Hold a page to what every one promises."""
    assert len(page) < MOST_BYTES
    assert page.startswith("<!doctype html>") or page.lstrip().startswith("<!doctype html>")
    assert '<meta name="viewport" content="width=device-width' in page
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    assert policy.startswith("default-src 'none'")
    for tag in ("style", "script"):
        text = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert " style=" not in page
    assert not re.search(r"<[^>]*\son\w+=", page)
    svgs = re.findall(r"<svg [^>]*>", page)
    assert svgs
    assert all('aria-label="' in svg or 'aria-hidden="true"' in svg for svg in svgs)


def check_picture(data: bytes) -> None:
    picture = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
    assert picture.shape[1] > 800
    assert picture.std() > 10


@pytest.mark.parametrize("version", [pytest.param("0.4", marks=pytest.mark.slow), "0.5"])
def test_a_run_leaves_a_report_beside_its_result(tmp_path, restore, version):
    image = write_image(tmp_path / "a.ome.zarr", specimen(), ome_version=version)
    result = restore(image, ome_version=version)
    assert result.state == "finished"
    assert result.report.page == tmp_path / "a.deconvolved.report.html"
    assert result.report.picture == tmp_path / "a.deconvolved.report.png"
    page = page_of(result)
    check_page(page)
    check_picture(result.report.picture.read_bytes())
    assert page.count('class="shot before"') == page.count('class="shot after"') == 3
    for words in ("Does the model explain the data", "How fine is the detail", "psf.tif", "richardson-lucy"):
        assert words in page
    assert not [p for p in result.output.rglob("*") if "report" in p.name]


@pytest.mark.slow
def test_the_same_report_can_be_made_again(tmp_path, restore):
    result = restore(write_image(tmp_path / "a.ome.zarr", specimen()))
    first = page_of(result)
    before = snapshot(result.output)
    again = make_report(result.output)
    assert snapshot(result.output) == before
    assert again.statements == result.report.statements
    once, twice = (
        re.sub(r"<footer>.*|<tr><th[^>]*>(Run|Device).*?</tr>", "", p) for p in (first, page_of(result))
    )
    assert len(once) == pytest.approx(len(twice), rel=0.01)
    content = [gather(find_subject(result.output), run_here) for _ in range(2)]
    pages = [making.render_page(one) for one in content]
    assert pages[0] == pages[1]
    assert making.render_png(content[0]) == making.render_png(content[1])


@pytest.mark.slow
def test_a_found_finished_run_gets_the_report_that_is_missing(tmp_path, restore):
    image = write_image(tmp_path / "a.ome.zarr", specimen())
    plain = restore(image, report=False)
    assert plain.report is None
    assert not report_place(plain.output).exists()
    found = restore(image)
    assert (found.state, found.report.page.exists()) == ("found finished", True)
    assert restore(image).report is None


def test_a_flat_image_has_a_report(tmp_path, restore):
    flat = write_psf(tmp_path / "flat.tif", (7, 7), SIZE[1:])
    data = np.random.default_rng(0).poisson(100 + specimen((60, 90)) / 4).astype("uint16")
    result = restore(write_image(tmp_path / "a.ome.zarr", data, "yx"), psf=(str(flat),))
    page = page_of(result)
    check_page(page)
    assert ">xz<" not in page
    assert "In the plane (lateral)" in page


@pytest.mark.slow
def test_every_channel_has_its_section_and_a_few_times(tmp_path, restore):
    data = np.stack([np.stack([specimen(seed=s) for s in (t, t + 9)]) for t in range(5)])
    result = restore(write_image(tmp_path / "a.ome.zarr", data, "tczyx"), iterations=2)
    page = page_of(result)
    check_page(page)
    headings = re.findall(r"<h3>([^<]*time point[^<]*)</h3>", page)
    assert set(headings) == {f"{c}, time point {t}" for c in ("nuclei", "actin") for t in (0, 2, 4)}


def test_names_are_harmless(tmp_path, restore):
    evil = "<script>alert(1)</script>"
    image = write_image(tmp_path / f"{evil.replace('/', '_')}.ome.zarr", specimen())
    write_psf(tmp_path / "<img src=x onerror=alert(2)>.tif")
    result = restore(image, psf=(str(tmp_path / "<img src=x onerror=alert(2)>.tif"),))
    page = page_of(result)
    check_page(page)
    assert page.count("<script") == 1
    assert "<img" not in page
    assert "&lt;script&gt;" in page


def test_without_its_input_a_report_shows_the_result_and_says_so(tmp_path, restore):
    image = write_image(tmp_path / "a.ome.zarr", specimen())
    result = restore(image)
    moved = image.rename(tmp_path / "b.ome.zarr")
    told = make_report(result.output)
    assert any("not where it was" in note for note in told.notes)
    assert [statement.tone for statement in told.statements[1:]] == ["unknown", "unknown"]
    page = page_of(result)
    check_page(page)
    assert "shot before" not in page
    assert "shot after" in page
    told = make_report(result.output, image=str(moved))
    assert not told.notes
    assert "shot before" in page_of(result)


def test_the_psf_is_kept_with_the_result(tmp_path, restore):
    psf = write_psf(tmp_path / "mine.tif")
    image = write_image(tmp_path / "a.ome.zarr", specimen())
    result = restore(image, psf=(str(psf),), report=False)
    kept = result.output / "bigdecon" / "psf"
    (file,) = kept.iterdir()
    assert file.name == f"{result.plan.psfs[0].sha256}.safetensors"
    whole = make_report(result.output)
    psf.unlink()
    moved = image.rename(tmp_path / "elsewhere.ome.zarr")
    later = make_report(result.output, image=str(moved))
    assert (later.notes, later.statements) == ((), whole.statements)
    told = make_report(result.output)
    assert len(told.notes) == 1
    assert "The input image is not where it was" in told.notes[0]
    assert "mine.tif" in page_of(replace(result, report=told))

    # Nothing depends on it: without it, the same command finds a finished result, and its file is looked for.
    before = snapshot(result.output)
    file.unlink()
    told = make_report(result.output, image=str(moved))
    assert any("The PSF" in note for note in told.notes)
    assert "shot before" in told.page.read_text()
    write_psf(psf)
    assert not make_report(result.output, image=str(moved)).notes
    moved.rename(image)
    assert restore(image, psf=(str(psf),), report=False).state == "found finished"
    del before[str(file)]
    assert snapshot(result.output) == before


def test_a_kept_psf_that_was_changed_is_passed_over(tmp_path):
    psf = psf_from_array(kernel(), voxel_size_um=SIZE, psf_voxel_size_um=SIZE, name="mine")
    noted = asdict(PSFRecord(psf.name, psf.sha256, psf.corrections, psf.voxel_size_um))
    noted = json.loads(json.dumps(noted))
    assert kept_psf(tmp_path, noted) is None
    keep_psfs(tmp_path / "psf", [psf, psf])
    read = kept_psf(tmp_path / "psf", noted)
    assert np.array_equal(read.array, psf.array)
    assert (read.sha256, read.name, read.voxel_size_um) == (psf.sha256, "mine", SIZE)
    (file,) = (tmp_path / "psf").iterdir()
    data = file.read_bytes()
    for damaged in (data[:-4] + b"abcd", data[:40], b""):
        file.write_bytes(damaged)
        assert kept_psf(tmp_path / "psf", noted) is None
    assert kept_psf(tmp_path / "psf", {**noted, "sha256": "../" + noted["sha256"]}) is None


def test_another_image_is_refused(tmp_path, restore):
    result = restore(write_image(tmp_path / "a.ome.zarr", specimen()), report=False)
    other = write_image(tmp_path / "b.ome.zarr", specimen((20, 40, 44)))
    with pytest.raises(VolumeError, match="another image"):
        make_report(result.output, image=str(other))
    with pytest.raises(OutputError, match="does not tell how it was made"):
        make_report(other)


@pytest.mark.slow
def test_a_result_that_lacks_blocks_says_so(tmp_path, restore):
    points = np.zeros((16, 40, 600))
    points[4:12:4, 6::14, 6::14] = 200_000
    data = np.random.default_rng(0).poisson(gaussian_filter(points, 1.5) + 100).astype("uint16")
    image = write_in_chunks(tmp_path / "a.ome.zarr", data)
    (image / "0/0/0/7").write_bytes(b"torn")
    result = restore(image, tiling=TilingConfig(block=64), iterations=60, sieve=0.0)
    assert result.state == "incomplete"
    assert (result.report.statements[0].answer, result.report.statements[0].tone) == ("In part", "warning")
    page = page_of(result)
    check_page(page)
    assert f"{len(result.missing)} blocks are missing" in page
    assert 'class="lost"' in page


@pytest.mark.slow
def test_a_run_that_has_not_ended_says_so(tmp_path, restore):
    result = restore(write_image(tmp_path / "a.ome.zarr", specimen()), report=False)
    for key in Ledger(result.output / "bigdecon" / "ledger").read():
        Ledger(result.output / "bigdecon" / "ledger").forget(key)
    assert make_report(result.output).statements[0].answer == "Not yet"


def test_a_report_that_fails_is_a_warning(tmp_path, restore, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no room")

    plan = restore(write_image(tmp_path / "a.ome.zarr", specimen()), report=False).plan
    monkeypatch.setattr(making.places, "write", fail)
    told = []
    assert making.report_of_run(plan, told.append) is None
    (warning,) = [event for event in told if isinstance(event, Message)]
    assert warning.level == "warning"
    assert "could not be made (the report" in warning.text
    assert "no room" in warning.text


@pytest.mark.slow
def test_a_report_beside_objects(tmp_path, restore, s3, cluster):
    image = write_image(tmp_path / "a.ome.zarr", specimen())
    output = as_place(f"{s3}/results/a.ome.zarr")
    local = restore(image, report=False).output
    for path in local.rglob("*"):
        if path.is_file():
            places.write(output / str(path.relative_to(local)), path.read_bytes())
    shutil.rmtree(local)
    made = make_report(output)
    assert str(made.page) == f"{s3}/results/a.report.html"
    check_page(places.read(made.page).decode())
    check_picture(places.read(made.picture))


def test_a_report_replaces_nothing_but_itself(tmp_path, restore):
    image = write_image(tmp_path / "a.ome.zarr", specimen())
    page = tmp_path / "a.deconvolved.report.html"
    picture = page.with_suffix(".png")
    picture.write_bytes(b"\x89PNG\r\n\x1a\n my own drawing")
    events = []
    result = restore(image, events=events)
    other = tmp_path / "a.deconvolved.ome.zarr.report.html"
    assert (result.report.page, result.report.picture) == (other, other.with_suffix(".png"))
    assert any(isinstance(e, Message) and "is called" in e.text for e in events)
    assert any("is called" in note for note in result.report.notes)
    assert not page.exists()
    assert picture.read_bytes().endswith(b"drawing")
    assert restore(image).report is None  # it has one

    other.write_text("<html><head><meta name='generator' content='bigdecon notes'></head></html>")
    with pytest.raises(WriteError, match=r"a\.deconvolved\.report\.png exists and is not the report of"):
        make_report(result.output)
    with pytest.raises(WriteError, match=r"exists and is no report of bigdecon"):
        make_report(result.output, place=other)
    picture.unlink()
    assert make_report(result.output).page == page
    assert make_report(result.output).page == page
    assert make_report(result.output, place=tmp_path / "b.html").page == tmp_path / "b.html"
    assert make_report(result.output, place=tmp_path / "b.html").page == tmp_path / "b.html"


def test_a_result_keeps_the_time_when_its_run_began(tmp_path, restore, monkeypatch):
    """The record is written again when the run ends, with what it has found out."""
    hours = itertools.count(1)
    monkeypatch.setattr(pipeline, "now", lambda: f"2026-01-01T{next(hours):02d}:00:00+00:00")
    result = restore(write_image(tmp_path / "a.ome.zarr", specimen()), report=False)
    record = read_run(result.output / "bigdecon" / "run.json")
    assert record.finished
    assert record.provenance["created"] == "2026-01-01T01:00:00+00:00"
