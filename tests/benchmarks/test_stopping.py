"""The stopping criteria of figure 1."""

import math

import pytest

from benchmarks.results import SizeRecord
from benchmarks.stopping import errors


def run(train, validation, test, size=4, seed=0, dataset="digits"):
    """The records of a run from its errors after each epoch."""
    rows = zip(train, validation, test, strict=True)
    return [
        SizeRecord(dataset, size, seed, epoch, 0.5, *row, 0.01)
        for epoch, row in enumerate(rows, 1)
    ]


def plain(table):
    return [runs.tolist() for runs in table]


RUN = ([0.3, 0.0, 0.1, 0.0], [0.5, 0.4, 0.2, 0.2], [0.9, 0.8, 0.7, 0.6])


def test_each_criterion_stops_at_its_epoch():
    by_size = errors(reversed(run(*RUN)))["digits"]
    assert {name: plain(table) for name, table in by_size.test.items()} == {
        "convergence": [[0.6]],
        "zero training error": [[0.8]],
        "early stopping": [[0.7]],
    }
    assert plain(by_size.train) == [[0.0]]


def test_what_a_run_never_reaches_is_nan():
    by_size = errors(run([0.2, 0.1], [0.1, 0.2], [0.4, 0.3]))["digits"]
    assert math.isnan(by_size.test["zero training error"][0][0])
    assert plain(by_size.test["early stopping"]) == [[0.4]]


def test_each_size_has_its_runs():
    records = [
        *run([0.0], [0.0], [0.16], size=16),
        *run([0.0], [0.0], [0.04], size=4, seed=1),
        *run([0.0], [0.0], [0.03], size=4),
        *run([0.0], [0.0], [0.5], dataset="mnist"),
    ]
    by_data_set = errors(records)
    assert list(by_data_set) == ["digits", "mnist"]
    by_size = by_data_set["digits"]
    assert by_size.sizes == [4, 16]
    assert plain(by_size.test["convergence"]) == [[0.03, 0.04], [0.16]]


@pytest.mark.parametrize(
    ("train", "enough"),
    [
        ([[0.1, 0.1], [0.0, 0.0], [0.0, 0.0]], 8),
        ([[0.0, 0.0], [0.0, 0.1], [0.0, 0.0]], 16),
        ([[0.0, 0.0], [0.0, 0.0], [0.0, 0.1]], None),
    ],
)
def test_enough_units_are_those_from_which_on_no_run_errs(train, enough):
    records = [
        record
        for size, row in zip((4, 8, 16), train, strict=True)
        for seed, error in enumerate(row)
        for record in run([error], [0.1], [0.1], size=size, seed=seed)
    ]
    assert errors(records)["digits"].enough_units == enough
