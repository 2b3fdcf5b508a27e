"""All comparisons in one table, in Markdown, from the committed records alone.

Run it as ``python -m benchmarks.summary``, from a clone.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks import language, optimizers, results, sweeps, train
from benchmarks.results import Journal, LanguageRecord, Record, Series


RECORDS = Path(__file__).parent / "results"

OURS = ("path_sgd", "path_sgd_momentum", "path_adam", "path_adagrad", "path_muon")

NETWORKS = {
    "digits": "256-256",
    "learning_curves": "1000-1000",
    "paper_size": "4000-4000",
    "cifar100": "256-256",
    "convnet_digits": "ResNet",
}
"""What was trained with the objective and the test error as results, by folder."""

TEXTS = {
    "transformer": "decoder, 0.06 million",
    "transformer_sgd": "the same, momentum",
    "transformer_large": "decoder, 4.8 million",
}
"""What was trained with the objective at the end as result, by folder."""

HEADINGS = ("task", "start", "Path-SGD", "Path-Adam", "best other", "lowest")

Losses: TypeAlias = NDArray[np.float64]


class Contest(NamedTuple):
    """The objectives that all optimizers reach from a start, one for each seed."""

    task: str
    init: str
    losses: Mapping[str, Losses]
    labels: Mapping[str, str]

    @property
    def row(self) -> tuple[str, ...]:
        """The cells of a row of the table."""
        medians = {name: float(np.median(x)) for name, x in self.losses.items()}
        others = {name: x for name, x in medians.items() if name not in OURS}
        other, lowest = (min(x, key=lambda name: x[name]) for x in (others, medians))
        sgd = next((name for name in OURS[:2] if name in medians), "")
        named = f"{self.labels[other]} {self._cell(other)}"
        cells = self._cell(sgd), self._cell("path_adam"), named
        return self.task, self.init, *cells, self.labels[lowest]

    def _cell(self, name: str) -> str:
        if name not in self.losses:
            return ""
        seeds = self.losses[name]
        median = _number(np.median(seeds))
        if len(seeds) == 1:
            return median
        return f"{median} ({_number(seeds.min())} to {_number(seeds.max())})"


def contests() -> Iterator[Contest]:
    """All of them, in the order of the table."""
    for folder, network in NETWORKS.items():
        yield from _of_curves(folder, network)
    for folder, network in TEXTS.items():
        yield from _of_sweeps(folder, network)


def table() -> str:
    """The table in Markdown."""
    rows = [HEADINGS, ("---",) * len(HEADINGS), *(x.row for x in contests())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _of_curves(folder: str, network: str) -> Iterator[Contest]:
    curves = results.curves(Journal(RECORDS / folder / "curves.jsonl", Record).read())
    labels = {name: x.label for name, x in optimizers.OPTIMIZERS.items()}
    for task in dict.fromkeys((series.dataset, series.dropout) for series in curves):
        for init in train.INITS:
            losses = {
                name: curves[series].runs["train_loss"][:, -1]
                for name in labels
                if (series := Series(task[0], name, init, task[1])) in curves
            }
            yield Contest(f"{_task(*task)}, {network}", init, losses, labels)


def _of_sweeps(folder: str, network: str) -> Iterator[Contest]:
    records = Journal(RECORDS / folder / "transformer.jsonl", LanguageRecord).read()
    found = sweeps.sweeps(records)
    labels = {name: x.label for name, x in language.OPTIMIZERS.items()}
    for init in train.INITS:
        losses = {
            name: sweep.losses("train_loss", sweep.best)
            for (name, start), sweep in found.items()
            if start == init
        }
        yield Contest(f"text, {network}", init, losses, labels)


def _task(dataset: str, dropout: float) -> str:
    return f"{dataset}, dropout {dropout:g}" if dropout else dataset


def _number(value: float) -> str:
    """Two digits, or three from 1 on; never as a power of ten."""
    return np.format_float_positional(
        value, precision=3 if value >= 1 else 2, fractional=False, trim="-"
    )


if __name__ == "__main__":
    print(table())
