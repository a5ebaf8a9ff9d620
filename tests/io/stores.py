"""Zarr stores written by hand, so that anything about them can be wrong."""

import json

import numpy as np

SHAPE = (4, 6, 8)
BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
VOXELS = np.arange(np.prod(SHAPE), dtype="<u2").reshape(SHAPE)


def array_v3(**changes):
    """Give the metadata of an array of one chunk without compression; `...` takes an entry out."""
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(SHAPE),
        "data_type": "uint16",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(SHAPE)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [BYTES],
        "attributes": {},
    }
    return {key: value for key, value in (document | changes).items() if value is not ...}


def array_v2(**changes):
    """Give the same for Zarr 2."""
    document = {
        "zarr_format": 2,
        "shape": list(SHAPE),
        "chunks": list(SHAPE),
        "dtype": "<u2",
        "compressor": None,
        "fill_value": 0,
        "order": "C",
        "filters": None,
        "dimension_separator": "/",
    }
    return {key: value for key, value in (document | changes).items() if value is not ...}


def grid(*shape):
    """Give a chunk grid."""
    return {"name": "regular", "configuration": {"chunk_shape": list(shape)}}


def sharding(*chunk, codecs=(BYTES,), index=(BYTES,)):
    """Give a sharding codec."""
    settings = {"chunk_shape": list(chunk), "codecs": [*codecs], "index_codecs": [*index]}
    return {"name": "sharding_indexed", "configuration": settings}


def multiscale(*, axes=None, path="0", scale=(1, 0.5, 0.5), **changes):
    """Give OME metadata with one level."""
    units = {"type": "space", "unit": "micrometer"}
    listed = [{"name": a, **units} for a in "zyx"] if axes is None else axes
    transform = {"type": "scale", "scale": list(scale) if isinstance(scale, tuple) else scale}
    dataset = {"path": path, "coordinateTransformations": [transform]}
    return {"version": "0.5", "multiscales": [{"axes": listed, "datasets": [dataset], **changes}]}


def group(attributes):
    """Give the metadata of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def write(path, content):
    """Write text, bytes, or anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    path.write_bytes(text.encode() if isinstance(text, str) else text)


def store_v3(folder, *, ome=None, array=None, chunk=None):
    """Write an OME-Zarr 0.5 image of one level, whole unless something else is given."""
    write(folder / "zarr.json", group({"ome": multiscale() if ome is None else ome}))
    write(folder / "0/zarr.json", array_v3() if array is None else array)
    write(folder / "0/c/0/0/0", VOXELS.tobytes() if chunk is None else chunk)
    return folder


def store_v2(folder, *, array=None, chunk=None):
    """Write an OME-Zarr 0.4 image of one level."""
    write(folder / ".zgroup", {"zarr_format": 2})
    write(folder / ".zattrs", multiscale() | {"version": "0.4"})
    write(folder / "0/.zarray", array_v2() if array is None else array)
    write(folder / "0/0/0/0", VOXELS.tobytes() if chunk is None else chunk)
    return folder
