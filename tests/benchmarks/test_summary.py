"""The table of all comparisons."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import summary
from benchmarks.summary import Contest


LABELS = {
    "sgd": "SGD",
    "adam": "Adam",
    "path_sgd": "Path-SGD",
    "path_adam": "Path-Adam",
}


def test_a_row_has_ranges_the_best_other_and_the_lowest():
    losses = {
        "sgd": np.array([0.3, 0.1, 0.2]),
        "adam": np.array([np.inf]),
        "path_sgd": np.array([0.25]),
        "path_adam": np.array([1.0625, 1.0]),
    }
    assert Contest("task", "balanced", losses, LABELS).row == (
        "task",
        "balanced",
        "0.25",
        "1.03 (1 to 1.06)",
        "SGD 0.2 (0.1 to 0.3)",
        "SGD",
    )


def test_the_documentation_has_the_table_of_the_records():
    page = Path(__file__).parents[2] / "docs" / "results.md"
    assert summary.table() in page.read_text()


@pytest.mark.parametrize(("value", "text"), [(0.000049, "0.000049"), (2.1234, "2.12")])
def test_numbers_have_no_powers_of_ten(value, text):
    assert summary._number(value) == text
