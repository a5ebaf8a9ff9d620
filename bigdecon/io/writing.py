"""Write OME-Zarr: create all metadata first, fill write units in any order, from any process."""

from __future__ import annotations

import itertools
import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import zarr
from numcodecs import Blosc
from zarr.abc.store import Store
from zarr.codecs import BloscCodec
from zarr.core.chunk_key_encodings import V2ChunkKeyEncoding
from zarr.storage import LocalStore, MemoryStore

from bigdecon.errors import OutputError
from bigdecon.io.boxes import Converted, convert, digest, has_digest, read_box, write_box
from bigdecon.io.layout import LevelLayout, OutputLayout, plan_output, write_boxes
from bigdecon.io.ome_writing import DisplayWindow, image_attributes, placeholder_windows, window_json
from bigdecon.io.output_folder import (
    BOOKKEEPING,
    FORMAT,
    INCOMPLETE,
    check_output_path,
    is_incomplete,
    is_taken,
    output_place,
    remove_output,
)
from bigdecon.io.provenance import RunRecord, write_run
from bigdecon.io.pyramid import (
    WRITERS,
    build_pyramid,
    local_mean,
    measure_windows,
    pyramid_boxes,
    write_pyramid_box,
)
from bigdecon.io.stores import open_store
from bigdecon.storage import places
from bigdecon.storage.object_path import ObjectPath
from bigdecon.storage.places import Place, PlaceLike
from bigdecon.storage.write_errors import write_error
from bigdecon.untrusted import parse_json
from bigdecon.volume import Box, Volume

__all__ = [
    "Converted",
    "DisplayWindow",
    "LevelLayout",
    "OutputLayout",
    "WriteReport",
    "build_pyramid",
    "check_output_path",
    "convert",
    "create_ome_zarr",
    "digest",
    "has_digest",
    "local_mean",
    "measure_windows",
    "plan_output",
    "pyramid_boxes",
    "read_box",
    "remove_output",
    "set_display_windows",
    "set_provenance",
    "write_box",
    "write_boxes",
    "write_ome_zarr",
    "write_pyramid_box",
]


class WriteReport(NamedTuple):
    """What `write_ome_zarr` did.

    Attributes
    ----------
    path : where the image lies
    layout : its arrays
    n_clipped : voxels outside the range of an integer type
    """

    path: Place
    layout: OutputLayout
    n_clipped: int


def create_ome_zarr(
    path: PlaceLike,
    volume: Volume,
    layout: OutputLayout,
    *,
    name: str,
    record: RunRecord | None = None,
) -> None:
    """Create the groups and arrays of an image, all metadata included; no voxels.

    A folder appears complete or not at all: it is made beside its place and then renamed. In an object
    store, which cannot rename, the root metadata are put first with a mark that says "incomplete", and
    once more when all the rest is there; the caller keeps others off with a lease meanwhile.

    Parameters
    ----------
    path : folder or prefix to make; nothing may be there but an empty folder, or what a creation left that
        was interrupted
    volume : gives axes, channels, units and time step
    layout : of `plan_output`
    name : of the image, for viewers
    record : of the run that will fill it, for run.json; without it, nothing tells how to continue

    Raises
    ------
    OutputError
        if something is there already
    WriteError
        if the file system or the server refuses
    """
    target = output_place(path)
    attributes = image_attributes(volume, layout, placeholder_windows(layout), name)
    attributes[BOOKKEEPING] = {"format": FORMAT}
    if isinstance(target, Path):
        _create_folder(target, layout, attributes, record)
    else:
        _create_objects(target, layout, attributes, record)


def _taken(target: Place) -> OutputError:
    return OutputError(f"{target} exists already; remove it or choose another output.")


