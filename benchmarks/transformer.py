"""A small language model, by optimizer, start and step size; the paper has none.

Run it as ``python -m benchmarks.transformer``. It learns the sources of Python's
standard library, or ``--text FILE``, character by character. Step sizes are those of a
grid with a factor of two, which goes on while the best one lies at an end. What is in
the output folder is kept: the same command goes on where it was interrupted, and more
optimizers or seeds are added to what was recorded.
"""

import argparse
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import commands, language, results, sweep_figures, sweeps, text, train
from benchmarks.language import OPTIMIZERS
from benchmarks.results import Journal, LanguageRecord


PRESETS: dict[str, dict[str, Any]] = {
    "laptop": {
        "heads": 3,
        "blocks": 2,
        "context": 32,
        "steps": 400,
        "seeds": 3,
        "optimizers": ("adam", "lamb", "muon", "path_adam", "path_muon"),
    },
    "smoke": {
        "heads": 1,
        "blocks": 1,
        "context": 8,
        "steps": 20,
        "seeds": 1,
        "optimizers": ("adam", "path_adam"),
    },
}


class Experiment(NamedTuple):
    """What to learn, and where it is recorded."""

    task: language.Task
    journal: Journal[LanguageRecord]


class Case(NamedTuple):
    """A run: the first fields of its record."""

    optimizer: str
    init: str
    learning_rate: float
    seed: int


def _parser() -> commands.Parser:
    parser = commands.Parser(
        prog="python -m benchmarks.transformer",
        description="Final losses of a small language model against the step size.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--text", type=Path, help="file to learn; without it Python's own sources")
    add("--output", type=Path, default=Path("transformer"), help="folder to fill")
    add(
        "--optimizers",
        nargs="+",
        choices=OPTIMIZERS,
        metavar="NAME",
        help=f"some of {', '.join(OPTIMIZERS)}",
    )
    add("--heads", type=commands.positive, help="attention heads, of 16 coordinates")
    add("--blocks", type=commands.positive, help="blocks of attention and ReLU units")
    add("--context", type=commands.positive, help="characters of a piece of text")
    add("--batch-size", type=commands.positive, default=16, help="pieces of text")
    add("--steps", type=commands.positive, help="minibatches of a run")
    add("--seeds", type=commands.positive, help="runs of each kind")
    return parser


def _open(options: argparse.Namespace) -> Experiment:
    """What to learn, and the records in the output folder, all of that task."""
    results.check_command(options.output, "transformer")
    learned = text.read(options.text) if options.text else text.python_sources()
    _check_length(learned, options.context)
    names = "heads", "blocks", "context", "batch_size", "steps"
    sizes = {name: vars(options)[name] for name in names}
    journal = Journal(options.output / "transformer.jsonl", LanguageRecord)
    source = {"text": f"{learned.name} ({learned.digest[:12]})"}
    results.open_journals(options.output, source | sizes, journal)
    results.record_run(options.output, "transformer", vars(options) | source)
    return Experiment(language.Task(learned, **sizes), journal)


def _check_length(learned: text.Text, context: int) -> None:
    """Raises a ValueError where a part of the text has no whole piece."""
    shortest = min(len(learned.train), len(learned.validation))
    if context >= shortest:
        raise ValueError(
            f"--context {context} is too long: the shorter part of {learned.name} has "
            f"{shortest} characters."
        )


def _run(options: argparse.Namespace, experiment: Experiment) -> None:
    for name in dict.fromkeys(options.optimizers):
        _search(name, experiment.task, options.seeds, experiment.journal)


def _report(options: argparse.Namespace, experiment: Experiment) -> None:
    records, figure = experiment.journal.read(), options.output / "transformer.png"
    sweep_figures.draw_sweeps(records, figure)
    sweeps.print_table(records)
    print(f"Figure: {figure}")


def _search(
    name: str, task: language.Task, seeds: int, journal: Journal[LanguageRecord]
) -> None:
    """Trains with the step sizes of the grid, and with those that they lead to."""
    make = language.maker(task, name)
    recorded = (record.learning_rate for record in _runs_of(name, journal))
    rates = [*dict.fromkeys((*OPTIMIZERS[name].learning_rates, *recorded))]
    while rates:
        _train(task, make, _cases(name, rates, seeds), journal)
        rates = sweeps.beyond(_runs_of(name, journal))


def _runs_of(name: str, journal: Journal[LanguageRecord]) -> list[LanguageRecord]:
    return [record for record in journal.read() if record.optimizer == name]


def _cases(name: str, rates: Sequence[float], seeds: int) -> Iterator[Case]:
    for rate, init, seed in itertools.product(rates, train.INITS, range(seeds)):
        yield Case(name, init, rate, seed)


def _train(
    task: language.Task,
    make: train.MakeOptimizer,
    cases: Iterable[Case],
    journal: Journal[LanguageRecord],
) -> None:
    """Trains what isn't recorded yet."""
    with commands.progress("runs") as progress:
        for case in progress.track(journal.missing(cases)):
            outcome = language.run(task, make, case.learning_rate, case.init, case.seed)
            journal.append(LanguageRecord(*case, *outcome))


main = commands.command(_parser, PRESETS, _open, _run, _report)


if __name__ == "__main__":
    sys.exit(main())
