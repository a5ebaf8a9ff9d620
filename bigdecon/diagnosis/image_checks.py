"""Checks of the image alone: what the camera, or a program after it, did to it before it came here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from bigdecon.diagnosis.findings import Finding
from bigdecon.evaluation.noise import NORMAL_MEDIAN, NoiseModel, estimate_noise, high_pass

__all__ = [
    "check_background",
    "check_hot_pixels",
    "check_noise_correlation",
    "check_saturation",
    "check_signal",
]

Image = NDArray[Any]

SATURATED_SHARE = 1e-4
"""A smaller part of the voxels at the highest value is told, but is no warning."""
PILED_UP = 5  # times as many voxels at the highest value as at those just below
HOT_ABOVE = 10.0  # standard deviations of the noise
HOT_NEIGHBOUR = (
    0.25  # of a hot pixel's excess is more than its neighbours have: light is blurred, heat is not
)
HOT_SHARE = 1e-5
LEAST_SIGNAL_TO_NOISE = 0.75  # of a voxel; noise alone has 0.5 in means of this many voxels
MEAN_OF = {2: 5, 3: 3}
LARGEST_CORRELATION = 0.2
FEW_VALUES = 3  # below the highest one, where an image has few grey levels
ABOVE_DARK = 0.02  # part of the image that may lie below a background before it is too high
BELOW_DARK = 0.5  # of the image's range may lie between a background and the darkest places

AXES = "zyx"


def check_saturation(image: Image, highest: float | None = None) -> Finding:
    """Look for voxels at the camera's limit, whose light is unknown.

    Parameters
    ----------
    image : (z, y, x) or (y, x), as the camera gave it
    highest : the camera's largest value, where it is known; else a limit is found by the voxels that pile
        up at the largest value of the image
    """
    top = float(image.max()) if highest is None else highest
    at_top = int(np.count_nonzero(image >= top))
    if highest is None and at_top <= max(3, PILED_UP * _usual_number_below(image, top)):
        at_top = 0
    share = at_top / image.size
    if at_top == 0:
        return Finding("saturated-voxels", "good", "No voxels pile up at the highest value.")
    sentence = (
        f"{at_top} voxels ({share:.2g} of those looked at) have the highest value, {top:g}: the camera was "
        "saturated there, and how bright they were is unknown; around them the result is too dark, with "
        "rings."
    )
    remedy = "Expose for a shorter time; in this image, do not measure intensities there."
    return Finding("saturated-voxels", "warning" if share >= SATURATED_SHARE else "note", sentence, remedy)


def _usual_number_below(image: Image, top: float) -> float:
    """Voxels at each value just below the highest one."""
    span = max(top - float(image.min()), 1.0)
    whole = np.issubdtype(image.dtype, np.integer)
    reach = max(0.03 * span, FEW_VALUES) if whole else 0.03 * span
    near = image[(image < top) & (image >= top - reach)]
    return near.size / max(1, len(np.unique(near)))


def check_hot_pixels(image: Image) -> Finding:
    """Look for single voxels far brighter than their neighbours in the plane: defects, or cosmic rays.

    Light is blurred and reaches the neighbours. Along z they are not compared, since a defect is hot in
    every plane.
    """
    values = np.asarray(image, np.float64)
    footprint = np.ones((1,) * (image.ndim - 2) + (3, 3), bool)
    middle = scipy.ndimage.median_filter(values, footprint=footprint)
    footprint[..., 1, 1] = False
    neighbours = scipy.ndimage.maximum_filter(values, footprint=footprint, mode="nearest")
    deviation = np.maximum(_deviation(values), _noise_of(image).deviation_at(middle))
    excess = values - middle
    lonely = neighbours - middle < HOT_NEIGHBOUR * excess + 2 * deviation
    hot = int(np.count_nonzero((excess > HOT_ABOVE * deviation) & lonely & (deviation > 0)))
    if hot <= max(3, HOT_SHARE * image.size):
        return Finding("hot-pixels", "good", "No single voxels stick out of their surroundings.")
    sentence = (
        f"{hot} single voxels ({hot / image.size:.2g} of those looked at) lie more than {HOT_ABOVE:g} times "
        "the noise above their neighbours: hot pixels of the camera, or cosmic rays. "
        "The result shows them as points with rings."
    )
    remedy = "Replace them by the median of their neighbours first; cameras have a correction of hot pixels."
    return Finding("hot-pixels", "warning", sentence, remedy)


def _noise_of(image: Image) -> NoiseModel:
    return estimate_noise(image, float(np.percentile(image, 1)))


def _deviation(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Noise of every voxel: the typical difference around it, but at least that of the whole image."""
    axes = [values.ndim - 2, values.ndim - 1]
    differences = np.abs(high_pass(values, axes))
    there = differences[differences > 0]
    overall = float(np.median(there)) / NORMAL_MEDIAN if there.size else 0.0
    pad = [(0, 0)] * (values.ndim - 2) + [(1, 1), (1, 1)]
    clipped = np.pad(np.minimum(differences, 5 * overall), pad, mode="edge")
    size = (1,) * (values.ndim - 2) + (9, 9)
    squares = np.maximum(scipy.ndimage.uniform_filter(clipped**2, size), 0.0)  # a running sum may miss 0
    return np.maximum(np.sqrt(squares), overall)


