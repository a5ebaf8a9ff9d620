"""Malformed and hostile images: each ends in one sentence, at once, before memory is taken."""

import asyncio
import bz2
import gzip
import inspect
import json
import lzma
import os
import pathlib
import re
import resource
import struct
import subprocess
import sys
import tempfile
import zlib
from abc import ABC

import numcodecs
import numpy as np
import pytest
import tifffile
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype

from bigdecon.errors import ReadError, VolumeError
from bigdecon.io import zarr_array
from bigdecon.io.decompression import decompress
from bigdecon.io.guarded_store import GuardedStore
from bigdecon.io.image_file import decoded_chunk_bytes
from bigdecon.io.reading import inspect_volume, open_volume
from bigdecon.io.zarr_metadata import MAX_CHUNK_BYTES

from .stores import (
    BYTES,
    SHAPE,
    VOXELS,
    array_v2,
    array_v3,
    grid,
    group,
    multiscale,
    sharding,
    store_v2,
    store_v3,
    write,
)

ALL = tuple(slice(0, n) for n in SHAPE)


def refused(path, message):
    """Check that an image is refused in one sentence that says what and where; gives the sentence."""
    with pytest.raises(VolumeError, match=message) as caught:
        inspect_volume(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert len(text) < 1000
    return text


def test_the_stores_of_this_file_are_sound_when_nothing_is_wrong(tmp_path):
    for made in (store_v3(tmp_path / "v3"), store_v2(tmp_path / "v2")):
        volume = open_volume(made)
        assert np.array_equal(volume.stack()[ALL], VOXELS)
        assert volume.voxel_size_um == (1, 0.5, 0.5)


PATHS = [
    "../other", "0/../../other", "/etc", "..", ".", "", "a//b", "./0", "0/", "s3://bucket/x", "file:///etc",
    "..\\other", "0\\1", "C:\\x", "%2e%2e/other", "0/%2E%2E/%2e%2e/other", "0?x=1", "0#x", "0\0", "0\n1",
    None, 0, ["0"], {"a": 1}, "x" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=lambda path: repr(path)[:20])
def test_a_level_cannot_lie_outside_its_store(tmp_path, path):
    store_v3(tmp_path / "other")
    refused(store_v3(tmp_path / "a", ome=multiscale(path=path)), "path of a level is")


def test_a_level_may_lie_deeper(tmp_path):
    store_v3(tmp_path / "a", ome=multiscale(path="s0/full"))
    (tmp_path / "a/s0").mkdir()
    (tmp_path / "a/0").rename(tmp_path / "a/s0/full")
    assert np.array_equal(open_volume(tmp_path / "a").stack()[ALL], VOXELS)


CRC = {"name": "crc32c"}
SOUND_V3 = {
    "NaN where nothing is": {"data_type": "float32", "fill_value": "NaN"},
    "bits where nothing is": {"data_type": "float32", "fill_value": "0x7fc00000"},
    "packed": {"codecs": [BYTES, {"name": "gzip", "configuration": {"level": 1}}]},
    "transposed": {"codecs": [{"name": "transpose", "configuration": {"order": [2, 0, 1]}}, BYTES]},
    "chunk larger than the image": {"chunk_grid": grid(64, 64, 64)},
    "sharded with a checksum": {"codecs": [sharding(2, 3, 4, codecs=[BYTES, CRC], index=[BYTES, CRC])]},
    "further entries": {"attributes": {"a": [1]}, "dimension_names": ["z", None, "x"]},
}  # fmt: skip
SOUND_V2 = {
    "no filters": {"filters": []},
    "NaN where nothing is": {"dtype": "<f4", "fill_value": "NaN"},
    "a bare NaN": {"dtype": "<f4", "fill_value": float("nan")},
    "null where nothing is": {"fill_value": None},
    "big-endian, Fortran": {"dtype": ">i4", "order": "F"},
    "without separator": {"dimension_separator": ...},
    "blosc": {"compressor": {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}},
    "checksum": {"filters": [{"id": "crc32"}]},
}


@pytest.mark.parametrize("case", [*SOUND_V3, *SOUND_V2])
def test_what_other_programs_write_is_no_fault(tmp_path, case):
    if case in SOUND_V3:
        made = store_v3(tmp_path / "a", array=array_v3(**SOUND_V3[case]))
        (made / "0/c/0/0/0").unlink()
    else:
        made = store_v2(tmp_path / "a", array=array_v2(**SOUND_V2[case]))
        (made / "0/0/0/0").unlink()
    values = open_volume(made).stack()[ALL]
    assert not np.nan_to_num(values).any()


OME = {
    "not a list": ({"multiscales": {"a": 1}}, "malformed"),
    "text": ({"multiscales": "abc"}, "malformed"),
    "number": ({"multiscales": 7}, "malformed"),
    "list of numbers": ({"multiscales": [7]}, "malformed"),
    "axes are numbers": (multiscale(axes=[0, 1, 2]), "axes"),
    "axes are one number": (multiscale(axes=3), "axes"),
    "many axes": (multiscale(axes=["x"] * 10**5), "axes"),
    "axes twice": (multiscale(axes=["z", "x", "x"]), "axes"),
    "names are lists": (multiscale(axes=[{"name": ["z"]}, "y", "x"]), "axes"),
    "scale zero": (multiscale(scale=(1, 0, 1)), "above 0"),
    "scale negative": (multiscale(scale=(-1, 1, 1)), "above 0"),
    "scale NaN": (multiscale(scale=(1, float("nan"), 1)), "transformation"),
    "scale infinite": (multiscale(scale=(1, float("inf"), 1)), "transformation"),
    "scale 1e300": (multiscale(scale=(1e300, 1, 1)), "at most 1e\\+06"),
    "scale 1e-300": (multiscale(scale=(1e-300, 1, 1)), "at least 1e-06"),
    "scale 10^400": (multiscale(scale=(10**400, 1, 1)), "transformation"),
    "scale is a text": (multiscale(scale=("1", "1", "1")), "transformation"),
    "scale is true": (multiscale(scale=(True, True, True)), "transformation"),
    "scale is a dict": (multiscale(scale={"z": 1}), "transformation"),
    "scale too short": (multiscale(scale=(1, 1)), "transformation"),
    "scales overflow": (
        multiscale(coordinateTransformations=[{"type": "scale", "scale": [1e200] * 3}] * 3),
        "voxels of inf|voxels of",
    ),
    "translation infinite": (
        multiscale(coordinateTransformations=[{"type": "translation", "translation": [1, float("inf"), 1]}]),
        "transformation",
    ),
    "many transformations": (multiscale(coordinateTransformations=[{"type": "identity"}] * 10**5), "100001"),
    "unknown transformation": (multiscale(coordinateTransformations=[{"type": "affine"}]), "affine"),
    "transformation is a text": (multiscale(coordinateTransformations=["scale"]), "malformed"),
    "transformations are a number": (multiscale(coordinateTransformations=5), "malformed"),
    "no levels": (multiscale(datasets=[]), "no resolution levels"),
    "a million levels": (multiscale(datasets=[{"path": "0"}] * 10**6), "1000000 resolution levels"),
    "levels are a dict": (multiscale(datasets={"path": "0"}), "no resolution levels"),
    "levels are numbers": (multiscale(datasets=[5]), "malformed"),
}


@pytest.mark.parametrize("case", OME)
def test_malformed_ome_metadata(tmp_path, case):
    ome, message = OME[case]
    refused(store_v3(tmp_path / "a", ome=ome), message)


ARRAY_V3 = {
    "shape of 10^18": ({"shape": [10**18, 6, 8]}, "PiB"),
    "shape of 10^30": ({"shape": [10**30, 6, 8]}, "PiB"),
    "shape negative": ({"shape": [-4, 6, 8]}, "whole numbers from 0"),
    "shape zero": ({"shape": [0, 6, 8]}, "empty"),
    "shape of floats": ({"shape": [4.0, 6, 8]}, "whole numbers"),
    "shape of truth values": ({"shape": [True, 6, 8]}, "whole numbers"),
    "shape of texts": ({"shape": ["4", 6, 8]}, "whole numbers"),
    "shape missing": ({"shape": ...}, "shape is None"),
    "40 dimensions": ({"shape": [2] * 40, "chunk_grid": grid(*[2] * 40)}, "40 dimensions"),
    "6 dimensions": ({"shape": [2] * 6, "chunk_grid": grid(*[2] * 6)}, "6 dimensions"),
    "other axes than its group": ({"shape": [6, 8], "chunk_grid": grid(6, 8)}, "2 dimensions"),
    "chunk bomb": ({"chunk_grid": grid(10**4, 10**4, 10**4)}, "at most 16 GiB"),
    "chunk of 0": ({"chunk_grid": grid(0, 6, 8)}, "whole numbers from 1"),
    "chunk negative": ({"chunk_grid": grid(-1, 6, 8)}, "whole numbers from 1"),
    "chunk of other rank": ({"chunk_grid": grid(6, 8)}, "2 numbers for 3"),
    "chunk grid unknown": ({"chunk_grid": {"name": "rectilinear", "configuration": {}}}, "chunk grid"),
    "chunk grid is a list": ({"chunk_grid": [1, 2]}, "does not name"),
    "shards not whole": ({"codecs": [sharding(3, 6, 8)]}, "whole chunks"),
    "shards with too many chunks": (
        {"chunk_grid": grid(2**10, 2**10, 2**10), "codecs": [sharding(1, 1, 1)]},
        "1073741824 chunks",
    ),
    "shards in shards": ({"codecs": [sharding(4, 6, 8, codecs=[sharding(2, 2, 2)])]}, "sharding_indexed"),
    "shards packed again": ({"codecs": [sharding(4, 6, 8), "gzip"]}, "packed once more"),
    "index packed": ({"codecs": [sharding(4, 6, 8, index=["bytes", "zstd"])]}, "'zstd'"),
    "codec unknown": ({"codecs": ["bytes", {"name": "magic"}]}, "'magic'"),
    "codec pickle": ({"codecs": ["bytes", {"name": "numcodecs.pickle"}]}, "numcodecs.pickle"),
    "codec vlen-bytes": ({"codecs": ["vlen-bytes"]}, "vlen-bytes"),
    "codecs missing": ({"codecs": ...}, "codecs are None"),
    "codecs empty": ({"codecs": []}, "codecs are"),
    "codecs without bytes": ({"codecs": ["zstd"]}, "exactly one"),
    "codecs without end": ({"codecs": ["bytes"] * 1000}, "short list"),
    "codec is a number": ({"codecs": [5]}, "does not name"),
    "codec setting wrong": (
        {"codecs": ["bytes", {"name": "zstd", "configuration": {"level": "x"}}]},
        "cannot be opened",
    ),
    "transpose to nowhere": (
        {"codecs": [{"name": "transpose", "configuration": {"order": [0, 1, 7]}}, "bytes"]},
        "order",
    ),
    "bool": ({"data_type": "bool"}, "type bool"),
    "complex": ({"data_type": "complex64"}, "type .*complex64"),
    "text": ({"data_type": "string"}, "type .*string"),
    "raw bytes": ({"data_type": "r16"}, "type .*r16"),
    "structure": ({"data_type": {"name": "structured"}}, "type"),
    "date": ({"data_type": {"name": "numpy.datetime64", "configuration": {"unit": "s"}}}, "type"),
    "type missing": ({"data_type": ...}, "type None"),
    "fill value is a text": ({"fill_value": "zero"}, "cannot be opened"),
    "fill value missing": ({"fill_value": ...}, "cannot be opened"),
    "fill value is NaN of integers": ({"fill_value": "NaN"}, "cannot be opened"),
    "fill value too large": ({"fill_value": 10**9}, "cannot be opened"),
    "version 4": ({"zarr_format": 4}, "zarr_format is 4"),
    "a group": ({"node_type": "group"}, "does not describe an array"),
    "transformers": ({"storage_transformers": [{"name": "x"}]}, "cannot be opened"),
    "key encoding that leads out": (
        {"chunk_key_encoding": {"name": "default", "configuration": {"separator": "/../"}}},
        "cannot be opened",
    ),
    "key encoding unknown": ({"chunk_key_encoding": {"name": "x"}}, "cannot be opened"),
}


@pytest.mark.parametrize("case", ARRAY_V3)
def test_malformed_array_of_zarr_3(tmp_path, case):
    changes, message = ARRAY_V3[case]
    refused(store_v3(tmp_path / "a", array=array_v3(**changes)), message)


ARRAY_V2 = {
    "shape of 10^18": ({"shape": [10**18, 6, 8]}, "PiB"),
    "chunk bomb": ({"chunks": [10**4] * 3}, "at most 16 GiB"),
    "objects": ({"dtype": "|O"}, "type object"),
    "objects by pickle": ({"dtype": "|O", "filters": [{"id": "pickle"}]}, "type object"),
    "numbers by pickle": ({"filters": [{"id": "pickle", "protocol": 5}]}, "'pickle'"),
    "compressor pickle": ({"compressor": {"id": "pickle"}}, "'pickle'"),
    "json2": ({"filters": [{"id": "json2"}]}, "'json2'"),
    "vlen-utf8": ({"filters": [{"id": "vlen-utf8"}]}, "'vlen-utf8'"),
    "vlen-array": ({"filters": [{"id": "vlen-array", "dtype": "<u2"}]}, "'vlen-array'"),
    "msgpack2": ({"filters": [{"id": "msgpack2"}]}, "'msgpack2'"),
    "categorize": ({"filters": [{"id": "categorize", "labels": []}]}, "'categorize'"),
    "codec unknown": ({"compressor": {"id": "magic"}}, "'magic'"),
    "codec is a text": ({"compressor": "zlib"}, "'zlib'"),
    "codec without name": ({"compressor": {}}, "None"),
    "filters are a dict": ({"filters": {"id": "delta"}}, "instead of a list"),
    "filter on objects": ({"filters": [{"id": "delta", "dtype": "|O"}]}, "type object"),
    "filter on texts": ({"filters": [{"id": "astype", "encode_dtype": "<U9"}]}, "type <U9"),
    "lzma with filters": ({"compressor": {"id": "lzma", "format": 3, "filters": [{"id": 33}]}}, "lzma"),
    "structure": ({"dtype": [["a", "<u2"]]}, "type"),
    "complex": ({"dtype": "<c8"}, "type complex64"),
    "date": ({"dtype": "<M8[s]"}, "type .*M8"),
    "bool": ({"dtype": "|b1"}, "type bool"),
    "bytes": ({"dtype": "|V9"}, "type"),
    "long double": ({"dtype": "<f16"}, "cannot be opened|type"),
    "no type": ({"dtype": ...}, "type None"),
    "order": ({"order": "K"}, "order"),
    "separator": ({"dimension_separator": "../"}, "separator"),
    "fill value is a text": ({"fill_value": "zero"}, "cannot be opened"),
    "version": ({"zarr_format": 3}, "zarr_format is 3"),
}


@pytest.mark.parametrize("case", ARRAY_V2)
def test_malformed_array_of_zarr_2(tmp_path, case):
    changes, message = ARRAY_V2[case]
    refused(store_v2(tmp_path / "a", array=array_v2(**changes)), message)


DOCUMENTS = {
    "nested 100000 deep": ("[" * 10**5, "nested too deeply"),
    "nested objects": ('{"a":' * 10**5, "nested too deeply"),
    "an entry twice": ('{"node_type": "group", "zarr_format": 3, "node_type": "array"}', "is there twice"),
    "cut short": ('{"zarr_format": 3, "node_', "zarr.json cannot be read"),
    "empty": ("", "zarr.json cannot be read"),
    "zeros": (b"\0" * 4096, "zarr.json cannot be read"),
    "not UTF-8": (b'{"a": "\xff\xfe"}', "zarr.json cannot be read"),
    "a list": ("[1]", "holds a list"),
    "a number": ("7", "holds a int"),
    "a number of 10000 digits": ('{"zarr_format": ' + "9" * 10**4 + "}", "cannot be read"),
    "attributes are a list": (json.dumps(group([1])), "attributes"),
    "attributes are a text": (json.dumps(group("ome")), "attributes"),
    "no node type": ('{"zarr_format": 3}', "node_type None"),
    "node type is a list": ('{"zarr_format": 3, "node_type": []}', "node_type"),
}  # fmt: skip


@pytest.mark.parametrize("case", DOCUMENTS)
def test_a_document_that_is_no_metadata(tmp_path, case):
    content, message = DOCUMENTS[case]
    store_v3(tmp_path / "a")
    write(tmp_path / "a/zarr.json", content)
    text = refused(tmp_path / "a", message)
    assert "a/zarr.json" in text
    if case.startswith(("attributes", "no node", "node type", "a list", "a number")):
        return
    write(tmp_path / "a/zarr.json", group({"ome": multiscale()}))
    write(tmp_path / "a/0/zarr.json", content)
    refused(tmp_path / "a", "0 cannot be opened")


def test_a_document_of_100_megabytes_is_not_read(tmp_path):
    store_v3(tmp_path / "a")
    with open(tmp_path / "a/zarr.json", "r+b") as file:
        file.truncate(10**8)
    refused(tmp_path / "a", "100000000 bytes, and at most 33554432")


def test_a_byte_order_mark_does_no_harm(tmp_path):
    store_v3(tmp_path / "a")
    write(tmp_path / "a/zarr.json", b"\xef\xbb\xbf" + (tmp_path / "a/zarr.json").read_bytes())
    assert open_volume(tmp_path / "a").shape == SHAPE


@pytest.mark.parametrize(
    "omero", [5, [1], {"channels": 7}, {"channels": {"a": 1}}, {"channels": [3, None, []]}]
)
def test_omero_of_other_types_leaves_the_image_readable(tmp_path, omero):
    made = store_v3(tmp_path / "a", ome=multiscale() | {"omero": omero})
    assert len(inspect_volume(made).channels) == 1


def test_what_is_shown_has_no_control_characters(tmp_path):
    nasty = "\x1b[2J\x07evil\n" + "x" * 10**5
    ome = multiscale(name=nasty) | {
        "omero": {"channels": [{"label": nasty, "color": nasty}]},
        "version": nasty,
    }
    info = inspect_volume(store_v3(tmp_path / "a", ome=ome))
    shown = json.dumps([info.channels[0].name, info.channels[0].color, info.format])
    assert not re.search(r"\\u00|\\n", shown)
    assert len(shown) < 1000


def test_labels_are_called_so(tmp_path):
    info = inspect_volume(store_v3(tmp_path / "a", ome=multiscale() | {"image-label": {}}))
    assert any("labels" in note for note in info.notes)


def test_an_odd_pyramid_is_told_of_and_its_levels_stay_readable(tmp_path):
    transform = [{"type": "scale", "scale": [1, 1, 1]}]
    levels = [{"path": p, "coordinateTransformations": transform} for p in "01"]
    store_v3(tmp_path / "a", ome=multiscale(datasets=levels))
    larger = array_v3(shape=[9, 9, 9], chunk_grid=grid(9, 9, 9), data_type="float32")
    write(tmp_path / "a/1/zarr.json", larger)
    notes = " ".join(inspect_volume(tmp_path / "a").notes)
    assert "Level 1 is larger than level 0" in notes
    assert "float32" in notes
    assert np.array_equal(open_volume(tmp_path / "a").stack()[ALL], VOXELS)


@pytest.mark.parametrize(("shape", "axes"), [((10**9, 1, 1, 1), "czyx"), ((10**6, 1000, 1, 1, 1), "tczyx")])
def test_more_channels_than_anything_could_list(tmp_path, shape, axes):
    ome = multiscale(axes=list(axes), scale=(1,) * len(axes))
    array = array_v3(shape=list(shape), chunk_grid=grid(*[1] * len(axes)))
    refused(store_v3(tmp_path / "a", ome=ome, array=array), "channels and")


# What lies where a file should be


def put_pipe(path):
    path.unlink()
    os.mkfifo(path)


def put_folder(path):
    path.unlink()
    path.mkdir()


def put_loop(path):
    path.unlink()
    path.symlink_to(path)


def put_device(path):
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("put", [put_pipe, put_folder, put_loop, put_device])
@pytest.mark.parametrize("name", ["zarr.json", "0/zarr.json", "0/c/0/0/0"])
@pytest.mark.timeout(30)
def test_something_else_in_place_of_a_file(tmp_path, name, put):
    made = store_v3(tmp_path / "a")
    put(made / name)
    if name.startswith("0/c"):
        with pytest.raises(ReadError, match=r"chunk \(0, 0, 0\)") as caught:
            open_volume(made).stack()[ALL]
        assert "\n" not in str(caught.value)
    else:
        refused(made, "cannot be (read|opened)")


@pytest.mark.timeout(30)
def test_a_pipe_in_place_of_an_image(tmp_path):
    os.mkfifo(tmp_path / "a.tif")
    refused(tmp_path / "a.tif", "no regular file")


def test_groups_that_link_to_themselves(tmp_path):
    made = store_v3(tmp_path / "a", ome=multiscale(path="0/0/0"))
    (made / "0").rename(made / "array")
    (made / "0").symlink_to(".")
    refused(made, "does not describe an array")


def test_the_store_itself_and_links_inside_it_are_followed(tmp_path):
    made = store_v3(tmp_path / "real" / "a")
    (made / "0").rename(made / "elsewhere")
    (made / "0").symlink_to("elsewhere")
    (tmp_path / "link").symlink_to(made)
    assert np.array_equal(open_volume(tmp_path / "link").stack()[ALL], VOXELS)


@pytest.mark.parametrize("name", ["zarr.json", "0", "0/zarr.json", "0/c", "0/c/0/0/0"])
def test_links_out_of_the_store_are_followed_only_if_allowed(tmp_path, name):
    made = store_v3(tmp_path / "a")
    (tmp_path / "disk").mkdir()
    (made / name).rename(tmp_path / "disk/part")
    (made / name).symlink_to(tmp_path / "disk/part")
    with pytest.raises(
        (VolumeError, ReadError), match=r"leads out of the store by a link to .*disk/part"
    ) as caught:
        open_volume(made).stack()[ALL]
    assert "--follow-links" in str(caught.value)
    allowed = open_volume(made, follow_links=True)
    assert np.array_equal(allowed.stack()[ALL], VOXELS)
    assert inspect_volume(made, follow_links=True).levels[0].shape == SHAPE


def ways_to_read(store):
    """Give every function that reads a key and that zarr, whichever version, might call on a store."""
    others = {"__getattribute__", "__getstate__", "with_read_only", "getsize_prefix"}
    names = {name for kind in type(store).__mro__ for name in vars(kind) if "get" in name or "read" in name}
    return {name: getattr(store, name) for name in names - others if callable(getattr(store, name))}


def test_no_way_to_read_leads_past_the_guards(tmp_path):
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/link").symlink_to(tmp_path / "secret")
    (tmp_path / "a/large").write_bytes(bytes(100))
    store = GuardedStore(str(tmp_path / "a"), limit=10)
    prototype = default_buffer_prototype()

    async def consume(found):
        if hasattr(found, "__aiter__"):
            return [one async for one in found]
        return await found if inspect.isawaitable(found) else found

    ways = ways_to_read(store)
    assert {"get", "get_partial_values", "getsize", "read_into"} <= ways.keys()
    for name, read in ways.items():
        options = {"prototype": prototype} if "prototype" in inspect.signature(read).parameters else {}
        for key in ("link", "large"):
            if name == "_get_many":
                arguments, options = ([(key, prototype, None)],), {}
            elif name == "read_into":
                arguments = (np.empty, key)
            elif name == "get_partial_values":
                arguments, options = (prototype, [(key, None)]), {}
            else:
                arguments = (key,)
            with pytest.raises(ValueError, match=r"leads out of the store|at most 10 are expected"):
                asyncio.run(consume(read(*arguments, **options)))
    for kind in type(store).__mro__:
        assert kind.__module__.startswith("bigdecon.") or kind in (Store, ABC, object), kind


def test_a_collection_whose_image_is_a_link_out(tmp_path):
    store_v3(tmp_path / "outside")
    write(tmp_path / "a/zarr.json", group({"ome": {"bioformats2raw.layout": 3}}))
    (tmp_path / "a/0").symlink_to(tmp_path / "outside")
    refused(tmp_path / "a", "leads out of the store")
    assert open_volume(tmp_path / "a", follow_links=True).shape == SHAPE


AS_NOBODY = """
import os, sys
from bigdecon.errors import VolumeError
from bigdecon.io.reading import inspect_volume
os.setgid(65534)
os.setuid(65534)
try:
    inspect_volume(sys.argv[1])
except VolumeError as error:
    print(error)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
@pytest.mark.parametrize("name", ["zarr.json", "0/zarr.json", "0"])
def test_files_that_may_not_be_read(name):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        made = store_v3(pathlib.Path(folder) / "a")
        (made / name).chmod(0)
        done = subprocess.run([sys.executable, "-c", AS_NOBODY, made], capture_output=True, text=True)
    assert done.stderr == ""
    assert re.fullmatch(r".*Permission denied.*\.\n", done.stdout)


# Chunks


CHUNK_BYTES = VOXELS.nbytes
CODECS = {
    "blosc": numcodecs.Blosc().encode,
    "zstd": numcodecs.Zstd().encode,
    "lz4": numcodecs.LZ4().encode,
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "bz2": bz2.compress,
    "lzma": lzma.compress,
}


def zstd_without_size(data):
    """Make a frame of raw blocks that does not tell its size."""
    blocks = [data[i : i + 2**16] for i in range(0, len(data), 2**16)]
    body = b"".join(
        struct.pack("<I", len(b) << 3 | (i == len(blocks) - 1))[:3] + b for i, b in enumerate(blocks)
    )
    return b"\x28\xb5\x2f\xfd\x00\x38" + body


def zstd_bomb(megabytes):
    """Make a frame of repeated bytes that does not tell its size: 32 bytes a megabyte."""
    block = [struct.pack("<I", 2**17 << 3 | 2)[:3] + b"\0"] * (8 * megabytes)
    return b"\x28\xb5\x2f\xfd\x00\x38" + b"".join(block[:-1]) + struct.pack("<I", 2**17 << 3 | 3)[:3] + b"\0"


@pytest.mark.parametrize("codec", CODECS)
def test_unpacking_gives_the_data_within_their_size(codec):
    data = np.random.default_rng(1).integers(0, 9, 10_000).astype("u1").tobytes()
    packed = np.frombuffer(CODECS[codec](data), np.uint8)
    assert bytes(decompress(codec, packed, len(data))) == data
    for size in (10, len(data) // 2, len(data) - 1025):
        with pytest.raises(ValueError, match=r"would unpack"):
            decompress(codec, packed, size)
    for cut in (0, 1, 3, 10, len(packed) // 2, len(packed) - 1):
        with pytest.raises(ValueError, match=r"cannot unpack|cut short|are no|is empty"):
            assert len(decompress(codec, packed[:cut], len(data))) == len(data)


def test_zstandard_of_several_frames_and_of_unknown_size():
    data = VOXELS.tobytes() * 2000
    half = len(data) // 2
    encode = numcodecs.Zstd().encode
    frames = encode(data[:half]) + encode(data[half:])
    for packed in (frames, zstd_without_size(data)):
        assert bytes(decompress("zstd", np.frombuffer(packed, np.uint8), len(data))) == data
        with pytest.raises(ValueError, match="would unpack"):
            decompress("zstd", np.frombuffer(packed, np.uint8), half // 2)


def test_gzip_of_several_members():
    packed = gzip.compress(b"ab") + gzip.compress(b"cd")
    assert decompress("gzip", np.frombuffer(packed, np.uint8), 4) == b"abcd"


V2_CODECS = {name: {"id": name} for name in CODECS} | {"lzma": {"id": "lzma", "format": 1}}


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_of_zarr_2_reads_as_zarr_does(tmp_path, codec):
    made = store_v2(
        tmp_path / "a", array=array_v2(compressor=V2_CODECS[codec]), chunk=CODECS[codec](VOXELS.tobytes())
    )
    assert np.array_equal(open_volume(made).stack()[ALL], VOXELS)


@pytest.mark.parametrize("delta", ["<u2", "<i8"])
def test_filters_read_as_zarr_does(tmp_path, delta):
    filters = [{"id": "delta", "dtype": "<u2", "astype": delta}, {"id": "shuffle", "elementsize": 2}]
    encoded = VOXELS
    for item in filters:
        encoded = numcodecs.get_codec(dict(item)).encode(encoded)
    made = store_v2(
        tmp_path / "a",
        array=array_v2(filters=filters, compressor={"id": "zlib"}),
        chunk=zlib.compress(np.ascontiguousarray(encoded).tobytes()),
    )
    assert np.array_equal(open_volume(made).stack()[ALL], VOXELS)


@pytest.mark.parametrize("codec", ["blosc", "zstd", "gzip"])
@pytest.mark.parametrize("change", [lambda d: d[:-2], lambda d: d + d, lambda d: d[:2] + d, lambda d: b""])
def test_a_chunk_of_another_length_is_an_error(tmp_path, codec, change):
    array = array_v3(codecs=[BYTES, {"name": codec, "configuration": BLOSC if codec == "blosc" else {}}])
    made = store_v3(tmp_path / "a", array=array, chunk=CODECS[codec](change(VOXELS.tobytes())))
    with pytest.raises(ReadError, match=r"chunk \(0, 0, 0\)"):
        open_volume(made).stack()[ALL]


BLOSC = {"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "typesize": 2, "blocksize": 0}


def test_a_stored_file_larger_than_a_chunk_can_be_is_not_read(tmp_path):
    made = store_v3(tmp_path / "a")
    os.truncate(made / "0/c/0/0/0", 2**33)
    with pytest.raises(ReadError, match="8589934592 bytes, and at most"):
        open_volume(made).stack()[ALL]


@pytest.mark.parametrize("entry", [(2**63, 10), (0, 2**62), (10**6, 100), (2**64 - 2, 10)])
def test_a_shard_whose_index_lies(tmp_path, entry):
    index = struct.pack("<QQ", *entry)
    array = array_v3(codecs=[sharding(*SHAPE)])
    made = store_v3(tmp_path / "a", array=array, chunk=VOXELS.tobytes() + index)
    with pytest.raises(ReadError, match=r"chunk \(0, 0, 0\)"):
        open_volume(made).stack()[slice(0, 1), slice(0, 6), slice(0, 8)]


def test_chunks_of_one_voxel_are_not_read_by_the_million(tmp_path):
    array = array_v3(shape=[1000, 1000, 1000], chunk_grid=grid(1, 1, 1))
    stack = open_volume(store_v3(tmp_path / "a", array=array)).stack()
    assert not stack[slice(0, 1), slice(1, 5), slice(0, 5)].any()
    with pytest.raises(ReadError, match="larger chunks"):
        stack[slice(0, 200), slice(0, 200), slice(0, 200)]


def test_the_memory_of_a_chunk_is_known_to_a_plan(tmp_path):
    array = array_v3(shape=[10**4] * 3, chunk_grid=grid(1000, 1000, 1000), codecs=[sharding(500, 100, 100)])
    volume = open_volume(store_v3(tmp_path / "a", array=array))
    assert decoded_chunk_bytes(volume.source) == 500 * 100 * 100 * 2
    small = volume.crop((slice(0, 3), slice(0, 3), slice(0, 3)))
    assert decoded_chunk_bytes(small.source) == decoded_chunk_bytes(volume.source) < MAX_CHUNK_BYTES


def bombs(folder):
    """Give images that claim, or unpack to, far more than they should have; some only fail when read."""
    zeros = deflated_zeros(2**29 + 2**26)
    yield store_v3(folder / "chunk", array=array_v3(chunk_grid=grid(10**4, 10**4, 10**4)))
    for codec, bomb in {
        "zstd": zstd_bomb(4000),
        "blosc": struct.pack("<BBBBIII", 2, 1, 1, 2, 2**31 - 20, 2**18, 16 + CHUNK_BYTES) + VOXELS.tobytes(),
        "gzip": gzip.compress(b"")[:10] + zeros,
    }.items():
        settings = BLOSC if codec == "blosc" else {}
        array = array_v3(codecs=[BYTES, {"name": codec, "configuration": settings}])
        yield store_v3(folder / codec, array=array, chunk=bomb)
    claims = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**34) + b"\x01\0\0"
    yield store_v2(folder / "claim", array=array_v2(compressor={"id": "zstd"}), chunk=claims)
    lz4 = struct.pack("<i", 2**31 - 1) + numcodecs.LZ4().encode(VOXELS.tobytes())[4:]
    yield store_v2(folder / "lz4", array=array_v2(compressor={"id": "lz4"}), chunk=lz4)
    yield store_v2(
        folder / "bz2", array=array_v2(compressor={"id": "bz2"}), chunk=bz2.compress(bytes(2**23)) * 80
    )
    index = array_v3(shape=[2**12] * 3, chunk_grid=grid(*[2**12] * 3), codecs=[sharding(16, 16, 16)])
    yield store_v3(folder / "index", array=index, chunk=bytes(100))
    strip = {256: 1024, 257: 512, 278: 512}
    yield tiff_of(folder / "page.tif", strip, zlib.compress(b"")[:2] + zeros)
    yield tiff_of(folder / "rows.tif", {256: 2**31 - 1, 257: 2**31 - 1, 278: 2**31 - 1})


@pytest.mark.parametrize("make", [store_v2, store_v3])
def test_a_zarr_that_goes_past_the_bounds_is_not_used(tmp_path, monkeypatch, make):
    """As a version would that takes the codecs from the metadata, or from a pipeline of its own."""
    made = make(tmp_path / "a")
    assert np.array_equal(open_volume(made).stack()[ALL], VOXELS)
    zarr_array.check_bounds.cache_clear()
    monkeypatch.setattr(zarr_array, "_with_bounded_codecs", lambda array, found: array)
    refused(made, r"zarr .* unpacks chunks without the bounds .* install zarr 3.1")
    monkeypatch.undo()
    assert open_volume(made).shape == SHAPE


def deflated_zeros(size):
    """Compress so many zeros without holding them; no heading, no checksum."""
    packer = zlib.compressobj(9, wbits=-15)
    return b"".join([*(packer.compress(bytes(2**24)) for _ in range(size // 2**24)), packer.flush()])


def tiff_page(n_bytes, changes=(), compression=1):
    """Give the tags of a page of 6 x 8 values of 16 bits that lie at byte 8; no page follows."""
    tags = {256: 8, 257: 6, 258: 16, 259: compression, 262: 1, 273: 8, 277: 1, 278: 6, 279: n_bytes}
    tags |= dict(changes)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return struct.pack("<H", len(tags)) + entries + bytes(4)


def tiff_of(path, changes, data=bytes(96), compression=8):
    """Write a TIFF of one page with tags as given."""
    page = tiff_page(len(data), changes, compression)
    write(path, struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + page)
    return path


READ_ALL = """
import resource, sys
from bigdecon.errors import BigdeconError
from bigdecon.io.reading import open_volume
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
for path in sys.argv[1:]:
    before = peak()
    try:
        stack = open_volume(path).stack()
        stack[tuple(slice(0, min(n, 8)) for n in stack.shape)]
        print(path, "was read", file=sys.stderr)
    except BigdeconError as error:
        print(type(error).__name__, peak() - before, str(error).count(chr(10)), path, str(error)[:200])
"""
BOMB_MEGABYTES = 300


def limit_memory():
    resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))


def test_bombs_do_not_go_off(tmp_path):
    paths = [str(path) for path in bombs(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", READ_ALL, *paths],
        capture_output=True,
        text=True,
        preexec_fn=limit_memory,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split(maxsplit=4) for line in done.stdout.splitlines()]
    assert [line[3] for line in lines] == paths
    for kind, megabytes, newlines, path, text in lines:
        assert kind in ("VolumeError", "ReadError"), text
        assert int(megabytes) < BOMB_MEGABYTES, (path, megabytes, text)
        assert int(newlines) == 0


# TIFF


def ome(pixels="", inside="", before=""):
    return (
        f'{before}<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" {pixels}>{inside}</Pixels></Image></OME>'
    )


SIZES = 'SizeX="8" SizeY="6" SizeZ="4" SizeC="1" SizeT="1"'
LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True)
) + "]>"  # fmt: skip
OME_XML = {
    "billion laughs": (ome(SIZES, "<A>&j;</A>", LAUGHS), "entities"),
    "external entity": (ome(SIZES, "&x;", '<!DOCTYPE x [<!ENTITY x SYSTEM "file:///etc/os">]>'), "entities"),
    "planes without end": (ome(SIZES.replace('SizeZ="4"', 'SizeZ="999999999"')), "SizeZ"),
    "planes multiplied": (ome('SizeX="8" SizeY="6" SizeZ="9999" SizeC="9999" SizeT="999"'), "planes"),
    "size negative": (ome(SIZES.replace('SizeX="8"', 'SizeX="-8"')), "SizeX"),
    "size is a text": (ome(SIZES.replace('SizeX="8"', 'SizeX="x"')), "SizeX"),
    "count without end": (ome(SIZES, '<TiffData IFD="0" PlaneCount="999999999999"/>'), "PlaneCount"),
    "file elsewhere": (
        ome(SIZES, '<TiffData IFD="0"><UUID FileName="../../secret.tif">urn:uuid:1</UUID></TiffData>'),
        "secret.tif.*beside it",
    ),
    "file absolute": (
        ome(SIZES, '<TiffData IFD="0"><UUID FileName="/dev/zero">urn:uuid:1</UUID></TiffData>'),
        "beside it",
    ),
    "axis divided": (
        ome(SIZES, '<ModuloAlongZ Type="lifetime" Start="0" End="1e12" Step="1"/>'),
        "1e\\+12 parts",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OME_XML)
def test_hostile_ome_xml(tmp_path, case):
    xml, message = OME_XML[case]
    tifffile.imwrite(tmp_path / "a.tif", VOXELS, description=xml, metadata=None, photometric="minisblack")
    refused(tmp_path / "a.tif", message)


@pytest.mark.timeout(30)
def test_a_pipe_as_a_further_file(tmp_path):
    os.mkfifo(tmp_path / "b.tif")
    xml = ome(SIZES, '<TiffData IFD="0"><UUID FileName="b.tif">urn:uuid:1</UUID></TiffData>')
    tifffile.imwrite(tmp_path / "a.tif", VOXELS, description=xml, metadata=None, photometric="minisblack")
    refused(tmp_path / "a.tif", "no regular file")
    (tmp_path / "b.tif").unlink()
    write(tmp_path / "b.tif", pages(1, 0))
    refused(tmp_path / "a.tif", "in a circle")


TIFFS = {
    "cut short": ({}, None, 8, "cut short"),
    "no width": ({256: 0}, bytes(96), 1, "."),
    "strips outside the file": ({273: 10**6}, bytes(96), 1, "cut short"),
    "absurd size": ({256: 2**31 - 1, 257: 2**31 - 1, 278: 2**31 - 1}, bytes(96), 1, "claims the shape"),
    "absurd strips": ({256: 2**31 - 1, 257: 2**31 - 1, 278: 2**31 - 1}, bytes(96), 8, "GiB|claims the shape"),
    "absurd bits": ({258: 60000}, bytes(96), 1, "."),
    "compression unknown": ({259: 60000}, bytes(96), 1, "."),
}


@pytest.mark.parametrize("case", TIFFS)
def test_malformed_tiff(tmp_path, case):
    changes, data, compression, message = TIFFS[case]
    if data is None:
        tifffile.imwrite(tmp_path / "a.tif", VOXELS, photometric="minisblack")
        os.truncate(tmp_path / "a.tif", 256 + 200)
    else:
        tiff_of(tmp_path / "a.tif", changes, data, compression)
    refused(tmp_path / "a.tif", message)


def pages(*following):
    """Give a TIFF of so many pages, each of which names the next by its place; None ends the chain."""
    page = tiff_page(96)
    starts = [8 + 96 + i * len(page) for i in range(len(following))]
    links = [0 if n is None else starts[n] for n in following]
    return (
        struct.pack("<2sHI", b"II", 42, starts[0])
        + bytes(96)
        + b"".join(page[:-4] + struct.pack("<I", n) for n in links)
    )


@pytest.mark.parametrize("following", [(0,), (1, 0), (1, 2, 3, 1)])
@pytest.mark.timeout(60)
def test_a_chain_of_pages_that_runs_in_a_circle(tmp_path, following):
    write(tmp_path / "sound.tif", pages(*range(1, len(following)), None))
    assert open_volume(tmp_path / "sound.tif").shape[-2:] == (6, 8)
    write(tmp_path / "a.tif", pages(*following))
    refused(tmp_path / "a.tif", "in a circle")


def test_imagej_metadata_that_lie_about_frames(tmp_path):
    text = "ImageJ=1.53\nimages=1000000\nframes=1000000\nhyperstack=true\n"
    tifffile.imwrite(tmp_path / "a.tif", VOXELS[0], description=text, metadata=None, photometric="minisblack")
    assert np.array_equal(np.asarray(open_volume(tmp_path / "a.tif")), VOXELS[0])


# From the command line


def run_command(monkeypatch, capsys, *words):
    from bigdecon_cli.main import main

    monkeypatch.setattr(sys, "argv", ["bigdecon", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code, capsys.readouterr()


def test_info_ends_with_2_and_one_sentence(tmp_path, monkeypatch, capsys):
    made = [store_v3(tmp_path / f"a{i}", ome=ome) for i, (ome, _) in enumerate(OME.values())]
    made += [store_v3(tmp_path / f"b{i}", array=array_v3(**c)) for i, (c, _) in enumerate(ARRAY_V3.values())]
    for path in made:
        code, out = run_command(monkeypatch, capsys, "info", path)
        assert (code, out.out) == (2, "")
        assert out.err.startswith("Error: ")
        assert out.err.count("\n") == 1


@pytest.mark.parametrize("command", ["run", "info"])
def test_links_may_be_allowed_from_the_command_line(tmp_path, monkeypatch, capsys, command):
    made = store_v3(tmp_path / "a")
    (made / "0").rename(tmp_path / "part")
    (made / "0").symlink_to(tmp_path / "part")
    tifffile.imwrite(tmp_path / "psf.tif", np.pad(np.ones((1, 1, 1), "f4"), 1), photometric="minisblack")
    words = ["--psf-voxel-size", 1, 0.5, 0.5, "--method", "wiener", "--regularization", 0.1, "--dry-run"]
    more = ["--psf", tmp_path / "psf.tif", *words] if command == "run" else []
    code, out = run_command(monkeypatch, capsys, command, made, *more)
    assert (code, "leads out of the store" in out.err) == (2, True)
    code, out = run_command(monkeypatch, capsys, command, made, "--follow-links", *more)
    assert (code, out.err if code else 0) == (0, 0)


def test_psf_check_and_run_end_with_2_and_one_sentence(tmp_path, monkeypatch, capsys):
    made = store_v3(tmp_path / "a", ome=multiscale(path="../b"))
    tiff_of(tmp_path / "huge.tif", {256: 2**17, 257: 2**17, 278: 2**17})
    tifffile.imwrite(tmp_path / "psf.tif", np.pad(np.ones((1, 1, 1), "f4"), 1), photometric="minisblack")
    write(tmp_path / "model.json", "[" * 10**5)
    sound = store_v3(tmp_path / "sound")
    for words in (
        ["psf", "check", tmp_path / "huge.tif"],
        ["run", made, "--psf", tmp_path / "psf.tif"],
        ["run", sound, "--psf", tmp_path / "huge.tif"],
        ["run", sound, "--model", tmp_path / "model.json"],
    ):
        code, out = run_command(monkeypatch, capsys, *words)
        assert (code, out.out) == (2, "")
        assert out.err.startswith("Error: ")
        assert out.err.count("\n") == 1
