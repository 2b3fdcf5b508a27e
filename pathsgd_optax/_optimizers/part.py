"""A part of an nnx model's parameters: the others are fixed edges of its paths."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pathsgd_optax._networks.network import (
    Parameter,
    PathNetwork,
    Scaling,
    check_leaves,
    difference,
    is_masked,
    leaf_name,
)
from pathsgd_optax._networks.summaries import Described
from pathsgd_optax._networks.traced.network import TracedNetwork
from pathsgd_optax._numerics.scaled import Scaled
from pathsgd_optax._vocabulary import Params, Scalar


Named = Mapping[str, Any]
"""Leaves by the names that messages and tables have for them."""


@dataclasses.dataclass(frozen=True)
class PartNetwork(Described):
    """The paths of a whole network, and some of its parameters.

    Its constants are the leaves of the others, and of the whole's constants, by name.
    """

    whole: TracedNetwork
    treedef: jax.tree_util.PyTreeDef
    parameters: tuple[Parameter, ...]

    @functools.cached_property
    def constants(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of what it needs besides its parameters."""
        others = [x for x in self.whole.parameters if x not in self.parameters]
        fixed = {x.path: jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in others}
        return fixed | _named(self.whole.constants)

    def check(self, params: Params, constants: Any = None) -> None:
        """Raises a ValueError where ``params`` or ``constants`` are not its own."""
        check_leaves(self, params)
        self.whole.check(*self._joined(params, constants))

    def path_norm(self, params: Params, p: float, constants: Any = None) -> Scaled:
        """phi_p, a scalar, of the whole."""
        params, constants = self._joined(params, constants)
        return self.whole.path_norm(params, p, constants)

    def scaling(
        self,
        params: Params,
        p: float,
        damping: Scalar = 0.0,
        constants: Any = None,
        unit: jax.Array | int = 0,
    ) -> Scaling:
        """phi_p of the whole, and sqrt(gamma_p) / 2**unit of the leaves."""
        params, constants = self._joined(params, constants)
        norm, roots = self.whole.scaling(params, p, damping, constants, unit)
        pairs = zip(self.whole.parameters, roots, strict=True)
        return Scaling(norm, tuple(f for x, f in pairs if x in self.parameters))

    def gather(self, params: Params, constants: Any) -> dict[str, Any]:
        """Its constants, out of a tree that has them by their names.

        Without one they are those of the model, if ``params`` are its own arrays.
        """
        found = self._present(params) if constants is None else _named(constants)
        if missing := difference([*found], [*self.constants], others=False):
            raise ValueError(
                f"params are a part of the network's, {missing}. The others are fixed "
                "edges, of values that an update is to be given within jit: "
                "optimizer.update(model, grads, constants=nnx.state(model))."
            )
        return {name: found[name] for name in self.constants}

    def _present(self, params: Params) -> Named:
        """The model's arrays now; none if ``params`` are no longer its own.

        Within jit they never are: what is read here would be that of the first call.
        """
        present = _named(self.whole.present()) if self.whole.present else {}
        given = _named(params).items()
        return present if all(present.get(x) is leaf for x, leaf in given) else {}

    def _joined(self, params: Params, constants: Named) -> tuple[Params, Any]:
        """The parameters and the constants of the whole."""
        named = {**constants, **_named(params)}
        leaves = [named[x.path] for x in self.whole.parameters]
        rest = jax.tree_util.tree_map_with_path(
            lambda path, _: named[leaf_name(path)], self.whole.constants
        )
        return jax.tree.unflatten(self.whole.treedef, leaves), rest


def part(network: PathNetwork, params: Params) -> PathNetwork:
    """The network, or a part of it where ``params`` are a part of an nnx model's."""
    if not (isinstance(network, TracedNetwork) and network.present):
        return network
    given = _named(params)
    parameters = tuple(x for x in network.parameters if x.path in given)
    whole = len(parameters) in {0, len(network.parameters)}
    if whole or len(parameters) < len(given) or any(map(is_masked, given.values())):
        return network
    return PartNetwork(network, jax.tree.structure(params), parameters)


def _named(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_masked)
    return {leaf_name(path): leaf for path, leaf in leaves}
