"""Losses by step size."""

import math

import pytest

from benchmarks.results import LanguageRecord
from benchmarks.sweeps import beyond, print_table, sweeps


def runs(losses, optimizer="adam", init="balanced", seeds=3):
    """Records of these losses by step size; seeds differ by 0.1."""
    return [
        LanguageRecord(
            optimizer, init, rate, seed, loss + 0.1 * seed, loss + 1, [3.0], 0.5
        )
        for rate, loss in losses.items()
        for seed in range(seeds)
    ]


def test_runs_are_grouped_and_in_order_of_step_size():
    records = runs({0.2: 2.0, 0.1: 3.0}) + runs({0.1: 1.0}, init="unbalanced")
    found = sweeps(records)
    assert [*found] == [("adam", "balanced"), ("adam", "unbalanced")]
    sweep = found["adam", "balanced"]
    assert [*sweep.runs] == [0.1, 0.2]
    assert sweep.losses("train_loss", 0.2).tolist() == [2.0, 2.1, 2.2]
    assert sweep.median(0.2) == 2.1
    assert sweep.best == 0.2
    assert sweep.within(2.5) == [0.2]


def test_one_seed_that_diverged_is_the_worst():
    records = runs({0.1: 2.0, 0.2: 1.0})
    records[-1] = records[-1]._replace(train_loss=math.nan)
    (sweep,) = sweeps(records).values()
    assert sweep.losses("train_loss", 0.2)[-1] == math.inf
    assert sweep.median(0.2) == 1.1


@pytest.mark.parametrize(
    ("balanced", "unbalanced", "expected"),
    [
        ((3, 2, 3), (3, 2, 3), []),
        ((2, 3, 3), (3, 2, 3), [0.05]),
        ((3, 3, 2), (3, 2, 3), [0.4]),
        ((1, 2, 3), (3, 2, 1), [0.05, 0.4]),
        ((math.nan,) * 3, (3, 2, 3), []),
        ((math.nan,) * 3, (math.nan,) * 3, []),
        ((math.nan, 3, 2), (3, 2, math.nan), [0.4]),
    ],
)
def test_the_grid_goes_on_where_the_best_is_at_an_end(balanced, unbalanced, expected):
    rates = 0.1, 0.14, 0.2
    starts = {"balanced": balanced, "unbalanced": unbalanced}
    records = [
        record
        for init, losses in starts.items()
        for record in runs(dict(zip(rates, losses, strict=True)), init=init)
    ]
    assert beyond(records) == expected


def test_the_table_tells_the_best_and_what_is_close(capsys):
    losses = {0.1: 2.6, 0.2: 2.11, 0.4: 2.1, 0.8: 2.2, 1.6: 3.0}
    print_table(runs(losses) + runs({0.1: 2.0}, "lamb", "unbalanced", seeds=1))
    printed = capsys.readouterr().out
    adam, lamb = (
        next(line for line in printed.splitlines() if name in line).split()
        for name in ("Adam", "LAMB")
    )
    assert adam[1:] == [
        "balanced",
        "0.4",
        "2.200",
        "2.10-2.30",
        "3.100",
        "0.2-0.4",
        "0.2-0.8",
    ]
    assert lamb[1:] == [
        "unbalanced",
        "0.1",
        "2.000",
        "2.00-2.00",
        "3.000",
        "0.1",
        "0.1",
    ]
