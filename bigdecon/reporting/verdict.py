"""The verdict: what a report says first, in plain words, drawn from everything that was found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from bigdecon.diagnosis.findings import Finding, Severity
from bigdecon.diagnosis.result_checks import NAME_OF_TRAINING

__all__ = ["Statement", "Verdict", "verdict_of"]

ORDER: tuple[Severity, ...] = ("distrust", "warning", "note", "good")
PSF_CHECKS = (
    "psf-seems-wrong",
    "psf-too-wide",
    "psf-too-narrow",
    "psf-width",
    "psf-orientation",
    "psf-voxel-size",
    "psf-optics",
    "psf-width-by-theory",
    "psf-implausible",
)
UNKNOWN = "Not known"
EXPLAINED: Mapping[Severity, str] = {
    "good": "Yes",
    "note": "No, but nearly",
    "warning": "No",
    "distrust": "No, far from it",
}
FITS: Mapping[Severity, str] = {
    "good": "Yes",
    "note": "Nearly",
    "warning": "Perhaps not",
    "distrust": "No",
}
"""Answers by the worst that was found; the first is yes or no, as its finding says."""
EXPLAINED_LEAD = "The model explains the data to the noise: "


class Statement(NamedTuple):
    """One answer.

    Attributes
    ----------
    question : what is answered
    tone : "good", "note", "warning", "distrust" or "unknown"
    answer : one word or two
    because : why, in a sentence or two
    """

    question: str
    tone: str
    answer: str
    because: str


class Verdict(NamedTuple):
    """The answers, the most important first, and all findings, the worst first."""

    statements: tuple[Statement, ...]
    findings: tuple[tuple[str, Finding], ...]

    @property
    def tone(self) -> str:
        """That of the first answer."""
        return self.statements[0].tone


def verdict_of(
    findings: Sequence[tuple[str, Finding]], *, measured: bool, missing: int = 0, unfinished: bool = False
) -> Verdict:
    """Draw the verdict.

    Parameters
    ----------
    findings : what was found, with the name of the channel it is about ("" for all)
    measured : whether the residual could be measured: input and PSF were there
    missing : blocks that could not be restored
    unfinished : whether the run has not ended
    """
    ranked = sorted(findings, key=lambda pair: ORDER.index(pair[1].severity))
    explained = _named(findings, ("explains-data",))
    answers = [
        _trust(findings, measured, missing, unfinished),
        _statement("Does the model explain the data to the noise?", EXPLAINED, explained, measured),
        _fit_of_psf(_named(findings, PSF_CHECKS), measured),
    ]
    return Verdict(tuple(answers), tuple(ranked))


def _named(findings: Iterable[tuple[str, Finding]], names: Sequence[str]) -> list[tuple[str, Finding]]:
    found = [pair for pair in findings if pair[1].name in names]
    return sorted(found, key=lambda pair: (ORDER.index(pair[1].severity), names.index(pair[1].name)))


def _statement(
    question: str,
    answers: Mapping[Severity, str],
    found: Sequence[tuple[str, Finding]],
    measured: bool,
) -> Statement:
    """Answer by the worst that was found."""
    if not found or not measured:
        return Statement(question, "unknown", UNKNOWN, "It takes the input image and the PSF to tell.")
    settled = [pair for pair in found if pair[1].severity != "note"]
    found = settled or found  # what is worth knowing stands below; it is no answer if there is another
    worst = found[0][1].severity
    alike = [pair for pair in found if pair[1].severity == worst]
    return Statement(
        question, worst, answers[worst], " ".join(_said(*group) for group in _by_name(alike)[:2])
    )


def _fit_of_psf(found: Sequence[tuple[str, Finding]], measured: bool) -> Statement:
    """Answer for the PSF; where the residual cannot tell, checks that are in order do not clear it."""
    question = "Does the PSF fit the data?"
    silent = [pair for pair in found if pair[1].name == "psf-seems-wrong" and pair[1].severity == "note"]
    if measured and silent and not any(f.severity in ("distrust", "warning") for _, f in found):
        return Statement(question, "unknown", UNKNOWN, _said(*silent))
    return _statement(question, FITS, found, measured)


def _by_name(found: Sequence[tuple[str, Finding]]) -> list[list[tuple[str, Finding]]]:
    """Put findings of one check together: what holds for one time point often holds for all."""
    groups: dict[str, list[tuple[str, Finding]]] = {}
    for pair in found:
        groups.setdefault(pair[1].name, []).append(pair)
    return list(groups.values())


def _said(first: tuple[str, Finding], *more: tuple[str, Finding], brief: bool = False) -> str:
    """Give a finding as a sentence, or the first part of it; with its channel, and whether it is alone."""
    channel, finding = first
    sentence = finding.sentence
    if brief and sentence.startswith(EXPLAINED_LEAD + "no"):
        sentence = "The result does not explain the image to its noise"
    elif brief:
        sentence = sentence.partition(";")[0]
    elif sentence.startswith(EXPLAINED_LEAD):  # the question says it already
        sentence = sentence.partition("; ")[2] or sentence
    sentence = sentence[:1].upper() + sentence[1:].rstrip(".") + "."
    others = len({pair[1].sentence for pair in more} - {finding.sentence})
    if others:
        sentence += f" Much the same in {others} more {'place' if others == 1 else 'places'}, see below."
    return f"{channel}: {sentence}" if channel else sentence


def _listed(found: Sequence[tuple[str, Finding]]) -> str:
    """Give the first few findings, in short."""
    groups = sorted(_by_name(found), key=lambda group: _rank(group[0][1].name))
    more = f" And {len(groups) - 3} more, below." if len(groups) > 3 else ""
    return " ".join(_said(*group, brief=True) for group in groups[:3]) + more


def _rank(name: str) -> int:
    """Put first what explains the rest, and last what nobody can mend after the recording."""
    return {NAME_OF_TRAINING: 0, "undersampling": 2}.get(name, 1)


def _trust(
    findings: Sequence[tuple[str, Finding]], measured: bool, missing: int, unfinished: bool
) -> Statement:
    question = "Can this result be used?"
    bad = [pair for pair in findings if pair[1].severity == "distrust" and pair[1].name != "trust"]
    doubtful = [pair for pair in findings if pair[1].severity == "warning"]
    if unfinished:
        return Statement(
            question, "distrust", "Not yet", "The run has not ended; the same command continues it."
        )
    if bad:
        return Statement(question, "distrust", "Do not trust it", _listed(bad))
    if missing:
        blocks = "1 block" if missing == 1 else f"{missing} blocks"
        because = f"{blocks} could not be restored and are empty; the rest is as good as said below."
        return Statement(question, "warning", "In part", because)
    if doubtful:
        things = len(_by_name(doubtful))
        count = "one thing" if things == 1 else f"{things} things"
        because = f"Look at {count} first. {_listed(doubtful)}"
        unexplained = any(finding.name == "explains-data" for _, finding in doubtful)
        return Statement(question, "warning", "Rather not" if unexplained else "With care", because)
    if not measured:
        because = "Nothing speaks against it, but without the input image and the PSF little can be checked."
        return Statement(question, "unknown", UNKNOWN, because)
    because = "Nothing that was looked at speaks against it."
    if any(f.name == "explains-data" and f.severity == "note" for _, f in findings):
        because += " The model does not explain the data to the noise, but nearly."
    return Statement(question, "good", "Yes", because)
