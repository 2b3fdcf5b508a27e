"""Executes the notebooks, and stores them with their outputs.

``python -m tests.notebooks quickstart`` does it for one of them, from its ``.py`` file;
without names it does all.
"""

import hashlib
import itertools
import os
import sys
from pathlib import Path

import jupytext
import nbclient


ROOT = Path(__file__).parents[1]

FOLDER = ROOT / "notebooks"

PATHS = sorted(FOLDER.glob("*.py"))
"""Those that people edit; the ``.ipynb`` files beside them have the outputs."""


def sources(notebook):
    """What the cells are, and hold."""
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def fingerprint(notebook):
    """What tells this code from other: outputs are stored with that of their own."""
    code = [source for kind, source in sources(notebook) if kind == "code"]
    return hashlib.sha256(repr(code).encode()).hexdigest()


def execute(notebook, folder):
    """Runs the cells in a kernel of their own, in this folder."""
    # The kernel has the tree on its path, not what is installed.
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    client = nbclient.NotebookClient(notebook, timeout=600, coalesce_streams=True)
    with client.setup_kernel(cwd=str(folder), env=environment):
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)


def outputs(notebook):
    """The kinds of output of each cell of code: what is printed, and what is shown."""
    return [
        [kind for kind, _ in itertools.groupby(map(_kind, cell.outputs))]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def _kind(output):
    kinds = ("image/png", "text/html", "text/plain")
    return output.get("name") or next(x for x in kinds if x in output.get("data", {}))


def store(path):
    """Writes the ``.ipynb`` of a ``.py``, with outputs."""
    notebook = jupytext.read(path)
    execute(notebook, path.parent)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata.pop("execution", None)
    notebook.metadata["executed"] = fingerprint(notebook)
    jupytext.write(notebook, path.with_suffix(".ipynb"))


if __name__ == "__main__":
    for chosen in PATHS:
        if chosen.stem in sys.argv[1:] or not sys.argv[1:]:
            store(chosen)
