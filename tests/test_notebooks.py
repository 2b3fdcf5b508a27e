"""The notebooks: they run from a fresh kernel, and are stored as they ran."""

import importlib.util
import io
import re
import shutil
import sys
import types
import urllib.error
import urllib.request

import jupytext
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from benchmarks.figures import LOOKS
from tests import notebooks
from tests.programs import XLA_FLAGS


@pytest.fixture(params=notebooks.PATHS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def stored(path):
    return jupytext.read(path.with_suffix(".ipynb"))


def test_runs_from_a_fresh_kernel_to_outputs_such_as_are_stored(
    path, stored, monkeypatch, tmp_path
):
    monkeypatch.setenv("XLA_FLAGS", XLA_FLAGS)  # of one device
    monkeypatch.setenv("PATHSGD_PRESET", "smoke")
    notebook = jupytext.read(path)
    notebooks.execute(notebook, tmp_path)
    assert notebooks.outputs(notebook) == notebooks.outputs(stored)


def test_both_files_have_the_same_cells(path, stored):
    script = jupytext.read(path)
    assert notebooks.sources(script) == notebooks.sources(stored)
    assert script.metadata.jupytext.formats == stored.metadata.jupytext.formats


def test_the_outputs_are_those_of_the_cells(path, stored):
    remedy = f"python -m tests.notebooks {path.stem}"
    assert stored.metadata.get("executed") == notebooks.fingerprint(stored), remedy
    cells = [cell for cell in stored.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in cells]
    assert counts == [*range(1, len(cells) + 1)], remedy
    shown = {kind for kinds in notebooks.outputs(stored) for kind in kinds}
    assert "image/png" in shown
    assert shown <= {"image/png", "stdout", "text/html"}


def test_begins_with_what_one_will_see_and_ends_with_what_to_try(stored):
    first, *_, last = stored.cells
    assert first.source.startswith("# ")
    assert "**What you will see:**" in first.source
    assert "## Try\n" in last.source


def test_optimizers_have_the_colours_of_the_benchmarks(path):
    written = re.findall(r'"(\w+)": "(#\w{6})"', path.read_text())
    assert written == [(name, LOOKS[name].colour) for name, _ in written]


class Shell:
    """What IPython does with the lines that aren't Python: it is told, not done."""

    def __init__(self, names):
        self.lines, self.names = [], names

    def run_line_magic(self, name, line):
        self.lines.append(f"%{name} {line.format(**self.names)}")

    def system(self, line):
        self.lines.append(f"!{line.format(**self.names)}")


@pytest.fixture
def set_up(path, monkeypatch, tmp_path):
    """Runs the first cell of code where the package is not installed."""
    first = next(x for x in jupytext.read(path).cells if x.cell_type == "code")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    names = {}
    shell = names["shell"] = Shell(names)
    names["get_ipython"] = lambda: shell
    code = TransformerManager().transform_cell(first.source)

    def run():
        exec(code, names)
        return shell.lines

    return run


@pytest.fixture
def in_colab(monkeypatch):
    """Colab's own: what it says of the session, and what one uploads."""

    def start(session, *uploaded):
        colab = types.ModuleType("google.colab")
        colab.files = types.SimpleNamespace(upload=lambda: dict.fromkeys(uploaded))
        monkeypatch.setitem(sys.modules, "google.colab", colab)

        def answer(address):
            if session is None:
                raise urllib.error.URLError("refused")
            return io.BytesIO(session.encode())

        monkeypatch.setattr(urllib.request, "urlopen", answer)

    return start


ADDRESS = "https%3A%2F%2Fgithub.com%2Fa-b%2Fpaths%2Fblob%2Fmain%2Fx.ipynb"

FROM_GITHUB = f"""[{{"path": "fileId={ADDRESS}", "name": "x.ipynb"}}]"""

FROM_DRIVE = """[{"path": "fileId=1aBc-github.com", "name": "x.ipynb"}]"""


def test_takes_the_package_from_the_clone_around_it(path, set_up, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.chdir(notebooks.FOLDER)
    sys.path[:] = ["elsewhere"]
    assert set_up() == []
    assert sys.path == [str(notebooks.ROOT), "elsewhere"]


def test_in_colab_takes_the_package_from_where_it_was_opened(
    path, set_up, in_colab, capsys
):
    in_colab(FROM_GITHUB)
    *cloned, installed = set_up()
    (said,) = capsys.readouterr().out.splitlines()
    if path.stem == "figure_3":
        assert cloned == ["!git clone --quiet --depth 1 https://github.com/a-b/paths"]
        assert sys.path[-1] == "paths"
        assert installed == '%pip install --quiet "jax[]" "./paths"'
        assert said == "The package and its benchmarks are taken from paths."
    else:
        source = "git+https://github.com/a-b/paths"
        assert cloned == []
        assert installed == f'%pip install --quiet "jax[]" "{source}"'
        assert said == f"The package is taken from {source}."


@pytest.mark.parametrize("session", [FROM_DRIVE, None], ids=["Drive", "silent"])
def test_in_colab_takes_what_is_uploaded(
    session, path, set_up, in_colab, capsys, tmp_path
):
    name = "pathsgd_optax-0.1.0"
    benchmarks = path.stem == "figure_3"
    file = f"{name}.tar.gz" if benchmarks else f"{name}-py3-none-any.whl"
    if benchmarks:
        (tmp_path / name).mkdir()
        shutil.make_archive(name, "gztar", base_dir=name)
        (tmp_path / name).rmdir()
    in_colab(session, file)
    (installed,) = set_up()
    asked, said = capsys.readouterr().out.splitlines()
    assert asked.startswith("Upload the ")
    source = name if benchmarks else file
    assert said.endswith(f"taken from {source}.")
    place = f"./{name}" if benchmarks else file
    assert installed == f'%pip install --quiet "jax[]" "{place}"'
    assert (tmp_path / name).is_dir() == benchmarks


def test_elsewhere_it_says_what_it_needs(set_up):
    with pytest.raises(ImportError, match="Open this notebook from a clone"):
        set_up()
