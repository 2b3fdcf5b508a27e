"""The last epoch of learning curves, printed."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import results
from benchmarks.optimizers import OPTIMIZERS


NUMBERS = (
    "step\nsize",
    "epoch",
    "objective",
    "training\nerror",
    "test\nerror",
    "ms per\nepoch",
)

CAPTION = "Medians over the seeds, after the last epoch."


def print_curves(curves: Mapping[results.Series, results.Curve]) -> None:
    """Prints the last epoch of every curve, for each task."""
    console = Console()
    for task in dict.fromkeys(series.task for series in curves):
        table = Table(
            title=task, caption=CAPTION, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        for heading in ("optimizer", "start"):
            table.add_column(heading, no_wrap=True)
        for heading in NUMBERS:
            table.add_column(heading, justify="right")
        for series, curve in curves.items():
            if series.task == task:
                table.add_row(*_row(series, curve))
        console.print(table)


def _without_compilation(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Those of all epochs but the first, if there are more."""
    return seconds[:, 1:] if seconds.shape[1] > 1 else seconds


def _row(series: results.Series, curve: results.Curve) -> tuple[str, ...]:
    return (
        OPTIMIZERS[series.optimizer].label,
        series.init,
        f"{curve.learning_rate:g}",
        str(curve.epochs[-1]),
        f"{curve.median('train_loss')[-1]:.2g}",
        f"{curve.median('train_error')[-1]:.2%}",
        f"{curve.median('test_error')[-1]:.2%}",
        f"{1000 * np.median(_without_compilation(curve.runs['seconds'])):.1f}",
    )
