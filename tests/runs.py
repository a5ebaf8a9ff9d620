"""What the tests of whole runs share: small images, PSFs, and ways to look at results."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import zarr
from scipy.ndimage import gaussian_filter

from bigdecon.io.layout import plan_output
from bigdecon.io.writing import create_ome_zarr, write_box, write_boxes, write_ome_zarr
from bigdecon.volume import Channel, Volume

SHAPE = (24, 40, 44)
SIZE = (0.3, 0.2, 0.2)
NAMED = (Channel("nuclei", "0000FF"), Channel("actin", "00FF00"))


def kernel(shape=(9, 7, 7), sigma=1.5):
    axes = np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij")
    return np.exp(-sum(a**2 for a in axes) / (2 * sigma**2)).astype("float32")


def specimen(shape=SHAPE, seed=0, dtype="uint16"):
    """Blurred points on a camera offset of 100, with shot noise."""
    random = np.random.default_rng(seed)
    points = np.zeros(shape)
    count = points.size // 1500 + 3
    points[tuple(random.integers(0, n, count) for n in shape)] = 4000
    return random.poisson(gaussian_filter(points, 1.5) + 100).astype(dtype)


def write_image(path, data, axes="zyx", size=SIZE, translation=(0, 0, 0), **options):
    volume = Volume.from_array(data, axes, voxel_size_um=size[-sum(a in "zyx" for a in axes) :])
    volume = replace(volume, translation_um=tuple(translation[-len(volume.spatial_axes) :]))
    if "c" in axes:
        volume = replace(volume, channels=NAMED)
    write_ome_zarr(volume, path, dtype=data.dtype.name, **options)
    return path


def write_in_chunks(path, data, chunk=64):
    """Write an image whose chunks are a file each."""
    volume = Volume.from_array(data, "zyx", voxel_size_um=SIZE)
    layout = plan_output(volume, dtype=data.dtype.name, ome_version="0.4", chunk=chunk, unit=chunk)
    create_ome_zarr(path, volume, layout, name="a")
    for box in write_boxes(layout.levels[0]):
        write_box(path, layout, 0, 0, 0, box, data[box])
    return path


def voxels(path, level=0):
    return np.asarray(zarr.open_group(path, mode="r")[str(level)][:])


def attributes(path):
    return zarr.open_group(path, mode="r").attrs.asdict()


def listing(folder):
    """Names and times of all that lies in a folder."""
    return sorted((str(p), p.stat().st_mtime_ns) for p in Path(folder).rglob("*"))


def snapshot(path):
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in Path(path).rglob("*") if p.is_file()}


def write_ledger_as_before(output):
    """Rewrite the ledger of an image with spatial axes as version 2 of its format had it, with BLAKE2b."""
    for entry in (Path(output) / "bigdecon" / "ledger").rglob("l*.json"):
        content = json.loads(entry.read_text())
        values = voxels(output, content["region"]["level"])
        for unit in content["digests"]:
            part = values[tuple(map(slice, *unit[:2]))]
            head = f"{part.dtype.str}{part.shape}".encode()
            unit[2] = blake2b(head + part.tobytes(), digest_size=32).hexdigest()
        entry.write_text(json.dumps(content | {"version": 2}))
