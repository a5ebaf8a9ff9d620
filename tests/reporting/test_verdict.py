"""The plain words that come first."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bigdecon.config import RunConfig
from bigdecon.diagnosis.findings import Finding
from bigdecon.learning.checkpoint import CurvePoint
from bigdecon.reporting.checking import origins_of_settings
from bigdecon.reporting.verdict import verdict_of

GOOD = Finding("explains-data", "good", "The model explains the data to the noise: yes; 1.02 is left.")
PSF_FINE = Finding("psf-seems-wrong", "good", "Nothing speaks against the PSF.")
NARROW = Finding("psf-too-narrow", "warning", "The PSF is too narrow: by 40 %.", "Check the NA.")
AWFUL = Finding("psf-seems-wrong", "distrust", "The PSF seems wrong: 30 % is left.", "Check it.")
NOTE = Finding("undersampling", "note", "The voxels are large.")


def tones(*findings, **options):
    found = verdict_of([("", f) for f in findings], **{"measured": True, **options})
    return [s.tone for s in found.statements], found


def test_all_in_order():
    told, verdict = tones(GOOD, PSF_FINE)
    assert told == ["good", "good", "good"]
    assert [s.answer for s in verdict.statements] == ["Yes", "Yes", "Yes"]
    assert verdict.statements[1].because == "1.02 is left."


def test_the_worst_of_a_kind_answers():
    told, verdict = tones(GOOD, PSF_FINE, NARROW)
    assert told == ["warning", "good", "warning"]
    assert "too narrow" in verdict.statements[0].because
    assert "too narrow" in verdict.statements[2].because


def test_what_explains_the_rest_comes_first_and_what_nobody_can_mend_last():
    coarse = Finding("undersampling", "warning", "The voxels are too large.")
    early = Finding("training-not-converged", "warning", "The training was ended by time; and so on.")
    _, verdict = tones(coarse, NARROW, early)
    because = verdict.statements[0].because
    places = [because.index(words) for words in ("The training", "The PSF is too narrow", "The voxels")]
    assert places == sorted(places)
    assert verdict.statements[0].answer == "With care"


def test_a_result_that_does_not_explain_its_image_is_not_recommended():
    told = "The model explains the data to the noise: no; 12.9% of the structure is left."
    _, verdict = tones(Finding("explains-data", "warning", told), PSF_FINE)
    assert (verdict.statements[0].tone, verdict.statements[0].answer) == ("warning", "Rather not")
    assert "The result does not explain the image to its noise." in verdict.statements[0].because
    assert verdict.statements[1].because == "12.9% of the structure is left."


def test_distrust_comes_first_and_says_why():
    told, verdict = tones(GOOD, AWFUL, NARROW)
    assert told[0] == told[2] == "distrust"
    assert verdict.statements[0].answer == "Do not trust it"
    assert "The PSF seems wrong: 30 % is left." in verdict.statements[0].because
    assert [f.severity for _, f in verdict.findings] == ["distrust", "warning", "good"]


def test_a_note_does_not_answer_where_something_else_does():
    assert tones(GOOD, PSF_FINE, NOTE)[0] == ["good", "good", "good"]


def test_nothing_measured_is_not_good():
    told, verdict = tones(measured=False)
    assert told == ["unknown"] * 3
    assert all(s.answer == "Not known" for s in verdict.statements)


@pytest.mark.parametrize(
    ("options", "tone", "answer"),
    [({"missing": 2}, "warning", "In part"), ({"unfinished": True}, "distrust", "Not yet")],
)
def test_what_is_missing_is_said(options, tone, answer):
    _, verdict = tones(GOOD, PSF_FINE, **options)
    assert (verdict.statements[0].tone, verdict.statements[0].answer) == (tone, answer)


def test_the_channel_is_named():
    verdict = verdict_of([("actin", AWFUL), ("", GOOD)], measured=True)
    assert verdict.statements[0].because.startswith("actin: ")


@pytest.mark.parametrize(
    ("settings", "origin"),
    [
        ({"method": "siamese"}, "network"),
        ({"method": "richardson-lucy"}, "chosen"),
        ({"method": "richardson-lucy", "iterations": 5, "sieve": 0.5, "background": 0.0}, "given"),
        ({"method": "wiener", "regularization": 0.1}, "given"),
    ],
)
def test_a_report_knows_where_settings_came_from(settings, origin):
    subject = SimpleNamespace(
        config=RunConfig("a.tif", ("psf.tif",), **settings), result=SimpleNamespace(n_channels=2), models=()
    )
    assert origins_of_settings(subject) == (origin, origin)


def test_an_early_end_of_one_training_says_nothing_of_another():
    curve = [CurvePoint(100 * (i + 1), 1.0, 3 - i / 20) for i in range(20)]
    early, done = (
        SimpleNamespace(config=SimpleNamespace(steps=steps), curve=curve, stopped_by=why)
        for steps, why in ((4000, "time"), (2000, "plateau"))
    )
    subject = SimpleNamespace(
        config=RunConfig("a.tif", ("psf.tif",)), result=SimpleNamespace(n_channels=3), models=(early, done)
    )
    assert origins_of_settings(subject) == ("unfinished-network", "network", "network")


def test_checks_in_order_do_not_clear_a_psf_of_which_the_residual_tells_nothing():
    turned = Finding("psf-orientation", "good", "The PSF's axes are in the usual order.")
    silent = Finding("psf-seems-wrong", "note", "What is left tells nothing of the PSF.")
    _, verdict = tones(GOOD, turned, silent)
    assert (verdict.statements[2].answer, verdict.statements[2].because) == ("Not known", silent.sentence)
    assert tones(GOOD, turned, silent, NARROW)[1].statements[2].answer == "Perhaps not"
