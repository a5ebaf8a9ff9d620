"""Addresses as they may be shown: without passwords and signatures."""

from __future__ import annotations

import re

__all__ = ["shown_url"]

USER = re.compile(r"\b([a-z][a-z0-9+.-]*://)[^\s/'\"<>]*@", re.IGNORECASE)
"""What stands between the scheme and the host: a name, and mostly a password."""
QUERY = re.compile(
    r"\b(?P<before>https?://[^\s?'\"<>]*)\?[^\s'\"<>]*?(?P<end>[.,:;)]*(?=[\s'\"<>]|$))"
    r"|\b(?P<other>[a-z][a-z0-9+.-]*://[^\s?'\"<>]*)\?[\w%.~-]+=[^\s'\"<>]*?(?P<rest>[.,:;)]*(?=[\s'\"<>]|$))",
    re.IGNORECASE,
)
"""A query: where signed addresses carry what opens them. A name in an object store may hold a "?"."""


def shown_url(text: str) -> str:
    """Drop user names, passwords and queries from the address in a text, or from all that it holds.

    For records, names and messages, which outlive a run and are passed on; never for a request.
    """
    if "://" not in text:
        return text
    text = USER.sub(r"\1", text)
    return QUERY.sub(lambda m: (m["before"] or m["other"]) + (m["end"] or m["rest"] or ""), text)
