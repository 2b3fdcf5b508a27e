"""Whether one step size does for networks of all kinds, widths and depths.

Run it as ``python -m benchmarks.transfer``. For each network and optimizer it looks for
the best step size, in steps of the root of ten, then trains all with one. Step sizes
rise in ten steps, and fall as a cosine to 0. What is in the output folder is kept: the
same command goes on where it was interrupted, and more networks, optimizers or seeds
are added to what was recorded.
"""

import argparse
import functools
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from rich import box
from rich.console import Console
from rich.table import Table

import pathsgd_optax as pathsgd
from benchmarks import commands, families, results
from benchmarks.families import FAMILIES, Problem
from benchmarks.optimizers import Optimizer
from benchmarks.results import Journal, TransferRecord


OPTIMIZERS = {
    "sgd": Optimizer("SGD", optax.sgd, (1.0,)),
    "path_sgd": Optimizer("Path-SGD", pathsgd.path_sgd, (0.3,), True),
    "lars": Optimizer(
        "LARS",
        functools.partial(optax.lars, trust_coefficient=1.0, momentum=0.0),
        (0.03,),
    ),
    "path_lars": Optimizer("Path-LARS", pathsgd.path_lars, (0.03,), True),
    "adam": Optimizer("Adam", functools.partial(optax.adam, b2=0.98), (0.003,)),
    "lamb": Optimizer("LAMB", functools.partial(optax.lamb, b2=0.98), (0.01,)),
    "path_adam": Optimizer(
        "Path-Adam", functools.partial(pathsgd.path_adam, b2=0.98), (0.003,), True
    ),
    "path_lamb": Optimizer(
        "Path-LAMB", functools.partial(pathsgd.path_lamb, b2=0.98), (0.01,), True
    ),
}
"""With the step size that a search begins with."""

PRESETS: dict[str, dict[str, Any]] = {
    "laptop": {"families": tuple(FAMILIES), "optimizers": tuple(OPTIMIZERS)},
    "smoke": {"families": ("dense",), "optimizers": ("path_lars",), "steps": 5},
}

LAST_STEPS = 15
"""The steps whose mean objective is recorded."""

WARM_UP = 10

A_DECADE = 2
"""Step sizes of the grid."""

CAPTION = (
    "The best step size and, in brackets, the objective with it and with the one of "
    "the last rows: medians over the seeds. That one is in the middle between the "
    "least and the greatest of the best, and does worse than those by these factors."
)


class Case(NamedTuple):
    """A run: the first fields of its record."""

    network: str
    optimizer: str
    learning_rate: float
    seed: int


def _parser() -> commands.Parser:
    parser = commands.Parser(
        prog="python -m benchmarks.transfer",
        description="Step sizes of networks of several kinds, widths and depths.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--output", type=Path, default=Path("transfer"), help="folder to fill")
    for name, choices in (("families", FAMILIES), ("optimizers", OPTIMIZERS)):
        named = f"some of {', '.join(choices)}"
        add(f"--{name}", nargs="+", choices=choices, metavar="NAME", help=named)
    add("--steps", type=commands.positive, help="minibatches, where not as many as set")
    add("--seeds", type=commands.positive, default=1, help="runs of each kind")
    return parser


def _open(options: argparse.Namespace) -> Journal[TransferRecord]:
    """The records in the output folder, all of runs of this length."""
    results.check_command(options.output, "transfer")
    journal = Journal(options.output / "transfer.jsonl", TransferRecord)
    results.open_journals(options.output, {"steps": options.steps}, journal)
    results.record_run(options.output, "transfer", vars(options))
    return journal


def _run(options: argparse.Namespace, journal: Journal[TransferRecord]) -> None:
    """Looks for the best step sizes, and trains with one for all."""
    for family in options.families:
        steps = options.steps or families.STEPS[family]
        for network in FAMILIES[family]:
            for name in options.optimizers:
                _search(network, name, steps, options.seeds, journal)
    for name in options.optimizers:
        rate = _common(_sweeps(journal.read(), name).values())
        for family in options.families:
            steps = options.steps or families.STEPS[family]
            for network in FAMILIES[family]:
                cases = _cases(network, name, [rate], options.seeds)
                _train(cases, steps, journal)


def _search(
    network: str, name: str, steps: int, seeds: int, journal: Journal[TransferRecord]
) -> None:
    """Trains with step sizes around the best one, until it is in their middle."""
    sweep = _sweeps(journal.read(), name).get(network)
    best, tried = sweep.best if sweep else OPTIMIZERS[name].learning_rates[0], None
    while best != tried:
        tried = _on_grid(best)
        rates = [_on_grid(tried, k) for k in (-1, 0, 1)]
        _train(_cases(network, name, rates, seeds), steps, journal)
        best = _sweeps(journal.read(), name)[network].best


def _on_grid(rate: float, further: int = 0) -> float:
    """The next step size of the grid, and so many further."""
    return float(10 ** ((round(A_DECADE * math.log10(rate)) + further) / A_DECADE))


def _cases(
    network: str, name: str, rates: Iterable[float], seeds: int
) -> Iterator[Case]:
    for rate in rates:
        yield from (Case(network, name, rate, seed) for seed in range(seeds))


