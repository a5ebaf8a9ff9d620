"""Small files that somebody else wrote: read without hanging, without surprise, within a limit.

Images, models and records come from other programs, other people and copies that stopped half-way.
What is read here is checked before memory is taken for it. Floors above turn the errors raised here
(`OSError`, `ValueError`) into sentences of their own.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Any

__all__ = [
    "MAX_DOCUMENT_BYTES",
    "check_regular",
    "clean_text",
    "is_number",
    "is_whole",
    "parse_json",
    "read_regular",
    "reason",
    "shown",
]

MAX_DOCUMENT_BYTES = 32 * 2**20
"""Largest JSON document that is read. Metadata of one image takes kilobytes, consolidated metadata of
a plate with tens of thousands of arrays about 20 MiB; parsed, a document takes ten times its size."""
MAX_TEXT = 200
"""Longest name or unit that is kept of foreign metadata, in characters."""
MAX_REASON = 600
"""Longest piece of a foreign message, in characters."""
MAX_SHOWN = 60
"""Longest piece of a foreign value that goes into a message, in characters."""


def check_regular(path: str | os.PathLike[str]) -> None:
    """Refuse pipes and devices, which would be waited for or never end.

    Raises
    ------
    OSError
        if there is nothing
    ValueError
        if it is no regular file
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{Path(path).name} is no regular file but a folder, a pipe or a device")


def read_regular(path: str | os.PathLike[str], limit: int = MAX_DOCUMENT_BYTES) -> bytes:
    """Read a whole file; pipes and devices are refused, never waited for.

    Parameters
    ----------
    path : of the file; links are followed
    limit : largest size in bytes

    Raises
    ------
    OSError
        if there is none, or the system refuses
    ValueError
        if it is no regular file, or larger than the limit
    """
    # Opening a pipe without a writer would wait for ever; O_NONBLOCK changes nothing for regular files.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{Path(path).name} is no regular file but a folder, a pipe or a device")
        if status.st_size > limit:
            raise ValueError(f"it has {status.st_size} bytes, and at most {limit} are read")
        return file.read(limit + 1)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the entry {shown(twice)} is there twice")
    return content


def parse_json(data: bytes) -> Any:
    """Parse a JSON document; one that could be understood in two ways is refused.

    Raises
    ------
    ValueError
        if it is no JSON, too large, nested too deeply, or names an entry twice
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        raise ValueError(f"it has {len(data)} bytes, and at most {MAX_DOCUMENT_BYTES} are read")
    try:
        return json.loads(data, object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def is_whole(value: object, least: int = 0) -> bool:
    """Whether a value is an integer (no bool, no float) of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: object) -> bool:
    """Whether a value is a finite number that fits a float, and no bool."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def clean_text(value: object) -> str:
    """Give a name or a unit in one line without control characters, cut to a sensible length."""
    text = value[: 4 * MAX_TEXT] if isinstance(value, str) else shown(value)
    return "".join(c if c.isprintable() else " " for c in text).strip()[:MAX_TEXT]


def shown(value: object) -> str:
    """Give a foreign value for a message: as Python writes it, in one line, cut after a few words."""
    try:
        text = repr(value[:MAX_SHOWN] if isinstance(value, str | bytes | list | tuple) else value)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        text = f"a {type(value).__name__} too large to show"
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def reason(error: BaseException) -> str:
    """Give what an error says in one line without a full stop, for use inside a sentence."""
    text = str(getattr(error, "strerror", None) or error)[:MAX_REASON]
    text = "".join(c if c.isprintable() else " " for c in text)
    text = " ".join(text.split()).rstrip(".")
    if isinstance(error, KeyError):
        return f"it lacks the entry {text}"
    plain = isinstance(error, ValueError | OSError | RuntimeError)
    return text if text and plain else f"{type(error).__name__}: {text}".rstrip(": ")
