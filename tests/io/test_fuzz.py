"""Whatever metadata say, they are understood or refused in one sentence: nothing else happens."""

import copy
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bigdecon.errors import ReadError, VolumeError
from bigdecon.io.decompression import decompress
from bigdecon.io.ome_metadata import parse_multiscale
from bigdecon.io.reading import inspect_volume, open_volume
from bigdecon.io.zarr_metadata import MAX_ARRAY_BYTES, MAX_CHUNK_BYTES, decoded_bytes, describe_array
from bigdecon.untrusted import parse_json

from .stores import BYTES, array_v2, array_v3, grid, multiscale, sharding, store_v2, store_v3, write

BLOSC = {"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "typesize": 2, "blocksize": 0}
V3 = array_v3(
    codecs=[sharding(2, 2, 2, codecs=[BYTES, {"name": "blosc", "configuration": BLOSC}])],
    dimension_names=["z", "y", "x"],
)
V2 = array_v2(
    compressor={"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1},
    filters=[{"id": "delta", "dtype": "<u2"}],
)
OME = multiscale(
    coordinateTransformations=[{"type": "scale", "scale": [1, 1, 1]}], name="image", type="mean"
) | {"omero": {"channels": [{"label": "a", "color": "FF0000", "window": {"start": 0, "end": 9}}]}}

ODD_NUMBERS = st.sampled_from([0, -1, 1, 2**31, 2**53, 2**63, 2**64, 10**400, 0.5, 1e300, -0.0])
ODD_TEXTS = st.sampled_from(
    ["", "..", "../x", "/etc", "|O", "<u2", "<f4", "pickle", "zstd", "gzip", "bytes", "sharding_indexed",
     "transpose", "NaN", "Infinity", "scale", "translation", "identity", "zyx", "c",
     "t", "\0", "\ud800", "x" * 5000]
)  # fmt: skip
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), ODD_NUMBERS, ODD_TEXTS
)
VALUES = st.recursive(
    LEAVES,
    lambda inside: st.one_of(
        st.lists(inside, max_size=4),
        st.dictionaries(st.one_of(st.text(max_size=8), ODD_TEXTS), inside, max_size=4),
    ),
    max_leaves=8,
)


def places(value, at=()):
    """List the ways to everything inside a JSON value."""
    yield at
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield from places(item, (*at, key))


@st.composite
def changed(draw, document):
    """Draw a document with up to three things put in place of others, taken out, or doubled."""
    document = {"": copy.deepcopy(document)}
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from([place for place in places(document) if place]))
        holder = document
        for key in way:
            holder = holder[key]
        action = draw(st.sampled_from(["put", "put", "put", "take", "double", "exchange"]))
        if action == "put":
            holder[last] = draw(VALUES)
        elif action == "take" and last != "":
            del holder[last]
        elif action == "double" and isinstance(holder[last], list):
            holder[last] = holder[last] * draw(st.sampled_from([2, 50]))
        elif action == "exchange":
            other = draw(st.sampled_from([place for place in places(document) if place]))
            found = document
            for key in other:
                found = found[key]
            holder[last] = copy.deepcopy(found)
    return document[""]


def check_words(error):
    assert "\n" not in str(error)
    assert len(str(error)) < 2000


def check_sentence(error):
    check_words(error)
    assert str(error).endswith(".")


@given(st.one_of(changed(V3), changed(V2), VALUES))
@example(array_v3(shape=[], chunk_grid=grid()))
def test_metadata_of_arrays_are_bounded_or_refused(document):
    if not isinstance(document, dict):
        return
    for zarr_format in (2, 3):
        try:
            found = describe_array(document, zarr_format)
        except ValueError as error:
            check_words(error)
            continue
        assert len(found.shape) == len(found.chunks)
        assert decoded_bytes(found.shape, found.dtype) <= MAX_ARRAY_BYTES
        assert 0 < decoded_bytes(found.chunks, found.dtype) <= MAX_CHUNK_BYTES
        assert found.dtype.kind in "uif"
        assert not any("pickle" in name or "vlen" in name for name in found.codecs)


@given(changed(OME))
def test_ome_metadata_make_an_image_or_are_refused(document):
    document = document if isinstance(document, dict) and document.get("multiscales") else OME
    try:
        info = parse_multiscale(document, "here", 3)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return  # `open_zarr_image` makes a sentence of them, see below
    except VolumeError as error:
        check_sentence(error)
        return
    n_spatial = sum(axis in "zyx" for axis in info.axes)
    for level in info.levels:
        assert ".." not in level.path.split("/")
        assert level.voxel_size_um is None or all(1e-6 <= s <= 1e6 for s in level.voxel_size_um)
        assert np.isfinite(level.translation_um).all()
        assert len(level.translation_um) == n_spatial


IN_A_FOLDER = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60
)


@IN_A_FOLDER
@given(group=changed({"zarr_format": 3, "node_type": "group", "attributes": {"ome": OME}}), array=changed(V3))
def test_a_store_of_zarr_3_is_read_or_refused(tmp_path_factory, group, array):
    made = store_v3(tmp_path_factory.mktemp("fuzz"))
    write(made / "zarr.json", json.dumps(group))
    look(made)
    store_v3(made, array=json.dumps(array))
    look(made)


@IN_A_FOLDER
@given(array=changed(V2), attributes=changed(OME))
def test_a_store_of_zarr_2_is_read_or_refused(tmp_path_factory, array, attributes):
    made = store_v2(tmp_path_factory.mktemp("fuzz"), array=json.dumps(array))
    look(made)
    write(made / ".zattrs", json.dumps(attributes))
    look(made)


def look(path):
    """Describe an image, and read a little of it."""
    try:
        inspect_volume(path)
        source = open_volume(path).source
        assert max(source.shape) > 0
        data = source[tuple(slice(0, min(n, 2)) for n in source.shape)]
        assert data.dtype == source.dtype
    except (VolumeError, ReadError) as error:
        check_sentence(error)


@given(st.one_of(st.binary(max_size=60), VALUES.map(lambda v: json.dumps(v).encode("utf-8", "replace"))))
def test_json_is_parsed_or_refused(data):
    try:
        parse_json(data)
    except ValueError as error:
        check_words(error)


@pytest.mark.parametrize("codec", ["blosc", "zstd", "lz4", "gzip", "zlib", "bz2", "lzma"])
@given(data=st.data())
def test_damaged_chunks_unpack_within_their_size_or_are_refused(codec, data):
    packed = np.frombuffer(PACKED[codec], np.uint8).copy()
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, packed.size - 1))] = data.draw(st.integers(0, 255))
    packed = packed[: data.draw(st.integers(0, packed.size))]
    try:
        unpacked = decompress(codec, packed, 600)
    except (ValueError, MemoryError):
        return
    assert len(unpacked) <= 2 * (600 + 1024) + 2**17


def pack():
    import bz2
    import gzip
    import lzma
    import zlib

    import numcodecs

    data = bytes(range(200)) * 3
    ours = {"blosc": numcodecs.Blosc(), "zstd": numcodecs.Zstd(), "lz4": numcodecs.LZ4()}
    packed = {name: codec.encode(data) for name, codec in ours.items()}
    return packed | {m.__name__: m.compress(data) for m in (bz2, gzip, lzma, zlib)}


PACKED = pack()
