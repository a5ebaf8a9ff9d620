"""Measures of a channel, summed over its boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import zarr

from bigdecon.diagnosis.shared_reads import ReadingBudget
from bigdecon.reporting.box_tasks import Measured
from bigdecon.reporting.content import gather
from bigdecon.reporting.measures import StackMeasures
from bigdecon.reporting.measuring import measure_stack, run_here
from bigdecon.reporting.samples import Sample
from bigdecon.reporting.subject import find_subject
from tests.decoding import decoded_chunks
from tests.runs import specimen, write_image, write_in_chunks

SAMPLE = Sample(((0, 64),), ((0,),))


def measured(kept, signal):
    return Measured(1.0, (0.0,), np.zeros(1), np.ones(1), 0.0, kept, signal, 100)


def test_boxes_without_light_do_not_count_for_the_light_that_is_kept():
    dark = {(i,): measured(math.nan, -15.0) for i in range(1, 40)}
    found = StackMeasures(
        channel=0, timepoint=0, sample=SAMPLE, measured={(0,): measured(0.9, 1000.0), **dark}
    )
    assert found.kept == pytest.approx(0.9)
    assert StackMeasures(channel=0, timepoint=0, sample=SAMPLE, measured=dark).kept is None


def test_the_noise_of_a_time_series_is_judged_by_halves_alone(tmp_path, restore):
    """One time point of a channel is done in two halves; dark places of others may not contradict it."""
    series = np.stack([specimen((16, 48, 48))] * 3)
    result = restore(write_image(tmp_path / "a.ome.zarr", series, "tzyx"), iterations=40, report=False)
    content = gather(find_subject(result.output), run_here)
    assert len(content.sections) == 3
    told = [(where, f) for where, f in content.verdict.findings if f.name == "amplified-noise"]
    assert [where for where, _ in told] == ["time point 0"]
    assert "dark places" not in told[0][1].sentence


# --- the budget ----------------------------------------------------------------------------------

SHAPE = (24, 150, 160)


@pytest.fixture(params=[SHAPE, (1, *SHAPE[1:])], ids=["one chunk", "whole planes"])
def subject(tmp_path, restore, request):
    """A result whose input has huge chunks, and the shape of these; the input is as long as its chunk is."""
    image = write_image(tmp_path / "a.ome.zarr", specimen(SHAPE))
    data = zarr.open_group(image)["0"][:]
    result = restore(image, iterations=2, report=False)
    zarr.open_group(image).create_array("0", data=data, chunks=request.param, overwrite=True)
    return find_subject(result.output), request.param


@pytest.fixture
def decoded(monkeypatch):
    """Note the shape and the bytes of every chunk that is decoded."""
    return decoded_chunks(monkeypatch)


def test_boxes_that_share_chunks_decode_them_once(subject, decoded):
    found, chunk = subject
    budget = ReadingBudget(2**30)
    measures = measure_stack(found, 0, 0, run_here, repeat=False, budget=budget)
    assert len(measures.measured) == 9
    assert [shape for shape, _ in decoded].count(chunk) == SHAPE[0] // chunk[0]
    assert not measures.notes
    assert sum(size for _, size in decoded) == budget.total - budget.left


def test_a_whole_report_decodes_a_huge_chunk_a_few_times(subject, decoded):
    found, chunk = subject
    content = gather(found, run_here)
    # For all boxes, up to three times for halves, for the planes, and for the overview.
    assert [shape for shape, _ in decoded].count(chunk) <= 6 * SHAPE[0] // chunk[0]
    assert "Judged on 9 boxes of 24 × 50 × 53 voxels, which is all of it." in content.state
    assert content.sections[0].measures.agreements


def test_a_short_budget_means_fewer_boxes_and_is_said(subject, decoded):
    found, chunk = subject
    image = 2 * math.prod(SHAPE)
    measures = measure_stack(found, 0, 0, run_here, repeat=True, budget=ReadingBudget(int(0.9 * image)))
    assert sum(size for _, size in decoded) <= 0.9 * image
    if chunk[0] > 1:
        assert (measures.measured, decoded) == ({}, [])
        assert measures.notes[0].startswith("Nothing measured: a chunk of the image takes 1.10 MiB")
        assert "one of the result 1.50 MiB," in measures.notes[0]
        assert "506.25 kiB are for these boxes" in measures.notes[0]
    else:
        assert len(measures.measured) < 9 * 2
        assert "instead of" in measures.notes[0] or measures.measured == {}


def test_when_time_is_up_no_further_boxes_are_begun(tmp_path, restore, monkeypatch):
    monkeypatch.setattr("bigdecon.reporting.measuring.ROUND", 2)
    image = write_in_chunks(tmp_path / "a.ome.zarr", specimen((12, 150, 160)), 32)
    found = find_subject(restore(image, iterations=2, report=False).output)
    now = iter(range(100))
    measures = measure_stack(
        found, 0, 0, run_here, repeat=True, budget=ReadingBudget(2**30, 3.5, clock=lambda: next(now))
    )
    assert 2 <= len(measures.measured) < 9
    assert not measures.agreements
    assert measures.notes[-1].startswith(f"Time was up after {len(measures.looks)} of 9 boxes")
