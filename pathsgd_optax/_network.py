"""What the package knows of a network: its parameters and its path values."""

import functools
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp

from pathsgd_optax._scaled import Scaled, reciprocal
from pathsgd_optax._types import KeyPath, Params


Factors: TypeAlias = tuple[jax.Array, ...]
"""Non-negative factors of 1 / sqrt(gamma) of one leaf, which broadcast to its shape.

A gradient is multiplied by one after the other, because their product may be out of
range where the result is not. They are finite, and one is 0 where no path runs.
"""


def root(factors: Factors) -> jax.Array:
    """sqrt(gamma), and 0 where no path runs."""
    return functools.reduce(jnp.multiply, map(reciprocal, factors))


class Parameter(NamedTuple):
    """How one leaf of the parameter tree takes part in the network's paths.

    Example:
      >>> import jax
      >>> import pathsgd_optax as pathsgd
      >>> params = {"Dense_0": {"kernel": jax.numpy.ones((3, 5))}}
      >>> pathsgd.layered_network(params).parameters[0].role
      'kernel'
    """

    path: str
    shape: tuple[int, ...]
    role: str
    uses: int


class PathNetwork(Protocol):
    """The paths of a network, found once, from shapes alone; immutable and hashable.

    Transformations and path measures know a network by these members only.

    Example:
      >>> import jax
      >>> import pathsgd_optax as pathsgd
      >>> params = {"Dense_0": {"kernel": jax.numpy.ones((3, 5))}}
      >>> network: pathsgd.PathNetwork = pathsgd.layered_network(params)
      >>> hash(network) == hash(pathsgd.layered_network(params))
      True
    """

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """One entry a leaf, in the order of `jax.tree.leaves`."""

    def check(self, params: Params) -> None:
        """Raises a ValueError where ``params`` are not this network's."""

    def path_norm(self, params: Params, p: float) -> Scaled:
        """phi_p, a scalar."""

    def inverse_roots(
        self, params: Params, p: float, normalize: bool = False
    ) -> Sequence[Factors]:
        """1 / sqrt(gamma_p), or phi_p / sqrt(gamma_p), of each of the leaves."""


def summarize(parameters: tuple[Parameter, ...]) -> str:
    """A table with a line for each parameter."""
    rows = [("parameter", "shape", "role", "uses")]
    rows += [(p.path, str(p.shape), p.role, str(p.uses)) for p in parameters]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )


def leaf_name(path: KeyPath) -> str:
    """The key path of a leaf as messages and tables show it."""
    return jax.tree_util.keystr(path) or "the single leaf"
