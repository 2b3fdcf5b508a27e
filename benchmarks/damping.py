"""What damping does where a layer starts at zero or small, and where none does.

Run it as ``python -m benchmarks.damping``. What is in the output folder is kept: the
same command goes on where it was interrupted, and more networks, dampings or seeds are
added to what was recorded.
"""

import argparse
import functools
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optax
from rich import box
from rich.console import Console
from rich.table import Table

import pathsgd_optax as pathsgd
from benchmarks import commands, datasets, results, small_starts, train
from benchmarks.optimizers import OPTIMIZERS, Optimizer
from benchmarks.results import DampingRecord, Journal
from benchmarks.small_starts import USUAL


PRESETS: dict[str, dict[str, Any]] = {
    "laptop": {"width": 256, "steps": 200, "seeds": 3},
    "smoke": {"width": 16, "steps": 20, "seeds": 1, "dampings": (0.0, 0.1)},
}

LEARNING_RATES = {
    "sgd": (0.1, 0.3, 1.0),
    "adam": (0.001, 0.003, 0.01),
    "path_sgd": (0.03, 0.1, 0.3),
    "path_adam": (0.001, 0.003, 0.01),
    "path_sgd_bounded": (0.1, 0.3, 1.0),
    "path_adam_bounded": (0.001, 0.003, 0.01),
}
"""The step sizes that are tried from every start."""

BOUND = optax.adaptive_grad_clip(0.03, eps=0.3)
"""The most by which a step changes the weights of a unit, in natural units."""

PATH_FACTORS = {"resnet": 10.0}
"""By how much larger they are where BatchNorm ends the paths."""

CAPTION = (
    "Mean objective of the last 15 steps and, in brackets, the largest on the way as a "
    "multiple of the first: medians over the seeds, at the step size that is best from "
    "the usual start."
)


class Case(NamedTuple):
    """A run: the first fields of its record."""

    network: str
    width: int
    start: str
    optimizer: str
    damping: float
    learning_rate: float
    seed: int


def _bounded(
    inner: optax.GradientTransformation,
    learning_rate: Any,
    network: pathsgd.PathNetwork | None = None,
    damping: float = 0.0,
) -> optax.GradientTransformation:
    """An optimizer whose steps change no unit by much."""
    chain = optax.chain(inner, optax.scale_by_learning_rate(learning_rate), BOUND)
    return pathsgd.precondition_by_path_norm(chain, network, damping=damping)


def _bounded_optimizer(label: str, inner: optax.GradientTransformation) -> Optimizer:
    make = functools.partial(_bounded, inner)
    return Optimizer(label, make, needs_paths=True)


COMPARED = OPTIMIZERS | {
    "path_sgd_bounded": _bounded_optimizer("Path-SGD, bounded", optax.identity()),
    "path_adam_bounded": _bounded_optimizer(
        "Path-Adam, bounded", optax.scale_by_adam()
    ),
}
"""The optimizers, and two whose steps are bounded."""


def _parser() -> commands.Parser:
    parser = commands.Parser(
        prog="python -m benchmarks.damping",
        description="Training from small and zero layers, with and without damping.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--output", type=Path, default=Path("damping"), help="folder to fill")
    add(
        "--networks",
        nargs="+",
        choices=small_starts.NETWORKS,
        default=("mlp",),
        metavar="NAME",
        help=f"some of {', '.join(small_starts.NETWORKS)}",
    )
    add("--width", type=commands.positive, help="units or channels of a layer")
    add("--steps", type=commands.positive, help="minibatches of a run")
    add("--seeds", type=commands.positive, help="runs of each kind")
    add(
        "--dampings",
        nargs="+",
        type=float,
        default=(0.0, 0.03, 0.1, 0.3),
        metavar="TAU",
        help="what to compare",
    )
    return parser


def _open(options: argparse.Namespace) -> Journal[DampingRecord]:
    """The records in the output folder, all of runs of this length."""
    results.check_command(options.output, "damping")
    journal = Journal(options.output / "damping.jsonl", DampingRecord)
    settings = {"batch_size": small_starts.BATCH_SIZE, "steps": options.steps}
    results.open_journals(options.output, settings, journal)
    results.record_run(options.output, "damping", vars(options))
    return journal


