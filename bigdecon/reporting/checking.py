"""All checks of a report: those that the run made before it began, and those that its result allows."""

from __future__ import annotations

import math
from dataclasses import replace

from bigdecon.diagnosis.findings import Finding
from bigdecon.diagnosis.result_checks import (
    check_clipping,
    check_detail,
    check_explanation,
    check_intensity,
    check_psf_by_residual,
    check_training,
)
from bigdecon.reporting.measuring import StackMeasures
from bigdecon.reporting.subject import Subject

__all__ = ["Named", "findings_of_run", "findings_of_stack"]

Named = tuple[str, Finding]
"""The channel that a finding is about, "" for all of them, and the finding."""


def findings_of_stack(measures: StackMeasures, *, in_um: bool = True) -> list[Finding]:
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
    detail = check_detail(measures.detail, known, in_um=in_um)
    found = [check_explanation(pooled), check_psf_by_residual(pooled), detail, *measures.findings]
    if measures.kept is not None:
        found.append(check_intensity(measures.kept))
    return found


def findings_of_run(subject: Subject) -> list[Named]:
    """Judge training and clipping, and take over what the run had found."""
    result, found = subject.result, [("", finding) for finding in subject.findings]
    for channel, model in zip(result.channels, subject.models, strict=False):
        curve = [(point.step, point.held_out_error) for point in model.curve]
        name = channel.name if len(subject.models) > 1 else ""
        found.append((name, check_training(curve, model.stopped_by)))
    voxels = math.prod(result.shape)
    found.append(("", check_clipping(subject.status.clipped, voxels, subject.work.layout.dtype)))
    return found