def check_signal(image: Image, background: float, noise: NoiseModel) -> Finding:
    """Compare the brightest places with the noise there.

    Parameters
    ----------
    image : (z, y, x) or (y, x), a part with signal
    background : the camera's offset, in data units
    noise : of this image
    """
    local = scipy.ndimage.uniform_filter(np.asarray(image, np.float64), MEAN_OF[image.ndim], mode="nearest")
    bright = float(np.percentile(local, 99.5))
    ratio = max(0.0, bright - background) / float(noise.deviation_at(bright))
    if ratio >= LEAST_SIGNAL_TO_NOISE:
        sentence = f"The brightest places lie {ratio:.2g} times the noise of a voxel above the background."
        return Finding("too-little-signal", "good", sentence)
    sentence = (
        f"There is too little signal: the brightest places that were looked at are only {ratio:.2g} times "
        f"the noise of a voxel above the background ({background:.4g}), and {LEAST_SIGNAL_TO_NOISE:g} times "
        "are needed; the result will hold structures made of noise."
    )
    remedy = "Expose for longer or use more light; compare two recordings before you trust any detail."
    return Finding("too-little-signal", "warning", sentence, remedy)


def check_noise_correlation(correlation: Sequence[float]) -> Finding:
    """Judge whether the noise is that of a camera, new in every voxel.

    Parameters
    ----------
    correlation : of neighbouring voxels along every axis, as `noise_correlation` gives it
    """
    names = AXES[-len(correlation) :]
    known = {axis: r for axis, r in zip(names, correlation, strict=True) if not math.isnan(r)}
    worst = max(known, key=lambda axis: abs(known[axis]), default="")
    if not worst or abs(known[worst]) < LARGEST_CORRELATION:
        return Finding("correlated-noise", "good", "The noise of neighbouring voxels is independent.")
    sentence = (
        f"The noise of neighbouring voxels is correlated along {worst} ({known[worst]:.2f}; a camera's raw "
        f"data have 0, and {LARGEST_CORRELATION:g} is the limit), as after deskewing, rotation, smoothing or "
        "compression with loss: noise is then taken for structure, and its measures here are too small."
    )
    remedy = "Use the raw image: deconvolve first and deskew afterwards, and store without loss."
    return Finding("correlated-noise", "warning", sentence, remedy)


def check_background(image: Image, background: float, noise: NoiseModel) -> Finding:
    """Hold a background that was given against the darkest places of the image.

    Parameters
    ----------
    image : (z, y, x) or (y, x)
    background : as given, in data units
    noise : of this image
    """
    local = scipy.ndimage.uniform_filter(np.asarray(image, np.float64), 3, mode="nearest")
    dark, bright = (float(v) for v in np.percentile(local, [1, 99.9]))
    slack = 3 * float(noise.deviation_at(dark)) / math.sqrt(3**image.ndim)
    below = float(np.mean(local < background - slack))
    if below > ABOVE_DARK:
        sentence = (
            f"The background that was given, {background:g}, is too high: {below:.0%} of the image is darker "
            f"(its darkest places are near {dark:.4g}), and dim structures will be lost."
        )
    elif dark - background > max(BELOW_DARK * (bright - dark), 2 * slack):
        sentence = (
            f"The background that was given, {background:g}, is too low: even the darkest places are near "
            f"{dark:.4g}, and the brightest at {bright:.4g}; the rest is taken for light, and contrast is "
            "lost."
        )
    else:
        return Finding("wrong-background", "good", f"The background, {background:.4g}, suits the image.")
    remedy = f"Leave --background out to have it measured, or give the camera's offset, about {dark:.4g}."
    return Finding("wrong-background", "warning", sentence, remedy)
