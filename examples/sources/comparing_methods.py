# %% [markdown]
# # Comparing methods
#
# The same crop through several methods, beside the truth. With a simulated image the truth is known; on
# your own data, compare how the results look, and how well each explains the voxels that were hidden from
# it.

# %%
import matplotlib.pyplot as plt
import numpy as np

from bigdecon import RichardsonLucy, Volume, Wiener, evaluate, train, training_preset, tuned_method
from bigdecon import NetworkDeconvolver
from bigdecon.optics.simulation import SimulatedSource, paper_noise, paper_psf
from bigdecon.optics.specimens import SPECIMENS

psf = paper_psf(3)
source = SimulatedSource(SPECIMENS["filaments"], "noisy", (24, 48, 48), 1, psf.array, paper_noise(3))
volume = Volume(source, "zyx", (0.406, 0.406, 0.406), name="filaments")
noisy = np.asarray(volume)
truth = source.truth[tuple(slice(0, n) for n in noisy.shape)]

# %% [markdown]
# Methods by hand, one with settings of its own choice, and a network. A network wants some thousand steps
# (minutes on a GPU, longer on a CPU); the few here only show how it is done.

# %%
results = {
    "noisy": noisy,
    "Wiener": Wiener(psf.array, regularization=0.03)(noisy),
    "Richardson-Lucy": RichardsonLucy(psf.array, iterations=10)(noisy),
    "Wiener, tuned": tuned_method("wiener", volume, psf)(noisy),
}

# %%
from dataclasses import replace

settings = replace(
    training_preset("fast", ndim=3, accelerator=False), steps=5, patch_shape=(32, 32, 32), batch=1
)
checkpoint = train(volume, psf, settings)
checkpoint

# %%
results["network, 5 steps"] = NetworkDeconvolver(checkpoint)(noisy)

# %% [markdown]
# Scores after the best scale and offset, so that contrast counts, not units.

# %%
for name, image in results.items():
    scores = evaluate(np.asarray(image), truth, data_range=1.0).affine
    print(f"{name:20} PSNR {scores.psnr:6.2f} dB   SSIM {scores.ssim:.3f}")

# %%
shown = {**results, "truth": truth}
figure, axes = plt.subplots(1, len(shown), figsize=(2.4 * len(shown), 2.7), layout="constrained")
for axis, (name, image) in zip(axes, shown.items(), strict=True):
    axis.imshow(image.max(axis=0), cmap="gray", vmin=np.percentile(image, 1), vmax=np.percentile(image, 99.8))
    axis.set(title=name, xticks=[], yticks=[])
