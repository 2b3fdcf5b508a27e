"""The command: what it leaves, how it goes on, and what it refuses."""

import contextlib
import itertools
import json
import math
import shutil
import sys

import matplotlib.image
import numpy as np
import pytest

from benchmarks import commands, datasets, jobs, step_sizes, train
from benchmarks.datasets import Dataset
from benchmarks.learning_curves import main
from benchmarks.optimizers import OPTIMIZERS
from benchmarks.step_sizes import fastest


ARGUMENTS = [
    "--width=6",
    "--batch-size=10",
    "--epochs=3",
    "--search-epochs=2",
    "--seeds=2",
    "--optimizers=sgd",
]

RATES = (10.0, 0.1)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(48, 4)).astype(np.float32)
    labels = (images[:, 0] > 0).astype(np.int32)
    dataset = Dataset("digits", images[:36], labels[:36], images[36:], labels[36:], 2)
    monkeypatch.setitem(datasets.EMBEDDED, "digits", lambda: dataset)
    # As where Hugging Face's library is not installed.
    monkeypatch.setitem(sys.modules, "datasets", None)
    for name in ("sgd", "path_sgd"):
        short = OPTIMIZERS[name]._replace(learning_rates=RATES)
        monkeypatch.setitem(OPTIMIZERS, name, short)
    monkeypatch.setattr(jobs, "beyond", lambda errors: [])


def command(folder, *more):
    return main([*ARGUMENTS, f"--output={folder}", *more])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder for what the command leaves, which runs in it once."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def whole(_tiny, folders):
    """What the command leaves, whose files tests only read."""
    if not any(folders.iterdir()):
        assert command(folders) == 0
    return folders


@pytest.fixture
def finished(whole, tmp_path):
    """A folder of one's own with what the command leaves."""
    return shutil.copytree(whole, tmp_path / "finished")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def results(folder):
    """All that is recorded but times, in the order in which it was."""
    recorded = lines(folder / "curves.jsonl")
    for record in recorded:
        assert record.pop("seconds") > 0
    return recorded, lines(folder / "step_sizes.jsonl")


@pytest.fixture
def interrupt(monkeypatch):
    """Makes a command be interrupted in place of its n-th measurement."""
    original = train.train

    def interrupted_command(count, *arguments):
        countdown = itertools.count(count, -1)

        def interrupted(*run):
            for measurement in original(*run):
                if next(countdown) == 0:
                    raise KeyboardInterrupt
                yield measurement

        with monkeypatch.context() as context:
            context.setattr(train, "train", interrupted)
            return command(*arguments)

    return interrupted_command


@pytest.fixture
def untrained(monkeypatch):
    """Makes any training fail."""

    def refuse(*run):
        raise AssertionError("trained what was recorded")

    return lambda: monkeypatch.setattr(train, "train", refuse)


def test_it_leaves_curves_step_sizes_and_a_picture(tmp_path, capsys):
    assert command(tmp_path, "--optimizers", "sgd", "path_sgd") == 0
    curves, step_sizes = results(tmp_path)
    assert {
        tuple(map(record.get, ("optimizer", "init", "seed", "epoch")))
        for record in curves
    } == set(itertools.product(("sgd", "path_sgd"), train.INITS, (0, 1), (1, 2, 3)))
    assert len(curves) == 24
    errors = {}
    for candidate in step_sizes:
        job = candidate["optimizer"], candidate["init"]
        assert len(candidate["validation_errors"]) == 2
        errors.setdefault(job, {})[candidate["learning_rate"]] = candidate[
            "validation_errors"
        ]
    assert len(errors) == 4
    for record in curves:
        tried = errors[record["optimizer"], record["init"]]
        assert record["learning_rate"] == fastest(tried)
        assert set(tried) == set(RATES)
    (ran,) = lines(tmp_path / "runs.jsonl")
    assert ran["command"] == "learning_curves"
    assert ran["configuration"]["optimizers"] == ["sgd", "path_sgd"]
    assert matplotlib.image.imread(tmp_path / "learning_curves.png").std() > 0.05
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("Path-SGD", "unbalanced", "test", "%"))


