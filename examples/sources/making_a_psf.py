# %% [markdown]
# # Making a PSF
#
# Best is a measured one, from beads much smaller than the resolution, taken as the images are. Next best is
# one that is computed from what the microscope's maker tells: numerical aperture, wavelength of the
# *emitted* light, refractive index of the immersion, and the voxel size. All lengths are in micrometres.

# %%
import tempfile
from pathlib import Path

import numpy as np

from bigdecon import load_psf, make_psf, save_psf
from bigdecon.optics.psf import psf_from_array

folder = Path(tempfile.mkdtemp())
objective = {"numerical_aperture": 1.2, "wavelength_um": 0.52, "refractive_index": 1.33}
voxels = {"voxel_size_um": (0.3, 0.1, 0.1), "shape": (31, 41, 41)}
make_psf("gibson-lanni", **objective, **voxels)

# %% [markdown]
# 20 µm deep in a sample of another index than the immersion, spherical aberration makes it lopsided.

# %%
oil = {"numerical_aperture": 1.4, "wavelength_um": 0.52, "refractive_index": 1.515}
deep = make_psf("gibson-lanni", **oil, **voxels, sample_refractive_index=1.38, emitter_depth_um=20)
deep

# %%
save_psf(deep, folder / "psf.tif")

# %% [markdown]
# Measured PSFs are seldom ready for use: the bead is off the centre, the camera adds an offset, the voxel
# size is another one. Loading corrects this and says so.

# %%
bead = np.roll(make_psf("gaussian", **objective, **voxels).array, (2, -3), axis=(1, 2)) * 5000 + 100
psf_from_array(bead, voxel_size_um=(0.3, 0.15, 0.15), psf_voxel_size_um=(0.3, 0.1, 0.1), name="a bead")

# %% [markdown]
# Files work alike: give the voxel size of the image that is to be restored.

# %%
load_psf(folder / "psf.tif", voxel_size_um=(0.3, 0.15, 0.15))
