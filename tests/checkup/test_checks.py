"""Checks end, whatever hangs or fails."""

from __future__ import annotations

import threading

from bigdecon.checkup.checks import Check, run_checks
from bigdecon.diagnosis.findings import Finding


def test_a_check_that_hangs_or_fails_is_a_finding_and_the_others_go_on():
    free = threading.Event()

    def hang():
        free.wait()
        return []

    def fail():
        raise OSError("no such device.\nmore")

    good = Finding("last", "good", "All is well.")
    started = []
    checks = [
        Check("one", "the GPU", hang, 0.1, "Restart."),
        Check("two", "the disk", fail, 60, "Look at it."),
        Check("last", "the rest", lambda: [good], 60),
    ]
    found = list(run_checks(checks, lambda check: started.append(check.name)))
    free.set()
    assert started == ["one", "two", "last"]
    assert found == [
        Finding("one", "warning", "The GPU gave no answer within 0 s.", "Restart."),
        Finding("two", "warning", "The disk could not be checked: no such device.", "Look at it."),
        good,
    ]
