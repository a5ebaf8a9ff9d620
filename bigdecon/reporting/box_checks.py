"""Checks of one box, in worker processes: of the result, and of image and PSF where the run made none."""

from __future__ import annotations

from collections.abc import Callable

from bigdecon.diagnosis.findings import Finding
from bigdecon.diagnosis.image_checks import (
    check_background,
    check_hot_pixels,
    check_noise_correlation,
    check_saturation,
    check_signal,
)
from bigdecon.diagnosis.psf_checks import check_psf_width
from bigdecon.diagnosis.result_checks import check_noise_amplification
from bigdecon.errors import NonFiniteError, OptionError, ReadError
from bigdecon.evaluation.noise import NoiseModel
from bigdecon.reporting.box_tasks import Pairing
from bigdecon.volume import Box

__all__ = ["check_box"]


def check_box(
    pair: Pairing,
    box: Box,
    noise: NoiseModel,
    correlation: tuple[float, ...],
    inputs: bool,
) -> list[Finding]:
    """Check what one box tells, in a worker process.

    Parameters
    ----------
    pair : before and after
    box : the one with most contrast
    noise, correlation : of the image
    inputs : whether the image, and the PSF's width in it, are checked, as a run has done when it began
    """
    try:
        image, result = pair.read(box)
    except (ReadError, NonFiniteError):
        return []
    found: list[Finding] = []
    checks: list[Callable[[], Finding]] = [lambda: check_noise_amplification(image, result, noise)]
    if inputs:
        checks += [
            lambda: check_saturation(image),
            lambda: check_hot_pixels(image),
            lambda: check_signal(image, pair.background, noise),
            lambda: check_noise_correlation(correlation),
            lambda: check_background(image, pair.background, noise),
            lambda: check_psf_width(image, pair.psf),
        ]
    for check in checks:
        try:
            found.append(check())
        except OptionError:  # the box is too small for this one
            continue
    return found
