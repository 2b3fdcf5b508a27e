"""The code of the README and of the site's pages runs as it is pasted.

A page is one program, from top to bottom. The pages of recipes are several: each of
their sections goes on from the lines before the first, and changes none of them.
"""

import contextlib
import io
import re
import textwrap
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import pytest

from pathsgd_optax._networks.traced.rules.registry import CUSTOM


ROOT = Path(__file__).parents[1]

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

RECIPES = ROOT / "docs" / "networks"

BLOCK = re.compile(
    r"^(?P<indent> *)```python\n(?P<code>.*?)^(?P=indent)```$"
    r"(\n\n?(?P=indent)```text\n(?P<output>.*?)^(?P=indent)```$)?",
    re.DOTALL | re.MULTILINE,
)

NUMBER = re.compile(r"\d+\.\d+(?:e[-+]?\d+)?|\d+")


def programs(path):
    """The name of each program, its blocks, and those that come before it."""
    text = path.read_text()
    name = path.relative_to(ROOT).with_suffix("").as_posix()
    blocks = [(m.start(), m) for m in BLOCK.finditer(text)]
    starts = [m.start() for m in re.finditer(r"^## ", text, re.MULTILINE)]
    if path.parent != RECIPES or not starts:
        return [(name, [m for _, m in blocks], [])] if blocks else []
    before = [m for at, m in blocks if at < starts[0]]
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    ends = [*starts[1:], len(text)]
    sections = [
        (f"{name}: {title}", [m for at, m in blocks if start < at < end], before)
        for title, start, end in zip(titles, starts, ends, strict=True)
    ]
    return [section for section in sections if section[1]]


PROGRAMS = [(path, *program) for path in PAGES for program in programs(path)]


def execute(path, block, names):
    """Runs the block; it must print what the page shows below it."""
    text = block.string
    line = text.count("\n", 0, block.start("code"))
    source = "\n" * line + textwrap.dedent(block["code"])
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, path, "exec"), names)
    if block["output"] is not None:
        assert_same_output(printed.getvalue(), textwrap.dedent(block["output"]))


def assert_same_output(printed, shown):
    """The same text, and numbers that are close."""
    printed, shown = printed.strip(), shown.strip()
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
    for number, expected in zip(
        NUMBER.findall(printed), NUMBER.findall(shown), strict=True
    ):
        assert float(number) == pytest.approx(float(expected), rel=0.05, abs=0.002)


@pytest.fixture
def _as_it_was():
    """Takes back path rules and figures, which others in this process would see."""
    rules = dict(CUSTOM)
    yield
    CUSTOM.clear()
    CUSTOM.update(rules)
    plt.close("all")


@pytest.mark.optax
@pytest.mark.usefixtures("_as_it_was")
@pytest.mark.parametrize(
    ("path", "blocks", "before"),
    [program[:1] + program[2:] for program in PROGRAMS],
    ids=[program[1] for program in PROGRAMS],
)
def test_code_runs_as_it_is_pasted(path, blocks, before, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with jax.numpy_rank_promotion("allow"):
        names = {"__name__": "__main__"}
        for block in before:
            execute(path, block, names)
        given = dict(names)
        for block in blocks:
            execute(path, block, names)
    changed = [name for name in given if names[name] is not given[name]]
    assert not changed, f"{changed} are other things for who pastes the next section"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_block_of_code_is_run(path):
    fences = re.findall(r"^ *```py.*$", path.read_text(), re.MULTILINE)
    run = sum(len(blocks) for p, _, blocks, _ in PROGRAMS if p == path)
    first = {name: len(before) for p, name, _, before in PROGRAMS if p == path}
    assert len(fences) == run + max(first.values(), default=0)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs"])
def test_links_within_the_repository_lead_somewhere(name):
    path = ROOT / name
    for page in sorted(path.rglob("*.md")) if path.is_dir() else [path]:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            assert "://" in link or (page.parent / link).exists(), f"{page}: {link}"


def test_what_is_printed_is_compared_with_what_is_shown():
    assert_same_output("loss 0.3001\n", "loss 0.3")
    for wrong in ("loss 0.4", "Loss 0.3", "loss 0.3 0.3"):
        with pytest.raises(AssertionError):
            assert_same_output("loss 0.3", wrong)
