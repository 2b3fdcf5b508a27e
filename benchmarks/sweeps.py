"""Losses by step size: the best one, where the grid goes on, and a table."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.language import OPTIMIZERS
from benchmarks.results import LanguageRecord
from benchmarks.tables import NEAR, span


FACTOR = 2
"""Between neighbouring step sizes."""

CLOSE = 0.02
"""Nats a character, about what three seeds differ by."""

NUMBERS = (
    "step\nsize",
    "loss",
    "over seeds",
    "unseen\ntext",
    f"step sizes\nwithin {CLOSE}",
    f"step sizes\nwithin {NEAR - 1:.0%}",
)

CAPTION = (
    "Nats a character, at the step size whose training ends with the lowest: medians "
    "over the seeds, and the least and the greatest."
)


class Sweep(NamedTuple):
    """The runs of an optimizer from one kind of start, by step size in order."""

    runs: dict[float, list[LanguageRecord]]

    def losses(self, quantity: str, rate: float) -> NDArray[np.float64]:
        """One for each seed; inf where it diverged."""
        values = np.array([getattr(run, quantity) for run in self.runs[rate]])
        return np.where(np.isnan(values), np.inf, values)

    def median(self, rate: float) -> float:
        """The loss that training ends with, as the seeds have it in the median."""
        return float(np.median(self.losses("train_loss", rate)))

    @property
    def best(self) -> float:
        """The step size with the lowest loss at the end."""
        return min(self.runs, key=self.median)

    def within(self, bound: float) -> list[float]:
        """The step sizes whose loss at the end is at most this."""
        return [rate for rate in self.runs if self.median(rate) <= bound]


def sweeps(records: Iterable[LanguageRecord]) -> dict[tuple[str, str], Sweep]:
    """The runs of each optimizer and start, in the order of their first records."""
    groups: dict[tuple[str, str], dict[float, list[LanguageRecord]]] = {}
    for record in records:
        runs = groups.setdefault((record.optimizer, record.init), {})
        runs.setdefault(record.learning_rate, []).append(record)
    return {key: Sweep(dict(sorted(runs.items()))) for key, runs in groups.items()}


def beyond(records: Iterable[LanguageRecord]) -> list[float]:
    """The step sizes to try next, where the best one so far is the last on its side.

    Args:
      records: those of one optimizer, from all starts.

    Returns:
      At most one step size on each side; none where all runs diverged.
    """
    chosen = sweeps(records).values()
    bests = {x.best for x in chosen if math.isfinite(x.median(x.best))}
    rates = [rate for sweep in chosen for rate in sweep.runs]
    least, greatest = min(rates), max(rates)
    further = {least: least / FACTOR, greatest: greatest * FACTOR}
    return [rate for end, rate in further.items() if end in bests]


def print_table(records: Iterable[LanguageRecord]) -> None:
    """Prints the best step size of every optimizer and start."""
    table = Table(caption=CAPTION, box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for heading in ("optimizer", "start"):
        table.add_column(heading, no_wrap=True)
    for heading in NUMBERS:
        table.add_column(heading, justify="right")
    for (optimizer, init), sweep in sweeps(records).items():
        table.add_row(OPTIMIZERS[optimizer].label, init, *_cells(sweep))
    Console().print(table)


def _cells(sweep: Sweep) -> tuple[str, ...]:
    best = sweep.best
    lowest, losses = sweep.median(best), sweep.losses("train_loss", best)
    return (
        f"{best:g}",
        f"{lowest:.3f}",
        f"{losses.min():.2f}-{losses.max():.2f}",
        f"{np.median(sweep.losses('validation_loss', best)):.3f}",
        span(sweep.within(lowest + CLOSE)),
        span(sweep.within(lowest * NEAR)),
    )
