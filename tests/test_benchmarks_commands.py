"""What the commands share: presets, data and messages."""

from pathlib import Path

import pytest

from benchmarks import commands, datasets


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
