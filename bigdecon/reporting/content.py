"""The content of a report, as both the page and the picture show it: gathered once, drawn twice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from bigdecon.addresses import shown_url
from bigdecon.diagnosis.shared_reads import ReadingBudget, decoded_bytes
from bigdecon.errors import NonFiniteError, ReadError
from bigdecon.optics.psf import PSF, check_psf
from bigdecon.reporting.charts import Chart
from bigdecon.reporting.checking import findings_of_run, findings_of_stacks, origins_of_settings
from bigdecon.reporting.curves import (
    agreement_chart,
    detail_charts,
    quality_map,
    quality_marks,
    spectrum_chart,
    training_charts,
    tuning_charts,
)
from bigdecon.reporting.facts import Row, facts_of, method_in_words
from bigdecon.reporting.measures import StackMeasures
from bigdecon.reporting.measuring import BUDGET_BYTES, BUDGET_SECONDS, Runner, measure_stack
from bigdecon.reporting.numbers import Reach, numbers_of, reaches_of
from bigdecon.reporting.overview import overview
from bigdecon.reporting.pictures import (
    Plane,
    Views,
    Window,
    colour_plane,
    detail_boxes,
    detail_views,
    projection_views,
    psf_planes,
    shrunk,
)
from bigdecon.reporting.samples import boxes_of_place, report_places
from bigdecon.reporting.subject import Subject
from bigdecon.reporting.verdict import Verdict, verdict_of
from bigdecon.volume import Stack

__all__ = ["Content", "PSFEntry", "Section", "gather"]

LARGEST_SIDE, LEAST_SIDE = 384, 128
RESIDUAL_RANGE = Window(-4.0, 4.0)
"""Residuals that get the strongest colours, in standard deviations of the noise."""


class PSFEntry(NamedTuple):
    """A PSF that was used: for which channels, its pictures, its widths in words, and what was corrected."""

    title: str
    planes: dict[str, Plane]
    widths: str
    corrections: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Section:
    """One channel at one time point.

    Attributes
    ----------
    heading : names both, where there are several
    measures : what was measured
    detail : planes through the place with most contrast
    overview : maximum projections of all; None where there is but one plane
    place : where the detail is, in words
    residuals : planes of the residual there
    worst : the box with the largest misfit, before and after, and its residual
    charts : each with a heading
    quality : map of the boxes; None where nothing was measured
    quality_marks : numbers of the scale beside it
    numbers : name and value, for a table
    reaches : lateral and axial, how fine the detail is
    notes : what the budget did not allow
    """

    heading: str
    measures: StackMeasures
    detail: Views
    overview: Views | None
    place: str
    residuals: dict[str, Plane]
    worst: tuple[Views, Plane] | None
    charts: tuple[tuple[str, Chart], ...]
    quality: Markup | None
    quality_marks: tuple[str, ...]
    numbers: tuple[Row, ...]
    reaches: tuple[Reach, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Content:
    """All that a report says.

    Attributes
    ----------
    title : name of the result
    state : one sentence on what was done
    verdict : plain words, and all findings
    sections : one for every channel, and a few time points
    psfs : those that were used, each once
    curves : of the training, or of the choice of settings
    facts : how it was made, by group
    notes : what could not be shown, and why
    network : whether a network made it
    """

    title: str
    state: str
    verdict: Verdict
    sections: tuple[Section, ...]
    psfs: tuple[PSFEntry, ...]
    curves: tuple[tuple[str, Chart], ...]
    facts: tuple[tuple[str, tuple[Row, ...]], ...]
    notes: tuple[str, ...]
    network: bool


def gather(subject: Subject, run: Runner, *, seconds: float | None = None, machine: str = "") -> Content:
    """Measure what is to be said about a result.

    Parameters
    ----------
    subject : the result, and what it was made from
    run : does the work, here or on workers
    seconds : time that the run took; None where unknown
    machine : what it ran on, in words; "" where unknown
    """
    places = report_places(subject.result.n_channels, subject.result.n_timepoints)
    budget = ReadingBudget(BUDGET_BYTES, BUDGET_SECONDS)
    side = int(min(LARGEST_SIDE, max(LEAST_SIDE, LARGEST_SIDE / math.sqrt(len(places)))))
    sections: list[Section] = []
    halved: set[int] = set()  # channels whose noise two halves have told
    in_um = subject.result.voxel_size_um is not None
    for done, (channel, timepoint) in enumerate(places):
        limit = boxes_of_place(len(places))
        share = budget.part(1 / (len(places) - done))
        repeat = channel not in halved
        measures = measure_stack(subject, channel, timepoint, run, limit=limit, repeat=repeat, budget=share)
        section = _section(subject, measures, side, share)
        budget.give_back(share)
        sections.append(section)
        if measures.agreements:
            halved.add(channel)
    found = findings_of_run(subject)
    of_stacks = findings_of_stacks(
        [section.measures for section in sections], origins_of_settings(subject), in_um=in_um
    )
    for section, findings in zip(sections, of_stacks, strict=True):
        found += [(section.heading, finding) for finding in findings]
    status = subject.status
    measured = any(section.measures.measured for section in sections)
    verdict = verdict_of(
        found,
        measured=measured,
        missing=len(status.missing),
        unfinished=status.state == "unfinished",
    )
    return Content(
        title=subject.output.name,
        state=f"{_state(subject)} {_basis(sections)}".rstrip(),
        verdict=verdict,
        sections=tuple(sections),
        psfs=_psf_entries(subject),
        curves=(*training_charts(subject), *tuning_charts(subject)),
        facts=facts_of(subject, seconds, machine),
        notes=(*subject.notes, *dict.fromkeys(note for section in sections for note in section.notes)),
        network=bool(subject.models),
    )


def _state(subject: Subject) -> str:
    method = method_in_words(subject.config)
    source = shown_url(str(subject.record.provenance["input"].get("location") or subject.config.input))
    made = f"Made from {source} by {method}, {subject.status.created[:10]}."
    if subject.status.state == "incomplete":
        n = len(subject.status.missing)
        made += f" {'1 block is' if n == 1 else f'{n} blocks are'} missing: the same command does them again."
    if subject.status.state == "unfinished":
        made += " The run has not ended."
    return made


def _basis(sections: Sequence[Section]) -> str:
    """Say on how much the verdict rests."""
    measures = [section.measures for section in sections if section.measures.measured]
    seen = sum(len(one.measured) for one in measures)
    if not seen:
        return ""
    total = sum(math.prod(one.sample.counts) for one in measures)
    extent = " × ".join(str(part.stop - part.start) for part in measures[0].sample.boxes[0])
    boxes = "1 box" if seen == 1 else f"{seen} boxes"
    of = "which is all of it" if seen == total else f"of {total}, evenly spread"
    return f"Judged on {boxes} of {extent} voxels, {of}."


# --- sections ------------------------------------------------------------------------------------


def _section(subject: Subject, measures: StackMeasures, side: int, budget: ReadingBudget) -> Section:
    channel, timepoint = measures.channel, measures.timepoint
    place = {"timepoint": timepoint, "channel": channel}
    before = subject.image.stack(**place) if subject.image is not None else None
    after, size = subject.result.stack(**place), subject.result.voxel_size_um
    offset = subject.offset(channel)
    look = measures.looks[measures.interesting] if measures.interesting is not None else None
    spot = look.place if look else tuple(n // 2 for n in after.shape)
    detail, told = _detail(before, after, spot, size, side, offset, budget)
    coarse = overview(subject, channel, timepoint, budget)
    whole = None
    if after.ndim == 3 or coarse.level:
        views = projection_views(coarse.before, coarse.after, coarse.voxel_size_um, offset)
        whole = shrunk(views, side)
    return Section(
        heading=_heading(subject, channel, timepoint),
        measures=measures,
        detail=detail,
        overview=whole,
        place=_place_in_words(spot, subject.result.spatial_axes, size),
        residuals=_residual_planes(measures, size),
        worst=_worst(measures, size),
        charts=(
            *((a.direction, agreement_chart(a, size is not None, subject)) for a in measures.agreements),
            *(("detail", chart) for chart in detail_charts(measures, in_um=size is not None)),
            *(() if measures.spectrum is None else (("residual", spectrum_chart(measures)),)),
        ),
        quality=quality_map(measures, size),
        quality_marks=quality_marks(),
        numbers=numbers_of(subject, measures),
        reaches=reaches_of(measures, in_um=size is not None),
        notes=(*measures.notes, *told),
    )


def _detail(
    before: Stack | None,
    after: Stack,
    spot: Sequence[int],
    size: tuple[float, ...] | None,
    side: int,
    offset: float,
    budget: ReadingBudget,
) -> tuple[Views, tuple[str, ...]]:
    """Cut planes: smaller ones, or without the image, where those would decode too much of it."""
    if before is None:
        return detail_views(None, after, spot, size, side, offset), ()
    for fitting in (side, side // 2, side // 4):
        boxes = detail_boxes(after.shape, spot, fitting)
        if budget.spend(decoded_bytes([(stack, box) for stack in (before, after) for box in boxes])):
            with suppress(ReadError, NonFiniteError):
                return detail_views(before, after, spot, size, fitting, offset), ()
            return detail_views(None, after, spot, size, side, offset), ()
    note = "The input image is not shown in detail: its chunks are so large that this would take too long."
    return detail_views(None, after, spot, size, side, offset), (note,)


def _heading(subject: Subject, channel: int, timepoint: int) -> str:
    parts = []
    if subject.result.n_channels > 1:
        parts.append(subject.result.channels[channel].name or f"channel {channel}")
    if subject.result.n_timepoints > 1:
        parts.append(f"time point {timepoint}")
    return ", ".join(parts)


def _place_in_words(place: Sequence[int], axes: str, size: tuple[float, ...] | None) -> str:
    step = size or (1.0,) * len(place)
    parts = [f"{axis} {at * s:.4g}" for axis, at, s in zip(axes, place, step, strict=True)]
    return ", ".join(parts) + (" µm" if size else " voxels")


def _residual_planes(measures: StackMeasures, size: tuple[float, ...] | None) -> dict[str, Plane]:
    planes = measures.interesting_planes
    if planes is None:
        return {}
    step = size or (1.0,) * 3
    drawn = {"xy": colour_plane(planes.xy, RESIDUAL_RANGE, step[-2:], "residual", in_um=size is not None)}
    if planes.xz is not None:
        across = (step[0], step[2])
        drawn["xz"] = colour_plane(planes.xz, RESIDUAL_RANGE, across, "residual", in_um=size is not None)
    return drawn


def _worst(measures: StackMeasures, size: tuple[float, ...] | None) -> tuple[Views, Plane] | None:
    planes = measures.worst_planes
    if planes is None:
        return None
    step = size or (1.0,) * 3
    views = projection_views(planes.before, planes.after, step[-2:] if size else None)
    return views, colour_plane(planes.xy, RESIDUAL_RANGE, step[-2:], "residual", in_um=size is not None)


# --- PSFs ----------------------------------------------------------------------------------------


def _psf_entries(subject: Subject) -> tuple[PSFEntry, ...]:
    """Describe every PSF once, with the channels that it served."""
    records = subject.record.provenance["psfs"]
    by_hash: dict[str, list[int]] = {}
    for channel, psf in enumerate(subject.psfs):
        if psf is not None:
            by_hash.setdefault(psf.sha256, []).append(channel)
    entries = []
    for digest, channels in by_hash.items():
        psf = subject.psfs[channels[0]]
        if psf is None:
            continue
        names = [subject.result.channels[c].name or f"channel {c}" for c in channels]
        several = len(by_hash) > 1 and subject.result.n_channels > 1
        title = f"{psf.name}, for {', '.join(names)}" if several else psf.name
        noted = next((r.get("corrections") for r in records if r.get("sha256") == digest), None)
        corrections = tuple(str(c) for c in noted) if isinstance(noted, list) else psf.corrections
        entries.append(PSFEntry(title, psf_planes(psf.array, psf.voxel_size_um), _widths(psf), corrections))
    return tuple(entries)


def _widths(psf: PSF) -> str:
    report = check_psf(psf.array, psf.voxel_size_um, name=psf.name)
    widths, unit = (report.fwhm_um, "µm") if report.fwhm_um else (report.fwhm_voxels, "voxels")
    axes = "zyx"[-psf.ndim :]
    parts = [
        f"{axis} {w:.3g}" if w else f"{axis} beyond the array" for axis, w in zip(axes, widths, strict=True)
    ]
    extent = " × ".join(str(n) for n in psf.array.shape)
    return f"Full width at half maximum: {', '.join(parts)} {unit}. Extent {extent} voxels."
