"""Learning curves from balanced and unbalanced starts: figure 3 of the paper.

Run it as ``python -m benchmarks.learning_curves``. What is in the output folder is
kept: the same command goes on where it was interrupted, and more epochs, seeds or
optimizers are added to what was recorded.
"""

import argparse
import itertools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import commands, datasets, figures, optimizers, results, train
from benchmarks.optimizers import OPTIMIZERS


SEARCH_SEED = 0

NUMBERS = (
    "step\nsize",
    "epoch",
    "objective",
    "training\nerror",
    "test\nerror",
    "ms per\nepoch",
)

CAPTION = "Medians over the seeds, after the last epoch."


class Job(NamedTuple):
    """All runs of one optimizer from one kind of start."""

    task: train.Task
    optimizer: str
    init: str

    @property
    def series(self) -> results.Series:
        """What the results are recorded under."""
        task = self.task
        return results.Series(
            task.dataset.name, self.optimizer, self.init, task.dropout
        )

    @property
    def label(self) -> str:
        """What the progress bar calls it."""
        return f"{OPTIMIZERS[self.optimizer].label}, {self.init}"

    @property
    def validation(self) -> "Job":
        """The same job on the points that are left without the validation points."""
        held_out = datasets.hold_out(self.task.dataset)
        return self._replace(task=self.task._replace(dataset=held_out))

    def train(self, rate: float, seed: int, epochs: int) -> Iterator[train.Measurement]:
        """One run."""
        make = OPTIMIZERS[self.optimizer].make
        return train.train(self.task, make, rate, self.init, seed, epochs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      arguments: those of the command line, or None for the process's own.

    Returns:
      The exit code.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        dataset, folder = prepare(options, "learning_curves")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    try:
        run(options, dataset, folder)
    except KeyboardInterrupt:
        return commands.interrupted(options.output)
    records = folder.curves.read()
    figures.draw_learning_curves(records, folder.figure)
    _print_tables(results.curves(records))
    print(f"Figure: {folder.figure}")
    return 0


def prepare(
    options: argparse.Namespace, command: str
) -> tuple[datasets.Dataset, results.Folder]:
    """Loads the data and opens the folder that a command named in its options.

    Args:
      options: the arguments that `add_training_arguments` adds, and those of the data.
      command: the name of the command and of its picture.

    Returns:
      The data set, and the files to record results in.

    Raises:
      ValueError: if the data, the folder or the options don't fit together.
      OSError: if a file can't be read or written.
    """
    dataset = _load(options)
    names = "width", "batch_size", "search_epochs"
    settings = {name: vars(options)[name] for name in names}
    folder = results.open_folder(options.output, settings, f"{command}.png")
    results.record_run(options.output, command, vars(options))
    return dataset, folder


def _parser() -> commands.Parser:
    parser = commands.Parser(
        prog="python -m benchmarks.learning_curves",
        description="Learning curves from balanced and unbalanced starts.",
        epilog="As in the paper: --dataset mnist --data-dir DIR --width 4000",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    commands.add_data_arguments(parser)
    add("--output", type=Path, default=Path("learning_curves"), help="folder to fill")
    add(
        "--optimizers",
        nargs="+",
        choices=OPTIMIZERS,
        default=optimizers.DEFAULT,
        metavar="NAME",
        help=f"some of {', '.join(OPTIMIZERS)}",
    )
    add("--dropout", type=_probability, default=0.0, help="share of units dropped")
    add_training_arguments(parser)
    return parser


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the sizes of a network and of its training."""
    add = parser.add_argument
    add(
        "--width",
        type=commands.positive,
        default=256,
        help="units of each hidden layer",
    )
    add(
        "--batch-size",
        type=commands.positive,
        default=100,
        help="points of a minibatch",
    )
    add("--epochs", type=commands.positive, default=50, help="epochs of a curve")
    add(
        "--search-epochs",
        type=commands.positive,
        default=20,
        help="epochs of training for the choice of a step size",
    )
    add("--seeds", type=commands.positive, default=3, help="how many runs make a curve")


def _probability(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"must be a number in [0, 1), not {text!r}")
    return number


def _load(options: argparse.Namespace) -> datasets.Dataset:
    dataset = commands.load(options)
    points = len(datasets.hold_out(dataset).train_labels)
    if options.batch_size > points:
        raise ValueError(
            f"--batch-size {options.batch_size} is more than the {points} points of "
            f"{dataset.name} that the choice of a step size trains on."
        )
    return dataset


def run(
    options: argparse.Namespace, dataset: datasets.Dataset, folder: results.Folder
) -> None:
    """Chooses step sizes and trains, where that isn't recorded yet.

    Args:
      options: those of `prepare`, the ``optimizers`` and the ``dropout``.
      dataset: what to learn.
      folder: where the results are recorded.
    """
    task = train.Task(dataset, options.width, options.dropout, options.batch_size)
    names = dict.fromkeys(options.optimizers)
    jobs = [Job(task, *pair) for pair in itertools.product(names, train.INITS)]
    with commands.progress() as progress:
        total = sum(_epochs(job, options) for job in jobs)
        bar = progress.add_task("", total=total)
        for job in jobs:
            progress.update(bar, description=job.label)
            for epochs in _work(job, options, folder):
                progress.advance(bar, epochs)


def _epochs(job: Job, options: argparse.Namespace) -> int:
    tried = len(OPTIMIZERS[job.optimizer].learning_rates)
    return int(tried * options.search_epochs + options.seeds * options.epochs)


def _work(
    job: Job, options: argparse.Namespace, folder: results.Folder
) -> Iterator[int]:
    """Chooses the step size and trains, yielding how many epochs are done anew."""
    yield from _search(job, options.search_epochs, folder.step_sizes)
    rate = train.fastest(_tried(job, folder.step_sizes))
    for seed in range(options.seeds):
        yield from _train(job, rate, seed, options.epochs, folder.curves)


def _tried(
    job: Job, step_sizes: results.Journal[results.Candidate]
) -> dict[float, list[float]]:
    return {
        candidate.learning_rate: candidate.validation_errors
        for candidate in step_sizes.read()
        if candidate[:4] == job.series
    }


def _search(
    job: Job, epochs: int, step_sizes: results.Journal[results.Candidate]
) -> Iterator[int]:
    tried, validation = _tried(job, step_sizes), job.validation
    for rate in OPTIMIZERS[job.optimizer].learning_rates:
        if rate in tried:
            yield epochs
            continue
        errors = []
        for measurement in validation.train(rate, SEARCH_SEED, epochs):
            errors.append(measurement.test_error)
            yield 1
        step_sizes.append(results.Candidate(*job.series, rate, errors))


def _train(
    job: Job,
    rate: float,
    seed: int,
    epochs: int,
    curves: results.Journal[results.Record],
) -> Iterator[int]:
    run = (*job.series, seed, rate)
    recorded = {record.epoch for record in curves.read() if record[:6] == run}
    if recorded.issuperset(range(1, epochs + 1)):
        yield epochs
        return
    for measurement in job.train(rate, seed, epochs):
        if measurement.epoch not in recorded:
            curves.append(results.Record(*run, *measurement))
        yield 1


def _print_tables(curves: Mapping[results.Series, results.Curve]) -> None:
    """Prints the last epoch of every curve, for each task."""
    console = Console()
    for task in dict.fromkeys(series.task for series in curves):
        table = Table(
            title=task, caption=CAPTION, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        for heading in ("optimizer", "start"):
            table.add_column(heading, no_wrap=True)
        for heading in NUMBERS:
            table.add_column(heading, justify="right")
        for series, curve in curves.items():
            if series.task == task:
                table.add_row(*_row(series, curve))
        console.print(table)


def _row(series: results.Series, curve: results.Curve) -> tuple[str, ...]:
    return (
        OPTIMIZERS[series.optimizer].label,
        series.init,
        f"{curve.learning_rate:g}",
        str(curve.epochs[-1]),
        f"{curve.median('train_loss')[-1]:.2g}",
        f"{curve.median('train_error')[-1]:.2%}",
        f"{curve.median('test_error')[-1]:.2%}",
        f"{1000 * np.median(curve.runs['seconds']):.1f}",
    )


if __name__ == "__main__":
    sys.exit(main())
