"""Where a report goes, and whether what lies there may be replaced: only the report of the same result.

    a.ome.zarr  ->  a.report.html             or, if that is taken,  a.ome.zarr.report.html
    a.zarr      ->  a.zarr.report.html        nothing else has this name

A page names its result in its head, a picture in its text. What does not is nobody's to replace.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from bigdecon.errors import WriteError
from bigdecon.storage import places
from bigdecon.storage.places import Place, PlaceLike, as_place

__all__ = ["ReportPlace", "choose_place", "has_report", "page_mark", "picture_mark", "report_place"]

ENDING = ".ome.zarr"
HEAD_BYTES = 16_384
"""The mark of a page stands before its style."""
MOST_BYTES = 2**28
PAGE_MARK = re.compile(
    rb'<meta name="generator" content="bigdecon">\s*<meta name="bigdecon:result" content="([^"]*)">'
)
PNG_START = b"\x89PNG\r\n\x1a\n"


class ReportPlace(NamedTuple):
    """Where page and picture go, and a sentence if that is not where they usually go, else ""."""

    page: Place
    picture: Place
    note: str


def report_place(output: PlaceLike) -> Place:
    """Say where the report of a result usually lies: beside it, NAME.report.html for NAME.ome.zarr."""
    place = as_place(output)
    return place.parent / f"{_stem(place.name)}.report.html"


def _stem(name: str) -> str:
    shortened = name[: -len(ENDING)]
    return shortened if name.endswith(ENDING) and shortened else name


def page_mark(name: str) -> str:
    """Give the text by which a page is known as the report of the result of this name."""
    return quote(name, safe="")


def picture_mark(name: str) -> dict[str, str]:
    """Give the same as entries of a PNG's text."""
    return {"Software": "bigdecon", "Source": quote(name, safe="")}


def choose_place(output: PlaceLike, asked: PlaceLike | None = None) -> ReportPlace:
    """Choose where a report goes, so that nothing is replaced but an earlier report of the same result.

    Parameters
    ----------
    output : the result
    asked : where the user wants the page; a report of another result is then replaced as well

    Raises
    ------
    WriteError
        if that place, or both usual ones, hold something else
    """
    place = as_place(output)
    if asked is not None:
        page = as_place(asked)
        taken = _in_the_way(page, None)
        if taken is not None:
            raise WriteError(
                f"{taken} exists and is no report of bigdecon, so it is not replaced; "
                "give another name with -o, or move it away."
            )
        return ReportPlace(page, _picture(page), "")
    usual = report_place(place)
    taken = _in_the_way(usual, place.name)
    if taken is None:
        return ReportPlace(usual, _picture(usual), "")
    other = place.parent / f"{place.name}.report.html"
    if other == usual or _in_the_way(other, place.name) is not None:
        raise WriteError(
            f"{taken} exists and is not the report of {place.name}, so it is not replaced; move it away, or "
            f"name another place: bigdecon report {place} -o NAME.html."
        )
    note = f"The report is called {other.name}, because {taken.name} is not the report of this result."
    return ReportPlace(other, _picture(other), note)


def has_report(output: PlaceLike) -> bool:
    """Whether a result has a report in one of the usual places.

    Raises
    ------
    OSError
        if that cannot be found out
    """
    place = as_place(output)
    pages = (report_place(place), place.parent / f"{place.name}.report.html")
    return any(places.exists(page) and _owner(page) == place.name for page in pages)


def _picture(page: Place) -> Place:
    return page.parent / f"{re.sub(r'[.]html?$', '', page.name, flags=re.IGNORECASE)}.png"


def _in_the_way(page: Place, name: str | None) -> Place | None:
    """Give what must not be replaced, of page and picture; any result's are ours if `name` is None."""
    for place in (page, _picture(page)):
        try:
            owner = _owner(place) if _is_taken(place) else name or ""
        except OSError as error:
            raise WriteError(f"the report {place} cannot be written ({error.strerror or error}).") from error
        if owner is None or name not in (None, owner):
            return place
    return None


def _is_taken(place: Place) -> bool:
    return os.path.lexists(place) if isinstance(place, Path) else places.exists(place)


def _owner(place: Place) -> str | None:
    """Give the name of the result that a page or picture is the report of; None if it is none."""
    try:
        data = places.read(place, limit=MOST_BYTES)
    except OSError:  # a folder, or what cannot be read: certainly none of ours
        return None
    if data.startswith(PNG_START):
        text = dict(_png_text(data))
        return unquote(text["Source"]) if text.get("Software") == "bigdecon" and "Source" in text else None
    found = PAGE_MARK.search(data[:HEAD_BYTES])
    return unquote(found[1].decode("ascii", "replace")) if found else None


def _png_text(data: bytes) -> Iterator[tuple[str, str]]:
    """Read the texts of a PNG that stand before its pixels."""
    at = len(PNG_START)
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind == b"IDAT":
            return
        if kind == b"tEXt":
            key, _, value = data[at + 8 : at + 8 + length].partition(b"\0")
            yield key.decode("latin-1"), value.decode("latin-1")
        at += 12 + length
