"""Time reading and writing of a shard as a run does it, beside the codec alone and beside plain files.

    python benchmarks/storage.py            chunks of 128^3 in a shard of 512^3
    python benchmarks/storage.py --shard 256
    python benchmarks/storage.py --quick    chunks of 32^3 in a shard of 64^3

By turns, on the same voxels: what `bigdecon run` does (`ZarrSource` to read eight blocks at a time with their
halo, as for a bundle of `running/bundles.py`, in as many threads as there are cores; `write_box` to write the
shard, with flushing to the disk and the hash for the ledger); the codec alone, on the same chunks in as many
threads, in memory; the same stored bytes to or from a plain file; and zarr's own writing, with flushing and
hash. All must give the same voxels, and zarr the same file. Files come from the system's cache: what counts
is what is added to the codec. With tensorstore installed, its reading and writing of the same files is timed
as well; `bigdecon run` does not use it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import machine
import numcodecs
import numpy as np
import zarr
from numpy.typing import NDArray

from bigdecon.io.boxes import digest
from bigdecon.io.layout import OutputLayout, plan_output
from bigdecon.io.writing import create_ome_zarr, write_box
from bigdecon.io.zarr_source import open_zarr_source
from bigdecon.volume import Volume

RESULT = Path(__file__).parent / "results" / "storage.json"
ROUNDS = 3
CODEC = {"cname": "zstd", "clevel": 1, "shuffle": numcodecs.Blosc.SHUFFLE}
"""As `io/writing.py` has it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small shard, one round")
    parser.add_argument("--shard", type=int, default=512, help="its side, in voxels, a multiple of 128")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    load, threads = os.getloadavg()[0], len(os.sched_getaffinity(0))
    chunk, shard = (32, 64) if options.quick else (128, options.shard)
    rounds = 1 if options.quick else ROUNDS
    numcodecs.blosc.use_threads = False  # each chunk in one thread, as zarr has it
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for dtype in ("uint16", "float32"):
            cases.append(measure(Path(folder) / dtype, dtype, chunk, shard, threads, rounds))
            print(json.dumps(cases[-1]), flush=True)
    result = {
        **machine.describe(),
        "quick": options.quick,
        "load_at_start": round(load, 1),
        "threads": threads,
        "tensorstore": machine.version("tensorstore"),
        "cases": cases,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")


def measure(folder: Path, dtype: str, chunk: int, shard: int, threads: int, rounds: int) -> dict[str, Any]:
    """Time all ways on one shard of photon noise."""
    voxels = noise(chunk, shard, dtype)
    volume = Volume.from_array(voxels, "zyx", voxel_size_um=(1, 1, 1))
    layout = plan_output(volume, dtype=dtype, chunk=chunk, shard=shard, unit=chunk)
    image = folder / "a.ome.zarr"
    create_ome_zarr(image, volume, layout, name="a")
    box = tuple(slice(0, n) for n in voxels.shape)

    def write() -> str:
        return write_box(image, layout, 0, 0, 0, box, voxels)

    written, beside = write(), folder / "zarr.ome.zarr"
    write_by_zarr = by_zarr(beside, volume, layout, voxels)
    same = write_by_zarr() == written and file_bytes(image) == file_bytes(beside)
    source = open_zarr_source(str(image), "0", 3)
    cuts = [slice(start, start + chunk) for start in range(0, shard, chunk)]
    parts = [np.ascontiguousarray(voxels[part]) for part in itertools.product(cuts, repeat=3)]
    pool = ThreadPoolExecutor(threads)
    encoded = list(pool.map(encode, parts))
    boxes = blocks(chunk, shard)
    numbers = [i for each in boxes for i in chunks_of(each, chunk, shard)]
    touched = [encoded[i] for i in numbers]
    ends = list(itertools.accumulate(map(len, encoded)))
    ranges = [(ends[i] - len(encoded[i]), len(encoded[i])) for i in numbers]
    plain, stored = folder / "plain", b"".join(encoded)
    ways: dict[str, Callable[[], Any]] = {
        "write": write,
        "write, codec": lambda: list(pool.map(encode, parts)),
        "write, zarr": write_by_zarr,
        "write, plain": lambda: plainly(plain, stored),
        "read": lambda: list(pool.map(source.__getitem__, boxes)),
        "read, codec": lambda: list(pool.map(decode, touched)),
        "read, plain": lambda: list(pool.map(partial(read_part, plain), ranges)),
        "hash": lambda: digest(voxels),
    }
    ways |= by_tensorstore(image / "0", voxels, boxes, pool)
    seconds, processor = by_turns(ways, rounds)
    same &= digest(source[box]) == written == digest(voxels) and all(
        np.array_equal(np.frombuffer(numcodecs.Blosc().decode(e), dtype), p.ravel())
        for e, p in zip(encoded, parts, strict=True)
    )
    for name in {"read", "read, tensorstore"} & ways.keys():
        found = zip(ways[name](), boxes, strict=True)
        same &= all(np.array_equal(np.asarray(part), voxels[each]) for part, each in found)
    pool.shutdown()
    if not same:
        raise SystemExit("what was read is not what was written")
    return {
        "dtype": dtype,
        "chunk": [chunk] * 3,
        "shard": [shard] * 3,
        "MB": round(voxels.nbytes / 1e6, 1),
        "MB_read": round(sum(voxels[each].nbytes for each in boxes) / 1e6, 1),
        "decoded_for_one_voxel_read": round(
            len(touched) * chunk**3 / sum(math.prod(p.stop - p.start for p in each) for each in boxes), 2
        ),
        "stored_share": round(len(stored) / voxels.nbytes, 3),
        "seconds": {name: round(s, 4) for name, s in seconds.items()},
        "of_codec_speed": {
            kind: round(seconds[f"{kind}, codec"] / seconds[kind], 3) for kind in ("read", "write")
        },
        "of_codec_and_file_speed": {
            kind: round((seconds[f"{kind}, codec"] + seconds[f"{kind}, plain"]) / seconds[kind], 3)
            for kind in ("read", "write")
        },
        "times_as_fast_as_zarr": round(seconds["write, zarr"] / seconds["write"], 2),
        "processor_seconds": {name: round(s, 4) for name, s in processor.items()},
        "tensorstore_times_as_fast": {
            kind: round(seconds[kind] / seconds[f"{kind}, tensorstore"], 2)
            for kind in ("read", "write")
            if f"{kind}, tensorstore" in seconds
        },
    }


def blocks(chunk: int, shard: int) -> list[tuple[slice, ...]]:
    """Cut the shard into boxes of eight blocks, as large as chunks, with a halo of a quarter around them."""
    halo = chunk // 4
    sides = [
        slice(max(0, start - halo), min(shard, start + 2 * chunk + halo))
        for start in range(0, shard, 2 * chunk)
    ]
    return list(itertools.product(sides, repeat=3))


def chunks_of(box: tuple[slice, ...], chunk: int, shard: int) -> list[int]:
    """Number the chunks that a box touches, in C order."""
    ranges = [range(part.start // chunk, -(-part.stop // chunk)) for part in box]
    return [int(np.ravel_multi_index(i, (shard // chunk,) * 3)) for i in itertools.product(*ranges)]


def noise(chunk: int, shard: int, dtype: str) -> NDArray[Any]:
    """Make photon noise whose chunks differ; as float32 smoothed a little, as results are."""
    rng = np.random.default_rng(0)
    voxels = np.empty((shard,) * 3, dtype)
    cuts = [slice(start, start + chunk) for start in range(0, shard, chunk)]
    for number, part in enumerate(itertools.product(cuts, repeat=3)):
        values = rng.poisson(100 + number, (chunk,) * 3).astype(np.float32)
        voxels[part] = values if dtype == "uint16" else (values + np.roll(values, 1, 2)) / np.float32(3)
    return voxels


def encode(part: NDArray[Any]) -> bytes:
    return bytes(numcodecs.Blosc(**CODEC).encode(part))


def decode(stored: bytes) -> int:
    """Unpack a chunk and drop it."""
    return len(numcodecs.Blosc().decode(stored))


def plainly(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk, as `write_box` does."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read_part(path: Path, part: tuple[int, int]) -> int:
    """Read some bytes of a file and drop them."""
    with open(path, "rb", buffering=0) as file:
        file.seek(part[0])
        return len(file.read(part[1]))


def by_turns(ways: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Give the medians of some rounds, way after way: by the clock, and of the processors.

    Each is done twice and the second time counts: a run does little else, and memory is in its hands by then.
    """
    wall: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            work()
            began, used = time.perf_counter(), time.process_time()
            work()
            wall[name].append(time.perf_counter() - began)
            processor[name].append(time.process_time() - used)
    return tuple(  # type: ignore[return-value]
        {name: statistics.median(found) for name, found in each.items()} for each in (wall, processor)
    )


def by_zarr(image: Path, volume: Volume, layout: OutputLayout, voxels: NDArray[Any]) -> Callable[[], str]:
    """Give zarr's own writing of the same shard, with flushing and hash; none of its chunks is empty."""
    create_ome_zarr(image, volume, layout, name="zarr")
    array = zarr.open_array(image / "0", mode="r+").with_config({"write_empty_chunks": True})

    def write() -> str:
        array[...] = voxels
        with open(image / "0" / "c" / "0" / "0" / "0", "rb") as file:
            os.fsync(file.fileno())
        return digest(voxels)

    return write


def file_bytes(image: Path) -> dict[str, bytes]:
    """Give the stored files of the finest level."""
    files = (path for path in (image / "0" / "c").rglob("*") if path.is_file())
    return {str(path.relative_to(image)): path.read_bytes() for path in files}


def by_tensorstore(
    array: Path, voxels: NDArray[Any], boxes: list[tuple[slice, ...]], pool: ThreadPoolExecutor
) -> dict[str, Callable[[], Any]]:
    """Give its ways, where it is installed; writing includes the hash, which a run needs."""
    try:
        import tensorstore
    except ImportError:
        return {}
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(array)}}
    opened = tensorstore.open(spec).result()

    def write() -> str:
        opened.write(voxels).result()  # which waits for the disk
        return digest(voxels)

    def read(box: tuple[slice, ...]) -> NDArray[Any]:
        found: NDArray[Any] = opened[box].read().result()
        return found

    return {"read, tensorstore": lambda: list(pool.map(read, boxes)), "write, tensorstore": write}


if __name__ == "__main__":
    main()
