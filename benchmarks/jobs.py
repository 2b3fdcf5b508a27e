"""The runs behind learning curves: step sizes chosen as in the paper, then training.

What is recorded is not done again.
"""

import argparse
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

from benchmarks import commands, datasets, results, train
from benchmarks.architectures import PERCEPTRON, Architecture
from benchmarks.optimizers import OPTIMIZERS
from benchmarks.step_sizes import beyond, fastest, groups, validation_errors


SEARCH_SEED = 0

Prepared: TypeAlias = tuple[datasets.Dataset, results.Folder]
"""The data set, and the files to record results in."""


class Job(NamedTuple):
    """All runs of one optimizer from one kind of start."""

    task: train.Task
    optimizer: str
    init: str
    make: train.MakeOptimizer

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
        label = f"{OPTIMIZERS[self.optimizer].label}, {self.init}"
        return f"{label}, dropout {self.task.dropout:g}" if self.task.dropout else label

    @property
    def validation(self) -> "Job":
        """The same job on the points that are left without the validation points."""
        held_out = datasets.hold_out(self.task.dataset)
        return self._replace(task=self.task._replace(dataset=held_out))

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """The step sizes to choose from; more where the best is at an end."""
        return OPTIMIZERS[self.optimizer].learning_rates

    def train(self, rate: float, seed: int, epochs: int) -> Iterator[train.Measurement]:
        """One run."""
        return train.train(self.task, self.make, rate, self.init, seed, epochs)


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the sizes of a network and of its training."""
    add = parser.add_argument
    add("--width", type=commands.positive, help="units or channels of a layer")
    add(
        "--batch-size",
        type=commands.positive,
        default=100,
        help="points of a minibatch",
    )
    add("--epochs", type=commands.positive, help="epochs of a curve")
    add(
        "--search-epochs",
        type=commands.positive,
        help="epochs of training for the choice of a step size",
    )
    add("--seeds", type=commands.positive, help="how many runs make a curve")


def prepare(
    options: argparse.Namespace, command: str, figure: str = "", **further: str
) -> Prepared:
    """Loads the data and opens the folder that a command named in its options.

    Args:
      options: the arguments that `add_training_arguments` adds, and those of the data.
      command: the name of the command whose results they are.
      figure: the name of the picture, if it isn't that of the command.
      **further: what else all the curves in the folder have in common.

    Returns:
      The data set, and the files to record results in.

    Raises:
      ValueError: if the data, the folder or the options don't fit together.
      OSError: if a file can't be read or written.
    """
    results.check_command(options.output, command)
    dataset = _load(options)
    names = "width", "batch_size", "search_epochs"
    settings = {name: vars(options)[name] for name in names} | further
    folder = results.open_folder(options.output, settings, f"{figure or command}.png")
    results.record_run(options.output, command, vars(options))
    return dataset, folder


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
    options: argparse.Namespace,
    dataset: datasets.Dataset,
    folder: results.Folder,
    architecture: Architecture = PERCEPTRON,
) -> None:
    """Chooses step sizes and trains, where that isn't recorded yet.

    Args:
      options: those of `prepare`, the ``optimizers`` and the ``dropout``.
      dataset: what to learn.
      folder: where the results are recorded.
      architecture: the kind of network.
    """
    jobs = list(_jobs(options, dataset, architecture))
    with commands.progress() as progress:
        total = sum(_epochs(job, options) for job in jobs)
        bar = progress.add_task("", total=total)
        for job in jobs:
            planned = _epochs(job, options)
            for stage, work in _stages(job, options, folder):
                progress.update(bar, description=f"{job.label}: {stage}")
                for epochs in work:
                    planned -= epochs
                    total -= min(planned, 0)
                    planned = max(planned, 0)
                    progress.update(bar, total=total, advance=epochs)


def _jobs(
    options: argparse.Namespace, dataset: datasets.Dataset, architecture: Architecture
) -> Iterator[Job]:
    names = dict.fromkeys(options.optimizers)
    for dropout in dict.fromkeys(options.dropout):
        task = train.Task(
            dataset, options.width, dropout, options.batch_size, architecture
        )
        paths = train.paths_of(task)
        for name in names:
            # One for both starts, which then share a compilation.
            make = OPTIMIZERS[name].on(paths)
            yield from (Job(task, name, init, make) for init in train.INITS)


def _epochs(job: Job, options: argparse.Namespace) -> int:
    tried = len(job.learning_rates)
    return int(tried * options.search_epochs + options.seeds * options.epochs)


def _stages(
    job: Job, options: argparse.Namespace, folder: results.Folder
) -> Iterator[tuple[str, Iterator[int]]]:
    """What a job does in turn, each yielding how many epochs are done anew."""
    yield "step sizes", _search(job, options.search_epochs, folder.step_sizes)
    yield "training", _train(job, options, folder)


def _train(
    job: Job, options: argparse.Namespace, folder: results.Folder
) -> Iterator[int]:
    rate = fastest(_tried(job, folder.step_sizes))
    for seed in range(options.seeds):
        run = (*job.series, seed, rate)
        train_run = functools.partial(job.train, rate, seed)
        yield from folder.curves.record(run, options.epochs, train_run)


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
    """Tries step sizes, until the fastest is between others, or can't be."""
    rates, tried = job.learning_rates, _tried(job, step_sizes)
    yield epochs * len(tried.keys() & set(rates))
    while missing := [rate for rate in rates if rate not in tried] or beyond(tried):
        yield from _try(job, missing, epochs, step_sizes)
        tried = _tried(job, step_sizes)


def _try(
    job: Job,
    learning_rates: Sequence[float],
    epochs: int,
    step_sizes: results.Journal[results.Candidate],
) -> Iterator[int]:
    task = job.validation.task
    for group in groups(task, job.make, learning_rates):
        errors = []
        for measured in validation_errors(
            task, job.make, group, job.init, SEARCH_SEED, epochs
        ):
            errors.append(measured)
            yield len(group)
        for rate, column in zip(group, zip(*errors, strict=True), strict=True):
            step_sizes.append(results.Candidate(*job.series, rate, list(column)))
