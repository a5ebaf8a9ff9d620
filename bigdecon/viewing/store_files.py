"""Which files of an OME-Zarr a viewer needs: metadata and chunks, and nothing of how the image was made.

    zarr.json  .zattrs  .zgroup  .zarray  .zmetadata       metadata, in any folder
    0/c/0/1/2  0/0/1/2  0/0.1.2                            chunks and shards, by their keys
    OME/METADATA.ome.xml                                   what a converter kept of the microscope's file
    bigdecon/                                              never: settings, paths, the names of machines

The record of the run that also lies in the root's attributes is left out of what is served.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from bigdecon.io.output_folder import BOOKKEEPING
from bigdecon.untrusted import MAX_DOCUMENT_BYTES, parse_json, read_regular

__all__ = ["is_for_viewers", "without_record"]

METADATA = ("zarr.json", ".zattrs", ".zgroup", ".zarray", ".zmetadata")
CHUNK = re.compile(r"c|[0-9]+(\.[0-9]+)*|c(\.[0-9]+)+")
MICROSCOPE = ("OME", "METADATA.ome.xml")


def is_for_viewers(parts: Sequence[str]) -> bool:
    """Tell whether a file of a store is served.

    Parameters
    ----------
    parts : its path below the store, folder by folder; the last one is its name
    """
    if parts[0].casefold() == BOOKKEEPING:
        return False
    in_sight = not any(part.startswith(".") for part in parts[:-1])
    known = parts[-1] in METADATA or CHUNK.fullmatch(parts[-1]) or tuple(parts) == MICROSCOPE
    return in_sight and bool(known)


def without_record(path: Path, parts: Sequence[str]) -> bytes | None:
    """Give the root's metadata without the record of the run; None for all other files, and if there is none.

    Parameters
    ----------
    path : of the file
    parts : its path below the store

    Raises
    ------
    OSError
        if the root's metadata cannot be read
    ValueError
        if they are no JSON, too large or ambiguous, so that a record in them could stay unseen
    """
    if len(parts) > 1 or parts[0] not in ("zarr.json", ".zattrs", ".zmetadata"):
        return None
    content = parse_json(read_regular(path, MAX_DOCUMENT_BYTES))
    found = [holder for holder in _attribute_holders(content) if BOOKKEEPING in holder]
    for holder in found:
        del holder[BOOKKEEPING]
    return json.dumps(content).encode() if found else None


def _attribute_holders(content: object) -> list[dict[str, object]]:
    """Find where attributes of the root may stand: formats 2 and 3, alone or with those of all arrays."""
    if not isinstance(content, dict):
        return []
    together = content.get("metadata")
    places = [content, content.get("attributes")]
    if isinstance(together, dict):
        places.append(together.get(".zattrs"))
    return [place for place in places if isinstance(place, dict)]
