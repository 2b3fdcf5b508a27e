"""The command of figure 2: what it leaves, and how it goes on."""

import json

import matplotlib.image
import pytest

from benchmarks import figures, jobs, learning_curves, results, train
from benchmarks.optimizers import OPTIMIZERS
from benchmarks.unbalanced import main


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    for name in ("sgd", "path_sgd", "adagrad"):
        short = OPTIMIZERS[name]._replace(learning_rates=(0.1,))
        monkeypatch.setitem(OPTIMIZERS, name, short)
    monkeypatch.setattr(jobs, "beyond", lambda errors: [])


def command(folder, *more):
    return main(["--preset=smoke", f"--output={folder}", *more])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_leaves_curves_updates_and_a_picture(tmp_path):
    assert command(tmp_path) == 0
    curves = lines(tmp_path / "curves.jsonl")
    assert {(r["optimizer"], r["init"], r["epoch"]) for r in curves} == {
        (optimizer, init, epoch)
        for optimizer in ("sgd", "path_sgd")
        for init in train.INITS
        for epoch in (1, 2, 3)
    }
    assert len(lines(tmp_path / "toy_updates.jsonl")) == 8
    (run,) = lines(tmp_path / "runs.jsonl")
    assert run["command"] == "learning_curves"
    assert run["configuration"]["preset"] == "smoke"
    assert matplotlib.image.imread(tmp_path / "unbalanced.png").std() > 0.05


def test_a_finished_command_only_draws(tmp_path, monkeypatch):
    command(tmp_path)
    figure = tmp_path / "unbalanced.png"
    figure.unlink()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(train, "train", pytest.fail)
    assert command(tmp_path) == 0
    assert figure.exists()
    assert before == {path: path.read_bytes() for path in before}


def test_it_draws_its_curves_among_those_of_figure_3(tmp_path, monkeypatch):
    arguments = ["--preset=smoke", "--epochs=3", f"--output={tmp_path}"]
    learning_curves.main([*arguments, "--optimizers", "sgd", "path_sgd", "adagrad"])
    drawn = []
    monkeypatch.setattr(train, "train", pytest.fail)
    monkeypatch.setattr(
        figures, "draw_unbalanced", lambda records, *more: drawn.extend(records)
    )
    assert command(tmp_path) == 0
    assert {(r.optimizer, r.dropout) for r in drawn} == {
        ("sgd", 0.0),
        ("path_sgd", 0.0),
    }


def test_the_folder_of_another_command_is_refused(tmp_path, capsys):
    results.record_run(tmp_path, "convnet", {"seeds": 1})
    with pytest.raises(SystemExit):
        command(tmp_path)
    message = (
        "holds the results of benchmarks.convnet, not those of benchmarks.learning"
    )
    assert message in capsys.readouterr().err


def test_an_interruption_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def interrupt(*run):
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "run", interrupt)
    assert command(tmp_path) == 130
    assert "goes on from there" in capsys.readouterr().err


def test_a_bad_argument_is_refused_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        command(tmp_path / "results", "--batch-size=9999")
    assert end.value.code == 2
    assert "--batch-size 9999 is more than" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()
