"""Figures, drawn from recorded results only."""

import math
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedLocator,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
    ScalarFormatter,
)
from numpy.typing import NDArray

from benchmarks import diagrams
from benchmarks.optimizers import OPTIMIZERS
from benchmarks.results import Curve, Record, Series, SizeRecord, ToyUpdate, curves
from benchmarks.stopping import Errors, Table, errors


Points: TypeAlias = Sequence[float] | NDArray[np.float64] | NDArray[np.int64]


class Marked(NamedTuple):
    """How a line through marked points is drawn."""

    colour: str
    marker: str
    linestyle: str | tuple[float, tuple[float, ...]] = "-"


LOOKS = {
    "sgd": Marked("#0072B2", "o"),
    "adagrad": Marked("#E69F00", "s"),
    "adam": Marked("#009E73", "^"),
    "path_sgd": Marked("#D55E00", "D"),
    "path_adagrad": Marked("#882255", "v"),
    "path_adam": Marked("#000000", "P"),
    "sgd_momentum": Marked("#56B4E9", "X"),
    "path_sgd_momentum": Marked("#CC79A7", "*"),
}
"""Colours of Okabe and Ito, and one of Tol, which the colour-blind tell apart."""

MARKS = 7
"""About so many points of a curve are marked."""


class Style(NamedTuple):
    """How the lines from a kind of start are drawn."""

    linestyle: str | tuple[float, tuple[float, ...]]
    linewidth: float
    alpha: float


# A dashed curve that coincides with a solid one shows as dashes on a pale band.
STYLES = {
    "balanced": Style("-", linewidth=3.6, alpha=0.42),
    "unbalanced": Style((0, (3.5, 1.5)), linewidth=1.6, alpha=1.0),
}


CRITERION_STYLES = {
    "convergence": Marked("#332288", "o"),
    "zero training error": Marked("#AA4499", "s"),
    "early stopping": Marked("#999933", "^"),
}
"""Colours of Paul Tol, which the colour-blind tell apart, and no optimizer has."""

LINEAR_BELOW = 0.01
"""The error from which on its axis is logarithmic: it has to reach 0."""

LINEAR_ABOVE = 0.05
"""Where all errors are above this, their axis is linear."""

QUANTITIES = {
    "train_loss": "objective (cross-entropy)",
    "train_error": "training error",
    "test_error": "test error",
}

TOY_CAPTION = (
    "One step of size 1: inputs (left) of 1, weights on the edges, outputs (right) "
    "whose gradients are $-1$."
)


def draw_learning_curves(records: Iterable[Record], path: Path) -> None:
    """Draws the objective, the training error and the test error against the epoch.

    There is one row of panels for each data set and probability of dropout, and what
    its curves are of. Of several seeds they are the median, on a light band from the
    least to the greatest.

    Args:
      records: the recorded epochs.
      path: where to write the picture; its suffix names the format.
    """
    learning_curves(records).savefig(path, dpi=160)


def learning_curves(records: Iterable[Record]) -> Figure:
    """The figure that `draw_learning_curves` writes."""
    drawn = curves(records)
    rows = list(dict.fromkeys(series.task for series in drawn))
    layout = ConstrainedLayoutEngine(wspace=0.06, hspace=0.06)
    figure = Figure(figsize=(11, 0.9 + 3.3 * len(rows)), layout=layout)
    panels = figure.subplots(len(rows), len(QUANTITIES), squeeze=False)
    for task, axes in zip(rows, panels, strict=True):
        row = {s: curve for s, curve in drawn.items() if s.task == task}
        _draw_row(axes, row)
        axes[0].set_title(task, loc="left", fontweight="bold", pad=18)
        _add_caption(axes[0], caption(row))
    add_legend(figure, _looks(drawn))
    return figure


def caption(drawn: Mapping[Series, Curve]) -> str:
    """How many seeds the curves of a row are of, and which step sizes they took."""
    rates = [
        (OPTIMIZERS[series.optimizer].label, curve.learning_rate)
        for series, curve in drawn.items()
    ]
    counts = {len(curve.runs["train_loss"]) for curve in drawn.values()}
    return f"{seeds(counts)}. Step sizes: {step_sizes(rates)}"


