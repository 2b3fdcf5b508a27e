"""When training may be stopped, and the errors of the network that it then leaves."""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import SizeRecord


Run: TypeAlias = Sequence[SizeRecord]
"""The records of a size and a seed, in the order of the epochs."""

Criterion: TypeAlias = Callable[[Run], SizeRecord | None]
"""Finds the epoch that training stops after, if there is one."""

Table: TypeAlias = list[NDArray[np.float64]]
"""The errors of the runs of each size."""


class Errors(NamedTuple):
    """Errors of networks of several sizes; nan where a run never meets the criterion.

    Sizes may differ in the number of their runs.
    """

    sizes: list[int]
    train: Table
    test: dict[str, Table]

    @property
    def enough_units(self) -> int | None:
        """The least size from which on all runs end without training errors."""
        large = [
            size
            for index, size in enumerate(self.sizes)
            if not np.any(np.concatenate(self.train[index:]))
        ]
        return min(large, default=None)


def _convergence(run: Run) -> SizeRecord:
    return run[-1]


def _zero_training_error(run: Run) -> SizeRecord | None:
    return next((record for record in run if record.train_error == 0), None)


def _early_stopping(run: Run) -> SizeRecord:
    return min(run, key=lambda record: record.validation_error)


CRITERIA: dict[str, Criterion] = {
    "convergence": _convergence,
    "zero training error": _zero_training_error,
    "early stopping": _early_stopping,
}
"""The stopping criteria.

The step sizes shrink so that training converges: by its last epoch. Zero training error
is the first epoch that has it, early stopping the first of least validation error.
"""


def errors(records: Iterable[SizeRecord]) -> dict[str, Errors]:
    """The errors on each data set, by the criterion that stopped training."""
    groups: dict[str, list[SizeRecord]] = {}
    for record in records:
        groups.setdefault(record.dataset, []).append(record)
    return {dataset: _errors(group) for dataset, group in groups.items()}


def _errors(records: Sequence[SizeRecord]) -> Errors:
    runs: dict[int, dict[int, list[SizeRecord]]] = {}
    for record in sorted(records, key=lambda record: record[1:4]):
        by_seed = runs.setdefault(record.hidden_units, {})
        by_seed.setdefault(record.seed, []).append(record)

    def table(value: Callable[[Run], float]) -> Table:
        return [np.array([*map(value, seeds.values())]) for seeds in runs.values()]

    test = {
        name: table(functools.partial(_test_error, stop))
        for name, stop in CRITERIA.items()
    }
    return Errors(list(runs), table(lambda run: run[-1].train_error), test)


def _test_error(stop: Criterion, run: Run) -> float:
    record = stop(run)
    return math.nan if record is None else record.test_error
