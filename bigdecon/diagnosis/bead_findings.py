"""What may be wrong with a PSF that was measured on beads, or with its widths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bigdecon.diagnosis.findings import Finding
from bigdecon.diagnosis.optics_checks import KnownOptics
from bigdecon.diagnosis.psf_checks import check_sampling
from bigdecon.optics.beads import BeadPSF
from bigdecon.optics.expectation import BEAD_VARIANCE, Expectation

__all__ = ["bead_findings", "width_findings"]

FEW_BEADS = 5
ENOUGH_BEADS = 10
NARROW, WIDE_LATERAL, WIDE_AXIAL = 0.85, 1.25, 1.4
"""Parts of the width by theory; good objectives reach the lateral one within 10 %, the axial within 30 %."""
SKEW_AXIAL, SKEW_LATERAL = 0.15, 0.12
OVAL = 1.15
SPREAD = 0.12
WIDENED, WIDENED_LITTLE = 1.2, 1.05
EFFECTIVE_SIGNAL = 50


def bead_findings(measured: BeadPSF) -> list[Finding]:
    """Judge a measured PSF: number of beads, sampling, widths, symmetry, spread, and the beads' own size."""
    size = measured.psf.voxel_size_um or ()
    findings = [_count(measured), _signal(measured)]
    sampling = check_sampling(size or None, measured.psf.array, KnownOptics.of(measured.conditions))
    findings += [sampling] if sampling else []
    if measured.expectation is not None:
        diameter = None if measured.bead_size_corrected else measured.bead_diameter_um
        findings += width_findings(measured.fwhm_um, measured.expectation, diameter)
    findings += [_whole(measured), *_symmetry(measured), _spread(measured)]
    findings += _bead_size(measured)
    return findings


def width_findings(
    fwhm_um: Sequence[float | None], expectation: Expectation, bead_diameter_um: float | None = None
) -> list[Finding]:
    """Hold the widths of a PSF against theory, with the beads' own size added to it."""
    findings = []
    extra = BEAD_VARIANCE * (bead_diameter_um or 0.0) ** 2
    for direction, axes in _groups(len(fwhm_um)):
        widths = [fwhm_um[a] for a in axes]
        if any(w is None for w in widths):
            continue
        width = float(np.mean([w for w in widths if w is not None]))
        theory = float(np.sqrt(np.mean([expectation.fwhm_um[a] for a in axes]) ** 2 + extra))
        findings.append(_width_finding(direction, width, theory))
    return findings


def _width_finding(direction: str, width: float, theory: float) -> Finding:
    ratio, widest = width / theory, WIDE_AXIAL if direction == "axial" else WIDE_LATERAL
    said = f"The {direction} FWHM is {width:.3g} µm, {ratio:.2f} times the {theory:.3g} µm of theory"
    if ratio > widest:
        return Finding(
            f"psf-wide-{direction}",
            "warning",
            f"{said}; more than {widest:g} times is no healthy objective.",
            "Check the numbers given, the voxel size, the size of the beads, the coverslip's thickness and "
            "the immersion medium; drift and vibration widen, too.",
        )
    if ratio < NARROW:
        return Finding(
            f"psf-narrow-{direction}",
            "warning",
            f"{said}, and nothing can be narrower than theory.",
            "Check the voxel size, numerical aperture, wavelength and kind of microscope given; "
            "hot pixels look narrow, too.",
        )
    return Finding(f"psf-width-{direction}", "good", f"{said}.")


def _groups(ndim: int) -> list[tuple[str, list[int]]]:
    return [("axial", [0]), ("lateral", [1, 2])] if ndim == 3 else [("lateral", [0, 1])]


def _count(measured: BeadPSF) -> Finding:
    n = measured.n_used
    if n >= ENOUGH_BEADS:
        return Finding("bead-count", "good", f"{n} beads were averaged.")
    few = n < FEW_BEADS
    return Finding(
        "bead-count",
        "warning" if few else "note",
        f"Only {n} bead{'' if n == 1 else 's'} could be used; {ENOUGH_BEADS} or more average out noise and "
        f"{'show' if few else 'better show'} which are not like the others.",
        "Take more fields of view, or beads at another density.",
    )


