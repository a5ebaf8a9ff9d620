"""Pages of the site that lie elsewhere in the repository, links that lead there, and diagrams in the text.

CHANGELOG.md, CONTRIBUTING.md and SECURITY.md become pages. A page may name other files of the repository by
relative links, as it would on any host of repositories; such a file is copied to `source/` in the site. What
is neither there nor in `docs/` stays as it is, and `mkdocs build --strict` fails on it. Diagrams (SVG) become
part of the page, so that they take the colours of its text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

__all__ = ["on_files", "on_page_markdown"]

ROOT = Path(__file__).parents[2]
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md"}
"""Pages of the site by their path in the repository."""
HOME = {"README.md": "index.md", **PAGES}
LINK = re.compile(r"\[([^\]]*)(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
DIAGRAM = re.compile(r"^!\[([^\]]*)\]\((figures/[\w.]+\.svg)\)$", re.MULTILINE)
STYLE = re.compile(r"<style>.*?</style>\n", re.DOTALL)
CITATION = "<!-- CITATION.cff -->"


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages, and the other files that any page links to."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    for file in [f for f in files if f.is_documentation_page()]:
        for target in LINK.findall(file.content_string):
            path = _in_repository(file.src_uri, target[2])
            if path and path not in HOME and not path.startswith("docs/"):
                copy = f"source/{path}"
                if copy not in files.src_uris:
                    files.append(File.generated(config, copy, content=(ROOT / path).read_bytes()))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links to files of the repository into links within the site."""
    here = page.file.src_uri

    def resolved(match: re.Match[str]) -> str:
        path = _in_repository(here, match[3])
        if path is None:
            return match[0]
        target = path.removeprefix("docs/") if path.startswith("docs/") else HOME.get(path, f"source/{path}")
        return f"[{match[1]}{match[2]}{posixpath.relpath(target, posixpath.dirname(here) or '.')}{match[4]}"

    markdown = DIAGRAM.sub(_drawn, markdown)
    return LINK.sub(resolved, markdown.replace(CITATION, (ROOT / "CITATION.cff").read_text().rstrip()))


def _drawn(match: re.Match[str]) -> str:
    drawing = STYLE.sub("", (ROOT / "docs" / match[2]).read_text()).replace("\n", "")
    return f'<figure class="diagram">{drawing}<figcaption>{match[1]}.</figcaption></figure>'


def _in_repository(page: str, target: str) -> str | None:
    """Give the path in the repository of what a page links to; None for addresses and for nothing."""
    sources = {made: source for source, made in PAGES.items()}
    folder = posixpath.dirname(sources.get(page, f"docs/{page}"))
    path = posixpath.normpath(posixpath.join(folder, target))
    return path if ":" not in target and not path.startswith("..") and (ROOT / path).is_file() else None
