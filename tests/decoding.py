"""Chunks that are decoded while a test runs, whichever way."""

from __future__ import annotations

import math
from typing import Any

import pytest
from zarr.codecs import BytesCodec

from bigdecon.io import chunk_pipeline

__all__ = ["decoded_chunks"]


def decoded_chunks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], int]]:
    """Give a list that gets the shape and the bytes of every chunk of an image."""
    counts: list[tuple[tuple[int, ...], int]] = []
    decode, unpack = BytesCodec._decode_single, chunk_pipeline._unpack

    def count(spec: Any) -> None:
        if len(spec.shape) == 3:  # and not the index of a shard
            counts.append((spec.shape, math.prod(spec.shape) * spec.dtype.to_native_dtype().itemsize))

    async def by_zarr(self: BytesCodec, data: Any, spec: Any) -> Any:
        count(spec)
        return await decode(self, data, spec)

    def by_us(target: Any, codec: str, stored: Any, part: Any, spec: Any) -> None:
        count(spec)
        unpack(target, codec, stored, part, spec)

    monkeypatch.setattr(BytesCodec, "_decode_single", by_zarr)
    monkeypatch.setattr(chunk_pipeline, "_unpack", by_us)
    return counts
