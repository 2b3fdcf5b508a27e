"""Masks: which parameters a transformation is to scale."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from pathsgd_optax._network import is_masked
from pathsgd_optax._types import Params, described


Mask: TypeAlias = Params | Callable[[Params], Params]
"""Which parameters to scale: a tree of booleans, or a prefix, or a function to one."""


def kept(mask: Mask | None, params: Params) -> Params:
    """The mask, a boolean for each of the params."""
    tree = mask(params) if callable(mask) and _is_function(mask) else mask
    tree = True if mask is None else jax.tree.map(_boolean, tree)
    if mask is not None and isinstance(tree, bool) and len(jax.tree.leaves(params)) > 1:
        raise ValueError(
            f"mask is {tree} for all parameters. Give a tree of booleans, or a "
            "function to one (which optax.inject_hyperparams needs to know of: "
            'static_args=("mask", ...)).'
        )
    return jax.tree.map(
        lambda keep, part: jax.tree.map(lambda _: keep, part, is_leaf=is_masked),
        tree,
        params,
    )


def _is_function(mask: Mask) -> bool:
    """As Optax has it: a module that can be called is the tree of its leaves."""
    return all(map(callable, jax.tree.leaves(mask)))


def _boolean(leaf: Any) -> bool:
    kind = getattr(leaf, "dtype", type(leaf)), getattr(leaf, "shape", ())
    if kind not in {(bool, ()), (jnp.dtype(bool), ())} or isinstance(
        leaf, jax.core.Tracer
    ):
        raise ValueError(
            "mask must be a tree of booleans, known before jit, but has "
            f"{described(leaf)}."
        )
    return bool(leaf)