def _create_folder(
    target: Path, layout: OutputLayout, attributes: dict[str, Any], record: RunRecord | None
) -> None:
    if target.exists() and (not target.is_dir() or is_taken(target)):
        raise _taken(target)
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _create_groups(LocalStore(draft), layout, attributes)
        if record is not None:
            write_run(draft / BOOKKEEPING / "run.json", record)
        if target.exists():
            target.rmdir()
        draft.rename(target)
    except OSError as error:
        raise write_error(target, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _create_objects(
    target: ObjectPath, layout: OutputLayout, attributes: dict[str, Any], record: RunRecord | None
) -> None:
    if is_taken(target) and not is_incomplete(target):
        raise _taken(target)
    draft = _metadata({**attributes, BOOKKEEPING: {"format": FORMAT, INCOMPLETE: True}}, layout)
    final = _metadata(attributes, layout)
    root = "zarr.json" if layout.zarr_format == 3 else ".zattrs"
    try:
        places.write(target / root, draft[root])
        for key in sorted(final.keys() - {root}):
            places.write(target / key, final[key])
        if record is not None:
            write_run(target / BOOKKEEPING / "run.json", record)
        places.write(target / root, final[root])
    except OSError as error:
        raise write_error(target, error) from error


def _metadata(attributes: dict[str, Any], layout: OutputLayout) -> dict[str, bytes]:
    """Make all metadata objects of an image, by key."""
    found: dict[str, Any] = {}
    _create_groups(MemoryStore(found), layout, attributes)
    return {key: value.to_bytes() for key, value in found.items()}


def _create_groups(store: Store, layout: OutputLayout, attributes: dict[str, Any]) -> None:
    group = zarr.create_group(store, zarr_format=layout.zarr_format, attributes=attributes)
    group.create_group(BOOKKEEPING, attributes={"format": FORMAT})
    for level in layout.levels:
        _create_array(store, layout, level)


def _create_array(store: Store, layout: OutputLayout, level: LevelLayout) -> None:
    """Make one level; Blosc with zstd 1 and byte shuffle is quick and packs 16 bits well."""
    common: dict[str, Any] = {
        "store": store,
        "name": level.path,
        "shape": level.shape,
        "chunks": level.chunks,
        "dtype": layout.dtype,
        "fill_value": 0,
        "zarr_format": layout.zarr_format,
    }
    if layout.zarr_format == 2:
        packed = Blosc(cname="zstd", clevel=1, shuffle=Blosc.SHUFFLE)
        keys = V2ChunkKeyEncoding(separator="/")
        zarr.create_array(**common, compressors=packed, chunk_key_encoding=keys)
        return
    codec = BloscCodec(cname="zstd", clevel=1, shuffle="shuffle")
    zarr.create_array(**common, shards=level.shards, compressors=codec, dimension_names=list(layout.axes))


def set_display_windows(path: PlaceLike, windows: Sequence[DisplayWindow]) -> None:
    """Set every channel's contrast limits for viewers, in data units.

    Raises
    ------
    OutputError
        if there is no image of bigdecon, or it has another number of channels
    WriteError
        if the file system refuses
    """
    root = output_place(path)
    attributes = _root_attributes(root)
    ome = attributes.get("ome", attributes)
    channels = ome["omero"]["channels"]
    if len(channels) != len(windows):
        raise OutputError(f"{root} has {len(channels)} channels, not {len(windows)}.")
    for channel, window in zip(channels, windows, strict=True):
        channel["window"] = window_json(window)
    _update_attributes(root, attributes)


def set_provenance(path: PlaceLike, provenance: Mapping[str, Any]) -> None:
    """Note where the image comes from in the root group's attributes, under "bigdecon".

    Parameters
    ----------
    path : folder or URL of the image
    provenance : plain JSON values, such as `Provenance.as_json()`

    Raises
    ------
    OutputError
        if there is no image
    WriteError
        if the file system refuses
    """
    root = output_place(path)
    attributes = _root_attributes(root)
    text = json.dumps(dict(provenance), allow_nan=False)
    attributes[BOOKKEEPING] = {"format": FORMAT, "provenance": json.loads(text)}
    _update_attributes(root, attributes)


def _root_attributes(root: Place) -> dict[str, Any]:
    try:
        return zarr.open_group(open_store(str(root)), mode="r", use_consolidated=False).attrs.asdict()
    except (OSError, KeyError, ValueError) as error:
        raise OutputError(f"{root} holds no image whose metadata could be changed ({error}).") from error


def _update_attributes(root: Place, attributes: dict[str, Any]) -> None:
    """Replace the root group's attributes in one step, on the disk before anything else follows."""
    try:
        if places.exists(root / "zarr.json"):
            target = root / "zarr.json"
            content = {**parse_json(places.read(target)), "attributes": attributes}
        else:
            target, content = root / ".zattrs", attributes
        places.write(target, json.dumps(content, indent=2).encode())
    except OSError as error:
        raise write_error(root, error) from error


def write_ome_zarr(
    volume: Volume,
    path: PlaceLike,
    *,
    dtype: str = "float32",
    ome_version: str = "0.5",
    overwrite: bool = False,
) -> WriteReport:
    """Write a volume with its pyramid and display windows, one write unit at a time.

    Lazy volumes are computed as they are written; memory stays at a few write units.

    Parameters
    ----------
    volume : what to write
    path : local folder or s3:// address, usually named *.ome.zarr
    dtype : type of the values; integers are rounded and clipped
    ome_version : "0.5" (Zarr 3, sharded) or "0.4" (Zarr 2, for older viewers)
    overwrite : replace an earlier output of bigdecon; other files are never removed

    Raises
    ------
    OutputError
        if the place is taken, lies inside the input or cannot be written
    WriteError
        if writing fails half-way
    """
    layout = plan_output(volume, dtype=dtype, ome_version=ome_version)
    target = output_place(path)
    check_output_path(target, overwrite=overwrite, input_location=volume.location)
    remove_output(target)
    create_ome_zarr(target, volume, layout, name=target.name.removesuffix(".zarr").removesuffix(".ome"))

    def fill(timepoint: int, channel: int, box: Box) -> int:
        data = convert(volume.stack(timepoint=timepoint, channel=channel)[box], layout.dtype)
        write_box(target, layout, 0, timepoint, channel, box, data.array)
        return data.n_clipped

    jobs = itertools.product(
        range(layout.n_timepoints), range(layout.n_channels), write_boxes(layout.levels[0])
    )
    pool = ThreadPoolExecutor(WRITERS)
    try:
        n_clipped = sum(pool.map(fill, *zip(*jobs, strict=True)))
    finally:
        pool.shutdown(cancel_futures=True)
    build_pyramid(target, layout)
    set_display_windows(target, measure_windows(target, layout))
    return WriteReport(target, layout, n_clipped)
