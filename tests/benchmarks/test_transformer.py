"""The command that sweeps step sizes of a language model: its records and figure."""

import itertools
import json

import matplotlib.image
import pytest

from benchmarks import language, train, transformer
from benchmarks.language import OPTIMIZERS, Outcome
from benchmarks.transformer import main


@pytest.fixture
def short(monkeypatch):
    for name in ("adam", "lamb"):
        chosen = OPTIMIZERS[name]._replace(learning_rates=(0.1, 0.2))
        monkeypatch.setitem(OPTIMIZERS, name, chosen)


@pytest.fixture
def ran(monkeypatch):
    """Instead of training: the loss is lowest with a step size of 0.8."""
    ran = []

    def run(task, make, learning_rate, init, seed):
        ran.append((learning_rate, init, seed))
        loss = 2 + abs(learning_rate - 0.8)
        return Outcome(loss, loss, [3.0, loss], 0.5)

    monkeypatch.setattr(language, "run", run)
    return ran


def command(folder, *more):
    text = folder / "text.txt"
    text.write_text("what a rose is " * 100)
    return main(["--preset=smoke", f"--output={folder}", f"--text={text}", *more])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.optax
def test_it_leaves_records_and_a_picture_and_prints_them(short, tmp_path, capsys):
    assert command(tmp_path, "--optimizers", "adam") == 0
    records = lines(tmp_path / "transformer.jsonl")
    names = "learning_rate", "init", "seed"
    cases = [tuple(map(record.get, names)) for record in records]
    assert cases[:4] == [*itertools.product((0.1, 0.2), train.INITS, (0,))]
    assert all(len(record["losses"]) == 2 for record in records)
    [run] = lines(tmp_path / "runs.jsonl")
    assert run["command"] == "transformer" and run["configuration"]["steps"] == 20
    assert run["configuration"]["text"].startswith("text.txt (")
    assert matplotlib.image.imread(tmp_path / "transformer.png").std() > 0.05
    printed = capsys.readouterr().out
    assert "Adam" in printed and str(tmp_path / "transformer.png") in printed


def test_the_grid_goes_on_past_the_best_step_size(short, ran, tmp_path):
    command(tmp_path, "--optimizers", "lamb")
    rates = [rate for rate, init, _ in ran if init == "balanced"]
    assert rates == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert [x[0] for x in ran if x[1] == "unbalanced"] == rates


def test_it_goes_on_with_what_is_recorded(short, ran, tmp_path):
    command(tmp_path, "--optimizers", "adam")
    path = tmp_path / "transformer.jsonl"
    whole = path.read_text()
    # Interrupted within the first step size that isn't of the grid, and in a line.
    path.write_text("".join(whole.splitlines(True)[:5]) + whole[:20])
    ran.clear()
    command(tmp_path, "--optimizers", "adam")
    assert path.read_text() == whole
    assert ran[0] == (0.4, "unbalanced", 0) and len(ran) == 5
    ran.clear()
    command(tmp_path, "--optimizers", "adam", "lamb", "--seeds=2")
    assert path.read_text().startswith(whole)
    assert len(lines(path)) == 40 and len(ran) == 30


def test_ctrl_c_leaves_the_records(short, ran, tmp_path, monkeypatch, capsys):
    run = language.run

    def interrupted(*case):
        if len(ran) == 3:
            raise KeyboardInterrupt
        return run(*case)

    monkeypatch.setattr(language, "run", interrupted)
    assert command(tmp_path) == 130
    assert "keeps what was recorded" in capsys.readouterr().err
    assert len(lines(tmp_path / "transformer.jsonl")) == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--steps=30"], "steps 20, not 30"),
        (["--text={other}"], "), not other.txt ("),
        (["--text={missing}"], "No such file"),
        (["--text={empty}"], "empty.txt has 0 characters"),
    ],
)
def test_what_does_not_fit_is_refused(short, ran, tmp_path, more, message, capsys):
    (tmp_path / "other.txt").write_text("other " * 300)
    (tmp_path / "empty.txt").write_text("")
    command(tmp_path)
    capsys.readouterr()
    files = {x: tmp_path / f"{x}.txt" for x in ("other", "missing", "empty")}
    with pytest.raises(SystemExit):
        command(tmp_path, *(x.format(**files) for x in more))
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_library_of_python_is_what_it_learns(short, ran, tmp_path):
    assert main(["--preset=smoke", f"--output={tmp_path}"]) == 0
    [run] = lines(tmp_path / "runs.jsonl")
    assert run["configuration"]["text"].startswith("Python's standard library (")


def test_the_presets_name_optimizers():
    for preset in transformer.PRESETS.values():
        assert set(preset["optimizers"]) <= set(OPTIMIZERS)
