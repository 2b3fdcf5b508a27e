"""Fully connected networks: Algorithm 1 of the paper, by scans over layers.

In the paper ``gamma_in(v)`` and ``gamma_out(v)`` are the masses of the paths that
enter and leave a unit; here both are kept as norms, their p-th roots. A bias is an
edge from one more input unit, whose value is always 1.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from pathsgd_optax._networks.layered.contract import contract, contract_both
from pathsgd_optax._networks.layered.doubts import refuse_doubtful
from pathsgd_optax._networks.layered.layout import Layer, read_modules
from pathsgd_optax._networks.layered.order import in_order
from pathsgd_optax._networks.layered.segments import Segment, Weights, segments
from pathsgd_optax._networks.layered.stack import ApplyFn, check_stack
from pathsgd_optax._networks.network import (
    Described,
    Factors,
    Parameter,
    PathNetwork,
    Scaling,
    check_leaves,
    check_whole,
    like_parameters,
    resolved,
)
from pathsgd_optax._numerics.meshes import partitioned
from pathsgd_optax._numerics.program import jit_apart
from pathsgd_optax._numerics.scaled import (
    Scaled,
    add,
    divisor,
    magnitude,
    norm,
    normal,
    powers_of_two,
    reciprocal,
    scaled,
)
from pathsgd_optax._vocabulary import (
    Params,
    Scalar,
    check_flags,
    described,
    is_zero,
    path_dtype,
)


T = TypeVar("T")


@dataclass(frozen=True)
class LayeredNetwork(Described):
    """A fully connected network: which weights lie on which paths.

    Made by `layered_network` and read by the measures and transformations; immutable,
    hashable and without arrays.

    Example:
      >>> import jax
      >>> import pathsgd_optax as pathsgd
      >>> params = {"Dense_0": {"kernel": jax.numpy.ones((3, 5))},
      ...           "Dense_1": {"kernel": jax.numpy.ones((5, 2))}}
      >>> pathsgd.layered_network(params).widths
      (3, 5, 2)
    """

    treedef: jax.tree_util.PyTreeDef
    segments: tuple[Segment, ...]
    constants: None = None

    @functools.cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """The path, shape, role and uses of each parameter."""
        layers = dict.fromkeys(self._layers)
        roles = [("weight", layer.kernel) for layer in layers]
        roles += [("bias", layer.bias) for layer in layers if layer.bias]
        return tuple(
            Parameter(leaf.name, leaf.shape, role, uses=1)
            for role, leaf in sorted(roles, key=lambda entry: entry[1].place)
        )

    @functools.cached_property
    def widths(self) -> tuple[int, ...]:
        """The number of units of each layer, that of the inputs first."""
        return (self._layers[0].fan_in, *(layer.fan_out for layer in self._layers))

    @functools.cached_property
    def _layers(self) -> tuple[Layer, ...]:
        return tuple(itertools.chain(*(s.layers for s in self.segments)))

    def check(self, params: Params, constants: Any = None) -> None:
        """Raises a ValueError where ``params`` are not this network's."""
        check_leaves(self, params)
        if constants is not None:
            raise ValueError(
                "a layered network has no constants; trace_network makes one that has."
            )

    def path_norm(self, params: Params, p: float, constants: Any = None) -> Scaled:
        """phi_p, a scalar."""
        del constants
        return _total(self.path_norms(params, p)[-1], p)

    def path_norms(self, params: Params, p: float) -> list[Scaled]:
        """The norms of the paths that enter the units of each layer, inputs first."""
        norms = functools.partial(self._path_norms, p=p)
        return partitioned(norms, jax.tree.leaves(params))

    def scaling(
        self,
        params: Params,
        p: float,
        damping: Scalar = 0.0,
        constants: Any = None,
        unit: jax.Array | int = 0,
    ) -> Scaling:
        """phi_p, and sqrt(gamma_p) / 2**unit of the leaves, damped."""
        del constants
        leaves = jax.tree.leaves(params)
        tau = None if is_zero(damping) else jnp.asarray(damping, path_dtype(*leaves))
        scaling = functools.partial(self._factors, p=p)
        like = like_parameters(self, params)
        return partitioned(scaling, leaves, tau, jnp.int32(unit), like=like)

    def _path_norms(self, leaves: Sequence[jax.Array], p: float) -> list[Scaled]:
        inputs = _ones(self.widths[0], leaves)
        entering, outputs = _forward(self.segments, leaves, p, inputs)
        layers = [s.each_layer(e) for s, e in zip(self.segments, entering, strict=True)]
        return [*itertools.chain(*layers), outputs]

    def _factors(
        self,
        leaves: Sequence[jax.Array],
        tau: jax.Array | None,
        unit: jax.Array,
        p: float,
    ) -> Scaling:
        norm, stacks = _scaling(leaves, tau, unit, network=self, p=p)
        factors: dict[int, Factors] = {}
        for segment, stack in zip(self.segments, stacks, strict=True):
            factors |= segment.each_leaf(stack)
        return Scaling(norm, tuple(factors[place] for place in sorted(factors)))

    def split(self, params: Params) -> list[Weights]:
        """The kernel and the bias of each layer, in the order of application."""
        leaves = jax.tree.leaves(params)
        layers = [s.each_layer(s.weights(leaves)) for s in self.segments]
        return list(itertools.chain(*layers))

    def join(self, weights: Sequence[Weights]) -> Params:
        """The parameter tree with these kernels and biases: the inverse of `split`."""
        rest = iter(weights)
        leaves: dict[int, jax.Array | None] = {}
        for segment in self.segments:
            leaves |= segment.leaves(rest)
        return jax.tree.unflatten(
            self.treedef, [leaves[place] for place in sorted(leaves)]
        )