def _run(options: argparse.Namespace, journal: Journal[DampingRecord]) -> None:
    """Trains what isn't recorded yet."""
    with commands.progress("runs") as progress:
        for case in progress.track(journal.missing(_cases(options))):
            journal.append(DampingRecord(*case, *_outcome(case, options.steps)))


def _cases(options: argparse.Namespace) -> Iterator[Case]:
    for network, (optimizer, rates) in itertools.product(
        options.networks, LEARNING_RATES.items()
    ):
        dampings, factor = (0.0,), 1.0
        if COMPARED[optimizer].needs_paths:
            dampings, factor = options.dampings, PATH_FACTORS.get(network, 1.0)
        for damping, start, rate, seed in itertools.product(
            dampings, small_starts.STARTS[network], rates, range(options.seeds)
        ):
            kind = network, options.width, start, optimizer, damping
            yield Case(*kind, factor * rate, seed)


def _outcome(case: Case, steps: int) -> small_starts.Outcome:
    task = _task(case.network, case.width)
    make = _maker(case.network, case.width, case.optimizer, case.damping)
    start = small_starts.STARTS[case.network][case.start]
    return small_starts.run(task, start, make, case.learning_rate, case.seed, steps)


@functools.cache
def _task(network: str, width: int) -> train.Task:
    architecture = small_starts.NETWORKS[network]
    digits = datasets.load("digits")
    return train.Task(digits, width, 0.0, small_starts.BATCH_SIZE, architecture)


@functools.cache
def _maker(
    network: str, width: int, optimizer: str, damping: float
) -> train.MakeOptimizer:
    """One for all runs, which then share a compilation."""
    chosen = COMPARED[optimizer]
    if not chosen.needs_paths:
        return chosen.make
    make = chosen.on(train.paths_of(_task(network, width)))
    return functools.partial(make, damping=damping)


def _report(options: argparse.Namespace, journal: Journal[DampingRecord]) -> None:
    """Prints the objectives by start and damping, for each network and optimizer."""
    del options
    records, console = journal.read(), Console()
    for group in dict.fromkeys((x.network, x.width, x.optimizer) for x in records):
        network, width, optimizer = group
        chosen = [x for x in records if (x.network, x.width, x.optimizer) == group]
        title = f"{COMPARED[optimizer].label}, {network} of width {width}"
        table = Table(title=title, box=box.SIMPLE_HEAD)
        by_damping = _by_damping(chosen)
        table.add_column("damping")
        for damping in by_damping:
            table.add_column(f"{damping:g}", justify="right")
        rates = {x: _best_rate(runs) for x, runs in by_damping.items()}
        table.add_row("step size", *(f"{rate:g}" for rate in rates.values()))
        for start in dict.fromkeys(x.start for x in chosen):
            cells = (_cell(by_damping[x], start, rate) for x, rate in rates.items())
            table.add_row(start, *cells)
        console.print(table)
    console.print(CAPTION)


def _by_damping(
    records: Sequence[DampingRecord],
) -> dict[float, list[DampingRecord]]:
    groups: dict[float, list[DampingRecord]] = {}
    for record in records:
        groups.setdefault(record.damping, []).append(record)
    return groups


def _best_rate(runs: Sequence[DampingRecord]) -> float:
    """The step size with the lowest objective from the usual start."""
    rates = dict.fromkeys(run.learning_rate for run in runs)
    return min(rates, key=lambda rate: _medians(runs, USUAL, rate)[0])


def _cell(runs: Sequence[DampingRecord], start: str, rate: float) -> str:
    last, growth = _medians(runs, start, rate)
    return f"{last:.2g} ({growth:.2g})"


def _medians(
    runs: Sequence[DampingRecord], start: str, rate: float
) -> tuple[float, float]:
    """The objective of the last steps, and the largest over the first."""
    chosen = [x for x in runs if (x.start, x.learning_rate) == (start, rate)]
    last = [np.nan_to_num(x.last_loss, nan=np.inf) for x in chosen]
    growth = [np.nan_to_num(x.largest_loss, nan=np.inf) / x.first_loss for x in chosen]
    return float(np.median(last)), float(np.median(growth))


main = commands.command(_parser, PRESETS, _open, _run, _report)


if __name__ == "__main__":
    sys.exit(main())
