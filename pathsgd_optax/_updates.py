"""Trees of updates, divided by powers of the path scaling."""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from pathsgd_optax._contract import sum_of_squares
from pathsgd_optax._network import (
    Factors,
    difference,
    is_masked,
    leaf_name,
    vanishing,
)
from pathsgd_optax._program import after
from pathsgd_optax._types import Params


Roots: TypeAlias = Any
"""A tree like the parameters, with the factors of sqrt(gamma) as its leaves."""


def divide(updates: optax.Updates, roots: Roots, exponent: float) -> optax.Updates:
    """``updates / gamma**(exponent / 2)``; what has no factors stays as it is."""

    def divided(update: jax.Array, factors: Factors) -> jax.Array:
        return _quotient(update, factors, exponent).astype(update.dtype)

    return map_on_paths(divided, updates, roots)


def multiply(params: Params, roots: Roots) -> Params:
    """``params * sqrt(gamma)``."""

    def multiplied(leaf: jax.Array, factors: Factors) -> jax.Array:
        wide = leaf.astype(factors[0].dtype)
        product = functools.reduce(jnp.multiply, map(vanishing, factors), wide)
        return product.astype(leaf.dtype)

    return map_on_paths(multiplied, params, roots)


def map_on_paths(
    function: Callable[[jax.Array, Factors], jax.Array], tree: Params, roots: Roots
) -> Params:
    """``function(leaf, factors)`` where there are factors; other leaves as they are."""

    def mapped(leaf: Any, factors: Factors) -> Any:
        return leaf if is_hidden(leaf) or not factors else function(leaf, factors)

    return jax.tree.map(mapped, tree, roots, is_leaf=is_hidden)


def path_metric(updates: optax.Updates, roots: Roots) -> jax.Array:
    """``sqrt(sum(updates**2 / gamma))`` over what has factors."""

    def square(update: Any, factors: Factors) -> jax.Array | None:
        if is_hidden(update) or not factors:
            return None
        return sum_of_squares(_quotient(update, factors, 1))

    squares = jax.tree.map(square, updates, roots, is_leaf=is_hidden)
    return jnp.sqrt(jnp.sum(jnp.array(jax.tree.leaves(squares))))


def after_gradients(roots: Roots, updates: optax.Updates) -> Roots:
    """The same factors, known only when no kernel is to be read by the gradients.

    The gradient of a bias is, once the kernel behind it has been read. A step that
    reads gradients several times is the faster for this: no kernel is copied.
    """
    return after(roots, [x for x in jax.tree.leaves(updates) if x.ndim == 1])


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
        if is_hidden(leaf) or update.shape != leaf.shape:
            raise ValueError(
                f"The update of {name} has shape {update.shape}, but the "
                f"parameter {jnp.shape(leaf)}. Pass the gradient of these params."
            )


def is_hidden(node: Any) -> bool:
    """Whether there is no array to update."""
    return node is None or is_masked(node)


def _quotient(x: jax.Array, factors: Factors, exponent: float) -> jax.Array:
    """``x / prod(factors)**exponent``."""
    inverses = tuple(1 / factor for factor in factors)
    quotient = x.astype(factors[0].dtype)
    whole, fraction = divmod(exponent, 1)
    for inverse in inverses * int(whole):
        quotient = quotient * inverse
    if fraction:
        for inverse in inverses:
            quotient = quotient * inverse**fraction
    return quotient
