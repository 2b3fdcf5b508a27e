"""Drawings of small networks, with the weight on each edge."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from benchmarks.results import ToyUpdate


LABEL_AT = 0.34
"""How far along an edge its weight is written: not where edges cross."""

NODE = {"boxstyle": "circle,pad=0.25", "facecolor": "white", "edgecolor": "0.35"}
OUTPUT = NODE | {"boxstyle": "round,pad=0.3", "facecolor": "0.94"}
WEIGHT = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none"}


def draw_before(axes: Axes, update: ToyUpdate, colour: str) -> None:
    """Draws the network before its step."""
    _draw_network(axes, update.kernels, update.outputs, colour)


def draw_after(axes: Axes, update: ToyUpdate, colour: str) -> None:
    """Draws the network after its step."""
    _draw_network(axes, update.new_kernels, update.new_outputs, colour)


def _draw_network(
    axes: Axes,
    kernels: Sequence[Sequence[Sequence[float]]],
    outputs: Sequence[float],
    colour: str,
) -> None:
    """Draws the layers from left to right: inputs of 1, ReLU units, outputs."""
    for layer, kernel in enumerate(kernels):
        for start, weights in enumerate(kernel):
            for end, weight in enumerate(weights):
                tail = layer, _height(start, len(kernel))
                head = layer + 1, _height(end, len(weights))
                _draw_edge(axes, tail, head, weight, colour)
    _draw_nodes(axes, 0, ["1"] * len(kernels[0]), NODE)
    _draw_nodes(axes, 1, ["  "] * len(kernels[1]), NODE)
    _draw_nodes(axes, 2, [f"{output:.6g}" for output in outputs], OUTPUT)
    axes.set(xlim=(-0.2, 2.35), ylim=(-0.85, 0.85))
    axes.set_axis_off()


def _height(node: int, count: int) -> float:
    return (count - 1) / 2 - node


def _draw_edge(
    axes: Axes,
    tail: tuple[float, float],
    head: tuple[float, float],
    weight: float,
    colour: str,
) -> None:
    axes.plot(*zip(tail, head, strict=True), color=colour, linewidth=1.2, zorder=1)
    x, y = (a + LABEL_AT * (b - a) for a, b in zip(tail, head, strict=True))
    text = f"{weight:.6g}"
    axes.text(x, y, text, ha="center", va="center", fontsize=8, bbox=WEIGHT, zorder=2)


def _draw_nodes(
    axes: Axes, x: float, labels: Sequence[str], box: Mapping[str, str]
) -> None:
    for node, label in enumerate(labels):
        y = _height(node, len(labels))
        axes.text(
            x, y, label, ha="center", va="center", fontsize=9, bbox={**box}, zorder=3
        )