def interrupt_at_once(*run):
    raise KeyboardInterrupt


def test_the_smoke_preset_trains_with_and_without_dropout(tmp_path):
    assert main(["--preset=smoke", "--batch-size=10", f"--output={tmp_path}"]) == 0
    names = "optimizer", "init", "dropout", "epoch"
    assert [tuple(map(record.get, names)) for record in results(tmp_path)[0]] == [
        (optimizer, init, dropout, epoch)
        for dropout in (0.0, 0.5)
        for optimizer in ("sgd", "path_sgd")
        for init in train.INITS
        for epoch in (1, 2)
    ]


def test_the_papers_preset_has_its_sizes_and_optimizers(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(jobs, "prepare", lambda *x, **y: seen.append(x[0]) or (0, 0))
    monkeypatch.setattr(jobs, "run", interrupt_at_once)
    assert main(["--preset=paper", "--dataset=svhn", "--dropout=0.5"]) == 130
    (options,) = seen
    assert (options.dataset, options.width, options.dropout) == ("svhn", 4000, [0.5])
    assert {"sgd", "adagrad", "path_sgd"} <= set(options.optimizers)
    assert options.batch_size == 100


def test_step_sizes_are_chosen_on_points_that_are_not_tested_on(tmp_path, monkeypatch):
    seen, original = [], train.train

    def watched(task, *arguments):
        seen.append(task.dataset)
        return original(task, *arguments)

    monkeypatch.setattr(train, "train", watched)
    command(tmp_path)
    searched, trained = seen[0], seen[len(RATES)]
    whole = datasets.load("digits")
    assert [len(x) for x in searched[1:5]] == [30, 30, 6, 6]
    assert trained is whole
    points = np.concatenate([searched.train_images, searched.test_images])
    assert sorted(map(bytes, points)) == sorted(map(bytes, whole.train_images))


# Of each start, 4 measurements are of the search, 2 a line, and 6 of the curves.
@pytest.mark.parametrize(
    ("count", "recorded"), [(0, (0, 0)), (3, (0, 1)), (6, (2, 2)), (12, (6, 3))]
)
def test_an_interrupted_command_goes_on(
    tmp_path, whole, interrupt, capsys, count, recorded
):
    part = tmp_path / "part"
    files = [part / "curves.jsonl", part / "step_sizes.jsonl"]
    capsys.readouterr()
    assert interrupt(count, part) == 130
    assert capsys.readouterr().err.count("\n") == 1
    before = [path.read_bytes() if path.exists() else b"" for path in files]
    assert tuple(content.count(b"\n") for content in before) == recorded
    assert command(part) == 0
    assert results(part) == results(whole)
    for path, content in zip(files, before, strict=True):
        assert path.read_bytes().startswith(content)


def test_step_sizes_in_one_program_leave_the_same(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(jobs, "groups", lambda task, make, rates: [rates])
    command(tmp_path)
    assert results(tmp_path) == results(whole)


def test_a_finished_command_trains_nothing(finished, untrained):
    before = results(finished)
    (finished / "learning_curves.png").unlink()
    untrained()
    assert command(finished) == 0
    assert results(finished) == before
    assert (finished / "learning_curves.png").exists()


def test_the_bar_says_what_is_done(finished, monkeypatch):
    said = []

    class Bar(contextlib.nullcontext):
        """A progress bar that keeps its words."""

        def __enter__(self):
            return self

        def add_task(self, description, total):
            assert (description, total) == ("", 2 * (len(RATES) * 2 + 2 * 3))

        def update(self, task, description=None, **numbers):
            said.extend([description] if description else [])

    monkeypatch.setattr(commands, "progress", Bar)
    command(finished)
    assert said == [
        "SGD, balanced: step sizes",
        "SGD, balanced: training",
        "SGD, unbalanced: step sizes",
        "SGD, unbalanced: training",
    ]


@pytest.mark.parametrize("more", ["--epochs=5", "--seeds=3"])
def test_more_of_the_same_is_appended(tmp_path, finished, more):
    at_once = tmp_path / "at_once"
    before = (finished / "curves.jsonl").read_bytes()
    command(finished, more)
    command(at_once, more)
    assert (finished / "curves.jsonl").read_bytes().startswith(before)
    (curves, step_sizes), expected = results(finished), results(at_once)
    assert step_sizes == expected[1]
    assert sorted(map(str, curves)) == sorted(map(str, expected[0]))


def test_the_grid_goes_on_where_the_best_is_at_an_end(tmp_path, monkeypatch):
    def errors(task, make, learning_rates, init, seed, epochs):
        best = {"balanced": 0.003, "unbalanced": 30.0}[init]
        away = [abs(math.log10(rate / best)) / 10 for rate in learning_rates]
        return iter([tuple(away)] * epochs)

    monkeypatch.setattr(jobs, "beyond", step_sizes.beyond)
    monkeypatch.setattr(jobs, "validation_errors", errors)
    assert command(tmp_path) == 0
    curves, tried = results(tmp_path)
    assert [(c["init"], c["learning_rate"]) for c in tried] == [
        *(("balanced", rate) for rate in (10.0, 0.1, 0.03, 0.01, 0.003, 0.001)),
        *(("unbalanced", rate) for rate in (10.0, 0.1, 30.0, 100.0)),
    ]
    assert {r["learning_rate"] for r in curves} == {0.003, 30.0}


def test_a_search_that_ended_at_the_end_of_its_grid_goes_on(finished, monkeypatch):
    best = fastest(
        {c["learning_rate"]: c["validation_errors"] for c in tried(finished)}
    )
    monkeypatch.setattr(jobs, "beyond", step_sizes.beyond)
    assert best in RATES
    command(finished)
    rates = [c["learning_rate"] for c in tried(finished)]
    assert min(rates) < best < max(rates)


def tried(folder):
    """The step sizes from the balanced start."""
    found = lines(folder / "step_sizes.jsonl")
    return [candidate for candidate in found if candidate["init"] == "balanced"]


def test_a_diverged_run_is_recorded_and_drawn(tmp_path, monkeypatch):
    hopeless = OPTIMIZERS["sgd"]._replace(learning_rates=(1e30,))
    monkeypatch.setitem(OPTIMIZERS, "sgd", hopeless)
    assert command(tmp_path) == 0
    curves, step_sizes = results(tmp_path)
    assert {(r["train_loss"], r["test_error"]) for r in curves} == {(None, 1.0)}
    assert [c["validation_errors"] for c in step_sizes] == [[1.0, 1.0]] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--width=0"], "--width: must be an integer above 0"),
        (["--epochs=two"], "--epochs: must be an integer above 0"),
        (["--seeds=-1"], "--seeds: must be an integer above 0"),
        (["--dropout=1"], "--dropout: must be a number in [0, 1)"),
        (["--dropout=half"], "--dropout: must be a number in [0, 1)"),
        (["--dropout=nan"], "--dropout: must be a number in [0, 1)"),
        (["--optimizers", "lion"], "invalid choice: 'lion'"),
        (["--dataset=cifar"], "invalid choice: 'cifar'"),
        (["--dataset=mnist"], "--data-dir"),
        (
            ["--dataset=mnist", "--data-dir=nowhere"],
            "There is no folder nowhere",
        ),
        (["--batch-size=31"], "--batch-size 31 is more than the 30 points"),
        (["--unknown"], "--unknown"),
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


def test_other_settings_are_refused_and_nothing_is_changed(finished, untrained, capsys):
    before = {path: path.read_bytes() for path in finished.iterdir()}
    untrained()
    capsys.readouterr()
    for setting in ("--width=7", "--batch-size=9", "--search-epochs=1"):
        with pytest.raises(SystemExit) as end:
            command(finished, setting)
        assert end.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert before == {path: path.read_bytes() for path in finished.iterdir()}


def test_a_folder_that_is_a_file_is_refused(tmp_path, capsys):
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(SystemExit) as end:
        command(path)
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