def layered_network(
    params: Params,
    *,
    scanned: bool = False,
    apply_fn: ApplyFn | None = None,
    x: Any = None,
) -> LayeredNetwork:
    """Reads a fully connected ReLU network off its parameter tree.

    The tree of a linen module, the state of an nnx one or the parameters of a haiku one
    are enough. The order of the layers comes from the numbers in their names and from
    their widths, which must chain. A tree that fits several networks is refused.

    .. warning::
      A parameter tree can't show what lies between its layers: this is for plain
      stacks of dense layers with ReLU, and nothing else, between them. A residual
      connection, tanh or GELU, LayerNorm or a softmax without parameters, attention or
      two heads made of square layers, and a module that is used twice, which is one
      layer in the tree, all look like such a stack and get wrong path norms. Pass
      ``apply_fn`` and ``x`` to have that checked, or use `trace_network`.

    Args:
      params: a parameter tree with matrices ``kernel`` of shape ``(fan_in, fan_out)``
        and vectors ``bias`` of shape ``(fan_out,)``, or ``w`` and ``b``; arrays or
        `jax.ShapeDtypeStruct`, of floating dtypes.
      scanned: whether kernels of shape ``(layers, fan_in, fan_out)`` with biases
        ``(layers, fan_out)`` are the layers of `nn.scan`. The tree of an ensemble made
        by `nn.vmap` looks the same, so without it they are refused.
      apply_fn: ``apply_fn(params, x)``, which returns the outputs of the last layer,
        before any activation. If it is given, it is run, with random numbers for
        ``params`` and ``x``, and compared with the stack that was read; and the numbers
        in names and the widths are taken at their word where they leave doubt.
      x: a batch of examples for ``apply_fn``, or its `jax.ShapeDtypeStruct`.

    Returns:
      The network: hashable, without any array, to be made once, outside of jit.

    Raises:
      ValueError: if the tree is empty, or has leaves that no dense layer has, or
        leaves not of a floating dtype, or if its layers can be ordered in no way, or
        in more than one; or if ``apply_fn`` is not this stack of layers.

    Example:
      >>> import jax
      >>> from flax import linen as nn
      >>> import pathsgd_optax as pathsgd
      >>> model = nn.Sequential([nn.Dense(5), nn.relu, nn.Dense(2)])
      >>> x = jax.numpy.ones((1, 3))
      >>> params = model.init(jax.random.key(0), x)["params"]
      >>> def apply_fn(params, x):
      ...     return model.apply({"params": params}, x)
      >>> network = pathsgd.layered_network(params, apply_fn=apply_fn, x=x)
      >>> print(network.summary())
      parameter                shape   role    uses
      ['layers_0']['bias']     (5,)    bias    1
      ['layers_0']['kernel']   (3, 5)  weight  1
      ['layers_2']['bias']     (2,)    bias    1
      ['layers_2']['kernel']   (5, 2)  weight  1

    References:
      Neyshabur et al., `Geometry of Optimization and Implicit Regularization in Deep
      Learning <https://arxiv.org/abs/1705.03071>`_, 2017, section 1, notations.
    """
    if (apply_fn is None) != (x is None):
        raise ValueError("apply_fn and x go together: give both, or neither.")
    check_flags(scanned=scanned)
    check_whole(params)
    layers = in_order(read_modules(params, scanned))
    network = LayeredNetwork(jax.tree.structure(params), tuple(segments(layers)))
    if apply_fn is None:
        refuse_doubtful(layers)
    else:
        check_stack(network.split, params, apply_fn, x)
    return network


