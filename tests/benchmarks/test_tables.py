"""The tables of the last epochs, as they are printed."""

import pytest

from benchmarks import results, tables
from benchmarks.results import Candidate, Record


def printed(capsys, epochs=2, errors=(0.2, 0.105, 0.1)):
    records = [
        Record(
            "digits", "sgd", "balanced", 0.0, 0, 0.1, epoch, 0.5, 0.25, 0.125, second
        )
        for epoch, second in zip(range(1, epochs + 1), (60.0, 0.5, 0.5), strict=False)
    ]
    candidates = [
        Candidate("digits", "sgd", "balanced", 0.0, rate, [0.9, error])
        for rate, error in zip((1.0, 0.3, 0.1), errors, strict=True)
    ]
    tables.print_curves(results.curves(records), candidates)
    out = capsys.readouterr().out
    return out, next(line for line in out.splitlines() if "SGD" in line).split()


def test_a_row_has_the_step_sizes_within_a_tenth_of_the_lowest_error(capsys):
    out, row = printed(capsys)
    assert "digits, after 2 epochs" in out
    assert row[:6] == ["SGD", "balanced", "0.1", "0.1-0.3", "0.5", "25.00%"]
    assert printed(capsys, errors=(0.2, 0.2, 0.1))[1][3] == "0.1"


@pytest.mark.parametrize(("epochs", "milliseconds"), [(3, "500"), (1, "60000")])
def test_the_epoch_that_compiles_is_left_out_if_there_are_more(
    capsys, epochs, milliseconds
):
    assert printed(capsys, epochs)[1][-1] == milliseconds
