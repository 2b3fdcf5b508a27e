"""The figure of losses by step size, drawn from recorded results only."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from benchmarks import figures
from benchmarks.figures import Marked
from benchmarks.language import OPTIMIZERS, WINDOW
from benchmarks.results import LanguageRecord
from benchmarks.sweeps import Sweep, sweeps


LOOKS = {
    "lamb": Marked("#E69F00", "s"),
    "muon": Marked("#0072B2", "o"),
    "path_muon": Marked("#D55E00", "D"),
    **{name: figures.LOOKS[name] for name in OPTIMIZERS if name in figures.LOOKS},
}

HIGHEST = 1.5
"""Multiples of the lowest loss that the axes show."""

Sweeps: TypeAlias = Mapping[tuple[str, str], Sweep]


def draw_sweeps(records: Iterable[LanguageRecord], path: Path) -> None:
    """Draws the loss at the end by step size, and at the best one by step.

    Of several seeds it shows the median, on a light band from the least to the
    greatest.

    Args:
      records: the recorded runs.
      path: where to write the picture; its suffix names the format.
    """
    sweep_figure(records).savefig(path, dpi=160)


def sweep_figure(records: Iterable[LanguageRecord]) -> Figure:
    """The figure that `draw_sweeps` writes."""
    drawn = sweeps(records)
    figure = Figure(figsize=(11, 5), layout=ConstrainedLayoutEngine(wspace=0.06))
    by_rate, by_step = figure.subplots(1, 2, width_ratios=(1.35, 1))
    by_rate.set_xscale("log")
    for key, sweep in drawn.items():
        losses = [sweep.losses("train_loss", rate) for rate in sweep.runs]
        _draw(by_rate, key, list(sweep.runs), losses)
        curves = np.array([run.losses for run in sweep.runs[sweep.best]]).T
        _draw(by_step, key, WINDOW * np.arange(1, 1 + len(curves)), curves)
    _style(by_rate, "step size", "training loss at the end (nats a character)", drawn)
    _style(by_step, "step", "training loss at the best step size", drawn)
    figure.supxlabel(_caption(drawn), fontsize=8, color="0.3")
    figures.add_legend(figure, _looks(drawn))
    return figure


def _draw(
    axes: Axes,
    key: tuple[str, str],
    positions: Sequence[float] | NDArray[np.int64],
    losses: Sequence[NDArray[np.float64]] | NDArray[np.float64],
) -> None:
    """Draws a line through the medians of the seeds, and their range."""
    optimizer, init = key
    colour = LOOKS[optimizer].colour
    medians = [np.median(seeds) for seeds in losses]
    figures.draw_line(axes, positions, medians, LOOKS[optimizer], init)
    if any(len(seeds) > 1 for seeds in losses):
        band = [min(seeds) for seeds in losses], [max(seeds) for seeds in losses]
        axes.fill_between(positions, *band, color=colour, alpha=0.12, linewidth=0)


def _style(axes: Axes, x: str, y: str, drawn: Sweeps) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.margins(x=0.02)
    lowest = min(sweep.median(sweep.best) for sweep in drawn.values())
    if math.isfinite(lowest):
        axes.set_ylim(0.95 * lowest, HIGHEST * lowest)


def _looks(drawn: Sweeps) -> dict[str, Marked]:
    names = dict.fromkeys(optimizer for optimizer, _ in drawn)
    return {OPTIMIZERS[name].label: LOOKS[name] for name in names}


def _caption(drawn: Sweeps) -> str:
    counts = {len(runs) for sweep in drawn.values() for runs in sweep.runs.values()}
    best = [(OPTIMIZERS[name].label, x.best) for (name, _), x in drawn.items()]
    return f"{figures.seeds(counts)}. Best step sizes: {figures.step_sizes(best)}"
