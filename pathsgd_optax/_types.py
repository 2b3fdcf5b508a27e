"""The vocabulary of the package: types, argument checks and messages."""

import math
from numbers import Real
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp


Params: TypeAlias = Any
"""A pytree of weights, as Flax and Optax hold them."""

KeyPath: TypeAlias = tuple[Any, ...]
"""The keys that lead to a leaf, as `jax.tree_util` names them."""

Scalar: TypeAlias = float | jax.Array

NO_PARAMS = (
    "path-normalised transformations need the current parameters: call "
    "`tx.update(updates, state, params)` with `params`, not without."
)


def check_norm_order(p: float, name: str = "p") -> float:
    """Returns ``p`` as a float, or raises where no l_p norm has that order."""
    if isinstance(p, bool) or not isinstance(p, Real):
        raise ValueError(
            f"{name} must be a Python number in [1, inf], fixed before jit (and among "
            f"the static_args of optax.inject_hyperparams), but got {p!r} of type "
            f"{type(p).__name__}."
        )
    if math.isnan(p) or p < 1:
        raise ValueError(f"{name} must be at least 1 (or jnp.inf), but got {p!r}.")
    return float(p)


def check_non_negative(value: float, name: str) -> float:
    """Returns ``value`` as a float, or raises where it is negative or not finite."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(
            f"{name} must be a Python number, fixed before jit, but got {value!r}."
        )
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be finite and at least 0, but got {value!r}.")
    return float(value)


def check_count(value: int | None, name: str) -> None:
    """Raises a ValueError where ``value`` is neither None nor a positive int."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise ValueError(f"{name} must be a Python int or None, but got {value!r}.")
    if value is not None and value < 1:
        raise ValueError(f"{name} must be at least 1 (or None), but got {value!r}.")


def path_dtype(*leaves: jax.Array) -> jnp.dtype:
    """The dtype in which the leaves' path values are computed: float32 or wider."""
    dtypes = [jnp.dtype(jnp.float32), *(leaf.dtype for leaf in leaves)]
    return max(dtypes, key=lambda dtype: dtype.itemsize)
