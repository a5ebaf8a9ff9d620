"""The notebooks of examples/: made from their sources, without outputs, and they run."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
NAMES = ("comparing_methods", "hpc_cluster", "lazy_crop", "making_a_psf", "quickstart")


def maker():
    spec = importlib.util.spec_from_file_location("make_notebooks", ROOT / "scripts" / "make_notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_notebooks_are_there():
    assert tuple(path.stem for path in NOTEBOOKS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_as_its_source_and_has_no_outputs(name):
    text = (ROOT / "examples" / f"{name}.ipynb").read_text()
    assert text == maker().notebook((ROOT / "examples" / "sources" / f"{name}.py").read_text())
    nbformat.validate(json.loads(text))
    assert not [cell for cell in json.loads(text)["cells"] if cell.get("outputs")]


def execute(name, folder):
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "examples" / f"{name}.ipynb", 4)
    NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the kernel's client; what the notebook warns of is an output
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    outputs = execute(name, tmp_path)
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    if name in ("quickstart", "hpc_cluster"):
        progress = [o for o in outputs if o.output_type == "display_data"]
        assert len(progress) == 1  # one output, drawn anew
        html = progress[0].data["text/html"]
        assert "deconvolve" in html
        assert "done in" in html
        assert '/bigdecon" target="_blank"' in html
