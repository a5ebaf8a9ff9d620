"""Chunks that threads put in their places are the chunks that zarr reads."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.abc.store import RangeByteRequest

from bigdecon.errors import ReadError
from bigdecon.io.guarded_store import GuardedStore
from bigdecon.io.zarr_source import open_zarr_source

CODECS: dict[str, Any] = {
    "blosc": zarr.codecs.BloscCodec(cname="zstd", shuffle="shuffle"),
    "zstd": zarr.codecs.ZstdCodec(level=1),
    "gzip": zarr.codecs.GzipCodec(level=1),
    "none": None,
}
PACKERS: dict[str, Any] = {
    "blosc": numcodecs.Blosc(cname="lz4"),
    "lz4": numcodecs.LZ4(),
    "zstd": numcodecs.Zstd(),
    "zlib": numcodecs.Zlib(),
    "none": None,
}


def values(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Give noise with chunks of zeros among it, which are not stored."""
    found = np.random.default_rng(1).integers(0, 200, shape).astype(dtype)
    found[tuple(slice(0, n // 2) for n in shape)] = 0
    return found


@st.composite
def problems(draw: st.DrawFn) -> tuple[Any, ...]:
    ndim = draw(st.integers(1, 3))
    chunks = tuple(draw(st.integers(1, 4)) for _ in range(ndim))
    shards = tuple(c * draw(st.integers(1, 3)) for c in chunks)
    shape = tuple(draw(st.integers(1, 12)) for _ in range(ndim))
    starts = [draw(st.integers(0, n - 1)) for n in shape]
    box = tuple(slice(a, draw(st.integers(a + 1, n))) for a, n in zip(starts, shape, strict=True))
    return shape, chunks, draw(st.sampled_from([None, shards])), box


@settings(deadline=None, max_examples=60)
@given(problems(), st.sampled_from(sorted(CODECS)), st.sampled_from(["|u1", "<u2", ">u2", "<f4", ">f4"]))
def test_zarr_3(tmp_path_factory: pytest.TempPathFactory, problem: Any, codec: str, dtype: str) -> None:
    shape, chunks, shards, box = problem
    path = tmp_path_factory.mktemp("a")
    endian = "big" if dtype.startswith(">") else "little"
    data = values(shape, dtype)
    array = zarr.create_array(
        path,
        shape=shape,
        dtype=data.dtype.newbyteorder("="),
        chunks=chunks,
        shards=shards,
        compressors=CODECS[codec],
        serializer=zarr.codecs.BytesCodec(endian=None if dtype == "|u1" else endian),
        fill_value=0,
    )
    array[...] = data
    found = open_zarr_source(str(path), "", 3)[box]
    np.testing.assert_array_equal(found, data[box])
    assert found.dtype.isnative


@settings(deadline=None, max_examples=60)
@given(
    problems(), st.sampled_from(sorted(PACKERS)), st.sampled_from(["|u1", "<u2", ">u2", ">f4"]), st.booleans()
)
def test_zarr_2(
    tmp_path_factory: pytest.TempPathFactory, problem: Any, packer: str, dtype: str, fortran: bool
) -> None:
    shape, chunks, _, box = problem
    path = tmp_path_factory.mktemp("a")
    data = values(shape, dtype)
    array = zarr.create_array(
        path,
        shape=shape,
        dtype=data.dtype,
        chunks=chunks,
        zarr_format=2,
        order="F" if fortran else "C",
        compressors=PACKERS[packer],
        fill_value=0,
    )
    array[...] = data
    np.testing.assert_array_equal(open_zarr_source(str(path), "", 2)[box], data[box])


@pytest.mark.parametrize("codec", ["blosc", "zstd", "lz4"])
def test_a_chunk_that_holds_too_little_is_refused(tmp_path: Path, codec: str) -> None:
    """What it lacks must not come from the chunk that was unpacked before it."""
    array = zarr.create_array(
        tmp_path, shape=(64,), dtype="u2", chunks=(32,), zarr_format=2, compressors=PACKERS[codec]
    )
    array[...] = np.arange(64)
    (tmp_path / "1").write_bytes(bytes(PACKERS[codec].encode(np.arange(31, dtype="u2"))))
    source = open_zarr_source(str(tmp_path), "", 2)
    assert source[(slice(0, 32),)].tolist() == list(range(32))
    with pytest.raises(ReadError, match=r"chunk \(1,\)"):
        source[(slice(0, 64),)]


def test_chunks_of_a_shard_are_fetched_at_the_same_time_or_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = values((8, 8), "u2")
    zarr.create_array(tmp_path, data=data, chunks=(2, 2), shards=(8, 8))
    source = open_zarr_source(str(tmp_path), "", 3)
    read, asked, meeting = GuardedStore.read_into, [0], threading.Barrier(2)

    def noted(self: GuardedStore, memory: Any, key: str, byte_range: Any = None) -> Any:
        asked[0] += 1
        if isinstance(byte_range, RangeByteRequest) and not meeting.broken:
            with suppress(threading.BrokenBarrierError):
                meeting.wait(20)  # breaks where chunks are asked for one after the other
        return read(self, memory, key, byte_range)

    monkeypatch.setattr(GuardedStore, "read_into", noted)
    np.testing.assert_array_equal(source[1:6, 1:8], data[1:6, 1:8])
    assert not meeting.broken
    asked[0] = 0
    np.testing.assert_array_equal(source[1:7, 1:8], data[1:7, 1:8])
    assert asked[0] == 2  # index and shard: its chunks are too small to be asked for one by one


@pytest.mark.parametrize("length", [2**40, 2**63, 10**6])
def test_a_shard_whose_index_claims_too_much_is_refused_before_it_is_read(
    tmp_path: Path, length: int
) -> None:
    data = values((8, 8), "u2") + 1
    zarr.create_array(tmp_path, data=data, chunks=(4, 4), shards=(8, 8))
    file = tmp_path / "c" / "0" / "0"
    content = file.read_bytes()
    index = np.frombuffer(content[-68:-4], "<u8").reshape(2, 2, 2).copy()
    index[1, 1, 1] = length
    table = index.tobytes()
    file.write_bytes(content[:-68] + table + google_crc32c.value(table).to_bytes(4, "little"))
    source = open_zarr_source(str(tmp_path), "", 3)
    np.testing.assert_array_equal(source[0:4, 0:8], data[0:4])
    with pytest.raises(ReadError, match=r"chunk \(1, 1\)"):
        source[5:8, 5:8]
    with pytest.raises(ReadError, match=r"chunk \(1, 1\)"):
        source[0:8, 0:8]
