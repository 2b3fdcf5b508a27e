"""When training may be stopped, and the errors of the network that it then leaves."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import SizeRecord


class Errors(NamedTuple):
    """Errors of networks of several sizes; nan where a run never meets the criterion.

    Each has the shape ``(sizes, seeds)``; of a run that is missing it is nan as well.
    """

    sizes: list[int]
    train: NDArray[np.float64]
    test: dict[str, NDArray[np.float64]]

    @property
    def enough_units(self) -> int | None:
        """The least size from which on all runs end without training errors."""
        large = [
            size
            for index, size in enumerate(self.sizes)
            if not np.any(self.train[index:])
        ]
        return min(large, default=None)


def _convergence(run: Sequence[SizeRecord]) -> SizeRecord:
    return run[-1]


def _zero_training_error(run: Sequence[SizeRecord]) -> SizeRecord | None:
    return next((record for record in run if record.train_error == 0), None)


def _early_stopping(run: Sequence[SizeRecord]) -> SizeRecord:
    return min(run, key=lambda record: record.validation_error)


CRITERIA: dict[str, Callable[[Sequence[SizeRecord]], SizeRecord | None]] = {
    "convergence": _convergence,
    "zero training error": _zero_training_error,
    "early stopping": _early_stopping,
}
"""The epoch at which each stops, of a run in the order of its epochs.

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
    runs: dict[tuple[int, int], list[SizeRecord]] = {}
    for record in sorted(records, key=lambda record: record.epoch):
        runs.setdefault((record.hidden_units, record.seed), []).append(record)
    sizes, seeds = (sorted(set(axis)) for axis in zip(*runs, strict=True))

    def table(value: Callable[[Sequence[SizeRecord]], float]) -> NDArray[np.float64]:
        return np.array(
            [
                [value(runs[h, s]) if (h, s) in runs else math.nan for s in seeds]
                for h in sizes
            ]
        )

    test = {
        name: table(lambda run, stop=stop: _test_error(stop(run)))  # type: ignore[misc]
        for name, stop in CRITERIA.items()
    }
    return Errors(sizes, table(lambda run: run[-1].train_error), test)


def _test_error(record: SizeRecord | None) -> float:
    return math.nan if record is None else record.test_error
