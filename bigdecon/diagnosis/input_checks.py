"""All checks of an image and its PSF, on a few boxes of it at full resolution, before a run begins."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigdecon.diagnosis.findings import Finding
from bigdecon.diagnosis.image_checks import (
    check_background,
    check_hot_pixels,
    check_noise_correlation,
    check_saturation,
    check_signal,
)
from bigdecon.diagnosis.optics_checks import (
    KnownOptics,
    check_psf_optics,
    check_psf_plausibility,
    check_psf_theory,
    check_psf_voxel_size,
)
from bigdecon.diagnosis.psf_checks import (
    check_orientation,
    check_psf_extent,
    check_psf_width,
    check_sampling,
)
from bigdecon.diagnosis.sampling import BUDGET_BYTES, is_affordable, sample_boxes
from bigdecon.evaluation.noise import estimate_noise, noise_correlation
from bigdecon.io.image_file import decoded_chunk_bytes
from bigdecon.optics.psf import PSF
from bigdecon.volume import Stack, Volume

__all__ = ["check_input", "check_psf_alone", "check_volume"]

Image = NDArray[Any]

CHANNELS = 4
"""So many are looked at; each takes about a second."""
BOXES = 3
LEAST_EXTENT = 16  # pixels along y and x; a smaller image tells nothing
SMALLEST_PSF = 3  # pixels; of a PSF no larger the plan warns by itself
LEAST_NOISE = 0.5  # variance, in squared steps of whole numbers: below, rounding is most of the noise


def check_volume(
    volume: Volume, psfs: Sequence[PSF], backgrounds: Sequence[float], *, backgrounds_given: bool
) -> tuple[Finding, ...]:
    """Check a part of each of the first four channels, and their PSFs.

    Parameters
    ----------
    volume : the image
    psfs, backgrounds : one for every channel; backgrounds in data units
    backgrounds_given : whether the user gave them, so that they may be mistaken
    """
    found: list[Finding] = []
    for channel in range(min(volume.n_channels, CHANNELS)):
        name = volume.channels[channel].name or str(channel)
        found += check_input(
            [volume.stack(timepoint=t, channel=channel) for t in range(volume.n_timepoints)],
            psfs[channel],
            background=backgrounds[channel],
            background_given=backgrounds_given,
            voxel_size_um=volume.voxel_size_um,
            image_optics=KnownOptics.of_image(volume.objective, volume.channels[channel]),
            name=name if volume.n_channels > 1 else "",
        )
    return tuple(found)


def check_input(
    stacks: Sequence[Stack],
    psf: PSF,
    *,
    background: float,
    background_given: bool = False,
    voxel_size_um: Sequence[float] | None = None,
    image_optics: KnownOptics = KnownOptics(),  # noqa: B008  (frozen)
    name: str = "",
) -> tuple[Finding, ...]:
    """Check one channel and its PSF on a few boxes of it, those with most light.

    Parameters
    ----------
    stacks : one channel at every time point; a few dozen megabytes of them are read at most
    psf : at the voxel size of the stacks
    background : of the channel, in data units
    background_given : whether the user gave it, so that it may be mistaken
    voxel_size_um : of the stacks, along the spatial axes; None if unknown
    image_optics : what the image's metadata tell
    name : of the channel, to begin the sentences with; "" where there is one only

    Returns
    -------
    one finding for every check that could be made, good ones included; fewer where the image is too small or
    empty, or too little is known to tell
    """
    findings = [
        *check_psf_alone(psf, voxel_size_um, image_optics),
        check_psf_extent(psf.array.shape, stacks[0].shape),
    ]
    if min(stacks[0].shape[-2:]) >= LEAST_EXTENT:
        boxes = sample_boxes(stacks, background, keep=BOXES)
        if boxes:
            findings += _check_boxes(boxes, psf.array, background, background_given)
        elif not is_affordable(stacks[0]):
            findings.append(_not_checked(stacks[0]))
    return tuple(_of_channel(finding, name) for finding in findings)


def check_psf_alone(
    psf: PSF, voxel_size_um: Sequence[float] | None, image_optics: KnownOptics, *, of_image: bool = True
) -> list[Finding]:
    """Check a PSF by itself, by the voxels, and by what is known of the optics; parameters as above.

    `of_image` tells whether the voxels are those of an image: how finely that is sampled is held against
    Nyquist's limit, and the voxels of a PSF alone are not.
    """
    made = KnownOptics.of(psf.origin.conditions if psf.origin else None)
    findings = _made(
        check_orientation(psf.array, voxel_size_um),
        check_psf_voxel_size(psf),
        check_psf_optics(psf, image_optics),
    )
    if max(psf.array.shape) <= SMALLEST_PSF:
        return findings
    computed = made.conditions is not None  # then its optics and its voxel size are what can be wrong
    if not computed and not any(finding.needs_attention for finding in findings):
        by_theory = check_psf_theory(psf, image_optics)
        odd = by_theory is not None and by_theory.needs_attention
        findings += _made(by_theory, None if odd else check_psf_plausibility(psf))
    if of_image:
        findings += _made(check_sampling(voxel_size_um, psf.array, image_optics.filled_by(made)))
    return findings


def _made(*findings: Finding | None) -> list[Finding]:
    """Leave out the checks for which too little was known."""
    return [finding for finding in findings if finding is not None]


def _not_checked(stack: Stack) -> Finding:
    size = decoded_chunk_bytes(stack.source)
    return Finding(
        "image-not-checked",
        "warning",
        f"The image was not checked for saturation, noise and background: a single chunk of it takes "
        f"{size / 2**20:.0f} MiB once decoded, and {BUDGET_BYTES / 2**20:.0f} MiB are spent on these checks.",
        "Rewrite the image with smaller chunks, 128 voxels a side say: bigdecon convert does that. "
        "The run becomes faster as well.",
    )


def _check_boxes(
    boxes: Sequence[Image], psf_array: NDArray[Any], background: float, background_given: bool
) -> list[Finding]:
    """Look at boxes of one shape, the brightest first."""
    together = np.concatenate(boxes)
    noise = estimate_noise(together, background)
    findings = [check_saturation(together), check_hot_pixels(together)]
    findings.append(check_signal(boxes[0], background, noise))
    if not np.issubdtype(together.dtype, np.integer) or noise.variance > LEAST_NOISE:
        correlations = [noise_correlation(box) for box in boxes]
        along_axes = zip(*correlations, strict=True)
        findings.append(check_noise_correlation([_middle(values) for values in along_axes]))
    if background_given:
        findings.append(check_background(together, background, noise))
    findings.append(_of_most([check_psf_width(box, psf_array) for box in boxes]))
    return findings


def _middle(values: Sequence[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return float(np.median(known)) if known else math.nan


def _of_most(findings: Sequence[Finding]) -> Finding:
    """Take what more than half of the boxes say; a single one of several may hold anything."""
    said = Counter(finding.name for finding in findings)
    name, count = said.most_common(1)[0]
    if 2 * count <= len(findings):
        name = next((f.name for f in findings if not f.needs_attention), name)
    return next(finding for finding in findings if finding.name == name)


def _of_channel(finding: Finding, name: str) -> Finding:
    return replace(finding, sentence=f"Channel {name}: {finding.sentence}") if name else finding
