"""All checks of a report: those that the run made before it began, and those that its result allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from bigdecon.config import CLASSICAL
from bigdecon.diagnosis.findings import Finding
from bigdecon.diagnosis.input_checks import check_psf_alone
from bigdecon.diagnosis.optics_checks import KnownOptics
from bigdecon.diagnosis.result_checks import (
    NAME_OF_NOISE,
    Origin,
    check_clipping,
    check_detail,
    check_explanation,
    check_intensity,
    check_psf_by_residual,
    check_training,
)
from bigdecon.learning.checkpoint import Checkpoint
from bigdecon.reporting.measures import StackMeasures
from bigdecon.reporting.subject import Subject
from bigdecon.running.classical_settings import what_to_tune

__all__ = [
    "Named",
    "findings_of_psfs",
    "findings_of_run",
    "findings_of_stack",
    "findings_of_stacks",
    "origins_of_settings",
]

Named = tuple[str, Finding]
"""The channel that a finding is about, "" for all of them, and the finding."""


def findings_of_stack(
    measures: StackMeasures, *, in_um: bool = True, origin: Origin = "given"
) -> list[Finding]:
    """Judge residual, detail and intensity of one channel, over all boxes; sizes in µm or voxels."""
    planes, spectrum = measures.interesting_planes, measures.spectrum
    if planes is None or spectrum is None or measures.chi_square is None:
        return list(measures.findings)
    pooled = replace(
        planes.whole,
        chi_square=measures.chi_square,
        correlation=measures.correlation,
        frequency=spectrum[0],
        spectrum=spectrum[1],
        unexplained=measures.unexplained,
    )
    known = measures.looks[measures.interesting].correlation if measures.interesting else ()
    detail = check_detail(measures.detail, known, in_um=in_um, origin=origin)
    found = [check_explanation(pooled), check_psf_by_residual(pooled, origin), detail, *measures.findings]
    if measures.kept is not None:
        found.append(check_intensity(measures.kept))
    return found


def origins_of_settings(subject: Subject) -> tuple[Origin, ...]:
    """Tell of each channel whether a network was trained, settings were chosen from the image, or given."""
    if subject.config.method in CLASSICAL:
        origin: Origin = "chosen" if what_to_tune(subject.config) else "given"
        return (origin,) * subject.result.n_channels
    early = [_training(model).severity == "warning" for model in subject.models]
    early += [False] * (subject.result.n_channels - len(early))
    return tuple("unfinished-network" if short else "network" for short in early)


def _training(model: Checkpoint) -> Finding:
    curve = [(point.step, point.held_out_error) for point in model.curve]
    return check_training(curve, model.stopped_by, model.config.steps)


def findings_of_stacks(
    stacks: Sequence[StackMeasures], origins: Sequence[Origin], *, in_um: bool = True
) -> list[list[Finding]]:
    """Judge channels at time points; the noise of a channel only where two halves told it, if any did.

    `origins` are of the settings, one a channel.

    Halves are compared at one time point of a channel. At the others only dark places could be looked at,
    which are a weaker witness and may contradict.
    """
    told = {measures.channel for measures in stacks if measures.agreements}
    return [
        [
            finding
            for finding in findings_of_stack(measures, in_um=in_um, origin=origins[measures.channel])
            if finding.name != NAME_OF_NOISE or measures.agreements or measures.channel not in told
        ]
        for measures in stacks
    ]


def findings_of_run(subject: Subject) -> list[Named]:
    """Judge training and clipping, and take over what the run had found."""
    result, found = subject.result, [("", finding) for finding in subject.findings]
    if not subject.findings:
        found += findings_of_psfs(subject)
    for channel, model in zip(result.channels, subject.models, strict=False):
        found.append((channel.name if len(subject.models) > 1 else "", _training(model)))
    voxels = math.prod(result.shape)
    found.append(("", check_clipping(subject.status.clipped, voxels, subject.work.layout.dtype)))
    return found


def findings_of_psfs(subject: Subject) -> list[Named]:
    """Check the PSFs as a run does before it begins, where it did not."""
    found: list[Named] = []
    image = subject.image or subject.result
    for channel, psf in zip(image.channels, subject.psfs, strict=True):
        if psf is not None and image.voxel_size_um is not None:
            optics = KnownOptics.of_image(image.objective, channel)
            name = channel.name if len(subject.psfs) > 1 else ""
            found += [(name, finding) for finding in check_psf_alone(psf, image.voxel_size_um, optics)]
    return found
