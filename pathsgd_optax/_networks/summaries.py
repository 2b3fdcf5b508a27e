"""What networks tell of their parameters: tables, labels, and shares of the paths."""

import functools
from typing import Any, Self

import jax
import jax.numpy as jnp

from pathsgd_optax._networks.network import (
    NO_PATH,
    UNIT_OF_NORM,
    Factors,
    PathNetwork,
    check_leaves,
    compiled_path_norm,
    is_masked,
    leaf_name,
    leaves_of,
    resolved,
    root,
    spread,
)
from pathsgd_optax._numerics.scaled import reciprocal, scale_by_power_of_two
from pathsgd_optax._vocabulary import Params, check_norm_order


class Described:
    """What every network tells of its parameters; a copy of it is itself."""

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def summary(
        self: PathNetwork,
        params: Params | None = None,
        p: float = 2,
        constants: Any = None,
    ) -> str:
        """A table of the parameters: path, shape, role, uses; with gates, their ends.

        Args:
          params: the parameters, for another column: the share of the path mass,
            phi_p**p, that runs through each. It is what would be gone if the parameter
            were 0, so at most all, however often it is used. None for no such column.
          p: order of the norm, at least 1; a Python number.
          constants: what a network that was traced with constants needs besides, now.

        Returns:
          The table, a line for each parameter below one of headings.

        Raises:
          ValueError: if ``p`` is below 1, or ``params`` or ``constants`` are not the
            network's.

        Example:
          >>> import jax.numpy as jnp
          >>> import pathsgd_optax as pathsgd
          >>> params = {"Dense_0": {"bias": jnp.array([1.0]),
          ...                       "kernel": jnp.array([[3.0]])}}
          >>> print(pathsgd.layered_network(params).summary(params, p=1))
          parameter              shape   role    uses  share
          ['Dense_0']['bias']    (1,)    bias    1     25.0%
          ['Dense_0']['kernel']  (1, 1)  weight  1     75.0%
        """
        rows: list[tuple[str, ...]] = [("parameter", "shape", "role", "uses")]
        rows += [(x.path, str(x.shape), x.role, str(x.uses)) for x in self.parameters]
        if _has_ends(self):
            column = ["end", *(x.end for x in self.parameters)]
            rows = [(*row, cell) for row, cell in zip(rows, column, strict=True)]
        if params is not None:
            shares = path_shares(self, params, check_norm_order(p), constants)
            column = ["share", *(f"{float(share):.1%}" for share in shares)]
            rows = [(*row, cell) for row, cell in zip(rows, column, strict=True)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) for cell, width in zip(row, widths, strict=True)
            ).rstrip()
            for row in rows
        )

    def labels(self: PathNetwork, params: Params | None = None) -> Params:
        """The label of each parameter, ``"path"`` or ``"no path"``.

        Args:
          params: the network's parameters in another tree, whose leaves have the same
            key paths, or with leaves that Optax has masked; None for the network's own.

        Returns:
          A tree of strings like ``params``, for ``optax.partition(transforms,
          network.labels)``.

        Raises:
          ValueError: if ``params`` are not the network's.
        """
        labels = [NO_PATH if p.role == NO_PATH else "path" for p in self.parameters]
        if params is None:
            return jax.tree.unflatten(self.treedef, labels)
        check_leaves(self, params)
        return spread(self, labels, params, hidden=NO_PATH)


def path_shares(
    network: PathNetwork, params: Params, p: float, constants: Any = None
) -> list[jax.Array]:
    """The part of the path mass that is gone without each of the leaves."""
    network.check(params, constants)
    if _has_ends(network):
        return _shares_of_ends(network, params, p, constants)
    phi = compiled_path_norm(network, params, p, constants)

    def share(name: str) -> jax.Array:
        rest = compiled_path_norm(network, _without(name, params), p, constants)
        ratio = rest.mantissa * reciprocal(phi.mantissa)
        left = scale_by_power_of_two(ratio, rest.exponent - phi.exponent) ** p
        return jnp.where(phi.mantissa == 0, 0, jnp.clip(1 - left, 0, 1))

    return [
        jnp.zeros(()) if parameter.role == NO_PATH else share(parameter.path)
        for parameter in network.parameters
    ]


def _has_ends(network: PathNetwork) -> bool:
    """Whether some paths end elsewhere than at the outputs."""
    return any(x.end != "output" for x in network.parameters if x.role != NO_PATH)


def _shares_of_ends(
    network: PathNetwork, params: Params, p: float, constants: Any
) -> list[jax.Array]:
    """The part that runs through each of the leaves, with the units of ends as now."""
    unit = jnp.int32(UNIT_OF_NORM)
    norm, roots = network.scaling(params, p, constants=constants, unit=unit)
    phi = scale_by_power_of_two(norm.mantissa, norm.exponent - resolved(unit, norm))
    terms = zip(leaves_of(network, params), roots, strict=True)
    return [
        _share_of_end(leaf, factors, phi, p) if factors else jnp.zeros(())
        for leaf, factors in terms
    ]


@functools.partial(jax.jit, static_argnames="p")
def _share_of_end(
    leaf: jax.Array, factors: Factors, phi: jax.Array, p: float
) -> jax.Array:
    magnitude = jnp.abs(leaf).astype(phi.dtype)
    return jnp.clip(jnp.sum((magnitude * root(factors) / phi) ** p), 0, 1)


def _without(name: str, params: Params) -> Params:
    """The parameters, with zeros in the place of this leaf."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.zeros_like(leaf) if leaf_name(path) == name else leaf,
        params,
        is_leaf=is_masked,
    )
