"""Checks of a result: whether it explains the image, what it did to noise and light, and if to trust it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from bigdecon.diagnosis.findings import Finding, Severity
from bigdecon.evaluation.detail import DetailCurve
from bigdecon.evaluation.half_noise import noise_of_halves
from bigdecon.evaluation.noise import NoiseModel
from bigdecon.evaluation.residual import Residual

__all__ = [
    "NAME_OF_NOISE",
    "NAME_OF_TRAINING",
    "Origin",
    "check_clipping",
    "check_detail",
    "check_explanation",
    "check_intensity",
    "check_noise_amplification",
    "check_psf_by_residual",
    "check_training",
    "check_trust",
]

Image = NDArray[Any]

EXPLAINED = (0.7, 1.3)  # reduced chi square; the noise is known to some ten percent
WHITE = 0.1  # correlation of neighbours
UNEXPLAINED = 0.05  # part of the image's variation; less is left by careful smoothing
DISTRUSTED = 0.2
BESIDE_NOISE = 2.0  # reduced chi square: as much is left of the structure as there is noise
STRUCTURED = 0.3
NAME_OF_NOISE = "amplified-noise"
NOISE_GROWTH = 1.5
NOISE_SHARE = 0.03  # of the result's variance
REMOVABLE = 0.6  # of the noise, see `noise_of_halves`; near the best number of iterations, less is
LEAST_DARK = 200  # voxels
NAME_OF_TRAINING = "training-not-converged"
MOST_STEPS = 0.9  # of those planned, where the time limit ended the training
STILL_FALLING = 0.05  # of the error, in the last quarter of the training
LEAST_MEASUREMENTS = 6
LOST = 0.25  # of the frequencies that the image's data support
NOISE_SHARED = 0.2  # correlation of neighbours, as in `image_checks`
KEPT = (0.9, 1.1)
CLIPPED_SHARE = 1e-4


Origin = Literal["network", "unfinished-network", "chosen", "given"]
"""Where a method's strength came from: a training, one that ended too early, hidden voxels, or the user."""
NETWORK_OR_PSF = (
    "Run --method richardson-lucy, which learns nothing, and read its report: if it explains the image, the "
    "PSF is good enough, and the network needs more steps or a larger part of the image; if not, check the "
    "PSF's voxel size, its orientation, the NA and the wavelength."
)


