"""Fully connected networks: Algorithm 1 of the paper, by scans over layers.

In the paper ``gamma_in(v)`` and ``gamma_out(v)`` are the masses of the paths that
enter and leave a unit; here both are kept as norms, their p-th roots. A bias is an
edge from one more input unit, whose value is always 1.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from pathsgd_optax._layout import REMEDY, Layer, Path, read_layers
from pathsgd_optax._network import Parameter, summarize
from pathsgd_optax._scaled import Scaled, add, contract, norm, scaled
from pathsgd_optax._types import Params, path_dtype


Weights: TypeAlias = tuple[jax.Array, jax.Array | None]
"""A layer's kernel ``(fan_in, fan_out)`` and its bias ``(fan_out,)``, if it has one."""

Step: TypeAlias = Callable[[Scaled, Sequence[Weights]], tuple[Scaled, list[Scaled]]]

SCAN_FROM = 4
"""The shortest run of equal layers that is worth stacking for a scan."""


class Segment(NamedTuple):
    """Some consecutive layers: a body, and how often it is repeated.

    ``bodies`` holds one body for layers that are run as they are, or that nn.scan has
    stacked in the tree already; several of equal shapes are stacked for a scan.
    """

    bodies: tuple[tuple[Layer, ...], ...]

    @property
    def stacked(self) -> int | None:
        """The size of the leading axis that nn.scan gave the leaves."""
        return self.bodies[0][0].length

    @property
    def scanned(self) -> bool:
        return self.stacked is not None or len(self.bodies) > 1

    def leaves(self, tree: Sequence[jax.Array]) -> list[Weights]:
        """The body's weights, with a leading axis if the segment is scanned."""
        bodies = [[_weights(layer, tree) for layer in body] for body in self.bodies]
        if len(bodies) == 1:
            return bodies[0]
        return jax.tree.map(lambda *repeats: jnp.stack(repeats), *bodies)

    def each_body(self, values: Sequence[Any]) -> list[Any]:
        """What belongs to each body, from ``values`` as `leaves` has them."""
        if len(self.bodies) == 1:
            return [values]
        return [_at(values, k) for k in range(len(self.bodies))]

    def layers(self, values: Sequence[Any]) -> list[Any]:
        """What belongs to each layer, from the body's ``values`` as `leaves` has them."""
        if not self.scanned:
            return list(values)
        count = self.stacked or len(self.bodies)
        return [_at(value, k) for k in range(count) for value in values]


@dataclass(frozen=True)
class LayeredNetwork:
    """A fully connected network, made by `layered_network`; immutable and hashable."""

    treedef: jax.tree_util.PyTreeDef
    segments: tuple[Segment, ...]

    @functools.cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """The path, shape, role and uses of each parameter."""
        roles = {}
        for segment in self.segments:
            for layer in itertools.chain(*segment.bodies):
                roles |= dict(zip(layer.leaves, ("kernel", "bias"), strict=False))
        return tuple(
            Parameter(leaf.name, leaf.shape, roles[leaf], uses=1)
            for leaf in sorted(roles, key=lambda leaf: leaf.index)
        )

    @functools.cached_property
    def widths(self) -> tuple[int, ...]:
        """The number of units of each layer, that of the inputs first."""
        layers = [
            layer
            for segment in self.segments
            for body in segment.bodies
            for layer in body * (segment.stacked or 1)
        ]
        return (layers[0].fan_in, *(layer.fan_out for layer in layers))

    def summary(self) -> str:
        """A table of the parameters: path, shape, role, uses."""
        return summarize(self.parameters)

    def check(self, params: Params) -> None:
        """Raises a ValueError where ``params`` are not this network's."""
        leaves, treedef = jax.tree.flatten(params)
        if treedef != self.treedef:
            raise ValueError(
                f"params have the structure {treedef}, but the network was made for "
                f"{self.treedef}. Make a network for these params."
            )
        for parameter, array in zip(self.parameters, leaves, strict=True):
            if array.shape != parameter.shape:
                raise ValueError(
                    f"{parameter.path} has shape {array.shape}, but the network was "
                    f"made for {parameter.shape}. Make a network for these params."
                )

    def path_norm(self, params: Params, p: float) -> Scaled:
        """phi_p, a scalar."""
        *_, outputs = self.path_norms(params, p)
        return Scaled(norm(outputs.mantissa, p, axis=0), outputs.exponent)

    def path_norms(self, params: Params, p: float) -> list[Scaled]:
        """The norms of the paths that enter the units of each layer, inputs first."""
        entering, outputs = _forward(self, jax.tree.leaves(params), p)
        layers = [s.layers(e) for s, e in zip(self.segments, entering, strict=True)]
        return [*itertools.chain(*layers), outputs]

    def path_roots(self, params: Params, p: float) -> list[tuple[Scaled, ...]]:
        """sqrt(gamma_p) of each leaf, as factors that broadcast to its shape."""
        return _path_roots(self, jax.tree.leaves(params), p)

    def split(self, params: Params) -> list[Weights]:
        """The kernel and the bias of each layer, in the order of application."""
        tree = jax.tree.leaves(params)
        return [
            (kernel, bias)
            for segment in self.segments
            for body in segment.bodies
            for kernel, bias in Segment((body,)).layers(Segment((body,)).leaves(tree))
        ]

    def join(self, weights: Sequence[Weights]) -> Params:
        """The parameter tree with these kernels and biases: the inverse of `split`."""
        rest = iter(weights)
        leaves: dict[int, jax.Array] = {}
        for segment in self.segments:
            for body in segment.bodies:
                leaves |= _body_leaves(body, rest)
        return jax.tree.unflatten(self.treedef, [leaves[k] for k in sorted(leaves)])


