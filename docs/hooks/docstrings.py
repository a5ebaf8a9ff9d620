"""How the docstrings of this project are read: types stand in the signature, docstrings say what things are.

A parameter is written in one line, `name : what it is`, and so is what comes back. numpydoc would take these
words for a type.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

__all__ = ["WordsNotTypes", "as_numpydoc"]

SECTION = re.compile(
    r"^(?P<title>[A-Z][A-Za-z ]+)\n-{3,}\n(?P<body>(?:(?!\n[A-Z][A-Za-z ]+\n---).)*)",
    re.MULTILINE | re.DOTALL,
)
ENTRY = re.compile(r"^(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)*) : (?P<words>.+)$", re.MULTILINE)
NAMED = ("Parameters", "Attributes", "Other Parameters")
RETURNED = ("Returns", "Yields")


def as_numpydoc(text: str, returned: str) -> str:
    """Move the words about an entry below it.

    Parameters
    ----------
    text : a docstring
    returned : the type that the signature gives for what comes back
    """

    def section(match: re.Match[str]) -> str:
        title, body = match["title"], match["body"]
        if title in NAMED:
            body = ENTRY.sub(r"\g<names>\n    \g<words>", body)
        elif title in RETURNED and not re.search(r"^\S.*\n +\S", body):
            body = f"{returned}\n" + "\n".join(f"    {line}" for line in body.strip().splitlines()) + "\n"
        return f"{title}\n{'-' * len(title)}\n{body}"

    return SECTION.sub(section, text)


class WordsNotTypes(griffe.Extension):
    """Read docstrings so."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one object, before it is parsed."""
        if obj.docstring is not None:
            returned = str(getattr(obj, "returns", None) or "")
            obj.docstring.value = as_numpydoc(obj.docstring.value, returned)
