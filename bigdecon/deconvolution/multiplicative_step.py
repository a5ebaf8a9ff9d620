"""One step of Richardson–Lucy, where most of its time goes.

    x  ->  x · weight · Aᵀ( y / max(A x + b, least) )

On a CPU a large volume takes it piece by piece (`optics/planewise.py`): planes of the model become planes of
the ratio, and planes of the correction those of the next object, before they leave the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from bigdecon.optics.blur import Blur
from bigdecon.optics.crew import Crew
from bigdecon.optics.planewise import PlanewiseSpectrum, pays

__all__ = ["Data", "Step", "stepping"]

Step = Callable[[Tensor, Tensor], Tensor]
"""From an object to the next, which may be written into the second tensor; that may be the object itself."""


class Data(NamedTuple):
    """What a step compares an object with.

    Attributes
    ----------
    image : y, (1, 1, [z,] y, x)
    weight : 1 / Aᵀ1, of the object's extent; 0 where the image sees too little of it
    background : b, in the image's units
    least : to which the model's values are raised
    """

    image: Tensor
    weight: Tensor
    background: float
    least: Tensor


@contextmanager
def stepping(blur: Blur, data: Data) -> Iterator[Step]:
    """Give the step for an image, which keeps memory and threads of its own meanwhile."""
    extent = data.weight.shape[2:]
    size = blur.transform_size(extent)
    if data.image.device.type == "cpu" and pays(size) and not blur.is_direct:
        with Crew() as crew:
            otf = blur.transform(extent, data.image.device)
            yield _piecewise(PlanewiseSpectrum(otf, size, crew), data)
    else:
        yield _whole(blur, data)


def _whole(blur: Blur, data: Data) -> Step:
    def step(x: Tensor, _: Tensor) -> Tensor:
        model = blur.valid(x).add_(data.background).clamp_(min=data.least)
        ratio = torch.div(data.image, model, out=model)
        return blur.valid_adjoint(ratio).mul_(x).mul_(data.weight).clamp_(min=0)

    return step


def _piecewise(spectrum: PlanewiseSpectrum, data: Data) -> Step:
    image, weight = data.image[0, 0], data.weight[0, 0]
    (depth, height, width), (deep, high, wide) = image.shape, weight.shape

    def compare(part: slice, planes: Tensor) -> None:
        model = planes[:, :height, :width].add_(data.background).clamp_(min=data.least)
        spectrum.put(part, torch.div(image[part], model))

    def step(x: Tensor, out: Tensor) -> Tensor:
        def correct(part: slice, planes: Tensor) -> None:
            corrected = planes[:, :high, :wide].mul_(x[0, 0, part]).mul_(weight[part])
            torch.clamp(corrected, min=0, out=out[0, 0, part])

        spectrum.fill(deep, x[0, 0].__getitem__)
        spectrum.multiply(deep, depth, conjugate=False)
        spectrum.empty(depth, compare)
        spectrum.multiply(depth, deep, conjugate=True)
        spectrum.empty(deep, correct)
        return out

    return step
