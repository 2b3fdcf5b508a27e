"""Trees of updates, divided by powers of the path scaling."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from pathsgd_optax._networks.layered.contract import sum_of_squares
from pathsgd_optax._networks.network import (
    Factors,
    difference,
    is_masked,
    leaf_name,
    vanishing,
)
from pathsgd_optax._numerics.meshes import partitioned, sharded_like
from pathsgd_optax._numerics.precision import rounded
from pathsgd_optax._numerics.program import after
from pathsgd_optax._numerics.scaled import (
    Scaled,
    exponent_of,
    magnitude,
    scale_by_power_of_two,
)
from pathsgd_optax._vocabulary import Params, canonical, described, is_floating


Roots: TypeAlias = Any
"""A tree like the parameters, with the factors of sqrt(gamma) as its leaves."""


def divide(updates: optax.Updates, roots: Roots, exponent: float) -> optax.Updates:
    """``updates / gamma**(exponent / 2)``; what has no factors stays as it is."""

    def divided(update: jax.Array, factors: Factors) -> jax.Array:
        return _divided(update, factors, exponent, jnp.isfinite(update))

    return map_on_paths(divided, updates, roots)


def divide_before(updates: optax.Updates, roots: Roots) -> optax.Updates:
    """``updates / sqrt(gamma)``, with nan for what is inf."""

    def divided(update: jax.Array, factors: Factors) -> jax.Array:
        sound = jnp.isfinite(update)
        return jnp.where(sound, _divided(update, factors, 1, sound), jnp.nan)

    return map_on_paths(divided, updates, roots)


def divide_after(updates: optax.Updates, roots: Roots) -> optax.Updates:
    """``updates / sqrt(gamma)``, where nan is all that isn't sound.

    It uses each update once, and XLA fuses it with what has made it.
    """

    def divided(update: jax.Array, factors: Factors) -> jax.Array:
        return _divided(update, factors, 1, jnp.array(True))

    return map_on_paths(divided, updates, roots)


def multiply(params: Params, roots: Roots) -> Params:
    """``params * sqrt(gamma)``."""

    def multiplied(leaf: jax.Array, factors: Factors) -> jax.Array:
        wide = leaf.astype(factors[0].dtype)
        product = functools.reduce(jnp.multiply, map(vanishing, factors), wide)
        return sharded_like(product.astype(canonical(leaf.dtype)), leaf)

    return map_on_paths(multiplied, params, roots)


def placed(updates: optax.Updates, params: Params) -> optax.Updates:
    """The updates, sharded like the parameters."""

    def alike(update: Any, leaf: Any) -> Any:
        return update if is_hidden(update) else sharded_like(update, leaf)

    return jax.tree.map(alike, updates, params, is_leaf=is_hidden)


def map_on_paths(
    function: Callable[[jax.Array, Factors], jax.Array], tree: Params, roots: Roots
) -> Params:
    """``function(leaf, factors)`` where there are factors; other leaves as they are."""

    def mapped(leaf: Any, factors: Factors) -> Any:
        return leaf if is_hidden(leaf) or not factors else function(leaf, factors)

    return jax.tree.map(mapped, tree, roots, is_leaf=is_hidden)


def path_metric(updates: optax.Updates, roots: Roots) -> jax.Array:
    """``sqrt(sum(updates**2 / gamma))`` over what has factors."""
    return partitioned(_path_metric, updates, roots)


def scaled_path_metric(updates: optax.Updates, roots: Roots) -> Scaled:
    """The path metric, whose square may be out of range; inf or nan as updates are."""
    return partitioned(_scaled_path_metric, updates, roots)


def _path_metric(updates: optax.Updates, roots: Roots) -> jax.Array:
    return _size([_quotient(*pair, 1) for pair in _on_paths(updates, roots)])


def _scaled_path_metric(updates: optax.Updates, roots: Roots) -> Scaled:
    quotients = [
        rounded(_quotient(update, factors, 1), factors[0].dtype, jnp.isfinite(update))
        for update, factors in _on_paths(updates, roots)
    ]
    peaks = [jnp.max(magnitude(x), initial=0) for x in quotients]
    exponent = exponent_of(jnp.max(jnp.array(peaks), initial=0))
    scaled = [scale_by_power_of_two(x, -exponent) for x in quotients]
    return Scaled(_size(scaled), exponent)


def _on_paths(updates: optax.Updates, roots: Roots) -> list[tuple[jax.Array, Factors]]:
    leaves = jax.tree.leaves(updates, is_leaf=is_hidden)
    structure: Any = jax.tree.structure(updates, is_leaf=is_hidden)
    pairs = zip(leaves, structure.flatten_up_to(roots), strict=True)
    return [(leaf, f) for leaf, f in pairs if f and not is_hidden(leaf)]


def _size(leaves: Sequence[jax.Array]) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.array([sum_of_squares(leaf) for leaf in leaves])))


def after_gradients(roots: Roots, updates: optax.Updates) -> Roots:
    """The same factors, known only when no kernel is to be read by the gradients.

    The gradient of a bias is, once the kernel behind it has been read. A step that
    reads gradients several times is the faster for this: no kernel is copied.
    """
    biases = [x for x in jax.tree.leaves(updates) if x.ndim == 1]
    return partitioned(after, roots, biases, like=roots)


def check_updates(updates: optax.Updates, params: Params) -> None:
    """Raises a ValueError where ``updates`` are not the gradient of ``params``."""
    slopes, weights = (
        jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_hidden)
        for tree in (updates, params)
    )
    names, wanted = ([leaf_name(path) for path, _ in x] for x in (slopes, weights))
    structures = {
        jax.tree.structure(tree, is_leaf=is_hidden) for tree in (updates, params)
    }
    if len(structures) > 1:
        differ = difference(names, wanted) or "the same leaves in other containers"
        raise ValueError(
            f"updates have not the structure of params: {differ}. "
            "Pass the gradient with respect to these params."
        )
    for name, (_, update), (_, leaf) in zip(names, slopes, weights, strict=True):
        if is_hidden(update):
            continue
        if is_hidden(leaf) or jnp.shape(update) != jnp.shape(leaf):
            raise ValueError(
                f"The update of {name} has shape {jnp.shape(update)}, but the "
                f"parameter {jnp.shape(leaf)}. Pass the gradient of these params."
            )
        if not is_floating(update):
            raise ValueError(
                f"The update of {name} is {described(update)}, but should be a "
                "floating-point array. Pass the gradient of these params."
            )


def is_hidden(node: Any) -> bool:
    """Whether there is no array to update."""
    return node is None or is_masked(node)


def _divided(
    update: jax.Array, factors: Factors, exponent: float, sound: jax.Array
) -> jax.Array:
    """The quotient in the update's dtype, in range where that is sound."""
    quotient = _quotient(update, factors, exponent)
    return rounded(quotient, update.dtype, sound)


def _quotient(x: jax.Array, factors: Factors, exponent: float) -> jax.Array:
    """``x / prod(factors)**exponent``."""
    inverses = tuple(1 / factor for factor in factors)
    quotient = x.astype(factors[0].dtype)
    # Where no path runs it is 0 first, for one that has become inf would be nan.
    for factor in factors:
        quotient = quotient * (factor < jnp.inf).astype(factor.dtype)
    whole, fraction = divmod(exponent, 1)
    for inverse in inverses * int(whole):
        quotient = quotient * inverse
    if fraction:
        for inverse in inverses:
            quotient = quotient * inverse**fraction
    return quotient