def check_layered(network: PathNetwork, name: str) -> None:
    """Raises a ValueError where a measure needs the layers of a network."""
    if not isinstance(network, LayeredNetwork):
        raise ValueError(
            f"{name} needs the layers of a layered_network, as its first argument, but "
            f"got {described(network)}."
        )


def _forward(
    segments: Sequence[Segment],
    leaves: Sequence[jax.Array],
    p: float,
    units: Scaled,
) -> tuple[list[list[Scaled]], Scaled]:
    """The path norms that enter each segment's layers, and those behind the last."""

    def step(units: Scaled, body: Sequence[Weights]) -> tuple[Scaled, list[Scaled]]:
        entering = []
        for kernel, bias in body:
            entering.append(units)
            mantissa = contract(kernel, units.mantissa, p, axis=0)
            units = _with_bias(scaled(mantissa, units.exponent), bias, p)
        return units, entering

    passed = []
    for segment in segments:
        units, entering = _run(step, units, segment, segment.weights(leaves))
        passed.append(entering)
    return passed, units


def _backward(
    segments: Sequence[Segment], leaves: Sequence[jax.Array], p: float, units: Scaled
) -> tuple[list[list[Scaled]], Scaled]:
    """The norms of the paths that leave each segment's layers, and what is before."""

    def step(units: Scaled, body: Sequence[Weights]) -> tuple[Scaled, list[Scaled]]:
        leaving = []
        for kernel, _ in reversed(body):
            leaving.append(units)
            units = _before(units, kernel, p)
        return units, leaving[::-1]

    passed = []
    for segment in reversed(segments):
        units, leaving = _run(step, units, segment, segment.weights(leaves), True)
        passed.append(leaving)
    return passed[::-1], units


def _damped_backward(
    segments: Sequence[Segment],
    leaves: Sequence[jax.Array],
    p: float,
    units: Scaled,
    entering: Sequence[Sequence[Scaled]],
    damping: jax.Array,
) -> list[list[Scaled]]:
    """The norms of the paths that leave each segment's layers, if all units do too."""

    def step(
        units: Scaled, body: Sequence[tuple[Weights, Scaled]]
    ) -> tuple[Scaled, list[Scaled]]:
        leaving = []
        for (kernel, _), sources in reversed(body):
            leaving.append(units)
            units = add(_before(units, kernel, p), _floor(sources, damping), p)
        return units, leaving[::-1]

    passed = []
    for segment, sources in reversed(list(zip(segments, entering, strict=True))):
        body = list(zip(segment.weights(leaves), sources, strict=True))
        units, leaving = _run(step, units, segment, body, reverse=True)
        passed.append(leaving)
    return passed[::-1]


def _before(units: Scaled, kernel: jax.Array, p: float) -> Scaled:
    """The norms of the paths that leave the units before a layer."""
    return scaled(contract(kernel, units.mantissa, p, axis=1), units.exponent)


def _floor(units: Scaled, damping: jax.Array) -> Scaled:
    """``damping / units``: what a unit has for being an output, in units of its own."""
    return scaled(damping * reciprocal(units.mantissa), -units.exponent)


def _run(
    step: Callable[[Scaled, list[T]], tuple[Scaled, list[Scaled]]],
    units: Scaled,
    segment: Segment,
    body: list[T],
    reverse: bool = False,
) -> tuple[Scaled, list[Scaled]]:
    if segment.scanned:
        return lax.scan(step, units, body, reverse=reverse)
    return step(units, body)


