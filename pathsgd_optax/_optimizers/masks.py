"""Masks: which parameters a transformation is to scale."""

import itertools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from pathsgd_optax._networks.network import difference, is_masked, leaf_name
from pathsgd_optax._vocabulary import Params, check_function, described


Mask: TypeAlias = Params | Callable[[Params], Params]
"""Which parameters to scale: a tree of booleans, or a prefix, or a function to one."""


def check_mask(mask: Mask | None) -> None:
    """Raises a ValueError where a mask is a function, but not one of the params."""
    if callable(mask) and _is_function(mask):
        check_function(mask, "mask", "the params")


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
    try:
        return jax.tree.map(
            lambda keep, part: jax.tree.map(lambda _: keep, part, is_leaf=is_masked),
            tree,
            params,
        )
    except ValueError as error:
        raise ValueError(
            "mask is no tree like the params, or a prefix of it: "
            f"{_faults(tree, params)}. Give a boolean for each parameter, or for all "
            "within a branch."
        ) from error


def _is_function(mask: Mask) -> bool:
    """As Optax has it: a module that can be called is the tree of its leaves."""
    return all(map(callable, jax.tree.leaves(mask)))


def _faults(mask: Params, params: Params) -> str:
    """Which parameters have no boolean, and which booleans have no parameters."""
    marks, leaves = (
        {leaf_name(path): path for path, _ in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (mask, params)
    )
    pairs = itertools.product(marks.items(), leaves.items())
    fits = [(x, y) for (x, mark), (y, leaf) in pairs if leaf[: len(mark)] == mark]
    used, marked = ({pair[k] for pair in fits} for k in (0, 1))
    found = [*marked, *(x for x in marks if x not in used)]
    return difference(found, [*leaves]) or "the same leaves in other containers"


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