def step_sizes(rates: Iterable[tuple[str, float]]) -> str:
    """Those of each label, from one start and the other if they differ."""
    by_label: dict[str, list[str]] = {}
    for label, rate in rates:
        by_label.setdefault(label, []).append(f"{rate:g}")
    return ", ".join(
        f"{label} {' / '.join(dict.fromkeys(own))}" for label, own in by_label.items()
    )


def seeds(counts: Collection[int]) -> str:
    """What lines and bands are, where curves are of so many runs."""
    if max(counts) == 1:
        return "One seed"
    number = " to ".join(map(str, sorted({min(counts), max(counts)})))
    return f"Medians of {number} seeds, shaded from the least to the greatest"


def _add_caption(axes: Axes, text: str) -> None:
    """Writes it under the title, as wide as it is."""
    note = axes.annotate(
        text,
        (0, 1),
        (0, 6),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=8,
        color="0.3",
        annotation_clip=False,
    )
    note.set_in_layout(False)


def draw_unbalanced(
    records: Iterable[Record], updates: Iterable[ToyUpdate], path: Path
) -> None:
    """Draws the objective against the epoch, and the steps of small networks.

    Args:
      records: the recorded epochs.
      updates: the recorded steps.
      path: where to write the picture; its suffix names the format.
    """
    unbalanced(records, updates).savefig(path, dpi=160)


def unbalanced(records: Iterable[Record], updates: Iterable[ToyUpdate]) -> Figure:
    """The figure that `draw_unbalanced` writes."""
    drawn = curves(records)
    figure = Figure(figsize=(12.5, 6.4), layout=ConstrainedLayoutEngine())
    halves = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 1.9), wspace=0.03)
    left, right = halves.flat
    axes = left.subplots()
    for series, curve in drawn.items():
        _draw_curve(axes, series, curve, "train_loss")
    _style(axes, QUANTITIES["train_loss"])
    _scale_objective(axes)
    tasks = ", ".join(dict.fromkeys(series.task for series in drawn))
    axes.set_title(f"(a) {tasks}", loc="left", fontweight="bold")
    left.supxlabel(textwrap.fill(caption(drawn), 62), fontsize=8)
    add_legend(left, _looks(drawn), columns=2)
    _draw_updates(right, list(updates))
    return figure


def _draw_updates(figure: SubFigure, updates: Sequence[ToyUpdate]) -> None:
    """Draws a row for each start, under the name of its example."""
    starts = list(dict.fromkeys((update.example, update.init) for update in updates))
    names = list(dict.fromkeys(update.optimizer for update in updates))
    steps = {update[:3]: update for update in updates}
    figure.supxlabel(TOY_CAPTION, fontsize=9)
    heights = [0.4 + len(steps[e, names[0], i].outputs) for e, i in starts]
    rows = figure.subplots(
        len(starts), 1 + len(names), squeeze=False, height_ratios=heights
    )
    for (example, init), panels in zip(starts, rows, strict=True):
        diagrams.draw_before(panels[0], steps[example, names[0], init], "0.35")
        title = f"({example}) {init}"
        panels[0].set_title(title, loc="left", fontweight="bold", fontsize=10)
        for name, axes in zip(names, panels[1:], strict=True):
            diagrams.draw_after(axes, steps[example, name, init], LOOKS[name].colour)
            axes.set_title(f"after {OPTIMIZERS[name].label}", fontsize=10)


def draw_network_size(records: Iterable[SizeRecord], path: Path) -> None:
    """Draws training and test errors against the number of hidden units.

    Args:
      records: the recorded epochs.
      path: where to write the picture; its suffix names the format.
    """
    network_size(records).savefig(path, dpi=160)


def network_size(records: Iterable[SizeRecord]) -> Figure:
    """The figure that `draw_network_size` writes, a panel for each data set."""
    drawn = errors(records)
    size = 0.6 + 6.2 * len(drawn), 4.6
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(wspace=0.06))
    for axes, (dataset, by_size) in zip(
        figure.subplots(1, len(drawn), squeeze=False).flat, drawn.items(), strict=True
    ):
        _draw_sizes(axes, by_size)
        axes.set_title(dataset, loc="left", fontweight="bold")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    counts = {len(runs) for by_size in drawn.values() for runs in by_size.train}
    figure.supxlabel(seeds(counts), fontsize=8, color="0.3")
    return figure


