"""What the package knows of a network: its parameters and its path values."""

import functools
from collections.abc import Collection, Sequence
from numbers import Real
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from pathsgd_optax._numerics.meshes import varying_axes
from pathsgd_optax._numerics.scaled import (
    Scaled,
    exponent_of,
)
from pathsgd_optax._numerics.serialization import serializable
from pathsgd_optax._vocabulary import (
    KeyPath,
    Params,
    Scalar,
    described,
    is_floating,
)


NO_PATH = "no path"
"""The role, and the label, of a parameter that no path runs through."""


Factors: TypeAlias = tuple[jax.Array, ...]
"""Positive factors of sqrt(gamma) of one leaf, which broadcast to its shape.

A gradient is divided by one after the other, because their product may be out of range
where the result is not. Their inverses are finite, and one is inf where no path runs.
"""


def root(factors: Factors) -> jax.Array:
    """sqrt(gamma), and 0 where no path runs."""
    if not factors:
        return jnp.zeros(())
    return functools.reduce(jnp.multiply, map(vanishing, factors))


def vanishing(factor: jax.Array) -> jax.Array:
    """The factor, and 0 where no path runs."""
    return jnp.where(factor == jnp.inf, 0, factor)


@serializable
class Scaling(NamedTuple):
    """What one forward and one backward pass find."""

    norm: Scaled  # phi_p, of shape ()
    roots: tuple[Factors, ...]  # no factors where a leaf can be on no path


def passing_on(scaling: Scaling) -> Scaling:
    """The scaling, but nan where weights are inf or nan, which no leaf is to hide."""
    sound = 1 + 0 * scaling.norm.mantissa
    roots = [
        (f[0] * sound.astype(f[0].dtype), *f[1:]) if f else () for f in scaling.roots
    ]
    return scaling._replace(roots=tuple(roots))


UNIT_OF_NORM = -(2**30)
"""In the place of the exponent of a unit: that of the path norm itself."""


def resolved(unit: jax.Array, norm: Scaled) -> jax.Array:
    """The exponent of the unit, next to that of the norm; 0 for a norm that is 0."""
    own = norm.exponent + exponent_of(norm.mantissa)
    own = jnp.where(norm.mantissa != 0, own, 0)
    return jnp.where(unit == UNIT_OF_NORM, own, unit)


class Parameter(NamedTuple):
    """How one leaf of the parameter tree takes part in the network's paths.

    Attributes:
      path: its key path, as `jax.tree_util.keystr` writes it.
      shape: its shape.
      role: ``"weight"`` of a contraction or a look-up, ``"bias"``, ``"scale"``,
        ``"gate"``, or several, as in ``"bias/scale"``; ``"no path"`` if there is none.
      uses: at how many places it is used; 0 on no path.
      end: where its paths end: ``"output"``; in a network with gates also ``"norm"``,
        or both, or ``"gate"``, for what only steers one.
      order: grows in the direction of the paths: parameters are numbered as they are
        first used.

    Example:
      >>> import jax
      >>> import pathsgd_optax as pathsgd
      >>> params = {"Dense_0": {"kernel": jax.numpy.ones((3, 5))}}
      >>> pathsgd.layered_network(params).parameters[0].role
      'weight'
    """

    path: str
    shape: tuple[int, ...]
    role: str
    uses: int
    end: str = "output"
    order: int = 0


@runtime_checkable
class PathNetwork(Protocol):
    """The paths of a network, found once, from shapes alone; immutable and hashable.

    Transformations and path measures know a network by these members only. To measure
    one, call :func:`path_norm` and :func:`path_scaling`: its own methods return
    mantissas and exponents, for p-th powers that are beyond a float.

    Attributes:
      treedef: the structure of the parameters.
      parameters: a :class:`Parameter` for each leaf, in the order of `jax.tree.leaves`.
      constants: a tree of the shapes and dtypes of what it needs besides parameters;
        None for nothing.

    Example:
      >>> import jax
      >>> import pathsgd_optax as pathsgd
      >>> params = {"Dense_0": {"kernel": jax.numpy.ones((3, 5))}}
      >>> network: pathsgd.PathNetwork = pathsgd.layered_network(params)
      >>> hash(network) == hash(pathsgd.layered_network(params))
      True
    """

    @property
    def treedef(self) -> jax.tree_util.PyTreeDef:
        """The structure of the parameters."""

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """One entry a leaf, in the order of `jax.tree.leaves`."""

    @property
    def constants(self) -> Any:
        """The shapes of what it needs besides parameters; None for nothing."""

    def check(self, params: Params, constants: Any = None) -> None:
        """Raises a ValueError where ``params`` or ``constants`` are not its own.

        Args:
          params: a tree with the structure, the key paths and the shapes of the
            network's parameters, of floating arrays.
          constants: a tree of arrays with the shapes of the network's constants.
        """

    def path_norm(self, params: Params, p: float, constants: Any = None) -> Scaled:
        """phi_p, as a mantissa and an exponent of 2, scalars.

        Args:
          params: the parameters.
          p: order of the norm, a checked one.
          constants: the present constants.
        """

    def scaling(
        self,
        params: Params,
        p: float,
        damping: Scalar = 0.0,
        constants: Any = None,
        unit: jax.Array | int = 0,
    ) -> Scaling:
        """phi_p, and factors of sqrt(gamma_p) / 2**unit of the leaves.

        Args:
          params: the parameters.
          p: order of the norm, a checked one.
          damping: tau; see :func:`scale_by_path_norm`.
          constants: the present constants.
          unit: the exponent of the power of two to divide by.
        """

    def labels(self, params: Params | None = None) -> Params:
        """The label of each parameter, ``"path"`` or ``"no path"``.

        Args:
          params: the same parameters in another tree; None for the network's own.
        """


