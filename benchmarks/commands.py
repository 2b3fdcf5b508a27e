"""What the commands have in common: arguments, messages and the progress bar."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from benchmarks import datasets


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
    return datasets.load(
        options.dataset, options.data_dir, verify=not options.unverified
    )


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


def interrupted(output: Path) -> int:
    """Says what Ctrl-C left, and gives the exit code."""
    print(
        f"Interrupted: {output} keeps what was recorded, and the same command goes on "
        "from there.",
        file=sys.stderr,
    )
    return INTERRUPTED
