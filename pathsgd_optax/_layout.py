"""Reads a Flax parameter tree as a chain of dense layers.

A tree of parameters does not say in which order its layers are applied. Numbers in
names do (``Dense_0``, ``Dense_1``), among names that differ in nothing else; between
other names only the widths can tell. `read_layers` takes the one order that agrees
with both, and raises where there is none, or more than one.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from pathsgd_optax._network import leaf_name
from pathsgd_optax._types import KeyPath, Params


REMEDY = (
    "layered_network reads fully connected networks: Dense kernels of shape "
    "(fan_in, fan_out), or (layers, fan_in, fan_out) from nn.scan, each with at "
    "most one bias. Describe any other network with trace_network."
)


class Leaf(NamedTuple):
    """A parameter: its place among the leaves, names, shape and dtype."""

    place: int
    name: str
    key: str | int | None
    shape: tuple[int, ...]
    dtype: jnp.dtype


class Layer(NamedTuple):
    """A dense layer; ``length`` layers on a leading axis if it comes from nn.scan."""

    kernel: Leaf
    bias: Leaf | None
    length: int | None

    @property
    def fan_in(self) -> int:
        return self.kernel.shape[-2]

    @property
    def fan_out(self) -> int:
        return self.kernel.shape[-1]

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        return (self.kernel,) if self.bias is None else (self.kernel, self.bias)


Path: TypeAlias = tuple[str | int, ...]
Node: TypeAlias = "Layer | dict[str | int, Node]"
Chain: TypeAlias = tuple[Layer, ...]


def read_layers(params: Params) -> tuple[tuple[Path, Layer], ...]:
    """The dense layers of ``params`` with their modules' paths, in order."""
    modules = dict(_modules(params))
    chains = _chains(_nest(modules), fan_in=None)
    if len(chains) != 1:
        raise ValueError(_no_order(modules.values(), found=len(chains)))
    paths = {layer: path for path, layer in modules.items()}
    return tuple((paths[layer], layer) for layer in chains[0])


def listing(leaves: Iterable[Leaf]) -> str:
    """The names and shapes of some leaves, for messages."""
    return ", ".join(f"{leaf.name} {leaf.shape}" for leaf in leaves)


# Leaves and modules.


def _modules(params: Params) -> Iterator[tuple[Path, Layer]]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError(f"params has no leaves. {REMEDY}")
    modules = defaultdict(list)
    for place, (key_path, array) in enumerate(leaves):
        names = _names(key_path)
        leaf = _leaf(place, leaf_name(key_path), names[-1] if names else None, array)
        modules[names[:-1]].append(leaf)
    for path, members in modules.items():
        yield path, _layer(members)


def _leaf(place: int, name: str, key: str | int | None, array: jax.Array) -> Leaf:
    shape, dtype = getattr(array, "shape", None), getattr(array, "dtype", None)
    if shape is None or dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"{name} is not a floating-point array: got {dtype or type(array)}, shape "
            f"{shape}. Pass the trainable parameters only: variables['params'] in "
            "linen, nnx.state(model, nnx.Param) in nnx."
        )
    if 0 in shape:
        raise ValueError(f"{name} of shape {shape} has no entries. Remove the layer.")
    return Leaf(place, name, key, tuple(shape), jnp.dtype(dtype))


def _names(key_path: KeyPath) -> Path:
    """The names along a path, without the attribute that nnx adds to a Variable."""
    names = tuple(_key(entry) for entry in key_path)
    boxed = bool(key_path) and isinstance(key_path[-1], jax.tree_util.GetAttrKey)
    return names[:-1] if boxed and names[-1] == "value" else names


def _key(entry: Any) -> str | int:
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            key: str | int = getattr(entry, attribute)
            return key
    return str(entry)


def _layer(leaves: Sequence[Leaf]) -> Layer:
    """The layer made of the leaves of one module: a kernel and perhaps a bias."""
    kernel, *others = sorted(leaves, key=lambda leaf: -len(leaf.shape))
    stacked = len(kernel.shape) == 3
    wanted = kernel.shape[:-2] + kernel.shape[-1:]
    is_kernel = len(kernel.shape) in (2, 3) and not _is_foreign(kernel, others)
    if not is_kernel or [leaf.shape for leaf in others] not in ([], [wanted]):
        raise ValueError(
            f"No dense layer has the parameters {listing(leaves)}. {REMEDY}"
        )
    bias = others[0] if others else None
    return Layer(kernel, bias, length=kernel.shape[0] if stacked else None)


def _is_foreign(kernel: Leaf, others: Sequence[Leaf]) -> bool:
    """Whether it is an embedding's, or a 1-d convolution's that has no bias."""
    lone_convolution = (
        len(kernel.shape) == 3 and not others and "conv" in kernel.name.lower()
    )
    return kernel.key == "embedding" or lone_convolution


# Order.


def _nest(modules: dict[Path, Layer]) -> Node:
    if tuple(modules) == ((),):
        return modules[()]
    children: dict[str | int, dict[Path, Layer]] = defaultdict(dict)
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
    return [chain for chains in frontier.values() for chain in chains]


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


def _queues(children: dict[str | int, Node]) -> list[list[Node]]:
    """The children by the words in their names, each in the order of the numbers."""
    queues: dict[str, list[tuple[list[int], Node]]] = defaultdict(list)
    for name, child in children.items():
        numbers = [int(number) for number in re.findall(r"\d+", str(name))]
        queues[re.sub(r"\d+", "#", str(name))].append((numbers, child))
    return [
        [child for _, child in sorted(queue, key=lambda entry: entry[0])]
        for _, queue in sorted(queues.items())
    ]


def _no_order(layers: Iterable[Layer], found: int) -> str:
    kernels = listing(layer.kernel for layer in layers)
    problem = (
        "The widths fit in more than one order, and the names don't tell which"
        if found
        else "No order that keeps the numbers in the names makes the widths chain "
        "(each layer's fan_in must be the fan_out of the one before)"
    )
    return (
        f"{problem}: {kernels}. Number the layers' names in the order in which they "
        f"are applied (Dense_0, Dense_1, ...). {REMEDY}"
    )