def _draw_sizes(axes: Axes, by_size: Errors) -> None:
    training = Marked("0.45", "D", (0, (2, 1.2)))
    _draw_errors(
        axes, by_size.sizes, by_size.train, "training error (convergence)", training
    )
    for name, test in by_size.test.items():
        label = f"test error ({name})"
        _draw_errors(axes, by_size.sizes, test, label, CRITERION_STYLES[name])
    if by_size.enough_units is not None:
        label = "from here on no run ends with training errors"
        axes.axvline(by_size.enough_units, color="0.5", linestyle=":", label=label)
    _style(axes, "error")
    _scale_errors(axes)
    axes.set_ylim(bottom=-LINEAR_BELOW / 10)
    axes.set_xlabel("hidden units")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(by_size.sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())


def _draw_errors(
    axes: Axes,
    sizes: Sequence[int],
    table: Table,
    label: str,
    style: Marked,
) -> None:
    """Draws the median over the seeds, on a band from the least to the greatest."""
    axes.plot(
        sizes,
        [np.median(runs) for runs in table],
        label=label,
        color=style.colour,
        marker=style.marker,
        linestyle=style.linestyle,
        markersize=5,
    )
    if any(len(runs) > 1 for runs in table):
        band = [runs.min() for runs in table], [runs.max() for runs in table]
        axes.fill_between(sizes, *band, color=style.colour, alpha=0.12, linewidth=0)


def _draw_row(panels: Sequence[Axes], drawn: Mapping[Series, Curve]) -> None:
    for axes, (quantity, label) in zip(panels, QUANTITIES.items(), strict=True):
        for series, curve in drawn.items():
            _draw_curve(axes, series, curve, quantity)
        _style(axes, label)
        if quantity != "train_loss":
            _scale_errors(axes)
        else:
            _scale_objective(axes)


def _draw_curve(axes: Axes, series: Series, curve: Curve, quantity: str) -> None:
    look = LOOKS[series.optimizer]
    draw_line(axes, curve.epochs, curve.median(quantity), look, series.init)
    runs = curve.runs[quantity]
    if len(runs) > 1:
        band = runs.min(axis=0), runs.max(axis=0)
        axes.fill_between(
            curve.epochs, *band, color=look.colour, alpha=0.1, linewidth=0
        )


def draw_line(
    axes: Axes,
    x: Points,
    y: Points,
    look: Marked,
    init: str,
) -> None:
    """Draws a curve from a kind of start, and marks some of its points."""
    axes.plot(
        x,
        y,
        color=look.colour,
        marker=look.marker,
        markersize=5,
        markevery=max(1, len(x) // MARKS),
        **STYLES[init]._asdict(),
    )


def _style(axes: Axes, label: str) -> None:
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def _scale_objective(axes: Axes) -> None:
    least = axes.dataLim.minposy
    if math.isfinite(least) and axes.dataLim.ymax > 10 * least:
        axes.set_yscale("log", nonpositive="mask")


def _scale_errors(axes: Axes) -> None:
    if axes.dataLim.ymin < LINEAR_ABOVE:
        axes.set_yscale("symlog", linthresh=LINEAR_BELOW, linscale=0.5)
        ticks = [0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]
        axes.yaxis.set_major_locator(FixedLocator(ticks))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _looks(drawn: Mapping[Series, Curve]) -> dict[str, Marked]:
    names = dict.fromkeys(series.optimizer for series in drawn)
    return {OPTIMIZERS[name].label: LOOKS[name] for name in names}


def add_legend(
    figure: Figure | SubFigure, looks: Mapping[str, Marked], columns: int = 6
) -> None:
    """Adds the labels of optimizers, each with its look, and the starts' styles."""
    optimizers = [
        Line2D([], [], color=look.colour, marker=look.marker, linewidth=3, label=label)
        for label, look in looks.items()
    ]
    inits = [
        Line2D([], [], color="0.2", label=f"{init} start", **style._asdict())
        for init, style in STYLES.items()
    ]
    handles = [*optimizers, *inits]
    rows = math.ceil(len(handles) / columns)
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=math.ceil(len(handles) / rows),
        frameon=False,
        handlelength=3,
    )
