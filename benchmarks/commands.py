"""What the commands have in common: arguments, messages and the progress bar."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from benchmarks import datasets


T = TypeVar("T")

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended: 128 + SIGINT."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors take one line."""

    def error(self, message: str) -> NoReturn:
        """Prints the message, without the usage, and exits."""
        line = " ".join(message.split())
        self.exit(2, f"{self.prog}: error: {line}\n")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that `load` reads."""
    add = parser.add_argument
    add("--dataset", choices=datasets.NAMES, default="digits", help="what to learn")
    add(
        "--data-dir",
        type=Path,
        help="folder of the published files; without it Hugging Face downloads them",
    )
    add("--points", type=positive, help="at most so many of its points")
    add(
        "--unverified",
        action="store_true",
        help="accept files without the published checksums, and say so in the results",
    )


def parse(
    parser: argparse.ArgumentParser,
    presets: Mapping[str, Mapping[str, Any]],
    arguments: Sequence[str] | None,
) -> argparse.Namespace:
    """Parses arguments whose defaults are those of a preset, which is one of them.

    Args:
      parser: the parser of all the other arguments.
      presets: their defaults, by the name of the preset; the first is the default.
      arguments: those of the command line, or None for the process's own.

    Returns:
      The options.
    """
    first = next(iter(presets))
    parser.add_argument(
        "--preset", choices=presets, default=first, help="where the defaults come from"
    )
    parser.set_defaults(**presets[first])
    chosen = parser.parse_known_args(arguments)[0].preset
    parser.set_defaults(**presets[chosen])
    return parser.parse_args(arguments)


def load(options: argparse.Namespace) -> datasets.Dataset:
    """The data set that was asked for."""
    dataset = datasets.load(
        options.dataset, options.data_dir, verify=not options.unverified
    )
    return datasets.first(dataset, options.points) if options.points else dataset


def positive(text: str) -> int:
    """An argument that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer above 0, not {text!r}")
    return int(text)


def progress(unit: str = "epochs") -> Progress:
    """A bar that counts these."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )


def command(
    make_parser: Callable[[], Parser],
    presets: Mapping[str, Mapping[str, Any]],
    prepare: Callable[[argparse.Namespace], T],
    work: Callable[[argparse.Namespace, T], None],
    report: Callable[[argparse.Namespace, T], None],
) -> Callable[..., int]:
    """What runs a command, from its arguments, or the process's own, to its exit code.

    Args:
      make_parser: makes the parser of its arguments.
      presets: their defaults, as those of `parse`.
      prepare: opens what the others need, as the next two see `carry_out`.
      work: records results.
      report: shows all that was recorded.

    Returns:
      The command's ``main``.
    """

    def main(arguments: Sequence[str] | None = None) -> int:
        parser = make_parser()
        options = parse(parser, presets, arguments)
        return carry_out(parser, options, prepare, work, report)

    return main


def carry_out(
    parser: Parser,
    options: argparse.Namespace,
    prepare: Callable[[argparse.Namespace], T],
    work: Callable[[argparse.Namespace, T], None],
    report: Callable[[argparse.Namespace, T], None],
) -> int:
    """Does what a command is for, in three steps.

    Args:
      parser: tells what is wrong with the options.
      options: those that it has parsed, among them the ``output`` folder.
      prepare: opens what the others need; its errors are those of the options.
      work: records results, until it is done or Ctrl-C ends it.
      report: shows all that was recorded.

    Returns:
      The exit code.
    """
    try:
        prepared = prepare(options)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    try:
        work(options, prepared)
    except KeyboardInterrupt:
        print(
            f"Interrupted: {options.output} keeps what was recorded, and the same "
            "command goes on from there.",
            file=sys.stderr,
        )
        return INTERRUPTED
    report(options, prepared)
    return 0
