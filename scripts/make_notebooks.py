"""Make the notebooks of examples/ from their sources, which are easier to read and to review.

    python scripts/make_notebooks.py

A source is Python in which "# %%" begins a cell of code and "# %% [markdown]" a cell of text, as many
editors know it. The notebooks have no outputs.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[1] / "examples"


def main() -> None:
    """Write a notebook for every source."""
    for source in sorted((EXAMPLES / "sources").glob("*.py")):
        (EXAMPLES / f"{source.stem}.ipynb").write_text(notebook(source.read_text()))


def notebook(source: str) -> str:
    """Turn a source into the text of a notebook (nbformat 4.5)."""
    parts = re.split(r"^# %%( \[markdown\])?\n", source, flags=re.MULTILINE)[1:]
    pairs = zip(parts[::2], parts[1::2], strict=True)
    cells = [_cell(bool(is_text), body.strip("\n"), index) for index, (is_text, body) in enumerate(pairs)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    document = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _cell(is_text: bool, body: str, index: int) -> dict[str, Any]:
    if is_text:
        body = re.sub(r"^# ?", "", body, flags=re.MULTILINE)
    cell = {"cell_type": "markdown" if is_text else "code", "id": f"cell-{index}", "metadata": {}}
    code = {} if is_text else {"execution_count": None, "outputs": []}
    return {**cell, **code, "source": body.splitlines(keepends=True)}


if __name__ == "__main__":
    main()
