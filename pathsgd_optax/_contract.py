"""The contraction of path norms with a layer's weights, where the time is spent.

A layer's path norms take one reading of its kernel. XLA fuses a sum of squares into
that reading on any device. On a CPU it writes out an operand that a norm needs twice,
for the peak and for the sum, and its reductions are as slow as the memory: there, a few
neighbouring units are combined first, and both directions share one reading.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from pathsgd_optax._scaled import combine, magnitude, norm


LIFT = 2.0**32
"""What the largest norm, about 1, is multiplied by to give small squares more room."""

LARGE = 2**20
"""The entries from which on a kernel is beyond the processor's caches."""


def contract(kernel: jax.Array, x: jax.Array, p: float, axis: int) -> jax.Array:
    """The l_p norm of ``abs(kernel) * x`` along ``axis``.

    Args:
      kernel: weights, shape ``(fan_in, fan_out)``, any floating dtype.
      x: non-negative path norms of the units along ``axis``.
      p: order of the norm.
      axis: 0 to sum over the incoming units, 1 over the outgoing ones.

    Returns:
      Array of ``x``'s dtype, of the other axis' size.
    """
    if p == 2 and kernel.size >= LARGE:
        return _root(_sum_of_squares(kernel, LIFT * x, axis), kernel, x, axis)
    return _norm(kernel, x, p, axis)


def contract_both(
    kernel: jax.Array, sources: jax.Array, targets: jax.Array, p: float
) -> tuple[jax.Array, jax.Array]:
    """`contract` of ``sources`` along axis 0, and of ``targets`` along axis 1."""
    if p != 2 or kernel.size < LARGE:
        return contract(kernel, sources, p, 0), contract(kernel, targets, p, 1)
    squares = _on_cpu(_both_blocked, _both)
    forward, backward = squares(kernel, LIFT * sources, LIFT * targets)
    return _root(forward, kernel, sources, 0), _root(backward, kernel, targets, 1)


def _on_cpu(
    blocked: Callable[..., Any], plain: Callable[..., Any]
) -> Callable[..., Any]:
    return functools.partial(lax.platform_dependent, cpu=blocked, default=plain)


def _edges(kernel: jax.Array, x: jax.Array, axis: int) -> jax.Array:
    return kernel.astype(x.dtype) * jnp.expand_dims(x, 1 - axis)


# The order 2.


def _sum_of_squares(kernel: jax.Array, x: jax.Array, axis: int) -> jax.Array:
    return jnp.sum(jnp.square(_edges(kernel, x, axis)), axis)


def _root(squares: jax.Array, kernel: jax.Array, x: jax.Array, axis: int) -> jax.Array:
    """The root of a lifted sum of squares, or the norm where they are out of range."""
    info = jnp.finfo(squares.dtype)
    lowest = float(info.tiny) / float(info.eps) ** 2
    in_range = jnp.all((squares > lowest) & (squares < jnp.inf))
    return lax.cond(
        in_range,
        lambda: jnp.sqrt(jnp.where(in_range, squares, 1)) / LIFT,
        lambda: _norm(kernel, x, 2.0, axis),
    )


def _both(
    kernel: jax.Array, sources: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    forward = _sum_of_squares(kernel, sources, 0)
    return forward, _sum_of_squares(kernel, targets, 1)


def _both_blocked(
    kernel: jax.Array, sources: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Reads a block of rows from memory once, and from the cache the second time.

    A block takes rows from all over the kernel, as the scan runs over the second of
    the axes into which the rows are split: they keep their sharding on the first.
    """
    rows, columns = kernel.shape
    stride = math.gcd(rows, 16)
    fold = _divisor(rows // stride, 32)
    kernel = jnp.reshape(kernel, (stride, -1, fold, columns))
    sources = jnp.reshape(sources, (stride, -1, fold))

    def step(sums: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
        block = lax.dynamic_index_in_dim(kernel, k, axis=1, keepdims=False)
        units = lax.dynamic_index_in_dim(sources, k, axis=1, keepdims=False)
        squares = [
            jnp.square(_edges(block[:, row], units[:, row], axis=0))
            for row in range(fold)
        ]
        backward = jnp.sum(
            jnp.square(block.astype(targets.dtype) * targets[None, None]), axis=-1
        )
        return functools.reduce(jnp.add, squares, sums), backward

    sums = jnp.zeros((stride, columns), sources.dtype)
    sums, backward = lax.scan(step, sums, jnp.arange(kernel.shape[1]))
    return jnp.sum(sums, 0), jnp.ravel(jnp.moveaxis(backward, 0, 1))


# Any order.


def _norm(kernel: jax.Array, x: jax.Array, p: float, axis: int) -> jax.Array:
    plain = functools.partial(_plain_norm, p=p, axis=axis)
    folded = functools.partial(_folded_norm, p=p, axis=axis)
    if math.isinf(p) or kernel.size < LARGE:
        return plain(kernel, x)
    return _on_cpu(folded, plain)(kernel, x)


def _plain_norm(kernel: jax.Array, x: jax.Array, p: float, axis: int) -> jax.Array:
    return norm(magnitude(_edges(kernel, x, axis)), p, axis)


def _folded_norm(kernel: jax.Array, x: jax.Array, p: float, axis: int) -> jax.Array:
    """Combines neighbours; as many as leave most factors of two for a sharding."""
    length = kernel.shape[axis]
    folds = [k for k in range(4, 17) if length % k == 0]
    fold = max(folds, key=lambda k: (_factors_of_two(length // k), k), default=1)
    before, after = kernel.shape[:axis], kernel.shape[axis + 1 :]
    kernel = jnp.reshape(kernel, (*before, length // fold, fold, *after))
    slices = [
        _edges(lax.index_in_dim(kernel, k, axis + 1, keepdims=False), part, axis)
        for k, part in enumerate(jnp.reshape(x, (-1, fold)).T)
    ]
    return norm(combine([magnitude(part) for part in slices], p), p, axis)


def _divisor(n: int, limit: int) -> int:
    return max(k for k in range(1, limit + 1) if n % k == 0)


def _factors_of_two(n: int) -> int:
    return n & -n
