"""Low precision: wide numbers between, rounded once, never beyond a dtype's range."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from pathsgd_optax._vocabulary import Params, canonical, is_floating


def widely(
    transformation: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """The transformation in float32 or wider; only its updates are rounded.

    In float16 an optimizer's epsilon is 0, and a quotient often inf.
    """

    def init_fn(params: Params) -> optax.OptState:
        return transformation.init(widened(params))

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        wide, state = transformation.update(
            widened(updates), state, widened(params), **extra_args
        )
        return jax.tree.map(_narrowed, wide, updates), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def bounded(
    transformation: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """The transformation, whose updates are in range where those it gets are."""
    inner = optax.with_extra_args_support(transformation)

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        changed, state = inner.update(updates, state, params, **extra_args)
        return jax.tree.map(_in_range, changed, updates), state

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)


def widened(tree: Params) -> Params:
    """Its floating arrays in float32 or wider."""

    def wide(leaf: Any) -> Any:
        narrow = is_floating(leaf) and leaf.dtype.itemsize < 4
        return leaf.astype(jnp.float32) if narrow else leaf

    return jax.tree.map(wide, tree)


def rounded(x: jax.Array, dtype: jnp.dtype, sound: jax.Array) -> jax.Array:
    """``x`` in a dtype; at most the largest number of both where it is sound.

    What comes of inf or nan isn't sound, and is passed on.
    """
    dtype = canonical(dtype)
    largest = min(float(jnp.finfo(d).max) for d in (x.dtype, dtype))
    return jnp.where(sound, jnp.clip(x, -largest, largest), x).astype(dtype)


def _narrowed(wide: jax.Array, update: jax.Array) -> jax.Array:
    if wide.dtype == update.dtype:
        return wide
    return rounded(wide, update.dtype, jnp.isfinite(wide))


def _in_range(changed: jax.Array, update: jax.Array) -> jax.Array:
    return rounded(changed, changed.dtype, jnp.isfinite(update))