@functools.partial(jax.jit, static_argnames=("network", "p"))
def compiled_path_norm(
    network: PathNetwork, params: Params, p: float, constants: Any
) -> Scaled:
    """phi_p, by a program that is compiled once."""
    return network.path_norm(params, p, constants)


def check_network(network: Any) -> None:
    """Raises a ValueError where ``network`` is something else."""
    if isinstance(network, PathNetwork) and not isinstance(network, type):
        return
    advice = (
        "An order goes by its name, p=2"
        if isinstance(network, Real)
        else "The network comes first where there are params, and second where there "
        "is a learning rate"
    )
    raise ValueError(
        "network must be what layered_network, trace_network, trace_linen or trace_nnx "
        f"returns, but got {described(network)}. {advice}."
    )


def check_whole(params: Params) -> None:
    """Raises a ValueError where ``params`` may be what one device has of them."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        for axis in varying_axes(leaf):
            raise ValueError(
                f"{leaf_name(path)} of shape {leaf.shape} may be a device's shard: it "
                f"varies over the manual axis {axis!r}, and no network is read off it. "
                "Make one of the whole params, outside of shard_map and pmap, and pass "
                "it as `network=`; update params that are sharded outside, too."
            )


def check_leaves(network: PathNetwork, params: Params) -> None:
    """Raises a ValueError where ``params`` are not the network's.

    Only parameters on no path may be masked.
    """
    leaves = leaves_of(network, params)
    for parameter, array in zip(network.parameters, leaves, strict=True):
        if is_masked(array):
            check_unmasked(parameter.role == NO_PATH)
            continue
        if jnp.shape(array) != parameter.shape:
            raise ValueError(
                f"{parameter.path} has shape {jnp.shape(array)}, but the network "
                f"was made for {parameter.shape}. {_remedy(array)}"
            )
        if not is_floating(array):
            raise ValueError(
                f"{parameter.path} is {described(array)}, not a floating-point array. "
                "Give the params as arrays, such as jnp.asarray(1.0)."
            )


def _remedy(array: Any) -> str:
    if varying_axes(array):
        return "Update params that are sharded in shard_map outside of it."
    return "Make a network for these params."


def like_parameters(network: PathNetwork, params: Params) -> Scaling:
    """In the place of each part of a scaling, a parameter that it is on a mesh with."""
    leaves = [None if is_masked(x) else x for x in leaves_of(network, params)]
    return Scaling._make(
        [next((x for x in leaves if x is not None), None), tuple(leaves)]
    )


def leaves_of(network: PathNetwork, params: Params) -> list[Any]:
    """The array, or what masks it, of each of the network's parameters."""
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_masked)
    given = {leaf_name(path): leaf for path, leaf in leaves}
    # A mask may be a prefix of the tree, and hide several parameters at once.
    hidden = tuple(
        f"{name}{end}" for name in given if is_masked(given[name]) for end in "[."
    )
    names = [parameter.path for parameter in network.parameters]
    seen = [x for x in given if not is_masked(given[x])]
    wanted = [x for x in names if not (is_masked(given.get(x)) or x.startswith(hidden))]
    if differ := difference(seen, wanted):
        raise ValueError(
            f"params are not those of the network: {differ}. Make a network for these "
            "params."
        )
    return [given.get(name, optax.MaskedNode()) for name in names]


def difference(names: Sequence[str], wanted: Sequence[str], others: bool = True) -> str:
    """Which leaves a tree lacks, and which it has too many; empty if none."""
    sides = {"missing": sorted({*wanted} - {*names})}
    if others:
        sides["unknown"] = sorted({*names} - {*wanted})
    return "; ".join(
        f"{what} {few[0]}" + (f" and {len(few) - 1} more" if few[1:] else "")
        for what, few in sides.items()
        if few
    )


def spread(
    network: PathNetwork, values: Sequence[Any], params: Params, hidden: Any
) -> Params:
    """The parameters' values as a tree like ``params``, with ``hidden`` for masks."""
    names = (parameter.path for parameter in network.parameters)
    named = dict(zip(names, values, strict=True))
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: hidden if is_masked(leaf) else named[leaf_name(path)],
        params,
        is_leaf=is_masked,
    )


def is_masked(node: Any) -> bool:
    """Whether Optax has hidden this leaf."""
    return isinstance(node, optax.MaskedNode)


def is_placeholder(params: Params) -> bool:
    """Whether `optax.tree.map_params` asks where a state holds parameters."""
    empty = params is None or isinstance(params, Collection)
    return not empty and not jax.tree.leaves(params, is_leaf=is_masked)


def check_unmasked(unmasked: bool) -> None:
    """Raises a ValueError unless all weights on paths are there."""
    if not unmasked:
        raise ValueError(
            "params are masked, but paths run through all of them. Give all to this "
            "transformation: `mask=` and `fallback=` tell which to scale and what to "
            "do with others, and optax.chain(..., optax.freeze(mask)) freezes some."
        )


def leaf_name(path: KeyPath) -> str:
    """The key path of a leaf as messages and tables show it.

    Without the ``.value`` of an nnx variable, which `nnx.Optimizer` takes away too.
    """
    if path and getattr(path[-1], "name", None) == "value":
        path = path[:-1]
    return jax.tree_util.keystr(path) or "the single leaf"
