"""What a TIFF file claims, checked before its images are put together.

tifffile believes the OME-XML in a file: sizes, counts and names of further files. This looks at them
first. Floors above turn the ValueErrors raised here into sentences of their own.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import tifffile

from bigdecon.untrusted import check_regular, reason, shown

__all__ = ["check_ome_xml", "check_pages", "decoders_are_bounded", "open_quietly", "why_no_tiff"]

MAX_XML = 2**27
"""Longest OME-XML text that is read, in characters: about a million planes described one by one."""
MAX_PLANES = 2**24
"""Planes of one image, in one file or several: 16 million, each with an entry in memory."""
MAX_MODULO = 10**6
OF_VENDORS = (".czi", ".nd2", ".lif", ".oib", ".oif", ".vsi", ".ims", ".dv", ".r3d", ".zvi", ".sld", ".flex")
"""Endings of the formats in which microscopes save, and which Fiji opens."""
IMAGES = "an OME-Zarr folder, a TIFF or an OME-TIFF"
CUT_OFF = "it is cut short; copy or save it again"


def check_pages(tiff: Any) -> None:
    """Refuse a chain of pages that runs in a circle, or beyond the end of the file.

    tifffile would follow the one for hours, and take what is left of a file that was cut off for all of it.

    Parameters
    ----------
    tiff : an open `tifffile.TiffFile`

    Raises
    ------
    ValueError
        if a page comes after itself, there are too many, or the file ends before the last
    """
    form, file = tiff.tiff, tiff.filehandle
    file.seek(form.offsetsize if form.version == 43 else 4)
    seen: set[int] = set()
    while offset := _number(file.read(form.offsetsize), form.offsetformat):
        if offset >= file.size:
            raise ValueError(f"its {_ordinal(len(seen) + 1)} image would begin beyond its end: {CUT_OFF}")
        if offset in seen or len(seen) > MAX_PLANES:
            raise ValueError(f"its chain of pages runs in a circle, or has more than {MAX_PLANES}")
        seen.add(offset)
        file.seek(offset)
        n_tags = _number(file.read(form.tagnosize), form.tagnoformat)
        file.seek(offset + form.tagnosize + n_tags * form.tagsize)


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number % 100 not in (11, 12, 13) else "th"
    return f"{number}{ending}"


def why_no_tiff(path: str, error: BaseException, *, give: str = IMAGES) -> str:
    """Say why a file could not be read as a TIFF, and what would be right, for use inside a sentence.

    Parameters
    ----------
    path : of the file, or its address
    error : what was raised
    give : the formats that would be right
    """
    if os.path.isfile(path) and not os.path.getsize(path):
        return "the file is empty; copy or save it again"
    ending = os.path.splitext(path)[1].lower()
    if ending in OF_VENDORS:
        return f"it is in a format of microscopes, {ending}; open it in Fiji and save it as TIFF or OME-TIFF"
    if isinstance(error, tifffile.TiffFileError) and "not a TIFF" in str(error):
        return f"it is no TIFF file; give {give}"
    if isinstance(error, struct.error):
        return CUT_OFF
    return reason(error) if CUT_OFF in str(error) else f"{reason(error)}; give {give}"


def _number(data: bytes, form: str) -> int:
    """Unpack one number; 0 where the file has ended."""
    return int(struct.unpack(form, data)[0]) if len(data) == struct.calcsize(form) else 0


@contextmanager
def open_quietly() -> Iterator[None]:
    """Keep tifffile from logging what it finds odd: it comes back as an error, or is of no matter."""
    logger = logging.getLogger("tifffile")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def decoders_are_bounded() -> bool:
    """Whether decompression stops at the size of a tile: imagecodecs does, what tifffile brings does not."""
    return importlib.util.find_spec("imagecodecs") is not None


def check_ome_xml(xml: str | None, folder: str | None) -> None:
    """Check the OME-XML of a file for what could take memory or lead elsewhere.

    Parameters
    ----------
    xml : the text; None where there is none
    folder : of the file, which further files of the image must lie in; None on a server

    Raises
    ------
    ValueError
        with what is wrong
    """
    if not xml:
        return
    if len(xml) > MAX_XML:
        raise ValueError(f"its OME-XML has {len(xml)} characters, and at most {MAX_XML} are read")
    # Entities can be nested so that kilobytes become gigabytes; OME-XML has none.
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise ValueError("its OME-XML defines entities, which no microscope writes")
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return  # the file is then read without it
    further: dict[str | None, None] = {}
    for element in root.iter():
        tag = str(element.tag).rpartition("}")[2]
        if tag == "Pixels":
            _check_pixels(element)
        elif tag == "TiffData":
            _check_counts(element, ("IFD", "NumPlanes", "PlaneCount", "FirstZ", "FirstC", "FirstT"))
        elif tag == "UUID" and element.text != root.get("UUID"):
            further[element.get("FileName")] = None
        elif tag.startswith("ModuloAlong"):
            _check_modulo(element)
    for name in further:
        _check_further_file(name, folder)


def _check_pixels(pixels: ElementTree.Element) -> None:
    _check_counts(pixels, ("SizeX", "SizeY"), largest=2**31)
    _check_counts(pixels, ("SizeZ", "SizeC", "SizeT"))
    planes = math.prod(int(pixels.get(f"Size{axis}", 1)) for axis in "ZCT")
    if planes > MAX_PLANES:
        raise ValueError(f"its OME-XML claims {planes} planes, and at most {MAX_PLANES} are read")


def _check_counts(element: ElementTree.Element, names: tuple[str, ...], largest: int = MAX_PLANES) -> None:
    for name in names:
        text = element.get(name, "0").strip()
        if not text.isdecimal() or len(text) > 20 or int(text) > largest:
            raise ValueError(f"its OME-XML gives {name} as {shown(text)}, and at most {largest} are read")


def _check_further_file(name: str | None, folder: str | None) -> None:
    if name is None:
        return
    if not name or name in (".", "..") or any(c in "/\\:\0" for c in name):
        raise ValueError(f"its OME-XML names the further file {shown(name)}, which must lie beside it")
    path = None if folder is None else os.path.join(folder, name)
    if path is not None and os.path.exists(path):
        check_regular(path)
        with open_quietly(), tifffile.TiffFile(path) as further:
            check_pages(further)


def _check_modulo(element: ElementTree.Element) -> None:
    try:
        start, end = float(element.get("Start", 0)), float(element.get("End", 0))
        number = abs(end - start) / abs(float(element.get("Step", 1)))
    except (ValueError, ZeroDivisionError):
        number = math.inf
    if not number <= MAX_MODULO:
        raise ValueError(f"its OME-XML divides an axis into {number:g} parts")
