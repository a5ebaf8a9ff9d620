"""The Python reference: every public name of the package, under the heading of its room.

The page api.md holds the words; a line `<!-- names of bigdecon.io, bigdecon.volume -->` stands for the public
names whose home lies in these modules or packages. A public name without a place is an error.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

__all__ = ["homes", "on_page_markdown"]

PACKAGE = Path(__file__).parents[2] / "bigdecon" / "__init__.py"
PLACE = re.compile(r"<!-- names of ([\w., ]+) -->")


def homes() -> dict[str, str]:
    """Give the module of every public name, as `bigdecon/__init__.py` imports it for type checkers."""
    tree = ast.parse(PACKAGE.read_text())
    return {
        alias.name: node.module or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bigdecon.")
        for alias in node.names
    }


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str | None:
    """Put the names in their places."""
    if page.file.src_uri != "api.md":
        return None
    left = homes()

    def names(match: re.Match[str]) -> str:
        rooms = [room.strip() for room in match[1].split(",")]
        taken = [
            name
            for name, home in left.items()
            if any(home == room or home.startswith(f"{room}.") for room in rooms)
        ]
        for name in taken:
            del left[name]
        return "\n\n".join(f"::: bigdecon.{name}" for name in sorted(taken, key=str.lower))

    written = PLACE.sub(names, markdown)
    if left:
        raise PluginError(f"docs/api.md has no place for {', '.join(sorted(left))}.")
    return written
