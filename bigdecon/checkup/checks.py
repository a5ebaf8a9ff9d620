"""Checks one after the other, each within its time, whatever hangs: a driver, a network disk, a worker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from bigdecon.diagnosis.findings import Finding

__all__ = ["Check", "run_checks"]


@dataclass(frozen=True)
class Check:
    """Something to look at.

    Attributes
    ----------
    name : of its finding where it cannot come to an end
    title : what is looked at, for whoever waits, as "the disk"
    look : does it; may raise
    seconds : how long it may take
    remedy : what to do where it takes longer or raises
    """

    name: str
    title: str
    look: Callable[[], Iterable[Finding]]
    seconds: float
    remedy: str = "report this with the output of bigdecon doctor --json"


@dataclass
class _Outcome:
    findings: list[Finding] = field(default_factory=list)


def run_checks(checks: Iterable[Check], on_start: Callable[[Check], None]) -> Iterator[Finding]:
    """Do checks and give what they find, as soon as it is known.

    A check that takes longer than it may is left alone, in a thread that does not keep the program alive.

    Parameters
    ----------
    checks : in their order
    on_start : is told which one begins
    """
    for check in checks:
        on_start(check)
        yield from _within_time(check)


def _within_time(check: Check) -> list[Finding]:
    outcome = _Outcome()

    def look() -> None:
        try:
            outcome.findings = list(check.look())
        except Exception as error:  # a check that fails is a finding
            text = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
            sentence = f"{check.title} could not be checked: {text}."
            outcome.findings = [Finding(check.name, "warning", _capitalised(sentence), check.remedy)]

    thread = threading.Thread(target=look, name=f"check-{check.name}", daemon=True)
    thread.start()
    thread.join(check.seconds)
    if thread.is_alive():
        sentence = f"{check.title} gave no answer within {check.seconds:.0f} s."
        return [Finding(check.name, "warning", _capitalised(sentence), check.remedy)]
    return outcome.findings


def _capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