def layered_network(params: Params) -> LayeredNetwork:
    """Reads a fully connected ReLU network off its Flax parameter tree.

    The tree of a linen module or the state of an nnx one is enough: a module's matrix
    is its kernel, and its vector its bias. The order of the layers comes from the
    numbers in their names and from their widths, which must chain. Layers that
    `nn.scan` has stacked keep their leading axis.

    Args:
      params: a parameter tree with kernels of shape ``(fan_in, fan_out)``, or
        ``(layers, fan_in, fan_out)`` from `nn.scan`, and biases ``(fan_out,)``, or
        ``(layers, fan_out)``; arrays or `jax.ShapeDtypeStruct`, of floating dtypes.

    Returns:
      The network: hashable, without any array, to be made once, outside of jit.

    Raises:
      ValueError: if the tree is empty, or has leaves that no dense layer has, or
        leaves not of a floating dtype, or if its layers can be ordered in no way, or
        in more than one.

    Example:
      >>> import jax
      >>> from flax import linen as nn
      >>> import pathsgd_optax as pathsgd
      >>> model = nn.Sequential([nn.Dense(5), nn.relu, nn.Dense(2)])
      >>> variables = model.init(jax.random.key(0), jax.numpy.ones((1, 3)))
      >>> network = pathsgd.layered_network(variables["params"])
      >>> print(network.summary())
      parameter                shape   role    uses
      ['layers_0']['bias']     (5,)    bias    1
      ['layers_0']['kernel']   (3, 5)  kernel  1
      ['layers_2']['bias']     (2,)    bias    1
      ['layers_2']['kernel']   (5, 2)  kernel  1

    References:
      Neyshabur et al., `Geometry of Optimization and Implicit Regularization in Deep
      Learning <https://arxiv.org/abs/1705.03071>`_, 2017, section 1, notations.
    """
    layers = read_layers(params)
    return LayeredNetwork(jax.tree.structure(params), tuple(_segments(layers)))


# The segments of a network.


def _segments(layers: Sequence[tuple[Path, Layer]]) -> Iterator[Segment]:
    for length, group in itertools.groupby(layers, lambda entry: entry[1].length):
        if length is None:
            yield from _runs([layer for _, layer in group])
        else:
            yield from _scans(list(group))


def _runs(layers: Sequence[Layer]) -> Iterator[Segment]:
    for _, group in itertools.groupby(layers, _signature):
        run = [(layer,) for layer in group]
        if len(run) >= SCAN_FROM:
            yield Segment(tuple(run))
        else:
            yield from (Segment((body,)) for body in run)


def _signature(layer: Layer) -> tuple[Any, ...]:
    return tuple((leaf.shape, leaf.dtype) for leaf in layer.leaves)


def _scans(layers: Sequence[tuple[Path, Layer]]) -> list[Segment]:
    """The bodies of nn.scan: the layers of one module, or else the whole group."""
    by_parent = itertools.groupby(layers, lambda entry: entry[0][:-1])
    readings = {
        tuple(tuple(layer for _, layer in group) for _, group in by_parent),
        (tuple(layer for _, layer in layers),),
    }
    fitting = [bodies for bodies in readings if all(map(_repeats, bodies))]
    if len(fitting) != 1:
        listing = ", ".join(
            f"{layer.kernel.name} {layer.kernel.shape}" for _, layer in layers
        )
        problem = "more than one way" if fitting else "no way"
        raise ValueError(
            f"There is {problem} to read these stacked layers as the bodies of "
            f"nn.scan, whose widths must fit when they are repeated: {listing}. "
            f"{REMEDY}"
        )
    return [Segment((body,)) for body in fitting[0]]


