# %% [markdown]
# # Deconvolve a crop, and look at it
#
# `deconvolve` gives a lazy volume: nothing is computed before voxels are asked for, and a crop computes
# only the blocks that it touches. So settings can be tried on a small part of a volume of any size.

# %%
import matplotlib.pyplot as plt
import numpy as np

from bigdecon import RichardsonLucy, Volume, deconvolve
from bigdecon.optics.simulation import SimulatedSource, paper_noise, paper_psf
from bigdecon.optics.specimens import SPECIMENS

# %% [markdown]
# A simulated volume of 2048³ voxels, 34 GB, of which nothing exists before it is read. Your own: `volume =
# open_volume("volume.ome.zarr")`.

# %%
psf = paper_psf(3)
source = SimulatedSource(SPECIMENS["nuclei"], "noisy", (2048, 2048, 2048), 0, psf.array, paper_noise(3))
volume = Volume(source, "zyx", (0.406, 0.406, 0.406), name="nuclei")

# %%
restored = deconvolve(volume, RichardsonLucy(psf.array, iterations=5), block=64)
restored

# %% [markdown]
# Now a crop, in voxels along z, y, x. Its place in space is kept.

# %%
box = (slice(1000, 1016), slice(512, 576), slice(512, 576))
before = np.asarray(volume.crop(box))
after = np.asarray(restored.crop(box))

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
for axis, title, data in zip(axes, ("before", "after"), (before, after), strict=True):
    axis.imshow(data[8], cmap="gray", vmin=np.percentile(data, 1), vmax=np.percentile(data, 99.8))
    axis.set(title=title, xticks=[], yticks=[])

# %% [markdown]
# If it looks right, write all of it with `write_ome_zarr(restored, "restored.ome.zarr")`, or better with
# `run`, which spreads the work over a cluster, continues after an interruption, and records how the result
# was made.
