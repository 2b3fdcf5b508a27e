"""The notebooks: they run from a fresh kernel, and their two files say the same."""

import re
from pathlib import Path

import jupytext
import nbclient
import pytest

from benchmarks.figures import LOOKS
from tests.programs import XLA_FLAGS


ROOT = Path(__file__).parents[1]

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


def sources(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def test_runs_from_a_fresh_kernel(path, monkeypatch, tmp_path):
    monkeypatch.setenv("XLA_FLAGS", XLA_FLAGS)  # of one device
    monkeypatch.setenv("PATHSGD_PRESET", "smoke")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = jupytext.read(path)
    resources = {"metadata": {"path": tmp_path}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()


def test_both_files_have_the_same_cells(path):
    script, notebook = (jupytext.read(path.with_suffix(x)) for x in (".py", ".ipynb"))
    assert sources(script) == sources(notebook)
    assert script.metadata.jupytext.formats == notebook.metadata.jupytext.formats
    assert not any(cell.get("outputs") for cell in notebook.cells)


def test_has_a_badge_that_opens_it(path):
    assert f"/blob/main/notebooks/{path.name})" in jupytext.read(path).cells[0].source


def test_optimizers_have_the_colours_of_the_benchmarks(path):
    written = re.findall(r'"(\w+)": "(#\w{6})"', path.with_suffix(".py").read_text())
    assert written == [(name, LOOKS[name].colour) for name, _ in written]
