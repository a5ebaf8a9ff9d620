"""The classical methods by name, each made from one set of numbers."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bigdecon.config import ClassicalSettings
from bigdecon.deconvolution.chambolle_pock import ChambollePock
from bigdecon.deconvolution.classical import ClassicalMethod
from bigdecon.deconvolution.conjugate_gradient import ConjugateGradient
from bigdecon.deconvolution.richardson_lucy import RichardsonLucy
from bigdecon.deconvolution.wiener import Wiener
from bigdecon.errors import OptionError

__all__ = ["classical_method"]


def classical_method(
    name: str,
    psf: NDArray[np.floating],
    settings: ClassicalSettings,
    device: str = "cpu",
    threads: int | None = None,
) -> ClassicalMethod:
    """Make a classical method.

    Parameters
    ----------
    name : as on the command line
    psf : [z,] y, x; odd extent, centred, sums to 1
    settings : those that the method has no use for are not looked at
    device, threads : see `ClassicalMethod`

    Raises
    ------
    OptionError
        if a setting cannot work
    """
    background = settings.background
    if name == RichardsonLucy.name:
        return RichardsonLucy(
            psf,
            background=background,
            device=device,
            threads=threads,
            iterations=settings.iterations,
            sieve=settings.sieve,
            total_variation=settings.total_variation,
            accelerate=settings.accelerate,
        )
    weight = settings.regularization
    if name == Wiener.name:
        return Wiener(psf, background=background, device=device, threads=threads, regularization=weight)
    kind: type[ConjugateGradient | ChambollePock]
    if name == ConjugateGradient.name:
        kind = ConjugateGradient
    elif name == ChambollePock.name:
        if not 0 <= weight < math.inf:  # told here in the units it was given in
            raise OptionError(f"the regularization is {weight:g}; it is finite and at least 0.")
        kind, weight = ChambollePock, weight * settings.unit
    else:
        raise ValueError(f"there is no classical method {name!r}")
    return kind(
        psf,
        background=background,
        device=device,
        threads=threads,
        regularization=weight,
        iterations=settings.iterations,
    )