def _train(cases: Iterable[Case], steps: int, journal: Journal[TransferRecord]) -> None:
    """Trains what isn't recorded yet."""
    for case in journal.missing(cases):
        began = time.perf_counter()
        train = _trainer(case.network, case.optimizer)
        problem = _problem(case.network)
        batches = problem.batches(case.seed, steps)
        losses = train(case.learning_rate, problem.initialize(case.seed), batches)
        last, largest = float(losses[-LAST_STEPS:].mean()), float(losses.max())
        seconds = time.perf_counter() - began
        journal.append(TransferRecord(*case, last, largest, seconds))


@functools.lru_cache(maxsize=1)
def _problem(network: str) -> Problem:
    makers = {name: make for kind in FAMILIES.values() for name, make in kind.items()}
    return makers[network]()


@functools.lru_cache(maxsize=1)
def _trainer(network: str, name: str) -> Callable[..., jax.Array]:
    """From the step size, parameters and minibatches to the objective of each."""
    problem = _problem(network)
    make = OPTIMIZERS[name].on(problem.network)

    @jax.jit
    def train(rate: jax.Array, params: Any, batches: jax.Array) -> jax.Array:
        optimizer = make(functools.partial(_scheduled, rate, len(batches)))

        def step(carry: Any, batch: jax.Array) -> tuple[Any, jax.Array]:
            params, state = carry
            loss, grads = jax.value_and_grad(problem.objective)(params, batch)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), loss

        return lax.scan(step, (params, optimizer.init(params)), batches)[1]

    return train


def _scheduled(rate: jax.Array, steps: int, count: jax.Array) -> jax.Array:
    done = jnp.asarray(count, jnp.float32)
    falling = (1 + jnp.cos(jnp.pi * done / steps)) / 2
    return rate * jnp.minimum(falling, (done + 1) / WARM_UP)


class Sweep(NamedTuple):
    """The objectives of a network and an optimizer, by step size: medians."""

    losses: dict[float, float]

    @property
    def best(self) -> float:
        """The step size with the lowest objective."""
        return min(self.losses, key=lambda rate: self.losses[rate])


def _sweeps(records: Sequence[TransferRecord], name: str) -> dict[str, Sweep]:
    """Those of an optimizer, by the network."""
    runs: dict[str, dict[float, list[float]]] = {}
    for x in records:
        if x.optimizer == name:
            loss = math.inf if math.isnan(x.last_loss) else x.last_loss
            runs.setdefault(x.network, {}).setdefault(x.learning_rate, []).append(loss)
    medians = {
        network: {rate: float(np.median(losses)) for rate, losses in by_rate.items()}
        for network, by_rate in runs.items()
    }
    return {network: Sweep(losses) for network, losses in medians.items()}


def _common(sweeps: Iterable[Sweep]) -> float:
    """The step size in the middle between the least and the greatest of the best."""
    bests = [sweep.best for sweep in sweeps]
    return _on_grid(math.sqrt(min(bests) * max(bests)))


def _report(options: argparse.Namespace, journal: Journal[TransferRecord]) -> None:
    """Prints the best step sizes, and what one for all costs."""
    del options
    records = journal.read()
    names = dict.fromkeys(x.optimizer for x in records)
    columns = {name: _sweeps(records, name) for name in names}
    table = Table(box=box.SIMPLE_HEAD, caption=CAPTION)
    table.add_column("network")
    for name in names:
        table.add_column(OPTIMIZERS[name].label, justify="right")
    for network in dict.fromkeys(x.network for x in records):
        cells = [_cell(sweeps, network) for sweeps in columns.values()]
        table.add_row(network, *cells)
    for title, number in SUMMARY.items():
        table.add_row(title, *(number([*x.values()]) for x in columns.values()))
    Console().print(table)


def _cell(sweeps: dict[str, Sweep], network: str) -> str:
    if network not in sweeps:
        return ""
    losses, best = sweeps[network].losses, sweeps[network].best
    common = losses.get(_common(sweeps.values()), math.nan)
    return f"{best:.2g} ({losses[best]:.2g}, {common:.2g})"


def _span(sweeps: Sequence[Sweep]) -> str:
    bests = [sweep.best for sweep in sweeps]
    return f"{max(bests) / min(bests):.0f}"


def _excesses(sweeps: Sequence[Sweep]) -> list[float]:
    """How many times as high the objectives are with one step size for all."""
    common = _common(sweeps)
    return [x.losses.get(common, math.nan) / x.losses[x.best] for x in sweeps]


SUMMARY: dict[str, Callable[[Sequence[Sweep]], str]] = {
    "greatest / least": _span,
    "one for all": lambda sweeps: f"{_common(sweeps):.2g}",
    "... worse by, mean": lambda x: f"{np.exp(np.mean(np.log(_excesses(x)))):.2f}",
    "... at most": lambda sweeps: f"{max(_excesses(sweeps)):.2g}",
}


main = commands.command(_parser, PRESETS, _open, _run, _report)


if __name__ == "__main__":
    sys.exit(main())
