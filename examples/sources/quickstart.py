# %% [markdown]
# # Quickstart
#
# From a blurred, noisy volume to a restored one. The volume is simulated here; put the paths of your own
# image and PSF in its place.

# %%
import tempfile
from pathlib import Path

from bigdecon import RunConfig, Volume, load_psf, open_volume, run, save_psf, write_ome_zarr
from bigdecon.optics.simulation import SimulatedSource, paper_noise, paper_psf
from bigdecon.optics.specimens import SPECIMENS

folder = Path(tempfile.mkdtemp())
shape, voxel_size = (24, 64, 80), (0.406, 0.406, 0.406)
psf, noise = paper_psf(3), paper_noise(3)
save_psf(psf, folder / "psf.tif")
image = SimulatedSource(SPECIMENS["filaments"], "noisy", shape, 0, psf.array, noise)
path = write_ome_zarr(Volume(image, "zyx", voxel_size), folder / "volume.ome.zarr").path

# %% [markdown]
# Opening reads no voxels. What the notebook shows is a table, and a thumbnail that reads at most a few
# megabytes.

# %%
volume = open_volume(path)
volume

# %% [markdown]
# The PSF comes out centred, free of background, and at the voxel size of the volume. The table says what
# was corrected.

# %%
load_psf(folder / "psf.tif", voxel_size_um=volume.voxel_size_um)

# %% [markdown]
# `run` does the rest on all cores, or GPUs, of this machine. Progress appears below the cell, with a link
# to a page that shows more. `richardson-lucy` needs no training and suits a first look without a GPU; leave
# `method` out to train a network on the volume itself, which takes longer and usually gives the better
# result. Background and sieve are given to be quick; where they are left out, they are chosen from the
# image.

# %%
config = RunConfig(
    input=str(path),
    psf=(str(folder / "psf.tif"),),
    method="richardson-lucy",
    iterations=10,
    background=0.0,
    sieve=1.0,
)
result = run(config)
result

# %% [markdown]
# The result is an OME-Zarr image; napari, Fiji (with MoBIE) and neuroglancer open it.

# %%
open_volume(result.output)
