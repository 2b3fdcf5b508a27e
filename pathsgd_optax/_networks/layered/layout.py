"""Reads a parameter tree as dense layers: the names and the orientation of kernels.

Only names that say how a matrix is applied are read: linen and nnx call it ``kernel``
and haiku ``w``, with inputs along its rows. A matrix called ``weight`` has them along
its columns in equinox and torch, and along its rows elsewhere.
"""

import itertools
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from pathsgd_optax._networks.network import leaf_name
from pathsgd_optax._vocabulary import KeyPath, Params, described


REMEDY = (
    "layered_network reads dense layers by the names that Flax and haiku give them: a "
    "kernel of shape (fan_in, fan_out) and a bias, or w and b. Describe any other "
    "network with trace_network(apply_fn, params, x)."
)

BIASES = {"kernel": "bias", "w": "b"}
"""The names of kernels, and those of their biases."""

OUT_IN = (
    "A weight may be of shape (fan_out, fan_in), as in equinox and torch, or the other "
    "way round, and a square one doesn't tell. "
)
STACKED = (
    "has a leading axis: the layers of nn.scan, or the members of an ensemble, such as "
    "nn.vmap's, which the tree doesn't tell apart. If they are layers, say so: "
    "path_sgd(0.1, layered_network(params, scanned=True)). Describe any other network "
    "with trace_network(apply_fn, params, x)."
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


def read_modules(params: Params, scanned: bool) -> Mapping[Path, Layer]:
    """The dense layers of ``params`` by their modules' paths, in no order."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError(f"params has no leaves. {REMEDY}")
    modules = defaultdict(list)
    for place, (key_path, array) in enumerate(leaves):
        names = _names(key_path)
        leaf = _leaf(place, leaf_name(key_path), names[-1] if names else None, array)
        modules[names[:-1]].append(leaf)
    return {path: _layer(members, scanned) for path, members in modules.items()}


def listing(leaves: Collection[Leaf]) -> str:
    """The names and shapes of some leaves, for messages: of the first, if many."""
    shown = [f"{leaf.name} {leaf.shape}" for leaf in itertools.islice(leaves, 6)]
    if len(leaves) > len(shown):
        shown.append(f"and {len(leaves) - len(shown)} more")
    return ", ".join(shown)


def _leaf(place: int, name: str, key: str | int | None, array: jax.Array) -> Leaf:
    shape, dtype = getattr(array, "shape", None), getattr(array, "dtype", None)
    if shape is None or dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        got = described(array) if dtype is None else f"{dtype}, shape {shape}"
        raise ValueError(
            f"{name} is not a floating-point array: got {got}. Pass the trainable "
            "parameters only: variables['params'] in linen, nnx.state(model, "
            "nnx.Param) in nnx, eqx.filter(model, eqx.is_inexact_array) in equinox."
        )
    if 0 in shape:
        raise ValueError(f"{name} of shape {shape} has no entries. Remove the layer.")
    return Leaf(place, name, key, tuple(shape), jnp.dtype(dtype))


def _names(key_path: KeyPath) -> Path:
    """The names along a path, without the attribute that nnx adds to a Variable.

    The modules of haiku, and those of a flattened tree, have names that are paths.
    """
    names = [_key(entry) for entry in key_path]
    boxed = bool(key_path) and isinstance(key_path[-1], jax.tree_util.GetAttrKey)
    if boxed and names[-1] == "value":
        names.pop()
    parts = [name.split("/") if isinstance(name, str) else [name] for name in names]
    return tuple(itertools.chain(*parts))


def _key(entry: Any) -> str | int:
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            key: str | int = getattr(entry, attribute)
            return key
    return str(entry)


def _layer(leaves: Sequence[Leaf], scanned: bool) -> Layer:
    """The layer made of the leaves of one module: a kernel and perhaps a bias."""
    kernel, *others = sorted(leaves, key=lambda leaf: leaf.key not in BIASES)
    stacked = len(kernel.shape) == 3
    if len(kernel.shape) not in (2, 3) or not _fit(kernel, others):
        outwards = any(leaf.key == "weight" for leaf in leaves)
        raise ValueError(
            f"No dense layer has the parameters {listing(leaves)}. "
            f"{OUT_IN if outwards else ''}{REMEDY}"
        )
    if stacked and not scanned:
        raise ValueError(f"{kernel.name} {kernel.shape} {STACKED}")
    bias = others[0] if others else None
    return Layer(kernel, bias, length=kernel.shape[0] if stacked else None)


def _fit(kernel: Leaf, others: Sequence[Leaf]) -> bool:
    """Whether the names and shapes are those of a kernel and its bias, if any."""
    bias = (BIASES.get(str(kernel.key)), kernel.shape[:-2] + kernel.shape[-1:])
    if bias[0] is None or _is_convolution(kernel, others):
        return False
    return [(leaf.key, leaf.shape) for leaf in others] in ([], [bias])


def _is_convolution(kernel: Leaf, others: Sequence[Leaf]) -> bool:
    """Whether it is a 1-d one that has no bias, which only its name tells."""
    return len(kernel.shape) == 3 and not others and "conv" in kernel.name.lower()
