"""Self-supervised deconvolution of fluorescence volumes of any size.

>>> import bigdecon
>>> volume = bigdecon.open_volume("volume.ome.zarr")  # doctest: +SKIP
>>> psf = bigdecon.load_psf("psf.tif", voxel_size_um=volume.voxel_size_um)  # doctest: +SKIP

The names below are imported when they are first used: `import bigdecon` is quick and has no side effects.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bigdecon.config import LossWeights, RunConfig, TilingConfig, TrainingConfig, training_preset
    from bigdecon.deconvolution.block import Deconvolver
    from bigdecon.deconvolution.blockwise import deconvolve
    from bigdecon.deconvolution.chambolle_pock import ChambollePock
    from bigdecon.deconvolution.conjugate_gradient import ConjugateGradient
    from bigdecon.deconvolution.network import NetworkDeconvolver
    from bigdecon.deconvolution.refined import RefinedNetwork
    from bigdecon.deconvolution.richardson_lucy import RichardsonLucy
    from bigdecon.deconvolution.wiener import Wiener
    from bigdecon.distributed.cluster import connect
    from bigdecon.errors import BigdeconError, InputError, RunError
    from bigdecon.evaluation.metrics import evaluate
    from bigdecon.io.reading import open_volume
    from bigdecon.io.writing import write_ome_zarr
    from bigdecon.learning.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from bigdecon.learning.ssi import train_ssi
    from bigdecon.learning.training import train
    from bigdecon.optics.beads import BeadPSF, psf_from_beads
    from bigdecon.optics.blur import Blur
    from bigdecon.optics.microscopes import Microscope
    from bigdecon.optics.models import make_psf
    from bigdecon.optics.psf import PSF, load_psf, save_psf
    from bigdecon.pipeline import RunResult, run
    from bigdecon.running.classical_settings import tuned_method
    from bigdecon.ssi_config import SSIConfig, ssi_preset
    from bigdecon.volume import Volume

__all__ = [
    "PSF",
    "BeadPSF",
    "BigdeconError",
    "Blur",
    "ChambollePock",
    "Checkpoint",
    "ConjugateGradient",
    "Deconvolver",
    "InputError",
    "LossWeights",
    "Microscope",
    "NetworkDeconvolver",
    "RefinedNetwork",
    "RichardsonLucy",
    "RunConfig",
    "RunError",
    "RunResult",
    "SSIConfig",
    "TilingConfig",
    "TrainingConfig",
    "Volume",
    "Wiener",
    "connect",
    "deconvolve",
    "evaluate",
    "load_checkpoint",
    "load_psf",
    "make_psf",
    "open_volume",
    "psf_from_beads",
    "run",
    "save_checkpoint",
    "save_psf",
    "ssi_preset",
    "train",
    "train_ssi",
    "training_preset",
    "tuned_method",
    "write_ome_zarr",
]

_HOMES = {
    "running.classical_settings": ("tuned_method",),
    "config": ("LossWeights", "RunConfig", "TilingConfig", "TrainingConfig", "training_preset"),
    "deconvolution.block": ("Deconvolver",),
    "deconvolution.blockwise": ("deconvolve",),
    "deconvolution.chambolle_pock": ("ChambollePock",),
    "deconvolution.conjugate_gradient": ("ConjugateGradient",),
    "deconvolution.network": ("NetworkDeconvolver",),
    "deconvolution.refined": ("RefinedNetwork",),
    "deconvolution.richardson_lucy": ("RichardsonLucy",),
    "deconvolution.wiener": ("Wiener",),
    "distributed.cluster": ("connect",),
    "errors": ("BigdeconError", "InputError", "RunError"),
    "evaluation.metrics": ("evaluate",),
    "io.reading": ("open_volume",),
    "io.writing": ("write_ome_zarr",),
    "learning.checkpoint": ("Checkpoint", "load_checkpoint", "save_checkpoint"),
    "learning.ssi": ("train_ssi",),
    "learning.training": ("train",),
    "optics.blur": ("Blur",),
    "optics.beads": ("BeadPSF", "psf_from_beads"),
    "optics.microscopes": ("Microscope",),
    "optics.models": ("make_psf",),
    "optics.psf": ("PSF", "load_psf", "save_psf"),
    "pipeline": ("RunResult", "run"),
    "ssi_config": ("SSIConfig", "ssi_preset"),
    "volume": ("Volume",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name on first use; the version comes from what is installed."""
    if name == "__version__":
        from importlib.metadata import version

        return version("bigdecon")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'bigdecon' has no attribute {name!r}")
    return getattr(importlib.import_module(f"bigdecon.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