def _repeats(body: Sequence[Layer]) -> bool:
    return body[0].length == 1 or body[0].fan_in == body[-1].fan_out


# Leaves.


def _weights(layer: Layer, tree: Sequence[jax.Array]) -> Weights:
    kernel, *bias = (tree[leaf.index] for leaf in layer.leaves)
    return kernel, *(bias or [None])


def _at(value: Any, k: int) -> Any:
    return jax.tree.map(lambda stack: stack[k], value)


def _body_leaves(
    body: Sequence[Layer], weights: Iterator[Weights]
) -> dict[int, jax.Array]:
    """The leaves of a body by their places in the tree, from its layers' weights."""
    repeats = [[next(weights) for _ in body] for _ in range(body[0].length or 1)]
    whole = repeats[0]
    if body[0].length is not None:
        whole = jax.tree.map(lambda *layers: jnp.stack(layers), *repeats)
    return {
        leaf.index: array
        for layer, pair in zip(body, whole, strict=True)
        for leaf, array in zip(layer.leaves, pair, strict=False)
    }


# The two passes of Algorithm 1.


def _forward(
    network: LayeredNetwork, tree: Sequence[jax.Array], p: float
) -> tuple[list[list[Scaled]], Scaled]:
    """The path norms that enter the layers of each segment, and those of the outputs."""

    def step(units: Scaled, body: Sequence[Weights]) -> tuple[Scaled, list[Scaled]]:
        entering = []
        for kernel, bias in body:
            entering.append(units)
            units = _enter(units, kernel, bias, p)
        return units, entering

    units, passed = _ones(network.widths[0], tree), []
    for segment in network.segments:
        units, entering = _run(step, units, segment, tree)
        passed.append(entering)
    return passed, units


def _backward(
    network: LayeredNetwork, tree: Sequence[jax.Array], p: float
) -> list[list[Scaled]]:
    """The norms of the paths that leave the units of each segment's layers."""

    def step(units: Scaled, body: Sequence[Weights]) -> tuple[Scaled, list[Scaled]]:
        leaving = []
        for kernel, _ in reversed(body):
            leaving.append(units)
            mantissa = contract(kernel, units.mantissa, p, axis=1)
            units = scaled(mantissa, units.exponent)
        return units, leaving[::-1]

    units, passed = _ones(network.widths[-1], tree), []
    for segment in reversed(network.segments):
        units, leaving = _run(step, units, segment, tree, reverse=True)
        passed.append(leaving)
    return passed[::-1]


def _enter(
    units: Scaled, kernel: jax.Array, bias: jax.Array | None, p: float
) -> Scaled:
    mantissa = contract(kernel, units.mantissa, p, axis=0)
    entering = scaled(mantissa, units.exponent)
    if bias is None:
        return entering
    return add(entering, scaled(jnp.abs(bias).astype(mantissa.dtype)), p)


def _run(
    step: Step,
    units: Scaled,
    segment: Segment,
    tree: Sequence[jax.Array],
    reverse: bool = False,
) -> tuple[Scaled, list[Scaled]]:
    weights = segment.leaves(tree)
    if segment.scanned:
        return lax.scan(step, units, weights, reverse=reverse)
    return step(units, weights)


def _ones(width: int, tree: Sequence[jax.Array]) -> Scaled:
    return Scaled(jnp.ones(width, path_dtype(*tree)), jnp.int32(0))


@functools.partial(jax.jit, static_argnames=("network", "p"))
def _path_roots(
    network: LayeredNetwork, tree: Sequence[jax.Array], p: float
) -> list[tuple[Scaled, ...]]:
    entering, _ = _forward(network, tree, p)
    leaving = _backward(network, tree, p)
    roots: dict[int, tuple[Scaled, ...]] = {}
    for segment, *ends in zip(network.segments, entering, leaving, strict=True):
        for body, *units in zip(segment.bodies, *map(segment.each_body, ends)):
            for layer, unit_in, unit_out in zip(body, *units, strict=True):
                roots |= _layer_roots(layer, unit_in, unit_out)
    return [roots[k] for k in sorted(roots)]


def _layer_roots(
    layer: Layer, unit_in: Scaled, unit_out: Scaled
) -> dict[int, tuple[Scaled, ...]]:
    kernel = _expand(unit_in, (-1,)), _expand(unit_out, (-2,))
    bias = (_expand(unit_out, ()),)
    roots = zip(layer.leaves, (kernel, bias), strict=False)
    return {leaf.index: root for leaf, root in roots}


def _expand(units: Scaled, axes: tuple[int, ...]) -> Scaled:
    mantissa = jnp.expand_dims(units.mantissa, axes)
    exponent = jnp.expand_dims(units.exponent, tuple(range(-1 - len(axes), 0)))
    return Scaled(mantissa, exponent)
