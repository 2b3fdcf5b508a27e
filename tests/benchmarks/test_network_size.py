"""The command of figure 1: what it leaves, how it goes on, and what it refuses."""

import itertools
import json
import shutil

import matplotlib.image
import pytest

from benchmarks import one_layer
from benchmarks.network_size import main


def command(folder, *more):
    return main(["--preset=smoke", f"--output={folder}", *more])


def lines(folder):
    """All that is recorded of the networks but times."""
    records = map(json.loads, (folder / "sizes.jsonl").read_text().splitlines())
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What the command leaves, whose files tests only read."""
    folder = tmp_path_factory.mktemp("whole")
    assert command(folder) == 0
    return folder


@pytest.fixture
def finished(whole, tmp_path):
    """A folder of one's own with what the command leaves."""
    return shutil.copytree(whole, tmp_path, dirs_exist_ok=True)


@pytest.fixture
def interrupt(monkeypatch):
    """Makes a command be interrupted in place of its n-th measurement."""
    original = one_layer.train_network

    def interrupted_command(count, folder):
        countdown = itertools.count(count, -1)

        def interrupted(*run):
            for measurement in original(*run):
                if next(countdown) == 0:
                    raise KeyboardInterrupt
                yield measurement

        with monkeypatch.context() as context:
            context.setitem(one_layer.METHODS, "sgd", interrupted)
            return command(folder)

    return interrupted_command


def test_it_leaves_records_its_configuration_and_a_picture(tmp_path, capsys):
    assert command(tmp_path) == 0
    assert [
        (r["dataset"], r["hidden_units"], r["seed"], r["epoch"])
        for r in lines(tmp_path)
    ] == list(itertools.product(["digits, 1000 points"], (4, 16), (0, 1), (1, 2, 3)))
    run = json.loads((tmp_path / "runs.jsonl").read_text())
    assert run["command"] == "network_size"
    assert run["configuration"]["seeds"] == [0, 1]
    assert matplotlib.image.imread(tmp_path / "network_size.png").std() > 0.05
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("hidden", "early stopping", "%", "-"))


@pytest.mark.parametrize("count", [0, 4])
def test_an_interrupted_command_goes_on(tmp_path, whole, interrupt, capsys, count):
    part = tmp_path / "part"
    capsys.readouterr()
    assert interrupt(count, part) == 130
    assert capsys.readouterr().err.count("\n") == 1
    journal = part / "sizes.jsonl"
    before = journal.read_bytes() if journal.exists() else b""
    assert before.count(b"\n") == count
    assert command(part) == 0
    assert journal.read_bytes().startswith(before)
    assert lines(part) == lines(whole)


def test_a_finished_command_only_draws(finished, monkeypatch):
    figure = finished / "network_size.png"
    figure.unlink()
    before = {path: path.read_bytes() for path in finished.iterdir()}
    monkeypatch.setitem(one_layer.METHODS, "sgd", pytest.fail)
    assert command(finished) == 0
    assert figure.exists()
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize("more", ["--epochs=4", "--seeds=3", "--hidden-units=8"])
def test_more_of_the_same_is_appended(finished, more):
    before = (finished / "sizes.jsonl").read_bytes()
    command(finished, more)
    after = (finished / "sizes.jsonl").read_bytes()
    assert after.startswith(before) and len(after) > len(before)
    keys = [(r["hidden_units"], r["seed"], r["epoch"]) for r in lines(finished)]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hidden-units", "4", "none"], "--hidden-units: must be an integer above 0"),
        (["--epochs=0"], "--epochs: must be an integer above 0"),
        (["--preset=huge"], "invalid choice: 'huge'"),
        (["--dataset=mnist", "--data-dir=nowhere"], "There is no folder nowhere"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        command(tmp_path / "results", *arguments)
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1 and not printed.out
    assert not (tmp_path / "results").exists()


def test_records_of_another_schedule_are_refused(finished, monkeypatch, capsys):
    other = one_layer.SETTINGS["sgd"] | {"step_size": 0.5}
    monkeypatch.setitem(one_layer.SETTINGS, "sgd", other)
    with pytest.raises(SystemExit):
        command(finished)
    assert "holds curves of step_size 0.1, not 0.5" in capsys.readouterr().err


def test_methods_have_folders_of_their_own(finished, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit):
        command(finished, "--method=lbfgs")
    assert "lbfgs, which can't be compared" in capsys.readouterr().err


def test_a_batch_method_trains_from_the_same_weights(tmp_path):
    assert command(tmp_path, "--method=lbfgs", "--seeds=1", "--hidden-units=4") == 0
    losses = [record["train_loss"] for record in lines(tmp_path)]
    assert len(losses) == 3 and losses[0] > losses[1] > losses[2]