def _with_bias(units: Scaled, bias: jax.Array | None, p: float) -> Scaled:
    if bias is None:
        return units
    return add(units, scaled(magnitude(bias).astype(units.mantissa.dtype)), p)


def _ones(width: int, leaves: Sequence[jax.Array]) -> Scaled:
    ones = jnp.ones_like(leaves[0], path_dtype(*leaves), shape=(width,))
    return Scaled(ones, jnp.zeros_like(leaves[0], jnp.int32, shape=()))


def _total(outputs: Scaled, p: float) -> Scaled:
    return Scaled(norm(outputs.mantissa, p, axis=0), outputs.exponent)


def _damped_passes(
    network: LayeredNetwork, leaves: Sequence[jax.Array], p: float, damping: jax.Array
) -> tuple[list[list[Scaled]], list[list[Scaled]], Scaled]:
    """Both passes of Algorithm 1, the second of which needs all of the first."""
    sources, targets = (_ones(network.widths[k], leaves) for k in (0, -1))
    entering, outputs = _forward(network.segments, leaves, p, sources)
    leaving = _damped_backward(network.segments, leaves, p, targets, entering, damping)
    return entering, leaving, outputs


def _passes(
    network: LayeredNetwork, leaves: Sequence[jax.Array], p: float
) -> tuple[list[list[Scaled]], list[list[Scaled]], Scaled]:
    """Both passes of Algorithm 1: what enters and what leaves each layer; the outputs.

    They meet at the largest inner layer, whose kernel is read once for both.
    """
    sources, targets = (_ones(network.widths[k], leaves) for k in (0, -1))
    before, meeting, after = _parted(network.segments)
    entering, sources = _forward(before, leaves, p, sources)
    leaving, targets = _backward(after, leaves, p, targets)
    for segment in meeting:
        [(kernel, bias)] = segment.weights(leaves)
        norms = contract_both(kernel, sources.mantissa, targets.mantissa, p)
        entering, leaving = [*entering, [sources]], [[targets], *leaving]
        sources = _with_bias(scaled(norms[0], sources.exponent), bias, p)
        targets = scaled(norms[1], targets.exponent)
    rest, outputs = _forward(after, leaves, p, sources)
    first, _ = _backward(before, leaves, p, targets)
    return entering + rest, first + leaving, outputs


def _parted(
    segments: Sequence[Segment],
) -> tuple[Sequence[Segment], Sequence[Segment], Sequence[Segment]]:
    """The segments before, at and after the largest inner layer that isn't scanned."""
    inner = [k for k in range(1, len(segments) - 1) if not segments[k].scanned]
    if not inner:
        return segments, (), ()
    largest = max(inner, key=lambda k: math.prod(segments[k].layers[0].kernel.shape))
    return segments[:largest], segments[largest : largest + 1], segments[largest + 1 :]


@functools.partial(jit_apart, static_argnames=("network", "p"))
def _scaling(
    leaves: Sequence[jax.Array],
    damping: jax.Array | None,
    unit: jax.Array,
    *,
    network: LayeredNetwork,
    p: float,
) -> tuple[Scaled, list[list[tuple[Factors, Factors]]]]:
    """phi, and the factors of each layer's kernel and bias, stacked by segment."""
    if damping is None:
        entering, leaving, outputs = _passes(network, leaves, p)
    else:
        entering, leaving, outputs = _damped_passes(network, leaves, p, damping)
    phi = _total(outputs, p)
    unit = resolved(unit, phi)
    return phi, [
        [_factors(*pair, unit) for pair in zip(*units, strict=True)]
        for units in zip(entering, leaving, strict=True)
    ]


def _factors(
    unit_in: Scaled, unit_out: Scaled, unit: jax.Array
) -> tuple[Factors, Factors]:
    """``unit_in * unit_out`` of the kernel, ``unit_out`` of the bias, in this unit."""
    dtype = unit_out.mantissa.dtype
    source, target = divisor(unit_in.mantissa), divisor(unit_out.mantissa)
    leaving = unit_out.exponent - unit
    low, high = powers_of_two(leaving + unit_in.exponent, dtype)
    kernel = (
        normal(source * low[..., None])[..., :, None],
        normal(target * high[..., None])[..., None, :],
    )
    low, high = powers_of_two(leaving, dtype)
    return kernel, (normal(target * low[..., None]), high[..., None])
