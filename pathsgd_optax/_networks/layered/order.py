"""Finds the order in which the layers of a parameter tree are applied.

A tree of parameters does not say it. Numbers in names do (``Dense_0``, ``Dense_1``),
among names that differ in nothing else; between other names only the widths can tell.
`in_order` takes the one order that agrees with both, and raises where there is none, or
more than one.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import TypeAlias

from pathsgd_optax._networks.layered.layout import REMEDY, Layer, Path, listing


Name: TypeAlias = str | int
Node: TypeAlias = "Layer | dict[Name, Node]"
Chain: TypeAlias = tuple[Layer, ...]


NUMBER = (
    "Number the layers' names in the order in which they are applied (layer_0, "
    "layer_1, ...), or describe the network with trace_network(apply_fn, params, x)."
)


MOST = 1000
"""The most beginnings that are pursued; names that leave more don't tell the order."""


def in_order(modules: Mapping[Path, Layer]) -> tuple[tuple[Path, Layer], ...]:
    """The layers with their modules' paths, in the order of application."""
    chains = _chains(_nest(modules), fan_in=None)
    if len(chains) != 1:
        raise ValueError(_no_order(modules.values(), found=len(chains)))
    paths = {layer: path for path, layer in modules.items()}
    return tuple((paths[layer], layer) for layer in chains[0])


def rank(name: Name, siblings: Collection[Name]) -> tuple[str, tuple[int, ...]]:
    """The words of a name, and its numbers, which order names of the same words.

    Haiku, and Keras, call the first of several ``linear``, and the next ``linear_1``.
    """
    first = f"{name}_0"
    text = first if f"{name}_1" in siblings and first not in siblings else str(name)
    numbers = tuple(int(number) for number in re.findall(r"\d+", text))
    return re.sub(r"\d+", "#", text), numbers


def _nest(modules: Mapping[Path, Layer]) -> Node:
    if tuple(modules) == ((),):
        return modules[()]
    children: dict[Name, dict[Path, Layer]] = defaultdict(dict)
    for path, layer in modules.items():
        if not path:
            raise ValueError(f"{layer.kernel.name} lies beside other modules. {REMEDY}")
        children[path[0]][path[1:]] = layer
    return {name: _nest(child) for name, child in children.items()}


def _chains(node: Node, fan_in: int | None) -> list[Chain]:
    """The orders of the layers below ``node`` that begin at width ``fan_in``.

    Children whose names differ in their numbers only keep the order of these
    numbers; between such queues every interleaving is tried. Two orders an outcome
    are enough to know that there is more than one.
    """
    if isinstance(node, Layer):
        return [(node,)] if fan_in in (None, node.fan_in) else []
    queues = _queues(node)
    frontier: dict[tuple[int, ...], list[Chain]] = {(0,) * len(queues): [()]}
    for _ in node:
        frontier = _advance(frontier, queues, fan_in)
        if len(frontier) > MOST:
            raise ValueError(_no_order(_layers(node), found=len(frontier)))
    return [chain for chains in frontier.values() for chain in chains]


def _layers(node: Node) -> list[Layer]:
    if isinstance(node, Layer):
        return [node]
    return [layer for child in node.values() for layer in _layers(child)]


def _advance(
    frontier: dict[tuple[int, ...], list[Chain]],
    queues: list[list[Node]],
    fan_in: int | None,
) -> dict[tuple[int, ...], list[Chain]]:
    """Extends every chain by one child, taken from the head of any queue."""
    longer: dict[tuple[int, ...], list[Chain]] = defaultdict(list)
    for taken, chains in frontier.items():
        for which, queue in enumerate(queues):
            if taken[which] < len(queue):
                after = tuple(n + (k == which) for k, n in enumerate(taken))
                longer[after] += _extend(chains, queue[taken[which]], fan_in)
    return {taken: _two_a_width(found) for taken, found in longer.items() if found}


def _extend(chains: list[Chain], child: Node, fan_in: int | None) -> Iterator[Chain]:
    for chain in chains:
        width = chain[-1].fan_out if chain else fan_in
        for more in _chains(child, width):
            yield chain + more


def _two_a_width(chains: list[Chain]) -> list[Chain]:
    by_width: dict[int, list[Chain]] = defaultdict(list)
    for chain in chains:
        by_width[chain[-1].fan_out].append(chain)
    return [chain for same in by_width.values() for chain in same[:2]]


def _queues(children: Mapping[Name, Node]) -> list[list[Node]]:
    """The children by the words in their names, each in the order of the numbers."""
    queues: dict[str, list[tuple[tuple[int, ...], Node]]] = defaultdict(list)
    for name, child in children.items():
        words, numbers = rank(name, children)
        queues[words].append((numbers, child))
    return [
        [child for _, child in sorted(queue, key=lambda entry: entry[0])]
        for _, queue in sorted(queues.items())
    ]


def _no_order(layers: Collection[Layer], found: int) -> str:
    kernels = listing([layer.kernel for layer in layers])
    problem = (
        "The widths fit in more than one order, and the names don't tell which"
        if found
        else "No order that keeps the numbers in the names makes the widths chain "
        "(each layer's fan_in must be the fan_out of the one before)"
    )
    return f"{problem}: {kernels}. {NUMBER}"
