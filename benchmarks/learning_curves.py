"""Learning curves from balanced and unbalanced starts: figure 3 of the paper.

Run it as ``python -m benchmarks.learning_curves``. What is in the output folder is
kept: the same command goes on where it was interrupted, and more epochs, seeds,
optimizers, probabilities of dropout or data sets are added to what was recorded. The
paper's figure takes a run for each of its data sets into one folder::

  python -m benchmarks.learning_curves --preset paper --dataset cifar100 --data-dir DIR
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import commands, figures, jobs, optimizers, results, tables
from benchmarks.architectures import PERCEPTRON, Architecture
from benchmarks.optimizers import OPTIMIZERS


PRESETS: dict[str, dict[str, Any]] = {
    "laptop": {
        "width": 256,
        "epochs": 50,
        "search_epochs": 20,
        "seeds": 3,
        "optimizers": optimizers.DEFAULT,
        "dropout": (0.0,),
    },
    "smoke": {
        "points": 1000,
        "width": 16,
        "epochs": 2,
        "search_epochs": 1,
        "seeds": 1,
        "optimizers": ("sgd", "path_sgd"),
        "dropout": (0.0, 0.5),
    },
    # The text doesn't say how many epochs. The paper shows one run.
    "paper": {
        "dataset": "mnist",
        "width": 4000,
        "epochs": 100,
        "search_epochs": 20,
        "seeds": 3,
        "optimizers": tuple(OPTIMIZERS),
        "dropout": (0.0, 0.5),
    },
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      arguments: those of the command line, or None for the process's own.

    Returns:
      The exit code.
    """
    parser = make_parser(
        "learning_curves", "Learning curves from balanced and unbalanced starts."
    )
    options = commands.parse(parser, PRESETS, arguments)
    return draw_curves(parser, options, "learning_curves")


def make_parser(command: str, description: str) -> commands.Parser:
    """The arguments of a command that draws learning curves."""
    parser = commands.Parser(
        prog=f"python -m benchmarks.{command}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    commands.add_data_arguments(parser)
    add("--output", type=Path, default=Path(command), help="folder to fill")
    add(
        "--optimizers",
        nargs="+",
        choices=OPTIMIZERS,
        metavar="NAME",
        help=f"some of {', '.join(OPTIMIZERS)}",
    )
    add(
        "--dropout",
        nargs="+",
        type=_probability,
        metavar="P",
        help="share of units dropped, or several",
    )
    jobs.add_training_arguments(parser)
    return parser


def draw_curves(
    parser: commands.Parser,
    options: argparse.Namespace,
    command: str,
    architecture: Architecture = PERCEPTRON,
    **settings: str,
) -> int:
    """Trains what isn't recorded yet, and draws and prints all that is.

    Args:
      parser: tells what is wrong with the options.
      options: those that it has parsed.
      command: the name of the command.
      architecture: what to train.
      **settings: see `jobs.prepare`.

    Returns:
      The exit code.
    """

    def prepare(options: argparse.Namespace) -> jobs.Prepared:
        return jobs.prepare(options, command, **settings)

    def work(options: argparse.Namespace, prepared: jobs.Prepared) -> None:
        jobs.run(options, *prepared, architecture)

    return commands.carry_out(parser, options, prepare, work, _report)


def _report(options: argparse.Namespace, prepared: jobs.Prepared) -> None:
    del options
    _, folder = prepared
    records = folder.curves.read()
    figures.draw_learning_curves(records, folder.figure)
    tables.print_curves(results.curves(records), folder.step_sizes.read())
    print(f"Figure: {folder.figure}")


def _probability(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"must be a number in [0, 1), not {text!r}")
    return number


if __name__ == "__main__":
    sys.exit(main())
