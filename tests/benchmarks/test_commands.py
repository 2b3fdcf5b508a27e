"""What the commands share: presets, data and messages."""

import itertools
from pathlib import Path

import pytest

from benchmarks import (
    commands,
    convnet,
    damping,
    datasets,
    learning_curves,
    network_size,
    results,
    transformer,
    unbalanced,
)


PRESETS = {"laptop": {"width": 5, "dataset": "digits"}, "paper": {"width": 7}}


def parse(*arguments):
    parser = commands.Parser()
    commands.add_data_arguments(parser)
    parser.add_argument("--width", type=commands.positive)
    return commands.parse(parser, PRESETS, arguments)


@pytest.mark.parametrize(
    ("arguments", "width"),
    [
        ([], 5),
        (["--preset=paper"], 7),
        (["--width=3"], 3),
        (["--preset=paper", "--width=3"], 3),
    ],
)
def test_a_preset_gives_the_defaults(arguments, width):
    options = parse(*arguments)
    assert (options.width, options.dataset) == (width, "digits")


def test_the_data_arguments_are_those_of_load(monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "load", lambda *x, verify: asked.append((*x, verify)))
    commands.load(parse())
    commands.load(parse("--dataset=svhn", "--data-dir=files", "--unverified"))
    assert asked == [("digits", None, True), ("svhn", Path("files"), False)]


def test_an_error_takes_one_line(capsys):
    with pytest.raises(SystemExit) as end:
        commands.Parser(prog="command").error("two\n  lines")
    assert end.value.code == 2
    assert capsys.readouterr().err == "command: error: two lines\n"


MAINS = {
    "convnet": convnet.main,
    "learning_curves": learning_curves.main,
    "network_size": network_size.main,
    "unbalanced": unbalanced.main,
}


ALL = {**MAINS, "transformer": transformer.main, "damping": damping.main}


# That of figure 2 shares the folder of figure 3.
APART = [pair for pair in itertools.permutations(ALL, 2) if "unbalanced" not in pair]


@pytest.mark.parametrize(("name", "other"), APART)
def test_the_folder_of_another_command_is_refused(name, other, tmp_path, capsys):
    results.record_run(tmp_path, other, {"seeds": 1})
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as end:
        ALL[name](["--preset=smoke", f"--output={tmp_path}"])
    assert end.value.code == 2
    message = f"holds the results of benchmarks.{other}, not those of benchmarks.{name}"
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("dataset", datasets.NAMES)
@pytest.mark.parametrize("name", MAINS)
def test_a_data_folder_that_is_not_there_is_refused(name, dataset, tmp_path, capsys):
    files, output = tmp_path / "files", tmp_path / "output"
    options = [f"--dataset={dataset}", f"--data-dir={files}", f"--output={output}"]
    with pytest.raises(SystemExit) as end:
        MAINS[name](["--preset=smoke", *options])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert f"There is no folder {files}" in error
    assert error.count("\n") == 1
    assert not output.exists()