def check_training(
    curve: Sequence[tuple[int, float | None]], stopped_by: str, steps: int | None = None
) -> Finding:
    """Look whether a network had stopped learning when its training ended.

    Parameters
    ----------
    curve : steps done, and the mean squared error at held-out voxels then (None where it was not measured)
    stopped_by : "steps", "time" or "plateau"
    steps : that were planned; None where that is not known
    """
    name = NAME_OF_TRAINING
    remedy = "Train for longer, by --steps or --train-minutes; a new training starts from the beginning."
    known = [(step, error) for step, error in curve if error is not None and math.isfinite(error)]
    cut_short = stopped_by == "time" and bool(steps and curve) and curve[-1][0] < MOST_STEPS * (steps or 0)
    if len(known) < LEAST_MEASUREMENTS:
        if cut_short:
            return Finding(name, "warning", _cut_short(curve[-1][0], steps or 0), remedy)
        sentence = (
            f"The training was measured {len(known)} times only, too few to tell whether it was long enough."
        )
        return Finding(name, "note", sentence, remedy)
    errors = np.array([error for _, error in known])
    quarter = max(2, len(errors) // 4)
    before, last = float(np.median(errors[-2 * quarter : -quarter])), float(np.median(errors[-quarter:]))
    falling = (before - last) / last if last > 0 else 0.0
    if falling > STILL_FALLING and cut_short:
        return Finding(name, "warning", _cut_short(curve[-1][0], steps or 0), remedy)
    if falling > STILL_FALLING and stopped_by != "plateau":
        sentence = (
            f"The training ended after {known[-1][0]} steps while the network was still learning: its error "
            f"at held-out voxels fell from {before:.3g} in the quarter before to {last:.3g} in the last, by "
            f"{falling:.0%} where {STILL_FALLING:.0%} is the limit; the result is less sharp, or noisier, "
            "than it could be."
        )
        return Finding(name, "warning", sentence, remedy)
    if last > 1.2 * float(errors.min()):
        sentence = (
            f"The network got worse towards the end of its training: its error at held-out voxels is "
            f"{last / errors.min():.2f} times the least one, and 1.2 times is the limit."
        )
        return Finding(name, "warning", sentence, "Take another --seed, or more of the image to train on.")
    return Finding(name, "good", f"The training had converged after {known[-1][0]} steps.")


def _cut_short(done: int, steps: int) -> str:
    return (
        f"The training was ended by its time limit after {done} of {steps} steps; the network has not "
        "learned all that it could, and what else is found of the result may come from that."
    )


def check_explanation(residual: Residual) -> Finding:
    """Say whether the result, blurred again, is the image up to its noise."""
    chi, correlation = residual.chi_square, _strongest(residual.correlation)
    measured = (
        f"what is left has {chi:.2f} times the variance of the noise (1 is noise alone, "
        f"{EXPLAINED[0]:g} to {EXPLAINED[1]:g} is in order) and neighbours in it are correlated by "
        f"{correlation:.2f} (up to {WHITE:g} is in order)"
    )
    if EXPLAINED[0] <= chi <= EXPLAINED[1] and abs(correlation) <= WHITE:
        return Finding("explains-data", "good", f"The model explains the data to the noise: yes; {measured}.")
    if chi < EXPLAINED[0]:
        sentence = (
            f"The model explains the data to the noise: more than that; {measured}, so the result has "
            "followed the noise as well."
        )
        return Finding(
            "explains-data", "warning", sentence, "Take fewer iterations or a stronger regularization."
        )
    share = residual.unexplained
    sentence = (
        f"The model explains the data to the noise: no; {share:.1%} of the structure is left "
        f"({UNEXPLAINED:.0%} is the limit), {measured}."
    )
    if share < UNEXPLAINED:
        return Finding("explains-data", "note", sentence, "So little is usual where an image is bright.")
    if chi <= EXPLAINED[1] and correlation < STRUCTURED:
        return Finding("explains-data", "note", sentence, "What is left lies below the noise.")
    remedy = (
        "Check the PSF and the voxel sizes first, then take more iterations, steps, or less regularization."
    )
    # A dim image has little structure to share out, and what is left of it may lie far below the noise.
    grave = share > DISTRUSTED and chi > BESIDE_NOISE
    return Finding("explains-data", "distrust" if grave else "warning", sentence, remedy)


def check_psf_by_residual(residual: Residual, origin: Origin = "given") -> Finding:
    """Judge by what is left of the image whether this PSF can have made it.

    A result can be made to explain nearly any image if the PSF is too narrow; what stays unexplained is
    structure finer than the PSF, or elsewhere than it puts it. A network leaves structure also where it has
    not learned enough, with a PSF that is right.

    Parameters
    ----------
    residual : over all boxes
    origin : of the result
    """
    correlation, share = _strongest(residual.correlation), residual.unexplained
    if residual.chi_square <= EXPLAINED[1] or share < UNEXPLAINED or correlation < STRUCTURED:
        told = f"Too little is left over to speak against the PSF: {share:.1%} of the structure"
        limit = f" ({UNEXPLAINED:.0%} is the limit)" if share < UNEXPLAINED else ", and that is like noise"
        return Finding("psf-seems-wrong", "good", f"{told}{limit}.")
    if origin == "unfinished-network":
        sentence = (
            f"What the result leaves over ({share:.1%} of the structure) tells nothing of the PSF, as the "
            "training itself is in doubt."
        )
        return Finding("psf-seems-wrong", "note", sentence, NETWORK_OR_PSF)
    if origin == "network":
        sentence = (
            f"Either the network has not learned enough, or the PSF is wrong: {share:.1%} of the structure "
            f"in the image is left over by the result ({UNEXPLAINED:.0%} is the limit), and what is left "
            f"has a shape of its own (neighbours correlated by {correlation:.2f}, limit {STRUCTURED:g})."
        )
        return Finding("psf-seems-wrong", "warning", sentence, NETWORK_OR_PSF)
    sentence = (
        f"The PSF seems wrong: {share:.1%} of the structure in the image is left over by the result "
        f"({UNEXPLAINED:.0%} is the limit), and what is left has a shape of its own (neighbours correlated "
        "by "
        f"{correlation:.2f}, limit {STRUCTURED:g}), not that of noise."
    )
    remedy = (
        "Check the PSF's voxel size, its orientation, the NA and the wavelength; a result that was stopped "
        "too "
        "early looks alike."
    )
    return Finding("psf-seems-wrong", "distrust" if share > DISTRUSTED else "warning", sentence, remedy)


def check_noise_amplification(
    image: Image, result: Image, noise: NoiseModel, half_results: tuple[Image, Image] | None = None
) -> Finding:
    """Judge the noise of a result.

    With the results of two halves of the data (`thinning.thin`, each doubled), their difference is noise
    alone, and it is asked whether it lies where there is structure. That it is larger than in the image says
    nothing: a result is brighter and finer than its image. Without halves, dark places are looked at, in
    which there should be nothing.

    Parameters
    ----------
    image, result : the same box of both, in data units
    noise : of the image, with its background
    half_results : of the two doubled halves
    """
    if half_results is not None:
        return _noise_by_halves(half_results)
    growth = _growth_in_the_dark(image, result, noise)
    if math.isnan(growth):
        return Finding(NAME_OF_NOISE, "note", "There are no dark places to measure the result's noise in.")
    sentence = f"the noise of the result is {growth:.2g} times that of the image in dark places"
    if growth <= NOISE_GROWTH:
        return Finding(NAME_OF_NOISE, "good", f"Noise is not amplified: {sentence}.")
    return _amplified(f"{sentence}, and {NOISE_GROWTH:g} times is the limit")


def _noise_by_halves(half_results: tuple[Image, Image]) -> Finding:
    found = noise_of_halves(*half_results)
    if math.isnan(found.removable):
        return Finding(NAME_OF_NOISE, "note", "The result is too small to tell where its noise lies.")
    told = f"noise makes up {found.share:.1%} of the variation in the result"
    if found.share <= NOISE_SHARE:
        return Finding(NAME_OF_NOISE, "good", f"Noise is not amplified: {told} (limit {NOISE_SHARE:.0%}).")
    where = f"{found.removable:.0%} of it lies at detail that holds little else"
    if found.removable <= REMOVABLE:
        sentence = (
            f"Noise is not amplified without need: {told}, more than {NOISE_SHARE:.0%}, but only {where} "
            f"(limit {REMOVABLE:.0%}); the rest cannot be smoothed away without the structure."
        )
        return Finding(NAME_OF_NOISE, "good", sentence)
    return _amplified(f"{told} (limit {NOISE_SHARE:.0%}), and {where} (limit {REMOVABLE:.0%})")


def _amplified(told: str) -> Finding:
    sentence = (
        f"The deconvolution amplifies noise, or keeps more than it must: {told}; small bright grains in the "
        "result are noise, not structure."
    )
    remedy = (
        "Take fewer iterations, a stronger regularization or a wider --sieve. Settings found by hidden "
        "voxels predict the image best, and may let this much noise through."
    )
    return Finding(NAME_OF_NOISE, "warning", sentence, remedy)


def _growth_in_the_dark(image: Image, result: Image, noise: NoiseModel) -> float:
    """Spread of the result over the image's noise, where the image's surroundings are dark."""
    around = scipy.ndimage.uniform_filter(np.asarray(image, np.float64), 7, mode="nearest")
    deviation = math.sqrt(noise.variance)
    dark = np.abs(around - noise.background) < deviation / 2
    if np.count_nonzero(dark) < LEAST_DARK:
        return math.nan
    values = np.asarray(result, np.float64)[dark]
    return float(values.std()) / deviation


SHARPER: Mapping[Origin, str] = {
    "network": "Train longer (--steps), or let Richardson-Lucy follow the network (--refine 20); if that "
    "does not help, the PSF is wider than that of the microscope.",
    "unfinished-network": "Train longer (--steps, --train-minutes); nothing else can be told before.",
    "chosen": "These settings predict hidden voxels best, so sharper ones cost noise: try more --iterations "
    "or a narrower --sieve by hand, and compare. If the detail does not come, look to the PSF and the "
    "background.",
    "given": "Take more iterations, a narrower --sieve or a weaker regularization; if that does not help, "
    "the PSF is wider than that of the microscope.",
}


def check_detail(
    curves: Sequence[DetailCurve],
    noise_correlation: Sequence[float] = (),
    *,
    in_um: bool = True,
    origin: Origin = "given",
) -> Finding:
    """Say down to which detail the result carries what the image holds, and whether it is smoother.

    Parameters
    ----------
    curves : of the result, see `detail_curves`
    noise_correlation : of the image, along every axis: noise that voxels share looks like detail
    in_um : whether frequencies are per micrometre, or per voxel
    origin : of the settings, for the remedy
    """
    name = "detail-lost"
    told = [curve for curve in curves if curve.image_reach]
    if abs(_strongest(noise_correlation)) >= NOISE_SHARED:
        sentence = "Neighbouring voxels share their noise, which cannot be told from detail that was lost."
        return Finding(name, "note", sentence)
    if not told:
        sentence = "The image holds too little detail beyond its noise to tell whether the result lost any."
        return Finding(name, "note", sentence)
    parts = " and ".join(_carried(curve, "µm" if in_um else "voxels") for curve in told)
    carried = f"the result carries the image's detail {parts}"
    if max(curve.lost for curve in told) < LOST:
        return Finding(name, "good", f"No detail was lost: {carried}.")
    sentence = (
        f"The result is smoother than the data: it carries the image's detail {parts}; finer "
        "structure, of which it carries less than half, is missing or too faint."
    )
    return Finding(name, "warning", sentence, SHARPER[origin])


def _carried(curve: DetailCurve, unit: str) -> str:
    where = {"lateral": "in the plane", "axial": "along z"}[curve.direction]
    if not curve.image_reach or curve.result_reach is None:
        return ""
    data = f"{1 / curve.image_reach:.2g} {unit}"
    if curve.result_reach == 0:
        return f"nowhere {where} (the image's data reach to {data})"
    if curve.result_reach >= curve.image_reach:
        return f"as far as its data reach, {data} {where}"
    return f"down to {1 / curve.result_reach:.2g} {unit} {where} (the image's data reach to {data})"


def check_intensity(kept: float) -> Finding:
    """Judge how much of the light above the background is in the result.

    Parameters
    ----------
    kept : as in `Residual`; NaN where there was nothing to measure
    """
    if math.isnan(kept):
        return Finding("intensity-kept", "note", "There is no light above the background to be kept.")
    if KEPT[0] <= kept <= KEPT[1]:
        return Finding(
            "intensity-kept", "good", f"The result, blurred again, has {kept:.1%} of the light in the image."
        )
    sentence = (
        f"The result, blurred again, has {kept:.1%} of the light in the image "
        f"({KEPT[0]:.0%} to {KEPT[1]:.0%} is in order); "
        "brightness must not be compared between image and result."
    )
    return Finding(
        "intensity-kept", "warning", sentence, "Check the background, and that the PSF was not cut off."
    )


def check_clipping(clipped: int, voxels: int, dtype: str) -> Finding:
    """Tell of voxels that did not fit the type of the output.

    Parameters
    ----------
    clipped : voxels beyond its range
    voxels : of the whole result
    dtype : of the output
    """
    if clipped == 0:
        return Finding("clipped-voxels", "good", f"All voxels of the result fit into {dtype}.")
    share = clipped / max(voxels, 1)
    sentence = (
        f"{clipped} voxels of the result ({share:.2g} of all) were beyond the range of {dtype} and were cut "
        "to "
        "its limits; their brightness is wrong."
    )
    severity: Severity = "warning" if share > CLIPPED_SHARE else "note"
    return Finding("clipped-voxels", severity, sentence, "Write the result with --dtype float32.")


def check_trust(findings: Sequence[Finding]) -> Finding:
    """Sum up: whether the result can be used, and why not."""
    serious = [f for f in findings if f.severity == "distrust" and f.name != "trust"]
    doubtful = [f for f in findings if f.severity == "warning" and f.name != "trust"]
    if serious:
        why = " ".join(f.sentence for f in serious)
        return Finding("trust", "distrust", f"Do not trust this result. {why}", serious[0].remedy)
    if doubtful:
        names = ", ".join(dict.fromkeys(f.name for f in doubtful))
        number = "1 warning" if len(doubtful) == 1 else f"{len(doubtful)} warnings"
        sentence = f"Look at {number} before you use this result: {names}."
        return Finding("trust", "warning", sentence, doubtful[0].remedy)
    return Finding("trust", "good", "Nothing was found that speaks against this result.")


def _strongest(correlation: Sequence[float]) -> float:
    """Give the correlation that is furthest from 0; estimates of it may lie a little beyond -1 and 1."""
    known = [r for r in correlation if not math.isnan(r)]
    return min(1.0, max(-1.0, max(known, key=abs, default=0.0)))