def _signal(measured: BeadPSF) -> Finding:
    total = float(np.sqrt(sum(min(b.signal_to_noise, 1e6) ** 2 for b in measured.beads)))
    said = f"The peak is {total:.0f} times the noise of the average's background"
    if total > 1e5:
        return Finding("bead-signal", "good", "The beads' background is without noise.")
    if total >= EFFECTIVE_SIGNAL:
        return Finding("bead-signal", "good", f"{said}.")
    return Finding(
        "bead-signal",
        "warning",
        f"{said}; below {EFFECTIVE_SIGNAL} its faint outer parts are lost.",
        "Expose longer, short of saturation, or use more beads.",
    )


def _whole(measured: BeadPSF) -> Finding:
    axes = "zyx"[-len(measured.fwhm_um) :]
    cut = [axis for axis, width in zip(axes, measured.fwhm_um, strict=True) if width is None]
    if not cut:
        return Finding("psf-whole", "good", "The PSF falls to half of its peak within its array.")
    return Finding(
        "psf-whole",
        "distrust",
        f"The PSF does not fall to half of its peak within its array along {', '.join(cut)}.",
        "Give a larger --shape; if the stack is not higher, take one with more planes.",
    )


def _symmetry(measured: BeadPSF) -> list[Finding]:
    *axial, y, x = measured.asymmetry
    findings = []
    if axial and axial[0] > SKEW_AXIAL:
        findings.append(
            Finding(
                "psf-spherical-aberration",
                "warning",
                f"Aberrated: above and below the focus the PSF differs by {axial[0]:.0%}, as with spherical "
                f"aberration (more than {SKEW_AXIAL:.0%}).",
                "Turn the correction collar, match the immersion medium, use coverslips of 0.17 mm; "
                "the PSF is right for images taken in the same way and depth.",
            )
        )
    if max(y, x) > SKEW_LATERAL:
        findings.append(
            Finding(
                "psf-coma",
                "warning",
                f"Aberrated: the PSF differs from its mirror image by {max(y, x):.0%} along "
                f"{'y' if y > x else 'x'} (more than {SKEW_LATERAL:.0%}), as with coma or a tilted slide.",
                "Check that the slide lies flat and the light path is aligned.",
            )
        )
    wy, wx = measured.fwhm_um[-2:]
    if wy and wx and max(wy / wx, wx / wy) > OVAL:
        findings.append(
            Finding(
                "psf-oval",
                "warning",
                f"The PSF is {max(wy / wx, wx / wy):.2f} times as wide along {'y' if wy > wx else 'x'} "
                "as across, as with astigmatism, drift or a wrong pixel size.",
                "Check the pixel size along y and x, and that nothing moved.",
            )
        )
    return findings or [Finding("psf-symmetry", "good", "The PSF is about as symmetric as it should be.")]


def _spread(measured: BeadPSF) -> Finding:
    axes = "zyx"[-len(measured.width_spread) :]
    figures = ", ".join(f"{s:.1%} along {a}" for s, a in zip(measured.width_spread, axes, strict=True))
    if measured.n_used < 3 or max(measured.width_spread) <= SPREAD:
        return Finding("bead-spread", "good", f"The widths of single beads vary by {figures}.")
    return Finding(
        "bead-spread",
        "warning",
        f"The widths of single beads vary by {figures}, more than {SPREAD:.0%}: "
        "they are not images of one PSF.",
        "Beads may be of several sizes, at several depths, or the PSF changes over the field: "
        "measure where your sample is.",
    )


def _bead_size(measured: BeadPSF) -> list[Finding]:
    if measured.widening is None:
        return []
    if measured.bead_size_corrected:
        sentence = f"The size of the beads, {measured.bead_diameter_um:g} µm, was taken out of the PSF."
        return [Finding("bead-size", "good", sentence)]
    axes = "zyx"[-len(measured.widening) :]
    figures = ", ".join(f"{w - 1:.1%} along {a}" for w, a in zip(measured.widening, axes, strict=True))
    worst = max(measured.widening)
    sentence = f"Beads of {measured.bead_diameter_um:g} µm make the PSF look wider by {figures}."
    if worst <= WIDENED_LITTLE:
        return [Finding("bead-size", "good", sentence)]
    return [
        Finding(
            "bead-size",
            "warning" if worst > WIDENED else "note",
            sentence,
            "Use smaller beads, or give --correct-bead-size.",
        )
    ]
