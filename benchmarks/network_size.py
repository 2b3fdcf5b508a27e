"""Errors against the size of a network with one hidden layer: figure 1 of the paper.

Run it as ``python -m benchmarks.network_size``. What is in the output folder is kept:
the same command goes on where it was interrupted, and more sizes, seeds or epochs are
added to what was recorded.
"""

import argparse
import functools
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import commands, figures, one_layer, results, stopping
from benchmarks.results import Journal, SizeRecord


SIZES = tuple(2**power for power in range(2, 13))

PRESETS: dict[str, dict[str, Any]] = {
    "laptop": {"hidden_units": SIZES[:9], "epochs": 200, "seeds": 3},
    "smoke": {"points": 1000, "hidden_units": (4, 16), "epochs": 3, "seeds": 2},
    # The caption doesn't say how many epochs; these leave 0.7% of all step sizes.
    "paper": {"dataset": "mnist", "hidden_units": SIZES, "epochs": 500, "seeds": 1},
}

CAPTION = "Medians over the seeds; - where not every run has zero training error."


class Experiment(NamedTuple):
    """What to learn, and where it is recorded."""

    name: str
    data: one_layer.Data
    journal: Journal[SizeRecord]


def _parser() -> commands.Parser:
    parser = commands.Parser(
        prog="python -m benchmarks.network_size",
        description="Training and test errors against the number of hidden units.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    commands.add_data_arguments(parser)
    add = parser.add_argument
    add("--output", type=Path, default=Path("network_size"), help="folder to fill")
    add(
        "--hidden-units",
        nargs="+",
        type=commands.positive,
        metavar="H",
        help="sizes of the hidden layer",
    )
    add(
        "--method",
        choices=one_layer.METHODS,
        default="sgd",
        help="SGD with momentum, or L-BFGS on all points at once",
    )
    add("--epochs", type=commands.positive, help="epochs of a run")
    add("--seeds", type=commands.positive, help="runs of each size")
    return parser


def _open(options: argparse.Namespace) -> Experiment:
    """The data, and the records in the output folder, all of the same schedule."""
    dataset = commands.load(options)
    data = one_layer.prepare(dataset)
    results.check_command(options.output, "network_size")
    journal = Journal(options.output / "sizes.jsonl", SizeRecord)
    results.open_journals(options.output, one_layer.SETTINGS[options.method], journal)
    results.record_run(options.output, "network_size", vars(options))
    return Experiment(dataset.name, data, journal)


def _run(options: argparse.Namespace, experiment: Experiment) -> None:
    """Trains what isn't recorded yet of every size and seed."""
    name, data, journal = experiment
    sizes = tuple(dict.fromkeys(options.hidden_units))
    with commands.progress() as progress:
        total = len(sizes) * options.seeds * options.epochs
        bar = progress.add_task("", total=total)
        for size in sizes:
            progress.update(bar, description=f"{size} hidden units")
            for seed in range(options.seeds):
                run = name, size, seed
                method = one_layer.METHODS[options.method]
                train = functools.partial(method, data, size, seed)
                for epochs in journal.record(run, options.epochs, train):
                    progress.advance(bar, epochs)


def _report(options: argparse.Namespace, experiment: Experiment) -> None:
    records, figure = experiment.journal.read(), options.output / "network_size.png"
    figures.draw_network_size(records, figure)
    _print_tables(stopping.errors(records))
    print(f"Figure: {figure}")


def _print_tables(errors: dict[str, stopping.Errors]) -> None:
    """Prints the errors at every size, for each data set."""
    console = Console()
    for dataset, by_size in errors.items():
        table = Table(title=dataset, caption=CAPTION, box=box.SIMPLE_HEAD)
        names = [f"test error,\n{name}" for name in by_size.test]
        for heading in ("hidden\nunits", "training\nerror", *names):
            table.add_column(heading, justify="right")
        for index, size in enumerate(by_size.sizes):
            columns = (by_size.train, *by_size.test.values())
            table.add_row(str(size), *(_median(column[index]) for column in columns))
        console.print(table)


def _median(errors: NDArray[np.float64]) -> str:
    median = np.median(errors)
    return f"{median:.2%}" if np.isfinite(median) else "-"


main = commands.command(_parser, PRESETS, _open, _run, _report)


if __name__ == "__main__":
    sys.exit(main())
