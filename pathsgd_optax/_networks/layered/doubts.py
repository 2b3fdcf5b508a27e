"""Refuses trees that fit another network as well as the one that was read.

A tree can't show that its network is a plain stack of layers, and `layered_network`
takes it for one. But where names leave it open which stack, or names without numbers
suggest branches, it is not to guess.
"""

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from pathsgd_optax._networks.layered.layout import Layer, Path, listing
from pathsgd_optax._networks.layered.order import Name, rank


Layers: TypeAlias = Sequence[tuple[Path, Layer]]

SURE = (
    "If it is read rightly, layered_network(params, apply_fn=apply_fn, x=x) finds that "
    "apply_fn(params, x) is this stack; otherwise trace_network(apply_fn, params, x) "
    "finds the paths."
)


class Child(NamedTuple):
    """A part of a module: its name, and its layers, which follow each other."""

    name: Name
    words: str
    numbered: bool
    layers: Layers

    @property
    def fan_in(self) -> int:
        return self.layers[0][1].fan_in

    @property
    def fan_out(self) -> int:
        return self.layers[-1][1].fan_out

    @property
    def ends(self) -> list[Layer]:
        return list(dict.fromkeys((self.layers[0][1], self.layers[-1][1])))


def refuse_doubtful(layers: Layers) -> None:
    """Raises a ValueError where the layers may be read in another way."""
    _refuse_transposable([layer for _, layer in layers])
    _refuse_nodes(layers, depth=0, alone=True)


def _refuse_transposable(layers: Sequence[Layer]) -> None:
    """Hand-made trees may call a matrix w that is applied as ``w @ x``."""
    ends = [(layer.fan_in, layer.fan_out) for layer in layers]
    named_w = any(layer.kernel.key == "w" for layer in layers)
    turning = all(map(_turns, layers)) and {*ends} != {(1, 1)}
    if named_w and turning and _reversible(ends):
        raise ValueError(
            f"These matrices chain as w @ x, and as x @ w, which is haiku's way: "
            f"{_kernels(layers)}. Call them kernel if they are of shape (fan_in, "
            f"fan_out). {SURE}"
        )


def _refuse_nodes(layers: Layers, depth: int, alone: bool) -> None:
    if len(layers[0][0]) == depth:
        return
    children = _children(layers, depth)
    _refuse_reversed(children, alone)
    _refuse_branches(children)
    for child in children:
        _refuse_nodes(child.layers, depth + 1, alone and len(children) == 1)


def _children(layers: Layers, depth: int) -> list[Child]:
    groups = [
        (name, list(group))
        for name, group in itertools.groupby(layers, lambda entry: entry[0][depth])
    ]
    names = [name for name, _ in groups]
    return [
        Child(name, words, "#" in words or _is_list(group, depth + 1), group)
        for name, group in groups
        for words, _ in [rank(name, names)]
    ]


def _is_list(layers: Layers, depth: int) -> bool:
    """Whether they lie in a list, or each in an entry of it."""
    return all(len(path) > depth and isinstance(path[depth], int) for path, _ in layers)


def _refuse_reversed(children: Sequence[Child], alone: bool) -> None:
    """Numbers of linen and haiku tell the order in which modules are made.

    Square layers are believed to follow them: nothing ever tells otherwise.
    """
    ends = [(child.fan_in, child.fan_out) for child in children]
    fitting = _reversible(ends) and (alone or ends[-1][0] == ends[0][0])
    square = ends[0][0] == ends[0][1]
    if fitting and not square and _automatic(children):
        layers = list(itertools.chain(*(child.ends for child in children)))
        raise ValueError(
            f"The widths fit in the order of the numbers and in its reverse: "
            f"{_kernels(layers)}. In Dense(4)(relu(Dense(2)(x))) the last layer is "
            f"made first, and is Dense_0. Name the layers yourself, such as "
            f"Dense(2, name='layer_0'). {SURE}"
        )


def _automatic(children: Sequence[Child]) -> bool:
    """Whether linen may have made the names, or haiku: linear, linear_1, ..."""
    names = [str(child.name) for child in children]
    by_haiku = any(
        "#" in child.words and not re.search(r"\d", name)
        for child, name in zip(children, names, strict=True)
    )
    return by_haiku or all(re.fullmatch(r"[A-Z]\w*_\d+", name) for name in names)


def _reversible(ends: Sequence[tuple[int, int]]) -> bool:
    """Whether parts with these widths at their ends chain backwards, too."""
    pairs = itertools.pairwise(ends)
    return len(ends) > 1 and all(one[0] == other[1] for one, other in pairs)


def _turns(layer: Layer) -> bool:
    """Whether the matrix may be transposed: no bias tells its outputs."""
    return layer.bias is None or layer.fan_in == layer.fan_out


def _refuse_branches(children: Sequence[Child]) -> None:
    """Two heads, towers or inputs may chain by chance."""
    for one, other in itertools.combinations(children, 2):
        if one.words != other.words and _side_by_side(one, other, children):
            raise ValueError(
                f"Nothing but the widths tells that these follow each other and "
                f"aren't side by side, such as two heads: "
                f"{_kernels(one.ends + other.ends)}. {SURE}"
            )


def _side_by_side(one: Child, other: Child, children: Sequence[Child]) -> bool:
    """Whether they may be branches: names tell nothing, or both begin at the inputs."""
    if not (one.numbered or other.numbered):
        return one.fan_in == other.fan_in or one.fan_out == other.fan_out
    begins = other.words not in [child.words for child in _before(other, children)]
    return one is children[0] and begins and one.fan_in == other.fan_in


def _before(child: Child, children: Sequence[Child]) -> Sequence[Child]:
    return list(itertools.takewhile(lambda sibling: sibling is not child, children))


def _kernels(layers: Sequence[Layer]) -> str:
    return listing([layer.kernel for layer in layers])
