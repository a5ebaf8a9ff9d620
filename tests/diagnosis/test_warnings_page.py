"""Every finding that the code can make has its place on the page of warnings."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_finding_is_on_the_page_and_no_other():
    code = "".join(path.read_text() for path in (ROOT / "bigdecon" / "diagnosis").glob("*_checks.py"))
    named = set(re.findall(r'Finding\(\s*"([a-z-]+)"', code))
    named |= set(re.findall(r'^(?: +name|NAME[A-Z_]*) = "([a-z-]+)"$', code, re.MULTILINE))
    assert len(named) > 12
    described = re.findall(r"^### `([a-z-]+)`$", (ROOT / "docs" / "warnings.md").read_text(), re.MULTILINE)
    assert sorted(described) == sorted(named)
