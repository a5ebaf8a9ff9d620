"""bigdecon from Python: open a volume, train on it, look at a part, write the whole.

python examples/quickstart.py volume.ome.zarr psf.tif restored.ome.zarr --steps 300
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch

from bigdecon import (
    NetworkDeconvolver,
    deconvolve,
    load_psf,
    open_volume,
    train,
    training_preset,
    write_ome_zarr,
)


def main(volume_path: str, psf_path: str, output_path: str, steps: int) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"

    # Nothing is read yet: a volume knows its shape, axes and voxel size, and reads what is asked for.
    volume = open_volume(volume_path)
    print(f"{volume.name}: {volume.shape} voxels ({volume.axes}), {volume.voxel_size_um} µm")

    # The PSF comes out centred, free of background, and at the voxel size of the volume.
    psf = load_psf(psf_path, voxel_size_um=volume.voxel_size_um, ndim=len(volume.spatial_axes))
    for correction in psf.corrections:
        print(f"PSF: {correction}")

    # A preset is a frozen dataclass: replace what should differ.
    preset = training_preset("auto", ndim=psf.ndim, accelerator=device == "cuda")
    checkpoint = train(volume, psf, replace(preset, steps=steps), device=device)
    last = checkpoint.curve[-1]
    print(f"trained for {last.step} steps, last loss {last.loss:.4g}")

    # The result is lazy, too: slicing it computes the blocks that the slice touches.
    restored = deconvolve(volume, NetworkDeconvolver(checkpoint, device=device), block=128)
    middle = tuple(slice(n // 2, n // 2 + 1) for n in volume.spatial_shape[:1])
    plane = restored.crop((*middle, *(slice(0, n) for n in volume.spatial_shape[1:]))).stack()
    values = plane[tuple(slice(0, n) for n in plane.shape)]
    print(f"the middle plane runs from {values.min():.4g} to {values.max():.4g}")

    # Whole shards, one after the other: the volume never has to fit in memory.
    write_ome_zarr(restored, output_path)
    print(f"written to {output_path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("volume")
    parser.add_argument("psf")
    parser.add_argument("output")
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    main(arguments.volume, arguments.psf, arguments.output, arguments.steps)
