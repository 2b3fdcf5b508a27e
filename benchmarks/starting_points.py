"""Which step sizes train dense networks of other widths, depths and initialisations.

Run it as ``python -m benchmarks.starting_points``. What is in the output folder is
kept: the same command goes on where it was interrupted, and more widths, depths or
seeds are added to what was recorded.
"""

import argparse
import functools
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import commands, datasets, results, small_starts, train
from benchmarks.architectures import Architecture
from benchmarks.datasets import Dataset
from benchmarks.optimizers import OPTIMIZERS
from benchmarks.results import Journal, StartingPoint
from benchmarks.small_starts import USUAL


PRESETS: dict[str, dict[str, Any]] = {
    "laptop": {"steps": 200, "seeds": 3, "most": 512, "deepest": 8},
    "smoke": {"steps": 20, "seeds": 1, "most": 64, "deepest": 1},
}

WIDTHS = (64, 128, 256, 512)
"""At a depth of two hidden layers."""

DEPTHS = (1, 2, 4, 8)
"""At a width of 128 units."""

VARIANCES = {"flax": 1.0, "he": 2.0}
"""Of the weights, times the fan-in."""

LEARNING_RATES = {
    "sgd": (0.03, 0.1, 0.3, 1.0, 3.0),
    "adam": (0.0003, 0.001, 0.003, 0.01, 0.03),
    "path_sgd": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
    "path_adam": (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1),
}

GOOD = 2.0
"""A step size is good whose objective is at most this multiple of the best one's."""

CAPTION = (
    "The step size with the lowest objective in the last 15 steps and, in brackets, "
    f"the range of those with at most {GOOD:g} times that; medians over the seeds."
)


class Case(NamedTuple):
    """A run: the first fields of its record."""

    width: int
    depth: int
    initialisation: str
    optimizer: str
    learning_rate: float
    seed: int


class Perceptron(nn.Module):
    """Hidden layers of ReLU units, and one of scores."""

    width: int
    depth: int
    variance: float
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The scores of each class, shape ``(..., classes)``."""
        del train
        init = nn.initializers.variance_scaling(self.variance, "fan_in", "normal")
        for _ in range(self.depth):
            x = nn.relu(nn.Dense(self.width, kernel_init=init)(x))
        return nn.Dense(self.classes)(x)


def _parser() -> commands.Parser:
    parser = commands.Parser(
        prog="python -m benchmarks.starting_points",
        description="Step sizes for dense networks, by width, depth, initialisation.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--output", type=Path, default=Path("starting_points"), help="folder to fill")
    add("--steps", type=commands.positive, help="minibatches of a run")
    add("--seeds", type=commands.positive, help="runs of each kind")
    add("--most", type=commands.positive, help="units of the widest layers")
    add("--deepest", type=commands.positive, help="the most hidden layers")
    return parser


def _open(options: argparse.Namespace) -> Journal[StartingPoint]:
    """The records in the output folder, all of runs of this length."""
    results.check_command(options.output, "starting_points")
    journal = Journal(options.output / "starting_points.jsonl", StartingPoint)
    settings = {"batch_size": small_starts.BATCH_SIZE, "steps": options.steps}
    results.open_journals(options.output, settings, journal)
    results.record_run(options.output, "starting_points", vars(options))
    return journal


def _run(options: argparse.Namespace, journal: Journal[StartingPoint]) -> None:
    """Trains what isn't recorded yet."""
    with commands.progress("runs") as progress:
        for case in progress.track(journal.missing(_cases(options))):
            journal.append(StartingPoint(*case, *_outcome(case, options.steps)))


def _cases(options: argparse.Namespace) -> Iterator[Case]:
    shapes = [(width, 2) for width in WIDTHS] + [(128, depth) for depth in DEPTHS]
    for (width, depth), kind in itertools.product(dict.fromkeys(shapes), VARIANCES):
        if width > options.most or depth > max(options.deepest, 2):
            continue
        for optimizer, rates in LEARNING_RATES.items():
            for rate, seed in itertools.product(rates, range(options.seeds)):
                yield Case(width, depth, kind, optimizer, rate, seed)


def _outcome(case: Case, steps: int) -> small_starts.Outcome:
    task = _task(case.width, case.depth, case.initialisation)
    make = OPTIMIZERS[case.optimizer].make
    start = small_starts.STARTS["mlp"][USUAL]
    return small_starts.run(task, start, make, case.learning_rate, case.seed, steps)


@functools.cache
def _task(width: int, depth: int, initialisation: str) -> train.Task:
    variance = VARIANCES[initialisation]

    def make(dataset: Dataset, width: int, dropout: float) -> Perceptron:
        del dropout
        return Perceptron(width, depth, variance, dataset.classes)

    architecture = Architecture(make, lambda variables, _: variables, lambda *_: None)
    digits = datasets.load("digits")
    return train.Task(digits, width, 0.0, small_starts.BATCH_SIZE, architecture)


def _report(options: argparse.Namespace, journal: Journal[StartingPoint]) -> None:
    """Prints the step sizes by width, depth and initialisation."""
    del options
    records, console = journal.read(), Console()
    for kind in dict.fromkeys(x.initialisation for x in records):
        table = Table(title=f"{kind} initialisation", box=box.SIMPLE_HEAD)
        chosen = [x for x in records if x.initialisation == kind]
        names = dict.fromkeys(x.optimizer for x in chosen)
        table.add_column("width x depth")
        for name in names:
            table.add_column(OPTIMIZERS[name].label, justify="right")
        for width, depth in dict.fromkeys((x.width, x.depth) for x in chosen):
            runs = [x for x in chosen if (x.width, x.depth) == (width, depth)]
            cells = (_cell([x for x in runs if x.optimizer == name]) for name in names)
            table.add_row(f"{width} x {depth}", *cells)
        console.print(table)
    console.print(CAPTION)


def _cell(runs: Sequence[StartingPoint]) -> str:
    """The best step size, and the range of good ones."""
    losses = {
        rate: _median([x.last_loss for x in runs if x.learning_rate == rate])
        for rate in sorted({x.learning_rate for x in runs})
    }
    best = min(losses, key=lambda rate: losses[rate])
    good = [rate for rate in losses if losses[rate] <= GOOD * losses[best]]
    return f"{best:g} ({good[0]:g} to {good[-1]:g})" if good[1:] else f"{best:g}"


def _median(losses: Sequence[float]) -> float:
    """That of runs of which some may have diverged."""
    return float(np.median(np.nan_to_num(losses, nan=np.inf)))


main = commands.command(_parser, PRESETS, _open, _run, _report)


if __name__ == "__main__":
    sys.exit(main())
