"""The last epoch of learning curves, printed."""

from collections.abc import Collection, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import results
from benchmarks.optimizers import OPTIMIZERS


NEAR = 1.1
"""A multiple of the lowest validation error."""

NUMBERS = (
    "step\nsize",
    f"within\n{NEAR - 1:.0%}",
    "objective",
    "train\nerror",
    "test\nerror",
    "ms per\nepoch",
)

CAPTION = (
    "Medians over the seeds, after the last epoch. Within 10%: step sizes by their "
    "validation errors in the search."
)


def print_curves(
    curves: Mapping[results.Series, results.Curve],
    candidates: Iterable[results.Candidate],
) -> None:
    """Prints the last epoch of every curve, for each task, and what step sizes do."""
    tried: dict[results.Series, dict[float, float]] = {}
    for candidate in candidates:
        rates = tried.setdefault(results.Series(*candidate[:4]), {})
        rates[candidate.learning_rate] = min(candidate.validation_errors)
    console = Console()
    for task in dict.fromkeys(series.task for series in curves):
        table = Table(
            title=_title(task, curves),
            caption=CAPTION,
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        for heading in ("optimizer", "start"):
            table.add_column(heading, no_wrap=True)
        for heading in NUMBERS:
            table.add_column(heading, justify="right")
        for series, curve in curves.items():
            if series.task == task:
                table.add_row(*_row(series, curve, tried.get(series, {})))
        console.print(table)


def _title(task: str, curves: Mapping[results.Series, results.Curve]) -> str:
    last = {int(x.epochs[-1]) for series, x in curves.items() if series.task == task}
    epochs = " to ".join(map(str, sorted({min(last), max(last)})))
    return f"{task}, after {epochs} epochs"


def span(rates: Collection[float]) -> str:
    """The least and the greatest of some step sizes."""
    if not rates:
        return ""
    least, greatest = f"{min(rates):.2g}", f"{max(rates):.2g}"
    return least if least == greatest else f"{least}-{greatest}"


def _without_compilation(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Those of all epochs but the first, if there are more."""
    return seconds[:, 1:] if seconds.shape[1] > 1 else seconds


def _row(
    series: results.Series, curve: results.Curve, tried: Mapping[float, float]
) -> tuple[str, ...]:
    bound = NEAR * min(tried.values(), default=0.0)
    return (
        OPTIMIZERS[series.optimizer].label,
        series.init,
        f"{curve.learning_rate:g}",
        span([rate for rate, error in tried.items() if error <= bound]),
        f"{curve.median('train_loss')[-1]:.2g}",
        f"{curve.median('train_error')[-1]:.2%}",
        f"{curve.median('test_error')[-1]:.2%}",
        f"{1000 * np.median(_without_compilation(curve.runs['seconds'])):.0f}",
    )
