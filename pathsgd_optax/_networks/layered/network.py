"""Fully connected networks: what a parameter tree tells of their paths."""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from pathsgd_optax._networks.layered import passes
from pathsgd_optax._networks.layered.doubts import refuse_doubtful
from pathsgd_optax._networks.layered.layout import Layer, read_modules
from pathsgd_optax._networks.layered.order import in_order
from pathsgd_optax._networks.layered.segments import Segment, Weights, segments
from pathsgd_optax._networks.layered.stack import ApplyFn, check_stack
from pathsgd_optax._networks.network import (
    Factors,
    Parameter,
    PathNetwork,
    Scaling,
    check_leaves,
    check_whole,
    like_parameters,
)
from pathsgd_optax._networks.summaries import Described
from pathsgd_optax._numerics.meshes import partitioned
from pathsgd_optax._numerics.scaled import Scaled
from pathsgd_optax._vocabulary import (
    Params,
    Scalar,
    check_apply,
    check_flags,
    described,
    is_zero,
    path_dtype,
)


@dataclass(frozen=True)
class LayeredNetwork(Described):
    """A fully connected network: which weights lie on which paths.

    Made by `layered_network` and read by the measures and transformations; immutable,
    hashable and without arrays.

    Attributes:
      treedef: the structure of the parameters.
      segments: the layers in the order of application, equal ones together.
      constants: None: it needs nothing besides parameters.

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
        """The path, shape, role, uses and order of each parameter."""
        found = [
            entry
            for layer in dict.fromkeys(self._layers)
            for entry in zip(("weight", "bias"), layer.leaves, strict=False)
        ]
        return tuple(
            Parameter(leaf.name, leaf.shape, role, uses=1, order=order)
            for order, (role, leaf) in sorted(
                enumerate(found), key=lambda entry: entry[1][1].place
            )
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
        """phi_p, as a mantissa and an exponent of 2, scalars."""
        del constants
        return passes.total(self.path_norms(params, p)[-1], p)

    def path_norms(self, params: Params, p: float) -> list[Scaled]:
        """The norms of the paths that enter the units of each layer, inputs first."""
        norms = functools.partial(passes.path_norms, self.segments, p=p)
        return partitioned(norms, jax.tree.leaves(params))

    def scaling(
        self,
        params: Params,
        p: float,
        damping: Scalar = 0.0,
        constants: Any = None,
        unit: jax.Array | int = 0,
    ) -> Scaling:
        """phi_p, and factors of sqrt(gamma_p) / 2**unit of the leaves, damped."""
        del constants
        leaves = jax.tree.leaves(params)
        tau = None if is_zero(damping) else jnp.asarray(damping, path_dtype(*leaves))
        scaling = functools.partial(self._factors, p=p)
        like = like_parameters(self, params)
        return partitioned(scaling, leaves, tau, jnp.int32(unit), like=like)

    def _factors(
        self,
        leaves: Sequence[jax.Array],
        tau: jax.Array | None,
        unit: jax.Array,
        p: float,
    ) -> Scaling:
        norm, stacks = passes.scaling(leaves, tau, unit, segments=self.segments, p=p)
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
      layer in the tree, all look like such a stack and get wrong path norms. So does
      a part of a model, such as the head that ``nnx.Optimizer(model, tx, wrt=head)``
      trains: it looks like a network of its own, and needs one that is traced whole.
      Pass ``apply_fn`` and ``x`` to have that checked, or use `trace_network`.

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
        check_apply(apply_fn)
        check_stack(network.split, params, apply_fn, x)
    return network


def check_layered(network: PathNetwork, name: str) -> None:
    """Raises a ValueError where a measure needs the layers of a network."""
    if not isinstance(network, LayeredNetwork):
        raise ValueError(
            f"{name} needs the layers of a layered_network, as its first argument, but "
            f"got {described(network)}."
        )
