"""The picture itself, by Matplotlib: a line for each parameter, modules as headings."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator

from pathsgd_optax._networks.network import NO_PATH
from pathsgd_optax._plots.quantities import Layer, Measured


COLOURS = ("0.65", "#D55E00")
"""Of what comes before, and after; the colour-blind tell them apart."""

PANELS = 4.0
"""Inches, next to the names: on a phone, letters are then as large as its own."""

LINE = 0.2
"""The height of a line, in inches."""

LETTER, BOLD = 0.07, 0.085
"""The widths of letters of 8 points, in inches."""

LONG = 30
"""So many lines have their scales below, too."""


class Line(NamedTuple):
    """A line of the picture: a parameter, by its place, or the heading of a module."""

    height: int
    text: str
    place: int | None
    shaded: bool


class State(NamedTuple):
    """What is drawn in one colour, so far above the middle of each line."""

    measured: Sequence[Measured]
    colour: str
    above: float
    thickness: float


def draw(
    measured: Mapping[str, Sequence[Measured]],
    layers: Sequence[Layer],
    absent: Collection[int],
    suffix: str,
) -> tuple[Axes, Axes]:
    """Draws the shares on the left, and the spread of gamma on the right."""
    lines = list(_lines(layers))
    size = _width(lines), 1.0 + LINE * len(lines)
    figure = plt.figure(figsize=size, layout="constrained")
    shares, gammas = figure.subplots(1, 2, sharey=True)
    _prepare(shares, lines, "share of the paths")
    _prepare(gammas, lines, f"$\\gamma${suffix}")
    _write_names(shares, lines)
    _write_absent(gammas, lines, absent)
    states = dict(zip(measured, _states(list(measured.values())), strict=True))
    for state in states.values():
        _draw_shares(shares, lines, state)
        _draw_spreads(gammas, lines, state)
    _scale_shares(shares)
    _scale_logarithms(gammas)
    if len(states) > 1:
        _add_legend(figure, {label: state.colour for label, state in states.items()})
    return shares, gammas


def _width(lines: Sequence[Line]) -> float:
    """Room for the panels beside the longest name, and for the longest heading."""
    names = [len(line.text) for line in lines if line.place is not None]
    headings = [len(line.text) for line in lines if line.place is None]
    return max(PANELS + LETTER * max(names), BOLD * max(headings, default=0))


def _lines(layers: Sequence[Layer]) -> Iterator[Line]:
    height = 0
    for index, layer in enumerate(layers):
        shaded = index % 2 == 0
        heading = [(None, layer.name)] if layer.name else []
        for place, text in [*heading, *layer.parameters]:
            yield Line(height, text, place, shaded)
            height -= 1


def _states(measured: Sequence[Sequence[Measured]]) -> Iterator[State]:
    if len(measured) == 1:
        yield State(measured[0], COLOURS[-1], above=0, thickness=0.5)
        return
    for entries, colour, above in zip(measured, COLOURS, (0.18, -0.18), strict=True):
        yield State(entries, colour, above, thickness=0.32)


def _prepare(axes: Axes, lines: Sequence[Line], title: str) -> None:
    for line in lines:
        if line.shaded:
            edges = line.height - 0.5, line.height + 0.5
            axes.axhspan(*edges, color="0.96", linewidth=0, zorder=0)
    axes.set_title(title, fontsize=9)
    axes.set_ylim(lines[-1].height - 0.5, 0.5)
    axes.spines[:].set_visible(False)
    axes.grid(axis="x", color="0.88", linewidth=0.8)
    axes.set_axisbelow(True)
    below = len(lines) > LONG
    axes.tick_params(
        top=True, labeltop=True, bottom=below, labelbottom=below, labelsize=8, length=0
    )


def _write_names(axes: Axes, lines: Sequence[Line]) -> None:
    """Writes parameters beside their bars, and modules above them, in bold."""
    rows = [line for line in lines if line.place is not None]
    axes.set_yticks([row.height for row in rows], [row.text for row in rows])
    for line in lines:
        if line.place is None:
            heading = _write(axes, line, "figure fraction", fontweight="bold")
            heading.set_in_layout(False)


def _write_absent(axes: Axes, lines: Sequence[Line], absent: Collection[int]) -> None:
    for line in lines:
        if line.place in absent:
            _write(axes, line._replace(text=NO_PATH), "axes fraction", color="0.4")


def _write(axes: Axes, line: Line, edge: str, **style: Any) -> Annotation:
    """Writes on a line, from the left edge of the axes, or of what else there is."""
    return axes.annotate(
        line.text,
        (0, line.height),
        (3, 0),
        xycoords=(edge, "data"),
        textcoords="offset points",
        va="center",
        fontsize=8,
        **style,
    )


def _draw_shares(axes: Axes, lines: Sequence[Line], state: State) -> None:
    rows = {line.height: line.place for line in lines if line.place is not None}
    axes.barh(
        [height + state.above for height in rows],
        [state.measured[place].share for place in rows.values()],
        state.thickness,
        color=state.colour,
    )


def _draw_spreads(axes: Axes, lines: Sequence[Line], state: State) -> None:
    """Draws a line from the least to the largest, broad between quartiles, a point."""
    rows = [
        (line.height + state.above, *state.measured[line.place].spread)
        for line in lines
        if line.place is not None and state.measured[line.place].spread
    ]
    if not rows:
        return
    heights, least, lower, median, upper, largest = zip(*rows, strict=True)
    axes.hlines(heights, least, largest, color=state.colour, linewidth=1)
    axes.hlines(heights, lower, upper, color=state.colour, linewidth=2.4)
    axes.plot(median, heights, "o", color=state.colour, markersize=3.6)


def _scale_shares(axes: Axes) -> None:
    """All of the paths at the right end, unless a half would leave the panel empty."""
    largest = axes.dataLim.xmax
    axes.set_xlim(0, 1 if largest > 0.5 or largest == 0 else 1.05 * largest)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")


def _scale_logarithms(axes: Axes) -> None:
    """Whole powers of ten at the ends, and as many between as there is room for."""
    least, largest = axes.dataLim.intervalx
    if not math.isfinite(largest - least):
        least, largest = 0.0, 0.0
    axes.set_xlim(math.floor(least - 0.1), math.ceil(largest + 0.1))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(lambda power, _: f"$10^{{{power:.0f}}}$")


def _add_legend(figure: Figure, colours: Mapping[str, str]) -> None:
    handles = [Patch(color=colour, label=label) for label, colour in colours.items()]
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=2,
        frameon=False,
        fontsize=9,
    )
