"""A summary of a ledger in an object store: one object in place of many thousand small reads.

It is never trusted by itself. Each entry is kept with the ETag that it had, and is taken from the summary
only if the listing still gives the same; all others are read. Who has read many writes a new summary.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from contextlib import suppress

from bigdecon.storage import places
from bigdecon.storage.object_path import ObjectPath
from bigdecon.storage.servers import QUICK

__all__ = ["read_entries"]

NAME = "summary.jsonl.gz"
HEADING = ["bigdecon-ledger-summary", 1]
WORTH_IT = 500
"""Entries that had to be read one by one for which a new summary is written."""

Content = bytes | OSError


def read_entries(folder: ObjectPath, stamps: Mapping[str, str]) -> dict[str, Content]:
    """Read the entries of a ledger.

    Parameters
    ----------
    folder : of the ledger
    stamps : names of the entries in the folder, and their ETags

    Returns
    -------
    dict
        the content of each, or why it cannot be read
    """
    kept = _read_summary(folder) if len(stamps) > WORTH_IT else {}
    contents: dict[str, Content] = {
        name: kept[name][1] for name, stamp in stamps.items() if stamp and kept.get(name, ("",))[0] == stamp
    }
    others = [name for name in stamps if name not in contents]
    contents |= zip(others, places.read_many([folder / name for name in others]), strict=True)
    if len(others) > WORTH_IT:
        _write_summary(folder, stamps, contents)
    return contents


def _read_summary(folder: ObjectPath) -> dict[str, tuple[str, bytes]]:
    """Read what is kept: the ETag and the content by name; nothing where that is damaged or missing."""
    try:
        heading, *lines = gzip.decompress(places.read(folder / NAME)).splitlines()
        if json.loads(heading) != HEADING:
            return {}
        rows = [line.split(b" ", 2) for line in lines]
        return {name.decode(): (stamp.decode(), content) for name, stamp, content in rows}
    except (OSError, EOFError, ValueError):
        return {}


def _write_summary(folder: ObjectPath, stamps: Mapping[str, str], contents: Mapping[str, Content]) -> None:
    """Keep what was read; who may not write, or cannot now, reads again next time."""
    lines = [json.dumps(HEADING).encode()]
    for name, stamp in stamps.items():
        content = contents[name]
        if stamp and " " not in name + stamp and isinstance(content, bytes):
            content = content.removesuffix(b"\n")
            lines += [b"%s %s %s" % (name.encode(), stamp.encode(), content)] if b"\n" not in content else []
    with suppress(OSError):
        places.write(folder / NAME, gzip.compress(b"\n".join(lines), 1), attempts=QUICK)
