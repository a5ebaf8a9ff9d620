"""Where reports go, and that nothing else is replaced by them."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bigdecon.errors import WriteError
from bigdecon.reporting.report_names import (
    choose_place,
    has_report,
    page_mark,
    picture_mark,
    report_place,
)

NAMES = ("a.ome.zarr", "a b & <c>.ome.zarr", "kern µm 核.ome.zarr", "a.zarr", "a")


def page_for(name):
    return (
        '<!doctype html><meta name="generator" content="bigdecon">\n'
        f'<meta name="bigdecon:result" content="{page_mark(name)}">'
    )


def picture_for(name):
    text, buffer = PngInfo(), io.BytesIO()
    for key, value in picture_mark(name).items():
        text.add_text(key, value)
    Image.new("L", (3, 3)).save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("output", "page"),
    [
        ("/a/b.deconvolved.ome.zarr", "/a/b.deconvolved.report.html"),
        ("/a/b.zarr", "/a/b.zarr.report.html"),
        ("/a/b.tif", "/a/b.tif.report.html"),
        ("/a/b", "/a/b.report.html"),
        ("/a/.ome.zarr", "/a/.ome.zarr.report.html"),
        ("s3://bucket/a.ome.zarr", "s3://bucket/a.report.html"),
    ],
)
def test_reports_lie_beside_results(output, page):
    assert str(report_place(output)) == page


@pytest.mark.parametrize("name", NAMES)
def test_a_result_replaces_its_own_report(tmp_path, name):
    first = choose_place(tmp_path / name)
    assert (first.page, first.note) == (report_place(tmp_path / name), "")
    assert not has_report(tmp_path / name)
    first.page.write_text(page_for(name))
    first.picture.write_bytes(picture_for(name))
    assert choose_place(tmp_path / name) == first
    assert has_report(tmp_path / name)


def test_results_of_like_names_have_reports_of_their_own(tmp_path):
    taken = set()
    for name in ("a.ome.zarr", "a.zarr", "a.tif"):
        chosen = choose_place(tmp_path / name)
        assert not chosen.note
        assert chosen.page not in taken
        taken.add(chosen.page)
    chosen.page.write_text(page_for("a.tif"))
    (tmp_path / "a.report.html").write_text(page_for("a"))
    second = choose_place(tmp_path / "a.ome.zarr")
    assert second.page == tmp_path / "a.ome.zarr.report.html"
    assert second.note == (
        "The report is called a.ome.zarr.report.html, because a.report.html is not the report of this result."
    )
    assert not has_report(tmp_path / "a.ome.zarr")


@pytest.mark.parametrize("ending", ["html", "png"])
@pytest.mark.parametrize(
    "content",
    [b"", b"<html>mine</html>", picture_for("b.ome.zarr"), b"\x89PNG\r\n\x1a\n",
     b"\x89PNG\r\n\x1a\n" + b"\xff" * 40,
     b'<meta name="generator" content="bigdecon">', page_for("b.ome.zarr").encode()],
)  # fmt: skip
def test_whatever_else_lies_there_stays(tmp_path, ending, content):
    (tmp_path / f"a.report.{ending}").write_bytes(content)
    chosen = choose_place(tmp_path / "a.ome.zarr")
    assert chosen.page == tmp_path / "a.ome.zarr.report.html"
    (tmp_path / f"a.ome.zarr.report.{ending}").write_bytes(content)
    with pytest.raises(WriteError, match=rf"a\.report\.{ending} exists and is not the report of a"):
        choose_place(tmp_path / "a.ome.zarr")


def test_a_link_that_leads_nowhere_stays(tmp_path):
    (tmp_path / "a.report.html").symlink_to(tmp_path / "away.html")
    assert choose_place(tmp_path / "a.ome.zarr").note


def test_a_place_that_was_asked_for_replaces_reports_only(tmp_path):
    page = tmp_path / "mine.HTM"
    chosen = choose_place(tmp_path / "a.ome.zarr", page)
    assert (chosen.page, chosen.picture) == (page, tmp_path / "mine.png")
    page.write_text(page_for("b.ome.zarr"))
    assert choose_place(tmp_path / "a.ome.zarr", page) == chosen
    (tmp_path / "mine.png").write_bytes(b"a photograph")
    with pytest.raises(WriteError, match=r"mine\.png exists and is no report of bigdecon"):
        choose_place(tmp_path / "a.ome.zarr", page)
